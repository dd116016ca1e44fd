/* subject.c: a machine or hypervisor, watched: aging.h. */
#include "aging-monitor/aging.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MINUTE = 60, HOUR = 3600, DAY = 24 * HOUR, RECENT = 10 * MINUTE, BASELINE = 2 * DAY };
#define CULPRIT_SHARE 0.2

struct indicator {
	char name[AGING_NAME];
	enum aging_kind kind;
	double limit;
	double usual; /* of a latency: its median of the first two days; 0: not known yet */
	double first, seen; /* times */
	double last, rises, risen; /* of faults: the value, by how much it has risen lately, when */
	struct aging_series *series;
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

void aging_subject_destroy(struct aging_subject *s)
{
	for (size_t i = 0; s && i < s->n; i++)
		aging_series_destroy(s->indicator[i].series);
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

static struct indicator *find(struct aging_subject *s, const char *name)
{
	for (size_t i = 0; i < s->n; i++)
		if (!strcmp(s->indicator[i].name, name))
			return &s->indicator[i];
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
	struct aging_series *series;

	if (i || !is_name(name))
		return i && i->kind == kind ? i : NULL;
	*full = false;
	i = s->n < AGING_INDICATORS ? &s->indicator[s->n] : silent_longest(s, t);
	series = i ? aging_series_create() : NULL;
	*full = !series;
	if (!series)
		return NULL;
	if (s->n < AGING_INDICATORS)
		s->n++;
	else
		aging_series_destroy(i->series);
	*i = (struct indicator){.kind = kind, .limit = limit, .first = t, .last = NAN, .risen = -INFINITY, .series = series};
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

bool aging_subject_add(struct aging_subject *s, const char *name, enum aging_kind kind, double limit, double t, double value)
{
	struct indicator *i;
	bool full = false, limited = kind != AGING_PART && kind != AGING_FAULTS && kind != AGING_PLAIN;
	bool good = value >= 0 && value <= AGING_LARGEST && limit >= 0 && limit <= AGING_LARGEST && (!limited || limit > 0) &&
		    (kind != AGING_CONTENTION || value <= 1);

	i = good ? find_or_add(s, name, kind, limit, t, &full) : NULL;
	if (!i || !aging_series_add(i->series, t, value)) {
		s->refused += !full;
		return false;
	}
	i->limit = limit;
	i->seen = t;
	if (kind == AGING_FAULTS)
		count_faults(i, t, value);
	s->newest = fmax(s->newest, t);
	return true;
}

/* What is ageing most: the state first, then how soon it is over. */
static bool is_worse(const struct aging_verdict *a, const struct aging_verdict *b)
{
	return a->finding != b->finding ? a->finding > b->finding : a->exhausted_in < b->exhausted_in;
}

static double contention(const struct aging_subject *s, double now, const char **who, double *limit)
{
	double worst = 0, most = 0;

	for (size_t k = 0; k < s->n; k++) {
		const struct indicator *i = &s->indicator[k];
		double share;

		if (i->kind != AGING_CONTENTION)
			continue;
		share = aging_series_median(i->series, now - RECENT, now);
		if (share > most)
			most = share;
		if (share > i->limit && share / i->limit > worst) {
			worst = share / i->limit;
			*who = i->name;
			*limit = i->limit;
		}
	}
	return most;
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

static void put_in_words(struct aging_health *h, const char *who, double limit, double silent)
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
		say(h, "less than two days of history");
		break;
	case AGING_STATE_HEALTHY:
		say(h, "nothing grows towards its limit");
		break;
	case AGING_STATE_CONTENDED:
		say(h, "%s: it waits for %.0f %% of its CPU time (normal: up to %.0f %%)", who, 100 * h->contention, 100 * limit);
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
	const char *who = NULL;
	double limit = 0;
	bool learnt = false;

	*h = (struct aging_health){.state = AGING_STATE_UNKNOWN, .refused = s->refused};
	h->contention = contention(s, now, &who, &limit);
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
			if (i->seen - i->first >= RECENT)
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
	put_in_words(h, who, limit, now - s->newest);
}
