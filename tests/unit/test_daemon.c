/* test_daemon.c: vmbeamd's schedule, configuration, state machine and journal. */
#include "rejuv/daemon/config.h"
#include "rejuv/daemon/journal.h"
#include "rejuv/daemon/schedule.h"
#include "tests/unit/unit.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HOUR = 3600, DAY = 24 * HOUR };

/* "2026-03-29 01:30" in the zone that is set. */
static time_t at(const char *text)
{
	struct tm tm = {.tm_isdst = -1};

	cr_assert(strptime(text, "%Y-%m-%d %H:%M", &tm), "%s", text);
	return mktime(&tm);
}

static void set_zone(const char *zone)
{
	setenv("TZ", zone, 1);
	tzset();
}

static struct schedule parse(const char *text)
{
	struct schedule s;
	struct error e;
	size_t column;

	cr_assert_eq(schedule_parse(text, &s, &column, &e), 0, "%s: %s", text, e.text);
	return s;
}

static void check_next(const char *schedule, const char *after, const char *next)
{
	struct schedule s = parse(schedule);
	char text[32];
	struct tm tm;
	time_t t = schedule_next(&s, at(after));

	localtime_r(&t, &tm);
	strftime(text, sizeof(text), "%Y-%m-%d %H:%M", &tm);
	cr_assert_str_eq(text, next, "%s after %s: %s, not %s", schedule, after, text, next);
}

/* ---- schedules */

UNIT(daemon, a_schedule_is_that_of_cron)
{
	set_zone("UTC");
	check_next("0 3 * * *", "2026-11-28 02:59", "2026-11-28 03:00");
	check_next("0 3 * * *", "2026-11-28 03:00", "2026-11-29 03:00");
	check_next("*/15 * * * *", "2026-11-28 03:00", "2026-11-28 03:15");
	check_next("30 4 1,15 * *", "2026-11-28 03:00", "2026-12-01 04:30");
	check_next("0 0 * * sun", "2026-11-28 03:00", "2026-11-29 00:00");
	check_next("0 0 * * 7", "2026-11-28 03:00", "2026-11-29 00:00");
	check_next("0 22 * * mon-fri", "2026-11-28 03:00", "2026-11-30 22:00");
	check_next("0 5 31 * *", "2026-11-28 03:00", "2026-12-31 05:00");
	/* either day: Friday the 13th is not what that says */
	check_next("0 0 13 * fri", "2026-11-28 03:00", "2026-12-04 00:00");
	check_next("0-10/5 6 * jan,Feb *", "2026-01-01 06:06", "2026-01-01 06:10");
	check_next("@weekly", "2026-11-28 03:00", "2026-11-29 00:00");
	check_next("@yearly", "2026-11-28 03:00", "2027-01-01 00:00");
}

UNIT(daemon, leap_day_is_due_once_in_four_years)
{
	struct schedule s = parse("0 12 29 2 *");
	time_t t;
	int n = 0;

	set_zone("UTC");
	for (t = at("2026-01-01 00:00"); (t = schedule_next(&s, t)) < at("2042-01-01 00:00"); n++)
		;
	cr_assert_eq(n, 4);
	check_next("0 12 29 2 *", "2096-02-29 12:00", "2104-02-29 12:00");
	check_next("59 23 28 2 *", "2028-02-28 23:59", "2029-02-28 23:59");
}

/* How often it is due between two moments: asked as the daemon does, from one time to the next. */
static int times_due(const char *schedule, const char *from, const char *to)
{
	struct schedule s = parse(schedule);
	time_t t = at(from);
	int n = 0;

	while ((t = schedule_next(&s, t)) <= at(to))
		n++;
	return n;
}

UNIT(daemon, clocks_that_go_forward_or_back_change_not_how_often_it_is_due)
{
	static const char *const zones[] = {"Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"};

	for (size_t i = 0; i < ARRAY_LEN(zones); i++) {
		set_zone(zones[i]);
		for (int minute = 0; minute < 4 * 60; minute += 5) {
			char schedule[32];
			int n;

			snprintf(schedule, sizeof(schedule), "%d %d * * *", minute % 60, minute / 60);
			n = times_due(schedule, "2026-01-01 00:00", "2027-01-01 00:00");
			/* 365 nights: each once, those that have no such time included */
			cr_assert(n == 365 || (minute == 0 && n == 366), "%s in %s: %d times", schedule, zones[i], n);
		}
	}
	set_zone("Europe/Berlin");
	check_next("30 2 * * *", "2026-03-28 12:00", "2026-03-29 03:30");
	check_next("30 2 * * *", "2026-03-29 03:30", "2026-03-30 02:30");
	check_next("30 2 * * *", "2026-10-24 12:00", "2026-10-25 02:30");
	set_zone("UTC");
}

/* A daemon that looks each minute from `from` on, so many minutes; the clock is `offset(minute)` s off. */
static int runs(struct due *d, const char *schedule, const char *from, int minutes, time_t (*offset)(int minute))
{
	struct schedule s = parse(schedule);
	bool changed;
	int n = 0;

	for (int m = 0; m < minutes; m++)
		n += schedule_is_due(d, schedule, &s, 0, at(from) + m * 60 + offset(m), &changed);
	return n;
}

static time_t right(int minute)
{
	(void)minute;
	return 0;
}

static time_t forward_a_day(int minute)
{
	return minute < 600 ? 0 : DAY;
}

static time_t back_a_day(int minute)
{
	return minute < 600 ? 0 : -DAY;
}

static time_t forward_and_back(int minute)
{
	return minute < 600 || minute >= 660 ? 0 : DAY;
}

static time_t a_year_ahead_for_an_hour(int minute)
{
	return minute < 600 || minute >= 660 ? 0 : 365 * DAY;
}

UNIT(daemon, at_most_one_run_where_one_was_due_whatever_the_clock_does)
{
	static const struct {
		time_t (*offset)(int minute);
		int least, most; /* runs in three days at 03:00, begun at midnight */
	} cases[] = {{right, 3, 3}, {forward_a_day, 3, 4}, {back_a_day, 2, 3}, {forward_and_back, 2, 3}, {a_year_ahead_for_an_hour, 3, 4}};

	set_zone("Europe/Berlin");
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct due d = {.text = NULL};
		int n = runs(&d, "0 3 * * *", "2026-11-10 00:00", 3 * 1440, cases[i].offset);

		cr_assert(n >= cases[i].least && n <= cases[i].most, "case %zu: %d runs", i, n);
		free(d.text);
	}
	/* In the hour that comes twice, and in that which does not come. */
	for (int k = 0; k < 2; k++) {
		struct due d = {.text = NULL};

		cr_assert_eq(runs(&d, "30 2 * * *", k ? "2026-03-28 12:00" : "2026-10-24 12:00", 1440, right), 1);
		free(d.text);
	}
	set_zone("UTC");
}

UNIT(daemon, a_run_that_was_missed_is_made_up_for_once)
{
	struct schedule s = parse("0 3 * * *");
	struct due d = {.text = NULL};
	bool changed;

	set_zone("UTC");
	cr_assert(!schedule_is_due(&d, "0 3 * * *", &s, 0, at("2026-11-10 00:00"), &changed));
	cr_assert(changed);
	cr_assert(schedule_is_due(&d, "0 3 * * *", &s, 0, at("2026-11-20 12:00"), &changed)); /* nobody was there for ten days */
	cr_assert(!schedule_is_due(&d, "0 3 * * *", &s, 0, at("2026-11-20 12:01"), &changed));
	/* What has just been configured owes nothing. */
	cr_assert(!schedule_is_due(&d, "0 4 * * *", &s, 0, at("2026-11-20 12:02"), &changed));
	/* Later by its jitter. */
	cr_assert(schedule_is_due(&d, "0 4 * * *", &s, 600, at("2026-11-21 03:00"), &changed)); /* (s is still that of 03:00) */
	cr_assert(!schedule_is_due(&d, "0 4 * * *", &s, 600, at("2026-11-22 03:09"), &changed));
	cr_assert(schedule_is_due(&d, "0 4 * * *", &s, 600, at("2026-11-22 03:10"), &changed));
	free(d.text);
}

UNIT(daemon, what_is_no_schedule_is_said_with_its_column)
{
	static const struct {
		const char *text, *part;
		size_t column;
	} bad[] = {{"", "minute", 0},	      {"60 * * * *", "minute", 0},	{"0 24 * * *", "hour", 2},
		   {"0 3 0 * *", "day of month", 4}, {"0 3 * 13 *", "month", 6}, {"0 3 * * 8", "day of week", 8},
		   {"0 3 * *", "missing", 7}, {"0 3 * * * *", "more than", 10}, {"0 5-3 * * *", "hour", 2},
		   {"*/0 * * * *", "minute", 0}, {"1, * * * *", "minute", 0},	{"x", "minute", 0},
		   {"0 0 30 2 *", "never", 0}, {"@never", "minute", 0},	{"-1 * * * *", "minute", 0}};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct schedule s;
		struct error e;
		size_t column = 99;

		assert_error(schedule_parse(bad[i].text, &s, &column, &e), &e, bad[i].part);
		cr_assert_eq(column, bad[i].column, "'%s': column %zu", bad[i].text, column);
	}
}

static bool open_at(const char *window, const char *time)
{
	struct window w;
	struct error e;
	size_t column;

	cr_assert_eq(window_parse(window, &w, &column, &e), 0, "%s: %s", window, e.text);
	return window_is_open(&w, at(time));
}

UNIT(daemon, windows_and_blackouts)
{
	static const char *const bad[] = {"", "25:00-26:00", "01:00", "01:00-", "Xyz 01:00-02:00", "01:00-02:00 x", "1:5-2:00x"};
	struct blackout b;
	struct window w;
	struct error e;
	size_t column;

	set_zone("UTC");
	cr_assert(open_at("Sat,Sun 01:00-05:00", "2026-11-28 01:00"));
	cr_assert(!open_at("Sat,Sun 01:00-05:00", "2026-11-28 05:00"));
	cr_assert(!open_at("Sat,Sun 01:00-05:00", "2026-11-27 02:00"));
	cr_assert(open_at("Fri 22:00-04:00", "2026-11-28 03:59"));
	cr_assert(open_at("Fri 22:00-04:00", "2026-11-27 22:00"));
	cr_assert(!open_at("Fri 22:00-04:00", "2026-11-28 22:00"));
	cr_assert(open_at("Mon-Fri", "2026-11-27 12:00"));
	cr_assert(!open_at("Mon-Fri", "2026-11-28 12:00"));
	cr_assert(open_at("23:00-24:00", "2026-11-28 23:59"));
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		cr_assert(window_parse(bad[i], &w, &column, &e), "'%s' was taken", bad[i]);
	cr_assert_eq(blackout_parse("2026-12-24..2027-01-02", &b, &column, &e), 0);
	cr_assert(!blackout_is_on(&b, at("2026-12-23 23:59")));
	cr_assert(blackout_is_on(&b, at("2026-12-24 00:00")));
	cr_assert(blackout_is_on(&b, at("2027-01-02 23:59")));
	cr_assert(!blackout_is_on(&b, at("2027-01-03 00:00")));
	assert_error(blackout_parse("2026-02-30", &b, &column, &e), &e, "expected");
	assert_error(blackout_parse("2026-12-24..2026-12-23", &b, &column, &e), &e, "before");
	assert_error(blackout_parse("tomorrow", &b, &column, &e), &e, "expected");
}

/* ---- the configuration */

UNIT(daemon, the_configuration_says_what_it_says)
{
	struct error e;
	struct config *c = config_parse("# all there is\n"
					"[daemon]\n"
					"socket = /tmp/s\n"
					"max-concurrent = 2\n"
					"tls = /etc/vmbeam/tls\n"
					"allow = /srv/vms\n"
					"allow = tap=web0\n"
					"\n"
					"[hypervisor *]\n"
					"schedule = 0 3 * * sun\n"
					"predict = 6h\n"
					"  [hypervisor hv-a]\n"
					"methods = beam, pre-copy\n"
					"target = tls://other:7000\n"
					"threshold = memory_available < 64M\n"
					"threshold = files_open > 1000\n"
					"window = Sat 01:00-05:00\n"
					"window = Sun 01:00-05:00\n"
					"min-interval = 90min\n"
					"[vm web]\n"
					"move = last\n"
					"max-downtime = 250ms\n"
					"shutdown = force\n"
					"probe = ping -c 1 10.0.0.5 # really\n",
					"f", &e);
	const struct hypervisor_policy *a, *other;

	cr_assert(c, "%s", e.text);
	a = config_hypervisor(c, "hv-a");
	other = config_hypervisor(c, "hv-z");
	cr_assert_str_eq(a->name, "hv-a");
	cr_assert_str_eq(other->name, "*");
	cr_assert_float_eq(other->predict, 6 * HOUR, 1e-9);
	cr_assert_null(a->schedule_text);
	cr_assert_eq(a->nmethods, 2);
	cr_assert_eq(a->methods[1], METHOD_PRE_COPY);
	cr_assert_eq(a->nthresholds, 2);
	cr_assert_float_eq(a->thresholds[0].value, 64e0 * MIB, 1);
	cr_assert(a->thresholds[1].above);
	cr_assert_eq(a->nwindows, 2);
	cr_assert_float_eq(a->min_interval, 5400, 1e-9);
	cr_assert_eq(config_vm(c, "web")->move, MOVE_LAST);
	cr_assert_float_eq(config_vm(c, "web")->max_downtime, 0.25, 1e-9);
	cr_assert_str_eq(config_vm(c, "web")->probe, "ping -c 1 10.0.0.5 # really");
	cr_assert_eq(config_vm(c, "web")->shutdown, SHUTDOWN_FORCE);
	cr_assert_eq(config_vm(c, "db")->move, MOVE_YES);
	cr_assert_eq(config_vm(c, "db")->shutdown, SHUTDOWN_YES);
	cr_assert_eq(c->max_concurrent, 2);
	cr_assert_eq(c->nallowed, 2);
	cr_assert_str_eq(c->allowed[1], "tap=web0");
	config_destroy(c);
}

/* Of README.md, from its first section to the end of the block. */
UNIT(daemon, the_readme_s_configuration_is_valid)
{
	FILE *in = fopen("README.md", "re");
	char *text = NULL, line[200];
	size_t size;
	FILE *out = open_memstream(&text, &size);
	struct error e;
	struct config *c;
	bool within = false;

	cr_assert(in && out);
	while (fgets(line, sizeof(line), in) && !(within && !strncmp(line, "```", 3))) {
		within |= !strncmp(line, "[hypervisor *]", 14);
		if (within)
			fputs(line, out);
	}
	fclose(in);
	fclose(out);
	c = config_parse(text, "README.md", &e);
	cr_assert(c, "%s", e.text);
	cr_expect_float_eq(config_hypervisor(c, "hv-a")->predict, 6 * HOUR, 1e-9);
	cr_expect_str_eq(config_vm(c, "db")->probe, "ping -c 1 -W 1 10.0.0.7");
	config_destroy(c);
	free(text);
}

UNIT(daemon, a_wrong_configuration_is_told_by_line_and_column)
{
	static const struct {
		const char *text, *error;
	} bad[] = {{"x = 1\n", "f:1:1: a section"},
		   {"[daemon]\nx = 1\n", "f:2:1: there is no such key"},
		   {"[daemon]\n  socket /x\n", "f:2:10: = is expected"},
		   {"[daemon]\nreceive = 0.0.0.0:7000\n", "f:1:1: receive needs tls"},
		   {"[daemon]\nsocket = x\n", "f:2:10: a path"},
		   {"[daemon]\nallow = tap=\n", "f:2:9: a path"},
		   {"[daemon]\nsocket =\n", "f:2:9: a value"},
		   {"[daemon\n", "f:1:8: ]"},
		   {"[daemons]\n", "f:1:2: [daemon], [hypervisor NAME]"},
		   {"[hypervisor a/b]\n", "f:1:13: a name"},
		   {"[hypervisor]\n", "f:1:12: a name"},
		   {"[vm a]\n[vm a]\n", "f:2:5: it has a section already"},
		   {"[hypervisor a]\nschedule = 0 3 * * funday\n", "f:2:20: this is no day of week"},
		   {"[hypervisor a]\nmethods = beam, steam\n", "f:2:17: beam, warm"},
		   {"[hypervisor a]\nmethods = beam, beam\n", "f:2:17: beam is there already"},
		   {"[hypervisor a]\nmethods = pre-copy\n", "f:1:1: method pre-copy needs a target"},
		   {"[daemon]\n[hypervisor a]\nmethods = pre-copy\ntarget = tls://b:7000\n", "f:2:1: method pre-copy needs tls"},
		   {"[daemon]\nmetrics = 127.0.0.1\n", "f:2:11: ADDRESS:PORT is expected"},
		   {"[daemon]\ndashboard = 127.0.0.1:0\n", "f:2:23: ADDRESS:PORT is expected"},
		   {"[hypervisor a]\nthreshold = memory_available = 3\n", "f:2:30: < or >"},
		   {"[hypervisor a]\nthreshold = memory_available < much\n", "f:2:32: a number"},
		   {"[hypervisor a]\npredict = soon\n", "f:2:11: a time"},
		   {"[hypervisor a]\npredict = 1h\npredict = 2h\n", "f:3:1: it has been given"},
		   {"[vm a]\nmax-downtime = 5parsecs\n", "f:2:16: a time"},
		   {"[vm a]\nmove = maybe\n", "f:2:8: yes, last or never"},
		   {"[vm a]\nshutdown = no\n", "f:2:12: yes, last or force"},
		   {"[vm *]\nshutdown = last\n", "f:1:1: shutdown is of a VM with a name"},
		   {"[vm a]\nprobe = \x01\n", "f:2:9: this is no text"}};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct error e = {""};
		struct config *c = config_parse(bad[i].text, "f", &e);

		cr_assert_null(c, "taken: %s", bad[i].text);
		cr_assert(!strncmp(e.text, bad[i].error, strlen(bad[i].error)), "'%s', not '%s'", e.text, bad[i].error);
	}
}

/* ---- the state machine */

UNIT(daemon, every_state_has_a_way_on_and_a_way_back)
{
	for (int s = 0; s < REJUV_STATES; s++) {
		enum rejuv_state state = (enum rejuv_state)s;

		cr_assert(rejuv_state_name(state));
		cr_assert_eq(rejuv_state_of(rejuv_state_name(state)), s);
		for (int e = 0; e < REJUV_EVENTS; e++)
			cr_assert_lt(rejuv_action(state, (enum rejuv_event)e), REJUV_ACTIONS);
		/* A step that is under way ends well, ends badly, or is done again after a restart. */
		cr_assert_eq(rejuv_is_working(state), rejuv_action(state, REJUV_DONE) != REJUV_IGNORE, "%s", rejuv_state_name(state));
		cr_assert_eq(rejuv_is_working(state), rejuv_action(state, REJUV_FAILED) != REJUV_IGNORE, "%s", rejuv_state_name(state));
		cr_assert_eq(rejuv_is_working(state), rejuv_action(state, REJUV_RESTARTED) == REJUV_AGAIN, "%s", rejuv_state_name(state));
		/* No two at once, and none while nothing is asked for. */
		if (rejuv_is_working(state))
			cr_assert_eq(rejuv_action(state, REJUV_WANTED), REJUV_IGNORE);
		cr_assert_eq(rejuv_action(state, REJUV_ALLOWED) == REJUV_PREPARE, state == REJUV_DUE);
	}
	cr_assert_eq(rejuv_state_of("nothing"), -1);
}

/* ---- the journal */

static char folder[] = "/tmp/vmbeam-journal-XXXXXX", path[80];

static void make_folder(void)
{
	strcpy(folder + strlen(folder) - 6, "XXXXXX");
	cr_assert(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/journal.db", folder);
}

static void remove_folder(void)
{
	char command[100];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	cr_assert_eq(system(command), 0); /* NOLINT(cert-env33-c): a folder of our own name */
}

static struct journal *open_journal(void)
{
	struct error e;
	struct journal *j = journal_open(path, &e);

	cr_assert(j, "%s", e.text);
	return j;
}

struct found {
	int n;
	enum rejuv_state state;
	int64_t value;
};

static void find(void *ctx, const char *name, enum rejuv_state state, json_t *data)
{
	struct found *f = ctx;

	if (strcmp(name, "hv"))
		return;
	f->n++;
	f->state = state;
	f->value = json_integer_value(json_object_get(data, "x"));
}

static struct found look(struct journal *j)
{
	struct found f = {0};
	struct error e;

	cr_assert_eq(journal_each(j, find, &f, &e), 0, "%s", e.text);
	return f;
}

static void set(struct journal *j, enum rejuv_state s, int64_t x)
{
	json_t *data = json_pack("{s:I}", "x", (json_int_t)x);
	struct error e;

	cr_assert_eq(journal_set(j, "hv", s, data, &e), 0, "%s", e.text);
	json_decref(data);
}

UNIT(daemon, the_journal_remembers_what_was_written_last)
{
	struct journal *j, *other;
	json_t *runs, *report;
	struct error e;
	int64_t run;

	make_folder();
	j = open_journal();
	cr_assert_null(other = journal_open(path, &e));
	cr_assert(strstr(e.text, "another vmbeamd"));
	set(j, REJUV_DUE, 1);
	set(j, REJUV_MOVING, 2);
	run = journal_begin(j, "hv", "schedule", &e);
	cr_assert_gt(run, 0);
	journal_close(j);
	j = open_journal();
	cr_assert_eq(look(j).n, 1);
	cr_assert_eq(look(j).state, REJUV_MOVING);
	cr_assert_eq(look(j).value, 2);
	runs = journal_runs(j, "hv", 10, &e);
	cr_assert_eq(json_array_size(runs), 1);
	cr_assert_str_eq(json_string_value(json_object_get(json_array_get(runs, 0), "outcome")), "under way");
	json_decref(runs);
	report = json_pack("{s:i}", "guests", 3);
	cr_assert_eq(journal_report(j, run, "completed", NULL, report, &e), 0, "%s", e.text);
	json_decref(report);
	runs = journal_runs(j, NULL, 10, &e);
	cr_assert_str_eq(json_string_value(json_object_get(json_array_get(runs, 0), "outcome")), "completed");
	cr_assert_eq(json_integer_value(json_object_get(json_object_get(json_array_get(runs, 0), "report"), "guests")), 3);
	json_decref(runs);
	cr_assert_eq(journal_forget(j, "hv", &e), 0);
	cr_assert_eq(look(j).n, 0);
	journal_close(j);
	remove_folder();
}

UNIT(daemon, what_was_acknowledged_outlives_a_kill)
{
	make_folder();
	for (int round = 0; round < 5; round++) {
		int pipes[2];
		int64_t x = 0, y;
		struct journal *j;
		struct found f;
		pid_t pid;

		cr_assert_eq(pipe(pipes), 0);
		pid = fork();
		if (!pid) {
			j = open_journal();
			for (y = 1;; y++) {
				set(j, (enum rejuv_state)(y % REJUV_STATES), y);
				if (write(pipes[1], &y, sizeof(y)) != sizeof(y))
					_exit(1);
			}
		}
		close(pipes[1]);
		while (x < 20 + 7 * round && read(pipes[0], &x, sizeof(x)) == sizeof(x))
			;
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		while (read(pipes[0], &y, sizeof(y)) == sizeof(y))
			x = y;
		close(pipes[0]);
		j = open_journal();
		f = look(j);
		cr_assert_geq(f.value, x);
		cr_assert_leq(f.value, x + 1);
		cr_assert_eq(f.state, (enum rejuv_state)(f.value % REJUV_STATES));
		journal_close(j);
	}
	remove_folder();
}

UNIT(daemon, what_is_no_journal_is_put_aside)
{
	struct journal *j;
	struct stat st;
	char bad[96];
	FILE *f;

	make_folder();
	f = fopen(path, "w");
	for (int i = 0; i < 5000; i++)
		fputc(i * 37 % 251, f);
	fclose(f);
	j = open_journal();
	cr_assert_eq(look(j).n, 0);
	set(j, REJUV_IDLE, 1);
	journal_close(j);
	snprintf(bad, sizeof(bad), "%s.bad", path);
	cr_assert_eq(stat(bad, &st), 0);
	remove_folder();
}
