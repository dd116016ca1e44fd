/* metrics.c: all that the ageing monitor knows, for Prometheus and what reads its formats: monitor.h.
 *
 * An indicator "memory_available" of bytes is vmbeam_memory_available_bytes{subject,side}, its limit
 * vmbeam_memory_available_limit_bytes; the part "memory:slab/dentry" is vmbeam_memory_part_bytes{...,part="slab/dentry"}, the fault
 * "kernel_oom" vmbeam_faults_total{...,fault="kernel_oom"}.  What an agent has invented is vmbeam_indicator{...,name="its name"}.
 */
#include "rejuv/monitor/monitor.h"
#include "rejuv/monitor/watch.h"

#include "aging-monitor/collect.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct line {
	char family[128]; /* without _total */
	char labels[2 * AGING_NAME + 200];
	const char *unit, *help;
	bool counter;
	double value;
};

struct metrics {
	struct line *line;
	size_t n, room;
};

static void add(struct metrics *l, bool counter, const char *family, const char *unit, const char *help, double value,
		const char *labels)
{
	struct line *line;

	if (isnan(value))
		return;
	if (l->n == l->room) {
		l->room = l->room ? 2 * l->room : 256;
		l->line = xrealloc(l->line, l->room * sizeof(*l->line));
	}
	line = &l->line[l->n++];
	snprintf(line->family, sizeof(line->family), "vmbeam_%s%s%s", family, unit[0] ? "_" : "", unit);
	snprintf(line->labels, sizeof(line->labels), "%s", labels);
	line->unit = unit;
	line->help = help;
	line->counter = counter;
	line->value = value;
}

/* As a label's value; names are printable ASCII. */
static const char *escape(const char *text, char *out, size_t size)
{
	size_t n = 0;

	for (; *text && n + 2 < size; text++) {
		if (*text == '"' || *text == '\\')
			out[n++] = '\\';
		out[n++] = *text;
	}
	out[n] = 0;
	return out;
}

static void add_indicator(struct metrics *l, const char *labels, const struct aging_indicator *i, bool ours)
{
	char family[AGING_NAME + 32], text[sizeof(l->line->labels)], escaped[2 * AGING_NAME];
	const char *unit = aging_unit(i->name), *colon = strchr(i->name, ':');
	size_t n = strlen(i->name);

	if (i->kind == AGING_FAULTS) {
		snprintf(text, sizeof(text), "%s,fault=\"%s\"", labels, escape(i->name, escaped, sizeof(escaped)));
		add(l, true, "faults", "", "What the kernel has said that it must never say.", i->value, text);
		return;
	}
	if (!ours) {
		snprintf(text, sizeof(text), "%s,name=\"%s\"", labels, escape(i->name, escaped, sizeof(escaped)));
		add(l, false, "indicator", "", "What only its agent knows.", i->value, text);
		return;
	}
	if (colon) {
		snprintf(family, sizeof(family), "%.*s_part", (int)(colon - i->name), i->name);
		snprintf(text, sizeof(text), "%s,part=\"%s\"", labels, escape(colon + 1, escaped, sizeof(escaped)));
		add(l, false, family, unit, "What one of its users has of a resource.", i->value, text);
		return;
	}
	if (n > 5 && !strcmp(i->name + n - 5, "_time"))
		n -= 5; /* the unit says it */
	snprintf(family, sizeof(family), "%.*s", (int)n, i->name);
	add(l, false, family, unit, "An indicator of the ageing monitor.", i->value, labels);
	if (i->kind == AGING_LEFT || i->kind == AGING_USED) {
		snprintf(family, sizeof(family), "%.*s_limit", (int)n, i->name);
		add(l, false, family, unit, "All there is of that resource.", i->limit, labels);
	}
}

static void add_side(struct metrics *l, const struct aging_subject *s, bool inside, const char *name)
{
	struct aging_indicator i;
	char labels[200];

	snprintf(labels, sizeof(labels), "subject=\"%s\",side=\"%s\"", name, inside ? "inside" : "outside");
	for (size_t k = 0; s && aging_subject_indicator(s, k, &i); k++)
		add_indicator(l, labels, &i, !inside || aging_collects(i.name));
}

static void add_health(struct metrics *l, const char *name, const struct aging_health *h)
{
	char labels[400], escaped[2 * AGING_NAME];

	for (int state = AGING_STATE_UNKNOWN; state <= AGING_STATE_CRITICAL; state++) {
		snprintf(labels, sizeof(labels), "subject=\"%s\",state=\"%s\"", name, aging_state_name((enum aging_state)state));
		add(l, false, "health", "", "1 for the state that it is in.", (int)h->state == state, labels);
	}
	snprintf(labels, sizeof(labels), "subject=\"%s\"", name);
	add(l, false, "contention", "ratio", "The share of its CPU time that it waited for, mean of ten minutes.", h->contention, labels);
	add(l, false, "contention_bursts", "ratio", "The same, what a tenth of the samples exceeded.", h->bursts, labels);
	add(l, true, "samples_refused", "", "Samples that made no sense.", (double)h->refused, labels);
	if (!h->indicator)
		return;
	snprintf(labels, sizeof(labels), "subject=\"%s\",indicator=\"%s\"", name, escape(h->indicator, escaped, sizeof(escaped)));
	add(l, false, "exhaustion", "seconds", "Until the resource is exhausted, as forecast.", h->verdict.exhausted_in, labels);
	add(l, false, "exhaustion_earliest", "seconds", "The same, at the earliest (99 %).", h->verdict.earliest, labels);
	add(l, false, "exhaustion_latest", "seconds", "The same, at the latest (99 %).", h->verdict.latest, labels);
	add(l, false, "slope_per_second", "", "What is used up of the resource a second.", h->verdict.slope, labels);
}

struct metrics *metrics_create(void)
{
	return xcalloc(1, sizeof(struct metrics));
}

void metrics_add(struct metrics *l, const struct watched *s)
{
	char name[200];

	escape(s->name, name, sizeof(name));
	add_side(l, s->inside, true, name);
	add_side(l, s->outside, false, name);
	if (s->health)
		add_health(l, name, s->health);
}

void metrics_add_failures(struct metrics *l, double store_failures)
{
	add(l, true, "store_failures", "", "How often the store could not be written.", store_failures, "store=\"monitor\"");
}

static int compare(const void *a, const void *b)
{
	const struct line *x = a, *y = b;
	int r = strcmp(x->family, y->family);

	return r ? r : strcmp(x->labels, y->labels);
}

static void print_value(FILE *f, double x)
{
	if (isinf(x))
		fputs(x > 0 ? " +Inf\n" : " -Inf\n", f);
	else
		fprintf(f, " %.17g\n", x);
}

static void print(FILE *f, const struct metrics *l, bool open)
{
	for (size_t i = 0; i < l->n; i++) {
		const struct line *line = &l->line[i], *before = i ? line - 1 : NULL;
		const char *total = line->counter ? "_total" : "";

		if (before && !compare(before, line))
			continue; /* two names that are the same, cut to their room */
		if (!before || strcmp(before->family, line->family)) {
			fprintf(f, "# HELP %s%s %s\n# TYPE %s%s %s\n", line->family, open ? "" : total, line->help, line->family,
				open ? "" : total, line->counter ? "counter" : "gauge");
			if (open && line->unit[0])
				fprintf(f, "# UNIT %s %s\n", line->family, line->unit);
		}
		fprintf(f, "%s%s{%s}", line->family, total, line->labels);
		print_value(f, line->value);
	}
	if (open)
		fputs("# EOF\n", f);
}

char *metrics_text(struct metrics *l, bool open)
{
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	qsort(l->line, l->n, sizeof(*l->line), compare);
	print(f, l, open);
	fclose(f);
	return text;
}

void metrics_destroy(struct metrics *l)
{
	free(l->line);
	free(l);
}
