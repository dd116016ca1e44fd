/* beatcheck.c: judges the serial log of the test guest "beat" (beat.c says what its lines mean).
 *
 *   beatcheck [--json] [--min KEY=N]... [--top N] [--stall TICKS] [FILE]   (standard input without FILE)
 *
 * Exit 1 and a reason at the first thing that must not be: a tick lost, doubled or torn, a clock
 * that went back, any mismatch, a counter that shrinks, no progress over 50 ticks (--stall), a line
 * that neither beat nor a kernel prints, or a KEY of the last tick below N ("ticks" counts as one).
 * Otherwise a line (or with --json an object) with the counters and the gaps:
 *   tick_gap   the longest interval between two ticks, and the same less the median ("excess")
 *   guest_gap  the longest time a CPU of the guest did not run; its excess is the larger of what
 *              maxgap and pgap have above their own medians: the pause as the guest saw it
 * --top N lists the N ticks with the largest excess, e.g. one per handover.
 * A guest that is reset starts a new count; the clocks may start again.  A last line without its
 * end is left out: the log may still be growing.
 */
#include "tests/guests/beat_line.h"

#include <err.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_KEYS    16
static unsigned stall_ticks = 50;

struct counter {
	char name[16];
	unsigned long long value;
};

struct counters {
	struct counter c[MAX_KEYS];
	unsigned count;
};

struct sample {
	unsigned long long seq, mono, interval, maxgap, pgap, excess;
};

static struct counters last;   /* of the tick before */
static struct sample *samples; /* every tick but a boot's first */
static size_t sample_count;
static unsigned long long line_number, boots, ticks, kernel_warnings, stalled;
static bool ready, ended, have_last;

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "beatcheck: line %llu: ", line_number);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(1);
}

static unsigned long long get(const struct counters *in, const char *name)
{
	for (unsigned i = 0; i < in->count; i++) {
		if (!strcmp(in->c[i].name, name))
			return in->c[i].value;
	}
	return 0;
}

/* "tick SEQ name=N name=N ... sum=HEX", to the letter. */
static void parse_tick(const char *line, struct counters *out)
{
	const char *sum = strstr(line, " sum=");
	unsigned want;
	char rest;
	int used;

	out->count = 1;
	strcpy(out->c[0].name, "seq");
	if (!sum || sscanf(sum, " sum=%4x%c", &want, &rest) != 1 ||
	    want != beat_line_sum(line, (size_t)(sum - line)) ||
	    sscanf(line, "tick %llu%n", &out->c[0].value, &used) != 1)
		fail("torn tick line: %s", line);
	for (const char *p = line + used; p < sum; p += used) {
		struct counter *c = &out->c[out->count++];

		if (out->count == MAX_KEYS ||
		    sscanf(p, " %15[a-z]=%llu%n", c->name, &c->value, &used) != 2)
			fail("not a tick line: %s", line);
	}
}

static void check_counters(const struct counters *now)
{
	unsigned long long seq = get(now, "seq");

	if (!have_last && seq)
		fail("the first tick is number %llu", seq);
	if (have_last && seq != get(&last, "seq") + 1)
		fail("tick %llu follows tick %llu", seq, get(&last, "seq"));
	for (unsigned i = 0; i < now->count; i++) {
		const struct counter *c = &now->c[i];
		size_t len = strlen(c->name);

		if ((!strcmp(c->name, "back") || (len >= 3 && !strcmp(c->name + len - 3, "bad"))) &&
		    c->value)
			fail("tick %llu: %s=%llu", seq, c->name, c->value);
		if (strcmp(c->name, "maxgap") && strcmp(c->name, "pgap") &&
		    strcmp(c->name, "late") && have_last && c->value < get(&last, c->name))
			fail("tick %llu: %s went back from %llu to %llu", seq, c->name,
			     get(&last, c->name), c->value);
	}
	/* An idle guest writes nothing at all; any other must get on. */
	stalled = get(now, "written") > get(&last, "written") ? 0 : stalled + 1;
	if (get(now, "written") && stalled > stall_ticks)
		fail("tick %llu: no page written for %u ticks", seq, stall_ticks);
}

static void take_tick(const char *line)
{
	struct counters now;

	parse_tick(line, &now);
	check_counters(&now);
	if (have_last) {
		if (!(sample_count & (sample_count - 1)))
			samples = reallocarray(samples, sample_count ? sample_count * 2 : 1,
					       sizeof(*samples));
		if (!samples)
			err(1, "memory");
		samples[sample_count++] = (struct sample){
			.seq = get(&now, "seq"),
			.mono = get(&now, "mono"),
			.interval = get(&now, "mono") - get(&last, "mono"),
			.maxgap = get(&now, "maxgap"),
			.pgap = get(&now, "pgap"),
		};
	}
	last = now;
	have_last = true;
	ticks++;
}

static void take_line(const char *line)
{
	const char *start = strstr(line, "beat ready ");

	if (start && (!ready || ended)) { /* firmware may have left the cursor anywhere */
		ready = true;
		ended = have_last = false;
		stalled = 0;
		boots++;
	} else if (!strncmp(line, "BEAT KERNEL ", 12)) {
		kernel_warnings++;
		fprintf(stderr, "beatcheck: line %llu: %s\n", line_number, line);
	} else if (!ready || ended || !*line || *line == '[') {
		return; /* a boot loader's or a kernel's */
	} else if (!strncmp(line, "tick ", 5)) {
		take_tick(line);
	} else if (!strncmp(line, "BEAT END ", 9) || !strcmp(line, "BEAT POWEROFF")) {
		ended = true;
	} else {
		fail("%s%s", strncmp(line, "BEAT ", 5) ? "unexpected line: " : "", line);
	}
}

static void read_log(FILE *f)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t len;

	while ((len = getline(&line, &size, f)) > 0 && line[len - 1] == '\n') {
		line_number++;
		while (len && (line[len - 1] == '\n' || line[len - 1] == '\r'))
			line[--len] = '\0';
		if (strlen(line) != (size_t)len)
			fail("a zero byte in the line");
		take_line(line);
	}
	free(line);
}

static int by_value(const void *a, const void *b)
{
	const unsigned long long *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static int by_excess(const void *a, const void *b)
{
	return by_value(&((const struct sample *)b)->excess, &((const struct sample *)a)->excess);
}

/* The median and the maximum of the member at `offset` of every sample. */
static void median_and_max(size_t offset, unsigned long long *median, unsigned long long *max)
{
	unsigned long long *values = calloc(sample_count + 1, sizeof(*values));

	if (!values)
		err(1, "memory");
	for (size_t i = 0; i < sample_count; i++)
		memcpy(&values[i], (const char *)&samples[i] + offset, sizeof(*values));
	qsort(values, sample_count, sizeof(*values), by_value);
	*median = values[sample_count / 2];
	*max = values[sample_count ? sample_count - 1 : 0];
	free(values);
}

static unsigned long long above(unsigned long long value, unsigned long long limit)
{
	return value > limit ? value - limit : 0;
}

static void print_report(bool json, size_t top)
{
	unsigned long long interval, longest_interval, quiet, longest_quiet, printing,
		longest_printing, longest, excess;

	median_and_max(offsetof(struct sample, interval), &interval, &longest_interval);
	median_and_max(offsetof(struct sample, maxgap), &quiet, &longest_quiet);
	median_and_max(offsetof(struct sample, pgap), &printing, &longest_printing);
	for (size_t i = 0; i < sample_count; i++) {
		struct sample *s = &samples[i];

		s->excess = above(s->maxgap, quiet);
		if (above(s->pgap, printing) > s->excess)
			s->excess = above(s->pgap, printing);
	}
	qsort(samples, sample_count, sizeof(*samples), by_excess);
	excess = sample_count ? samples[0].excess : 0;
	longest = longest_quiet > longest_printing ? longest_quiet : longest_printing;
	if (!json) {
		printf("ok: %llu ticks, %llu passes, %llu MiB written, longest tick gap %.1f ms "
		       "(%.1f less the normal one), longest guest gap %.1f ms (%.1f)",
		       ticks, get(&last, "passes"), get(&last, "written") >> 20,
		       (double)longest_interval / 1e6, (double)(longest_interval - interval) / 1e6,
		       (double)longest / 1e6, (double)excess / 1e6);
		printf(kernel_warnings ? ", %llu kernel warnings\n" : "\n", kernel_warnings);
	} else {
		printf("{\"ok\":true,\"ticks\":%llu,\"boots\":%llu,\"kernel_warnings\":%llu,"
		       "\"tick_gap_ns\":%llu,\"tick_gap_excess_ns\":%llu,\"guest_gap_ns\":%llu,"
		       "\"guest_gap_excess_ns\":%llu,\"last\":{",
		       ticks, boots, kernel_warnings, longest_interval, longest_interval - interval,
		       longest, excess);
		for (unsigned i = 0; i < last.count; i++)
			printf("%s\"%s\":%llu", i ? "," : "", last.c[i].name, last.c[i].value);
		printf("},\"gaps\":[");
	}
	for (size_t i = 0; i < top && i < sample_count; i++)
		printf(json ? "%s{\"seq\":%llu,\"mono_ns\":%llu,\"excess_ns\":%llu}"
			    : "%stick %llu mono=%llu excess=%llu\n",
		       json && i ? "," : "", samples[i].seq, samples[i].mono, samples[i].excess);
	if (json)
		printf("]}\n");
}

/* "KEY=N" as --min gives it. */
static void check_minimum(const char *text)
{
	char name[16];
	unsigned long long least, value;

	if (sscanf(text, "%15[a-z]=%llu", name, &least) != 2)
		errx(2, "--min %s: not KEY=N", text);
	value = strcmp(name, "ticks") ? get(&last, name) : ticks;
	if (value < least)
		fail("%s is %llu at the end of the log, at least %llu expected", name, value,
		     least);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"json", no_argument, NULL, 'j'},
						{"min", required_argument, NULL, 'm'},
						{"top", required_argument, NULL, 't'},
						{"stall", required_argument, NULL, 's'},
						{0}};
	const char *minima[8];
	unsigned minimum_count = 0;
	bool json = false;
	size_t top = 0;
	FILE *f = stdin;

	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (c == 'j')
			json = true;
		else if (c == 't')
			top = strtoul(optarg, NULL, 10);
		else if (c == 's')
			stall_ticks = (unsigned)strtoul(optarg, NULL, 10);
		else if (c == 'm' && minimum_count < 8)
			minima[minimum_count++] = optarg;
		else
			errx(2, "usage: beatcheck [--json] [--min KEY=N]... [--top N] [--stall TICKS] [FILE]");
	}
	if (optind < argc && !(f = fopen(argv[optind], "re")))
		err(1, "%s", argv[optind]);
	read_log(f);
	if (!ready)
		fail("no \"beat ready\" in the log");
	for (unsigned i = 0; i < minimum_count; i++)
		check_minimum(minima[i]);
	print_report(json, top);
	return 0;
}
