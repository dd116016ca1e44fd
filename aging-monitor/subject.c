/* subject.c: a machine or hypervisor, watched: aging.h. */
#include "aging-monitor/aging.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MINUTE = 60, HOUR = 3600, DAY = 24 * HOUR, RECENT = 10 * MINUTE, BASELINE = 2 * DAY, SHARES = 128 };
#define CULPRIT_SHARE 0.2
#define BURSTS	      0.1 /* of the samples: fewer are chance; */
#define BURSTS_OF     12  /* samples at least */

/* The last samples of a contention: medians of minutes would hide bursts. */
struct shares {
	size_t n; /* so far */
	struct { double t, share; } sample[SHARES];
};

struct indicator {
	char name[AGING_NAME];
	enum aging_kind kind;
	double limit;
	double usual; /* of a latency: its median of the first two days; 0: not known yet */
	double first, seen; /* times */
	double value;		   /* the last */
	double last, rises, risen; /* of faults: the value, by how much it has risen lately, when */
	struct aging_series *series;
	struct shares *shares; /* of contention */
};

struct aging_subject {
	struct indicator indicator[AGING_INDICATORS];
	size_t n;
	unsigned long refused;
	double newest; /* time of a sample */
};

const char *aging_state_name(enum aging_state state)
{
	static const char *const names[] = {"unknown", "learning", "healthy", "contended", "ageing", "critical"};

	return names[state];
}

struct aging_subject *aging_subject_create(void)
{
	struct aging_subject *s = calloc(1, sizeof(*s));

	if (s)
		s->newest = -INFINITY;
	return s;
}

static void forget(struct indicator *i)
{
	aging_series_destroy(i->series);
	free(i->shares);
}

void aging_subject_destroy(struct aging_subject *s)
{
	for (size_t i = 0; s && i < s->n; i++)
		forget(&s->indicator[i]);
	free(s);
}

static bool is_name(const char *name)
{
	size_t n = strnlen(name, AGING_NAME);

	for (size_t i = 0; i < n; i++)
		if (name[i] <= ' ' || name[i] > '~')
			return false;
	return n && n < AGING_NAME;
}

static struct indicator *find(const struct aging_subject *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (!strcmp(s->indicator[i].name, name))
			return (struct indicator *)(uintptr_t)&s->indicator[i];
	return NULL;
}

/* Who may make room for another. */
static struct indicator *silent_longest(struct aging_subject *s, double t)
{
	struct indicator *longest = NULL;

	for (size_t k = 0; k < s->n; k++) {
		struct indicator *i = &s->indicator[k];

		if ((i->kind == AGING_PART || i->kind == AGING_PLAIN) && t - i->seen >= HOUR && (!longest || i->seen < longest->seen))
			longest = i;
	}
	return longest;
}

/* *full: there is no room for it. */
static struct indicator *find_or_add(struct aging_subject *s, const char *name, enum aging_kind kind, double limit, double t,
				     bool *full)
{
	struct indicator *i = is_name(name) ? find(s, name) : NULL;
	struct indicator fresh = {.kind = kind, .limit = limit, .first = t, .value = NAN, .last = NAN, .risen = -INFINITY};

	if (i || !is_name(name))
		return i && i->kind == kind ? i : NULL;
	i = s->n < AGING_INDICATORS ? &s->indicator[s->n] : silent_longest(s, t);
	fresh.series = i ? aging_series_create() : NULL;
	if (fresh.series && kind == AGING_CONTENTION)
		fresh.shares = calloc(1, sizeof(*fresh.shares));
	*full = !fresh.series || (kind == AGING_CONTENTION && !fresh.shares);
	if (*full) {
		forget(&fresh);
		return NULL;
	}
	if (s->n < AGING_INDICATORS)
		s->n++;
	else
		forget(i);
	*i = fresh;
	strcpy(i->name, name);
	return i;
}

/* A counter that falls has begun anew. */
static void count_faults(struct indicator *i, double t, double value)
{
	double more = isnan(i->last) ? 0 : value >= i->last ? value - i->last : value;

	if (more > 0) {
		i->rises = (t - i->risen <= DAY ? i->rises : 0) + more;
		i->risen = t;
	}
	i->last = value;
}

static bool is_limit(enum aging_kind kind, double limit)
{
	bool limited = kind != AGING_PART && kind != AGING_FAULTS && kind != AGING_PLAIN;

	return limit >= 0 && limit <= AGING_LARGEST && (!limited || limit > 0);
}

static bool is_value(enum aging_kind kind, double value)
{
	return value >= 0 && value <= AGING_LARGEST && (kind != AGING_CONTENTION || value <= 1);
}

bool aging_subject_add(struct aging_subject *s, const char *name, enum aging_kind kind, double limit, double t, double value)
{
	struct indicator *i;
	bool full = false;

	i = is_limit(kind, limit) && is_value(kind, value) ? find_or_add(s, name, kind, limit, t, &full) : NULL;
	if (!i || !aging_series_add(i->series, t, value)) {
		s->refused += !full;
		return false;
	}
	i->limit = limit;
	i->seen = t;
	i->value = value;
	if (kind == AGING_FAULTS)
		count_faults(i, t, value);
	if (i->shares) {
		i->shares->sample[i->shares->n % SHARES].t = t;
		i->shares->sample[i->shares->n++ % SHARES].share = value;
	}
	s->newest = fmax(s->newest, t);
	return true;
}

bool aging_subject_restore(struct aging_subject *s, const struct aging_indicator *stored)
{
	bool full;
	struct indicator *i = is_limit(stored->kind, stored->limit)
				      ? find_or_add(s, stored->name, stored->kind, stored->limit, stored->first, &full)
				      : NULL;

	if (!i)
		return false;
	i->first = stored->first;
	i->usual = stored->usual;
	return true;
}

void aging_subject_succeed(struct aging_subject *s, const struct aging_subject *old, double ended, double began)
{
	for (size_t k = 0; k < s->n; k++) {
		struct indicator *i = &s->indicator[k];
		const struct indicator *was = find(old, i->name);

		if (was && was->kind == i->kind && i->kind <= AGING_PART && aging_series_succeed(i->series, was->series, ended, began))
			i->first = fmin(i->first, was->first);
	}
}

bool aging_subject_indicator(const struct aging_subject *s, size_t k, struct aging_indicator *out)
{
	const struct indicator *i;

	if (k >= s->n)
		return false;
	i = &s->indicator[k];
	*out = (struct aging_indicator){.name = i->name, .kind = i->kind, .limit = i->limit, .value = i->value, .seen = i->seen,
					.first = i->first, .usual = i->usual};
	return true;
}

double aging_subject_median(const struct aging_subject *s, size_t k, double from, double to)
{
	return k < s->n ? aging_series_median(s->indicator[k].series, from, to) : NAN;
}

const char *aging_unit(const char *name)
{
	static const struct {
		const char *begins, *ends, *unit;
	} units[] = {
		{"memory_pressure", "", "ratio"}, {"memory", "", "bytes"},	 {"swap", "", "bytes"},	   {"disk", "", "bytes"},
		{"slab", "", "bytes"},		  {"free_memory", "", "bytes"}, {"process_memory", "", "bytes"},
		{"", "_time", "seconds"},	  {"", "_pressure", "ratio"},	 {"steal", "", "ratio"},   {"run_delay", "", "ratio"},
	};

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		size_t n = strlen(name), end = strlen(units[i].ends);

		if (!strncmp(name, units[i].begins, strlen(units[i].begins)) && n >= end && !strcmp(name + n - end, units[i].ends))
			return units[i].unit;
	}
	return "";
}

/* What is ageing most: the state first, then how soon it is over. */
static bool is_worse(const struct aging_verdict *a, const struct aging_verdict *b)
{
	return a->finding != b->finding ? a->finding > b->finding : a->exhausted_in < b->exhausted_in;
}

/* Mean and bursts of the last ten minutes. */
static void recent_shares(const struct shares *shares, double now, double *mean, double *bursts)
{
	double v[SHARES];
	size_t n = 0;

	*mean = *bursts = 0;
	for (size_t k = 0; k < SHARES && k < shares->n; k++)
		if (now - shares->sample[k].t <= RECENT) {
			v[n] = shares->sample[k].share;
			*mean += v[n++];
		}
	if (!n)
		return;
	*mean /= (double)n;
	*bursts = n < BURSTS_OF ? *mean : aging_quantile(v, n, 1 - BURSTS);
}

/* Who waits most beyond what is normal; NULL if nobody does. */
static const struct indicator *find_contended(const struct aging_subject *s, double now, struct aging_health *h)
{
	const struct indicator *who = NULL;
	double worst = 1;

	for (size_t k = 0; k < s->n; k++) {
		const struct indicator *i = &s->indicator[k];
		double mean, bursts;

		if (i->kind != AGING_CONTENTION)
			continue;
		recent_shares(i->shares, now, &mean, &bursts);
		if (fmax(mean, bursts) / i->limit > worst) {
			worst = fmax(mean, bursts) / i->limit;
			who = i;
			h->contention = mean;
			h->bursts = bursts;
		} else if (!who) {
			h->contention = fmax(h->contention, mean);
			h->bursts = fmax(h->bursts, bursts);
		}
	}
	return who;
}

static void judge_one(struct indicator *i, double now, bool contended, struct aging_verdict *v)
{
	struct aging_resource r = {.capacity = i->limit, .falls = i->kind == AGING_LEFT};

	if (i->kind == AGING_LATENCY) {
		if (!(i->usual > 0) && now - i->first >= BASELINE)
			i->usual = aging_series_median(i->series, i->first, i->first + BASELINE);
		r.capacity = i->limit * i->usual;
	}
	*v = (struct aging_verdict){.finding = AGING_LEARNING, .exhausted_in = INFINITY};
	if (isnan(aging_series_median(i->series, now - RECENT, now + MINUTE))) {
		v->finding = AGING_UNKNOWN;
		return;
	}
	if (!(r.capacity > 0) || (i->kind == AGING_LATENCY && contended))
		return;
	aging_series_judge(i->series, &r, now, v);
	/* Slow for some minutes is not at its end. */
	if (i->kind == AGING_LATENCY && v->finding == AGING_CRITICAL)
		v->finding = AGING_STEADY;
}

/* By how much it has risen since the beginning of the verdict's window. */
static double growth_of(const struct indicator *i, double now, const struct aging_verdict *v)
{
	double from = now - v->window, before = aging_series_median(i->series, from, from + RECENT);

	/* What was not worth a sample then was small. */
	return aging_series_median(i->series, now - RECENT, now) - (isnan(before) && i->first > from ? 0 : before);
}

static void find_culprits(struct aging_subject *s, double now, struct aging_health *h)
{
	size_t prefix = strcspn(h->indicator, "_:");
	double growth = fabs(growth_of(find(s, h->indicator), now, &h->verdict));

	for (size_t k = 0; k < s->n; k++) {
		const struct indicator *i = &s->indicator[k];
		double share;
		size_t at;

		if (i->kind != AGING_PART || strncmp(i->name, h->indicator, prefix) || i->name[prefix] != ':')
			continue;
		share = growth_of(i, now, &h->verdict) / growth;
		if (!(share > CULPRIT_SHARE)) /* no NaN is */
			continue;
		for (at = h->culprits; at > 0 && h->culprit[at - 1].share < share; at--)
			if (at < AGING_CULPRITS)
				h->culprit[at] = h->culprit[at - 1];
		if (at < AGING_CULPRITS) {
			h->culprit[at].name = i->name + prefix + 1;
			h->culprit[at].share = share;
			if (h->culprits < AGING_CULPRITS)
				h->culprits++;
		}
	}
}

/* "3.5 hours" */
static const char *duration(double s, char *text, size_t size)
{
	if (s < 2 * HOUR)
		snprintf(text, size, "%.0f minutes", s / MINUTE);
	else if (s < 2 * DAY)
		snprintf(text, size, "%.1f hours", s / HOUR);
	else
		snprintf(text, size, "%.1f days", s / DAY);
	return text;
}

static void __attribute__((format(printf, 2, 3))) say(struct aging_health *h, const char *fmt, ...)
{
	size_t n = strlen(h->evidence);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(h->evidence + n, sizeof(h->evidence) - n, fmt, ap);
	va_end(ap);
}

static void put_in_words(struct aging_health *h, const struct indicator *who, double silent)
{
	const struct aging_verdict *v = &h->verdict;
	char text[32];

	switch (h->state) {
	case AGING_STATE_UNKNOWN:
		if (h->missing)
			say(h, "%s is not told any more", h->missing);
		else if (silent < RECENT)
			say(h, "no whole minute of samples yet");
		else if (isfinite(silent))
			say(h, "no samples for %s", duration(silent, text, sizeof(text)));
		else
			say(h, "no samples yet");
		break;
	case AGING_STATE_LEARNING:
		say(h, "less than two days of history, or 90 minutes since it took over");
		break;
	case AGING_STATE_HEALTHY:
		say(h, "nothing grows towards its limit");
		break;
	case AGING_STATE_CONTENDED:
		say(h, "%s: it waits for %.0f %% of its CPU time", who->name, 100 * h->contention);
		if (h->contention <= who->limit)
			say(h, ", %.0f %% in bursts", 100 * h->bursts);
		say(h, " (normal: up to %.0f %%)", 100 * who->limit);
		break;
	case AGING_STATE_CRITICAL:
		say(h, "%s: hardly any is left", h->indicator);
		break;
	case AGING_STATE_AGEING:
		if (!h->indicator)
			break;
		say(h, "%s will be exhausted in %s", h->indicator, duration(v->exhausted_in, text, sizeof(text)));
		say(h, " (%s to ", duration(v->earliest, text, sizeof(text)));
		say(h, "%s)", isfinite(v->latest) ? duration(v->latest, text, sizeof(text)) : "never");
		say(h, ", seen over %s", duration(v->window, text, sizeof(text)));
		for (size_t i = 0; i < h->culprits; i++)
			say(h, "%s %s (%.0f %%)", i ? "," : "; by", h->culprit[i].name, 100 * h->culprit[i].share);
		break;
	}
	if (h->fault)
		say(h, "%s%s: %.0f within a day", h->evidence[0] ? "; " : "", h->fault, h->faults);
	if (h->refused)
		say(h, "; %lu samples made no sense", h->refused);
}

void aging_subject_judge(struct aging_subject *s, double now, struct aging_health *h)
{
	const struct indicator *who;
	bool learnt = false;

	*h = (struct aging_health){.state = AGING_STATE_UNKNOWN, .refused = s->refused};
	who = find_contended(s, now, h);
	for (size_t k = 0; k < s->n; k++) {
		struct indicator *i = &s->indicator[k];
		struct aging_verdict v;

		if (i->kind == AGING_FAULTS && now - i->risen <= DAY && i->rises > h->faults) {
			h->faults = i->rises;
			h->fault = i->name;
		}
		if (i->kind >= AGING_CONTENTION || i->kind == AGING_PART)
			continue;
		judge_one(i, now, who, &v);
		if (v.finding == AGING_UNKNOWN) {
			/* (Of a latency nothing is told while nothing is done.) */
			if (i->kind != AGING_LATENCY && i->seen - i->first >= RECENT)
				h->missing = i->name;
			continue;
		}
		if (h->state == AGING_STATE_UNKNOWN)
			h->state = AGING_STATE_LEARNING;
		learnt |= v.finding > AGING_LEARNING && v.finding != AGING_CRITICAL;
		if (v.finding >= AGING_TREND && (!h->indicator || is_worse(&v, &h->verdict))) {
			h->indicator = i->name;
			h->verdict = v;
		}
	}
	if (h->indicator)
		h->state = h->verdict.finding == AGING_CRITICAL ? AGING_STATE_CRITICAL : AGING_STATE_AGEING;
	else if (h->fault)
		h->state = AGING_STATE_AGEING;
	else if (h->state != AGING_STATE_UNKNOWN && who)
		h->state = AGING_STATE_CONTENDED;
	else if (h->state == AGING_STATE_LEARNING && learnt)
		h->state = AGING_STATE_HEALTHY;
	/* What is not told may be what has run out. */
	if (h->missing && h->state < AGING_STATE_AGEING && h->state != AGING_STATE_UNKNOWN)
		h->state = AGING_STATE_UNKNOWN;
	else
		h->missing = NULL;
	if (h->state == AGING_STATE_AGEING && h->indicator)
		find_culprits(s, now, h);
	put_in_words(h, who, now - s->newest);
}
