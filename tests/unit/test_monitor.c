/* test_monitor.c: vmbeam-monitor's metrics and words. */
#include "rejuv/monitor/monitor.h"
#include "rejuv/monitor/watch.h"
#include "rejuv/operations.h"
#include "tests/unit/unit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int check_by_promtool(const char *text)
{
	FILE *f = popen("promtool check metrics", "w"); /* NOLINT(cert-env33-c) */

	cr_assert(f);
	fputs(text, f);
	return pclose(f);
}

/* Lines that begin with it. */
static int lines_of(const char *text, const char *begin)
{
	int n = !strncmp(text, begin, strlen(begin));

	for (const char *p = text; (p = strchr(p, '\n')); n += !strncmp(p, begin, strlen(begin)))
		p++;
	return n;
}

UNIT(monitor, metrics_are_well_formed_whatever_agents_name_their_samples)
{
	static const char *const hostile[] = {"x_total", "x_total_total", "_", "0", "a\"b", "a\\", "a{b}", "Memory_Available",
					      "vmbeam_health", "requests_bucket", "lag_time", "a:b", ":", "#", "slow_count"};
	struct aging_subject *inside = aging_subject_create(), *outside = aging_subject_create();
	struct aging_health h;
	struct metrics *m = metrics_create();
	struct watched hv = {.name = "h\"v\\", .inside = inside, .outside = outside, .health = &h};
	char *plain, *open;

	for (size_t i = 0; i < ARRAY_LEN(hostile); i++)
		aging_subject_add(inside, hostile[i], i % 3 ? AGING_PLAIN : AGING_PART, 0, 60, (double)i);
	aging_subject_add(inside, "memory_available", AGING_LEFT, 1000, 60, 300);
	aging_subject_add(inside, "memory:slab/dentry", AGING_PART, 0, 60, 5);
	aging_subject_add(inside, "kernel_oom", AGING_FAULTS, 0, 60, 2);
	aging_subject_add(outside, "answer_time", AGING_LATENCY, 4, 60, 0.01);
	aging_subject_judge(inside, 120, &h);
	metrics_add(m, &hv);
	metrics_add_failures(m, 3);
	plain = metrics_text(m, false);
	open = metrics_text(m, true);
	cr_expect_eq(check_by_promtool(plain), 0, "%s", plain);
	cr_expect_eq(lines_of(plain, "vmbeam_memory_available_bytes{subject=\"h\\\"v\\\\\",side=\"inside\"} 300\n"), 1, "%s", plain);
	cr_expect_eq(lines_of(plain, "vmbeam_memory_available_limit_bytes{"), 1);
	cr_expect_eq(lines_of(plain, "vmbeam_answer_seconds{subject=\"h\\\"v\\\\\",side=\"outside\"} 0.01"), 1);
	cr_expect_eq(lines_of(plain, "vmbeam_faults_total{subject=\"h\\\"v\\\\\",side=\"inside\",fault=\"kernel_oom\"} 2\n"), 1);
	cr_expect_eq(lines_of(plain, "vmbeam_memory_part_bytes{subject=\"h\\\"v\\\\\",side=\"inside\",part=\"slab/dentry\"} 5\n"), 1);
	cr_expect_eq(lines_of(plain, "vmbeam_indicator{"), (int)ARRAY_LEN(hostile), "%s", plain);
	cr_expect_eq(lines_of(plain, "vmbeam_health{"), 6);
	cr_expect_eq(lines_of(plain, "# TYPE vmbeam_store_failures_total counter\n"), 1);
	cr_expect_eq(lines_of(open, "# TYPE vmbeam_store_failures counter\n"), 1);
	cr_expect_eq(lines_of(open, "vmbeam_store_failures_total{store=\"monitor\"} 3\n"), 1);
	cr_expect_str_eq(open + strlen(open) - 6, "# EOF\n");
	free(plain);
	free(open);
	metrics_destroy(m);
	aging_subject_destroy(inside);
	aging_subject_destroy(outside);
}

UNIT(monitor, times_and_numbers_are_those_of_people)
{
	char dir[] = "/tmp/vmbeam-monitor-XXXXXX", command[100];
	struct aging_store *s;
	const char *error = "";
	struct error e;
	char path[80];
	double t;

	cr_assert(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/monitor.db", dir);
	s = aging_store_open(path, AGING_STORE_LEAST, &error);
	cr_assert(s, "%s", error);
	cr_expect(!parse_since("2h", s, &t, &e) && fabs(aging_store_now(s) - t - 7200) < 1);
	cr_expect(!parse_since("1.5d", s, &t, &e) && fabs(aging_store_now(s) - t - 129600) < 1);
	cr_expect(!parse_since("2020-02-29 13:00", s, &t, &e) && aging_store_now(s) - t > 6 * 365 * 86400.);
	for (const char *const *p = (const char *const[]){"", "h", "5", "-5m", "5y", "nan", "infd", "2020-13-01", "2020-02-29x", NULL}; *p; p++)
		cr_expect(parse_since(*p, s, &t, &e) < 0, "%s", *p);
	aging_store_close(s);
	cr_expect_str_eq(human(1536 * 1024, "bytes"), "1.5 MiB");
	cr_expect_str_eq(human(0.123, "ratio"), "12.3 %");
	cr_expect_str_eq(human(0.0071, "seconds"), "7.1 ms");
	cr_expect_str_eq(human(NAN, "bytes"), "-");
	cr_expect_str_eq(human_duration(INFINITY), "never");
	cr_expect_str_eq(human_duration(3 * 3600), "3.0 h");
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	cr_assert_eq(system(command), 0); /* NOLINT(cert-env33-c) */
}

struct noted {
	int n;
	double sum;
	bool host;
};

static void note(void *ctx, const char *where, enum operation what, double took)
{
	struct noted *o = ctx;

	cr_expect(what == OPERATION_MIGRATE || what == OPERATION_CREATE);
	o->host |= !strcmp(where, "host");
	o->sum += took;
	o->n++;
}

UNIT(monitor, durations_of_operations_are_read_once_and_bounded)
{
	char dir[] = "/tmp/vmbeam-monitor-XXXXXX", path[80];
	struct noted o = {.n = 0};
	struct stat st;
	FILE *f;

	cr_assert(mkdtemp(dir));
	setenv("VMBEAM_RUNTIME_DIR", dir, 1);
	operations_read(note, &o);
	cr_expect_eq(o.n, 0);
	operation_note(OPERATION_CREATE, "", 500000000);
	operation_note(OPERATION_MIGRATE, "hv-a", 250000000);
	operations_read(note, &o);
	cr_expect(o.n == 2 && o.host && fabs(o.sum - 0.75) < 1e-9, "%d, %g", o.n, o.sum);
	operations_read(note, &o);
	cr_expect_eq(o.n, 2, "once");
	/* Nobody reads: it stops growing. */
	for (int i = 0; i < 6000; i++)
		operation_note(OPERATION_MIGRATE, "hv-a", 1);
	snprintf(path, sizeof(path), "%s/.operations", dir);
	cr_expect(!stat(path, &st) && st.st_size < 70000);
	f = fopen(path, "w");
	cr_assert(f);
	fputs("nonsense\nmigrate hv-a x\nmigrate hv-b 5\n", f);
	fclose(f);
	o.n = 0;
	operations_read(note, &o);
	cr_expect_eq(o.n, 1, "what makes no sense is left out");
	cr_expect(!stat(path, &st) && st.st_size == 0);
	unsetenv("VMBEAM_RUNTIME_DIR");
	unlink(path);
	rmdir(dir);
}
