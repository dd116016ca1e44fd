/* metrics.c: all that the ageing monitor knows, for Prometheus and what reads its formats: monitor.h.
 *
 * An indicator "memory_available" of bytes is vmbeam_memory_available_bytes{subject,side}, its limit
 * vmbeam_memory_available_limit_bytes; the part "memory:slab/dentry" is vmbeam_memory_part_bytes{...,part="slab/dentry"}, the fault
 * "kernel_oom" vmbeam_faults_total{...,fault="kernel_oom"}.  Names that agents invent become names of metrics, too: they are cut
 * to what may stand there.
 */
#include "rejuv/monitor/monitor.h"
#include "rejuv/monitor/watch.h"

#include <ctype.h>
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

struct lines {
	struct line *line;
	size_t n, room;
};

static void add(struct lines *l, bool counter, const char *family, const char *unit, const char *help, double value,
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

/* As a metric's name, without what means something at its end. */
static void family_of(const char *name, const char *unit, char *out, size_t size)
{
	static const char *const ends[] = {"_total", "_sum", "_count", "_bucket", "_info", "_created", "_bytes", "_seconds", "_ratio"};
	size_t n = 0;

	for (; *name && n + 1 < size; name++)
		out[n++] = isalnum((unsigned char)*name) ? (char)tolower((unsigned char)*name) : '_';
	out[n] = 0;
	if (!strcmp(unit, "seconds") && n > 5 && !strcmp(out + n - 5, "_time"))
		out[n - 5] = 0;
	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		size_t end = strlen(ends[i]);

		n = strlen(out);
		if (n >= end && !strcmp(out + n - end, ends[i]))
			snprintf(out + n - end, size - n + end, "_x");
	}
}

static void add_indicator(struct lines *l, const char *labels, const struct aging_indicator *i)
{
	char family[AGING_NAME + 16], limit[AGING_NAME + 32], text[sizeof(l->line->labels)], escaped[2 * AGING_NAME];
	const char *unit = aging_unit(i->name), *colon = strchr(i->name, ':');

	if (i->kind == AGING_FAULTS) {
		snprintf(text, sizeof(text), "%s,fault=\"%s\"", labels, escape(i->name, escaped, sizeof(escaped)));
		add(l, true, "faults", "", "What the kernel has said that it must never say.", i->value, text);
		return;
	}
	if (i->kind == AGING_PART && colon) {
		char whole[AGING_NAME];

		snprintf(whole, sizeof(whole), "%.*s_part", (int)(colon - i->name), i->name);
		family_of(whole, "", family, sizeof(family));
		snprintf(text, sizeof(text), "%s,part=\"%s\"", labels, escape(colon + 1, escaped, sizeof(escaped)));
		add(l, false, family, unit, "What one of its users has of a resource.", i->value, text);
		return;
	}
	family_of(i->name, unit, family, sizeof(family));
	add(l, false, family, unit, "An indicator of the ageing monitor.", i->value, labels);
	if (i->kind == AGING_LEFT || i->kind == AGING_USED) {
		snprintf(limit, sizeof(limit), "%s_limit", family);
		add(l, false, limit, unit, "All there is of that resource.", i->limit, labels);
	}
}

static void add_side(struct lines *l, const struct aging_subject *s, const char *side, const char *name)
{
	struct aging_indicator i;
	char labels[200];

	snprintf(labels, sizeof(labels), "subject=\"%s\",side=\"%s\"", name, side);
	for (size_t k = 0; s && aging_subject_indicator(s, k, &i); k++)
		add_indicator(l, labels, &i);
}

static void add_health(struct lines *l, const char *name, const struct aging_health *h)
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

static void add_subject(void *ctx, const struct watched *s)
{
	struct lines *l = ctx;
	char name[200];

	escape(s->name, name, sizeof(name));
	add_side(l, s->inside, "inside", name);
	add_side(l, s->outside, "outside", name);
	if (s->health)
		add_health(l, name, s->health);
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

static void print(FILE *f, const struct lines *l, bool open)
{
	for (size_t i = 0; i < l->n; i++) {
		const struct line *line = &l->line[i], *before = i ? line - 1 : NULL;
		const char *total = line->counter ? "_total" : "";

		if (before && !compare(before, line))
			continue; /* two names that are the same, cut to what may stand there */
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

char *metrics_text(const struct watch *w, bool open)
{
	struct lines l = {.n = 0};
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	watch_each(w, add_subject, &l);
	add(&l, true, "store_failures", "", "How often the store could not be written.", (double)watch_store_failures(w), "store=\"monitor\"");
	qsort(l.line, l.n, sizeof(*l.line), compare);
	print(f, &l, open);
	free(l.line);
	fclose(f);
	return text;
}
