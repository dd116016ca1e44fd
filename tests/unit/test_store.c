/* test_store.c: the ageing monitor's store: what is kept comes back, whatever happens to the file, the clock or the disk. */
#include "aging-monitor/store.h"
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MINUTE = 60, HOUR = 3600, DAY = 24 * HOUR };
#define LIMIT (64ull << 20)

static char folder[] = "/tmp/vmbeam-store-XXXXXX", path[64];

static struct aging_store *open_new(void)
{
	const char *error = "";
	struct aging_store *s;

	strcpy(folder + strlen(folder) - 6, "XXXXXX");
	cr_assert(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/monitor.db", folder);
	s = aging_store_open(path, LIMIT, &error);
	cr_assert(s, "%s", error);
	return s;
}

static void remove_all(void)
{
	char command[100];

	snprintf(command, sizeof(command), "rm -rf %s", folder);
	cr_assert_eq(system(command), 0); /* NOLINT(cert-env33-c): a folder of our own name */
}

static struct aging_store *open_again(uint64_t limit)
{
	const char *error = "";
	struct aging_store *s = aging_store_open(path, limit, &error);

	cr_assert(s, "%s", error);
	return s;
}

static double ask(const char *sql)
{
	double x = NAN;
	sqlite3_stmt *q;
	sqlite3 *db;

	cr_assert_eq(sqlite3_open(path, &db), SQLITE_OK);
	cr_assert_eq(sqlite3_prepare_v2(db, sql, -1, &q, NULL), SQLITE_OK, "%s", sqlite3_errmsg(db));
	if (sqlite3_step(q) == SQLITE_ROW)
		x = sqlite3_column_double(q, 0);
	sqlite3_finalize(q);
	sqlite3_close(db);
	return x;
}

static void count_verdict(void *ctx, const struct aging_stored *v)
{
	cr_expect(!strcmp(v->name, "hv") && v->evidence);
	++*(int *)ctx;
}

static void count_value(void *ctx, double t, double value)
{
	(void)t;
	cr_expect(value >= 0);
	++*(int *)ctx;
}

static void count_event(void *ctx, const struct aging_event *e)
{
	cr_expect(e->kind && e->text);
	++*(int *)ctx;
}

/* `minutes` of a leak, up to now. */
static void live(struct aging_store *s, struct aging_subject *a, int64_t id, int minutes)
{
	double end = floor(aging_store_now(s) / MINUTE) * MINUTE;
	const char *error = "";

	for (double t = end - minutes * MINUTE; t < end; t += MINUTE) {
		cr_assert(aging_subject_add(a, "memory_available", AGING_LEFT, 1000, t, 800 - fmax(t - end + 12 * HOUR, 0) / HOUR * 10));
		cr_assert(aging_subject_add(a, "answer_time", AGING_LATENCY, 4, t, 0.01));
		cr_assert(aging_subject_add(a, "memory:slab/dentry", AGING_PART, 0, t, 5));
	}
	for (double t = end - minutes * MINUTE; t < end; t += MINUTE)
		cr_assert_eq(aging_store_minute(s, id, false, a, t, &error), 0, "%s", error);
	cr_assert_eq(aging_store_commit(s, &error), 0, "%s", error);
}

UNIT(store, what_is_stored_comes_back)
{
	struct aging_store *s = open_new();
	struct aging_subject *a = aging_subject_create(), *b = aging_subject_create();
	struct aging_health before, after;
	const char *error = "";
	double limit = 0;
	int64_t id, other;
	int n = 0;

	cr_assert_eq(aging_store_subject(s, "hv", "one", &id, &error), 0, "%s", error);
	cr_assert(aging_store_subject(s, "hv", "two", &other, &error) == 0 && other != id);
	live(s, a, id, 3 * 1440);
	for (double t = -30 * MINUTE; t <= 0; t += AGING_JUDGE_S)
		aging_subject_judge(a, aging_store_now(s) + t, &before);
	cr_assert_eq(before.state, AGING_STATE_AGEING, "%s", before.evidence);
	cr_assert_eq(aging_store_verdict(s, id, aging_store_now(s), &before, true, &error), 0, "%s", error);
	cr_assert_eq(aging_store_event(s, aging_store_now(s), "hv", "ageing", "it grows old", &error), 0);
	cr_assert_eq(aging_store_event(s, aging_store_now(s), NULL, "test", "of nobody", &error), 0);
	cr_assert_eq(aging_store_commit(s, &error), 0);
	aging_store_close(s);

	s = open_again(LIMIT);
	cr_assert(aging_store_subject(s, "hv", "one", &other, &error) == 0 && other == id);
	cr_assert_eq(aging_store_restore(s, id, false, b, &error), 0, "%s", error);
	/* It is known at once: the last hour has been judged again. */
	aging_subject_judge(b, aging_store_now(s), &after);
	cr_expect_eq(after.state, AGING_STATE_AGEING, "%s", after.evidence);
	cr_expect_str_eq(after.indicator, "memory_available");
	cr_expect_float_eq(after.verdict.slope, before.verdict.slope, 0.02 * before.verdict.slope);
	struct aging_indicator i = {.name = NULL};
	bool found = false;
	for (size_t k = 0; aging_subject_indicator(b, k, &i); k++)
		if (!strcmp(i.name, "answer_time")) {
			found = true;
			cr_expect_float_eq(i.usual, 0.01, 1e-6, "%g", i.usual);
			cr_expect(i.kind == AGING_LATENCY && i.limit == 4);
		}
	cr_expect(found);
	aging_store_close(s);

	/* For who reads. */
	s = open_again(0);
	cr_expect_eq(aging_store_each_verdict(s, "hv", 0, false, count_verdict, &n, &error), 0, "%s", error);
	cr_expect_eq(n, 1);
	cr_expect(aging_store_each_verdict(s, NULL, 0, true, count_verdict, &n, &error) == 0 && n == 2);
	cr_expect(aging_store_each_verdict(s, "other", 0, false, count_verdict, &n, &error) == 0 && n == 2);
	n = 0;
	cr_expect(aging_store_each_value(s, "hv", "memory_available", 0, count_value, &n, &limit, &error) == 0, "%s", error);
	cr_expect(n == 3 * 1440 && limit == 1000, "%d", n);
	cr_expect(aging_store_each_value(s, "hv", "nothing", 0, count_value, &n, &limit, &error) < 0);
	n = 0;
	cr_expect(aging_store_each_event(s, "hv", 0, 0, count_event, &n, &error) == 0 && n == 1);
	cr_expect(aging_store_each_event(s, NULL, 0, 0, count_event, &n, &error) == 0 && n == 3);
	cr_expect_float_eq(aging_store_clock(s, aging_store_now(s)), (double)time(NULL), 2);
	aging_store_close(s);
	aging_subject_destroy(a);
	aging_subject_destroy(b);
	remove_all();
}

UNIT(store, a_subject_is_who_it_is_by_whatever_name)
{
	struct aging_store *s = open_new();
	struct aging_subject *a = aging_subject_create(), *b = aging_subject_create();
	struct aging_indicator i;
	const char *error = "";
	int64_t id, other;

	cr_assert_eq(aging_store_subject(s, "hv-a.new", "lock 1", &id, &error), 0);
	live(s, a, id, 90);
	cr_assert(aging_store_subject(s, "hv-a", "lock 1", &other, &error) == 0 && other == id, "the fresh one takes the old one's name");
	/* Seen again in the same run it has its history. */
	cr_assert_eq(aging_store_restore(s, id, false, b, &error), 0, "%s", error);
	size_t k = 0;
	while (aging_subject_indicator(b, k, &i) && strcmp(i.name, "memory_available"))
		k++;
	cr_expect_float_eq(aging_subject_median(b, k, aging_store_now(s) - 30 * MINUTE, aging_store_now(s)), 682, 5);
	cr_assert_eq(aging_store_commit(s, &error), 0);
	/* What is undone gives its number to nobody else. */
	cr_assert_eq(aging_store_subject(s, "gone", "lock 2", &id, &error), 0);
	cr_expect_lt(aging_store_event(s, 1, "x", NULL, NULL, &error), 0, "an event of no kind is none");
	cr_assert_eq(aging_store_subject(s, "next", "lock 3", &other, &error), 0);
	cr_assert_eq(aging_store_commit(s, &error), 0);
	aging_store_close(s);
	cr_expect_eq(ask("SELECT count(*) FROM subject"), 2);
	cr_expect_eq(ask("SELECT count(*) FROM subject WHERE name = 'hv-a'"), 1);
	aging_subject_destroy(a);
	aging_subject_destroy(b);
	remove_all();
}

/* The hypervisor `identity` worked from so many hours before now until so many, and leaked so much an hour. */
static int64_t work(struct aging_store *s, const char *identity, double from, double to, double leak)
{
	double end = floor(aging_store_now(s) / MINUTE) * MINUTE, begin = end - from * HOUR;
	struct aging_subject *a = aging_subject_create();
	const char *error = "";
	int64_t id;

	cr_assert_eq(aging_store_subject(s, "hv", identity, &id, &error), 0, "%s", error);
	for (double t = begin; t < end - to * HOUR; t += MINUTE) {
		cr_assert(aging_subject_add(a, "memory_available", AGING_LEFT, 1000, t, 800 - (t - begin) / HOUR * leak));
		cr_assert(aging_subject_add(a, "memory:slab/dentry", AGING_PART, 0, t, (t - begin) / HOUR * leak));
		cr_assert(aging_subject_add(a, "answer_time", AGING_LATENCY, 4, t, 0.01 * (from > 24 ? 1 : 2)));
		cr_assert_eq(aging_store_minute(s, id, false, a, t, &error), 0, "%s", error);
	}
	aging_subject_destroy(a);
	if (from < 24)
		cr_assert_eq(aging_store_succeed(s, id, "hv", INFINITY, begin, &error), 1, "%s", error);
	return id;
}

static void restore_and_judge(struct aging_store *s, int64_t id, struct aging_health *h)
{
	struct aging_subject *a = aging_subject_create();
	struct aging_indicator i;
	const char *error = "";

	cr_assert_eq(aging_store_restore(s, id, false, a, &error), 0, "%s", error);
	aging_subject_judge(a, aging_store_now(s), h);
	for (size_t k = 0; aging_subject_indicator(a, k, &i); k++)
		if (!strcmp(i.name, "answer_time"))
			cr_expect_gt(i.first, aging_store_now(s) - 24 * HOUR, "how long things take is its own");
	h->indicator = h->indicator ? "memory_available" : NULL; /* (It was the subject's.) */
	aging_subject_destroy(a);
}

UNIT(store, a_successor_takes_over_what_was_known)
{
	struct aging_store *s = open_new();
	struct aging_health h;
	const char *error = "";
	int64_t id;

	id = work(s, "one", 72, 14, 0);
	cr_expect_eq(aging_store_succeed(s, id, "hv", INFINITY, 0, &error), 0, "nobody was before it");
	cr_expect(isinf(aging_store_began(s, id)));
	work(s, "two", 13.9, 8, 40);
	work(s, "three", 7.9, 4, 40);
	id = work(s, "four", 3.9, 0, 40);
	cr_assert_eq(aging_store_commit(s, &error), 0, "%s", error);
	cr_expect_float_eq(aging_store_began(s, id), aging_store_now(s) - 3.9 * HOUR, 2 * MINUTE);
	aging_store_close(s);

	/* Though no one leaked for long, and after the store was opened anew. */
	s = open_again(LIMIT);
	restore_and_judge(s, id, &h);
	cr_expect_eq(h.state, AGING_STATE_AGEING, "%s", h.evidence);
	cr_expect_float_eq(h.verdict.slope * HOUR, 40, 4, "%g", h.verdict.slope * HOUR);
	cr_expect_float_eq(h.verdict.left, 800 - 3.9 * 40, 5, "%g", h.verdict.left);
	cr_expect(strstr(h.evidence, "slab/dentry"), "%s", h.evidence);
	aging_store_close(s);
	remove_all();

	/* A successor has been mended: what the others did is not said of it. */
	for (int settled = 0; settled < 2; settled++) {
		double since = settled ? 1.9 : 0.2;

		s = open_new();
		work(s, "one", 72, 14, 0);
		work(s, "two", 13.9, since + 0.1, 40);
		id = work(s, "three", since, 0, 0);
		restore_and_judge(s, id, &h);
		cr_expect_eq(h.state, settled ? AGING_STATE_HEALTHY : AGING_STATE_LEARNING, "%s", h.evidence);
		aging_store_close(s);
		remove_all();
	}
}

UNIT(store, one_writes_and_strangers_files_are_put_aside)
{
	struct aging_store *s = open_new();
	const char *error = "";
	char bad[80];

	cr_expect(!aging_store_open(path, LIMIT, &error) && strstr(error, "somebody else"), "%s", error);
	cr_expect(aging_store_is_written(path));
	aging_store_close(s);
	cr_expect(!aging_store_is_written(path));

	snprintf(bad, sizeof(bad), "%s.bad", path);
	int fd = open(path, O_WRONLY | O_TRUNC);
	cr_assert(write(fd, "this is no database, but longer than its header would be: "
			    "01234567890123456789012345678901234567890123456789",
			100) == 100);
	close(fd);
	cr_expect(!aging_store_open(path, 0, &error), "who reads does not put it aside");
	s = open_again(LIMIT);
	cr_expect_eq(access(bad, F_OK), 0);
	aging_store_close(s);
	/* One of a version to come is left alone. */
	ask("PRAGMA user_version=9");
	cr_expect(!aging_store_open(path, LIMIT, &error) && strstr(error, "version"), "%s", error);
	cr_expect(!aging_store_open("/nonexistent/x", LIMIT, &error));
	remove_all();
}

UNIT(store, a_damaged_one_is_put_aside_and_a_large_one_shrinks)
{
	struct aging_store *s = open_new();
	const char *error = "";
	char bad[80], text[5001];
	struct stat st;
	int fd;

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	for (int i = 0; i < 4000; i++)
		cr_assert_eq(aging_store_event(s, aging_store_now(s) - 200. * DAY, "hv", "test", text, &error), 0);
	cr_assert_eq(aging_store_commit(s, &error), 0);
	aging_store_close(s);
	cr_assert(!stat(path, &st) && st.st_size > (off_t)(3 * AGING_STORE_LEAST));
	s = open_again(AGING_STORE_LEAST);
	aging_store_close(s);
	cr_expect(!stat(path, &st) && st.st_size <= (off_t)AGING_STORE_LEAST, "%ld", (long)st.st_size);

	/* All but its first page is overwritten. */
	fd = open(path, O_WRONLY);
	for (off_t at = 4096; at < st.st_size; at += (off_t)sizeof(text))
		cr_assert(pwrite(fd, text, sizeof(text), at) > 0);
	close(fd);
	s = open_again(LIMIT);
	cr_expect_eq(aging_store_event(s, 1, "hv", "test", "x", &error), 0, "%s", error);
	aging_store_close(s);
	snprintf(bad, sizeof(bad), "%s.bad", path);
	cr_expect_eq(access(bad, F_OK), 0);
	remove_all();
}

/* Killed at any time: all that was committed is there. */
UNIT(store, kill_loses_no_more_than_the_last_minute)
{
	struct aging_store *s = open_new();
	const char *error = "";

	aging_store_close(s);
	for (int round = 0; round < 10; round++) {
		double before = ask("SELECT count(*) FROM event"), after, told = 0;
		int fds[2];
		pid_t pid;

		cr_assert_eq(pipe(fds), 0);
		pid = fork();
		if (!pid) {
			s = open_again(LIMIT);
			for (int i = 0;; i++)
				if (aging_store_event(s, aging_store_now(s), "hv", "test", "x", &error) || aging_store_commit(s, &error) ||
				    write(fds[1], &i, sizeof(i)) < 0)
					_exit(1);
		}
		close(fds[1]);
		usleep(20000 + 7000 * (unsigned int)round);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		for (int i; read(fds[0], &i, sizeof(i)) == sizeof(i);)
			told++;
		close(fds[0]);
		s = open_again(LIMIT);
		aging_store_close(s);
		after = ask("SELECT count(*) FROM event");
		cr_expect(after - before >= told && after - before <= told + 2, "%g committed, %g are there", told, after - before);
		cr_expect_eq(ask("SELECT count(*) FROM pragma_integrity_check WHERE integrity_check = 'ok'"), 1);
	}
	remove_all();
}

UNIT(store, the_timeline_never_goes_back)
{
	struct aging_store *s = open_new();
	const char *error = "";
	double last;
	int n = 0;

	aging_store_close(s);
	/* As if the clock had been two days ahead then. */
	ask("UPDATE run SET t = t + 172800, clock = clock + 172800, last = last + 172800");
	last = ask("SELECT max(last) FROM run");
	s = open_again(LIMIT);
	cr_expect(aging_store_now(s) > last);
	cr_expect_float_eq(aging_store_clock(s, aging_store_now(s)), (double)time(NULL), 2, "it tells the clock all the same");
	cr_expect_float_eq(aging_store_clock(s, last), (double)time(NULL) + 2 * DAY, 5, "and what it said then");
	cr_expect(aging_store_each_event(s, NULL, 0, 0, count_event, &n, &error) == 0 && n == 1);
	aging_store_close(s);
	s = open_again(0);
	cr_expect(aging_store_now(s) > last);
	aging_store_close(s);
	remove_all();
}

/* A clock that was never set, or set wrong, at one start: nothing of what is kept is too old because of it. */
UNIT(store, a_clock_far_ahead_throws_nothing_away)
{
	struct aging_store *s = open_new();
	const char *error = "";
	double last;

	cr_assert_eq(aging_store_event(s, aging_store_now(s), "hv", "test", "x", &error), 0);
	cr_assert_eq(aging_store_commit(s, &error), 0);
	aging_store_close(s);
	/* As if all that had been 300 days ago. */
	ask("UPDATE run SET t = t - 25920000, clock = clock - 25920000, last = last - 25920000");
	ask("UPDATE event SET t = t - 25920000");
	last = ask("SELECT max(last) FROM run");
	s = open_again(LIMIT);
	cr_expect_float_eq(aging_store_now(s), last, 5);
	cr_expect_float_eq(aging_store_clock(s, aging_store_now(s)), (double)time(NULL), 2);
	cr_assert_eq(aging_store_tidy(s, aging_store_now(s), &error), 0);
	aging_store_close(s);
	cr_expect_eq(ask("SELECT count(*) FROM event WHERE kind = 'test'"), 1);
	remove_all();
}

UNIT(store, what_is_old_is_thinned_out_and_the_limit_kept)
{
	const uint64_t limit = AGING_STORE_LEAST;
	struct aging_store *s = open_new();
	const char *error = "";
	double now;

	now = floor(aging_store_now(s) / 900) * 900;
	aging_store_close(s);
	/* 100 days, a value each minute of one series: what is older than 8 days becomes quarters of an hour, 90 days of them. */
	char sql[400];
	snprintf(sql, sizeof(sql),
		 "WITH RECURSIVE m(t) AS (SELECT %.0f UNION ALL SELECT t + 60 FROM m WHERE t < %.0f)"
		 " INSERT INTO minute SELECT 1, t, 5 FROM m",
		 now - 100 * DAY, now);
	ask("INSERT INTO subject VALUES(1, 'hv', 'one')");
	ask("INSERT INTO series VALUES(1, 1, 0, 'memory_available', 0, 1000, 0, 0)");
	ask(sql);
	s = open_again(LIMIT);
	cr_assert_eq(aging_store_tidy(s, now, &error), 0, "%s", error);
	aging_store_close(s);
	cr_expect_float_eq(ask("SELECT count(*) FROM minute"), 8 * 1440 + 1, 15);
	cr_expect_float_eq(ask("SELECT count(*) FROM quarter"), 82 * 96, 1);
	cr_expect_eq(ask("SELECT count(*) FROM quarter WHERE value <> 5"), 0);

	/* Ever more, and a small limit: the file never grows beyond it, and what is new gets in. */
	s = open_again(limit);
	for (int i = 0; i < 40; i++) {
		char text[10001];

		memset(text, 'x', sizeof(text) - 1);
		text[sizeof(text) - 1] = 0;
		for (int k = 0; k < 20; k++)
			cr_assert_eq(aging_store_event(s, now + i * DAY + k, "hv", "test", text, &error), 0, "%d: %s", i, error);
		cr_assert_eq(aging_store_tidy(s, now + i * DAY + HOUR, &error), 0, "%s", error);
	}
	aging_store_close(s);
	cr_expect_leq(ask("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"), (double)limit);
	cr_expect_geq(ask("SELECT count(*) FROM event"), 20);
	snprintf(sql, sizeof(sql), "SELECT count(*) FROM event WHERE t >= %.0f", now + 39 * DAY);
	cr_expect_eq(ask(sql), 20);
	remove_all();
}

/* What cannot be stored is lost; nothing else is. */
UNIT(store, a_full_disk_is_told_and_gone_over)
{
	struct aging_store *s = open_new();
	const char *error = "";
	char filler[100], text[20001];
	double kept;
	int r = 0, fd;

	aging_store_close(s);
	cr_assert_eq(mount("store", folder, "tmpfs", 0, "size=2m"), 0, "(as root)");
	s = open_again(LIMIT);
	snprintf(filler, sizeof(filler), "%s/filler", folder);
	fd = open(filler, O_WRONLY | O_CREAT, 0600);
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	cr_assert_eq(aging_store_event(s, 1, "hv", "test", "kept", &error), 0);
	cr_assert_eq(aging_store_commit(s, &error), 0, "%s", error);
	while (write(fd, text, sizeof(text)) > 0)
		;
	for (int i = 0; i < 10 && !r; i++) {
		r = aging_store_event(s, 2, "hv", "test", text, &error);
		r = r ? r : aging_store_commit(s, &error);
	}
	cr_expect(r < 0 && strstr(error, "full"), "%s", error);
	cr_assert_eq(ftruncate(fd, 0), 0);
	cr_assert_eq(aging_store_event(s, 3, "hv", "test", "again", &error), 0, "%s", error);
	cr_assert_eq(aging_store_commit(s, &error), 0, "%s", error);
	close(fd);
	aging_store_close(s);
	kept = ask("SELECT count(*) FROM event WHERE text IN ('kept', 'again')");
	cr_expect_eq(kept, 2, "%g", kept);
	cr_assert_eq(umount(folder), 0);
	remove_all();
}
