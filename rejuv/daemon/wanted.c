/* wanted.c: when a rejuvenation is wanted, and when it may begin: subject.h. */
#include "rejuv/daemon/subject.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BAD_MOST = 3 };

void set_text(char **text, const char *value)
{
	char *copy = value ? xstrdup(value) : NULL;

	if (copy)
		cli_printable(copy); /* it is journaled, as JSON */
	free(*text);
	*text = copy;
}

uint64_t seed(const char *name)
{
	char id[64];
	uint64_t h = 14695981039346656037ull; /* FNV-1a */

	read_text("/etc/machine-id", id, sizeof(id));
	for (const char *p = id; *p; p++)
		h = (h ^ (unsigned char)*p) * 1099511628211ull;
	for (const char *p = name; *p; p++)
		h = (h ^ (unsigned char)*p) * 1099511628211ull;
	return h;
}

/* So much later than its time, always the same here, something else on another machine. */
static time_t jitter(const struct subject *s, double most)
{
	return most >= 1 ? (time_t)(s->seed % (uint64_t)(most + 1)) : 0;
}

static bool is_scheduled(struct subject *s, const struct hypervisor_policy *p)
{
	bool changed, due;

	if (!p->schedule_text)
		return false;
	due = schedule_is_due(&s->due, p->schedule_text, &p->schedule, jitter(s, p->jitter), time(NULL), &changed);
	if (changed && !due)
		write_down(s);
	return due;
}

/* Of the ageing monitor's judgement. */
static bool is_old(const struct hypervisor_policy *p, const json_t *v, char *why, size_t size)
{
	const char *state = text_of(v, "state"), *evidence = text_of(v, "evidence");
	json_t *left = json_object_get(v, "exhausted_in_s"), *values = json_object_get(v, "values");

	if (p->on_critical && !strcmp(state, "critical")) {
		snprintf(why, size, "critical: %.300s", evidence);
		return true;
	}
	if (p->predict > 0 && !strcmp(state, "ageing") && json_is_number(left) && json_number_value(left) < p->predict) {
		snprintf(why, size, "forecast: %.300s", evidence);
		return true;
	}
	for (size_t i = 0; i < p->nthresholds; i++) {
		const struct threshold *t = &p->thresholds[i];
		json_t *value = json_object_get(values, t->indicator);
		double x = json_number_value(value);

		if (json_is_number(value) && (t->above ? x > t->value : x < t->value)) {
			snprintf(why, size, "threshold: %s is %.6g", t->indicator, x);
			return true;
		}
	}
	return false;
}

void consider(struct subject *s)
{
	const struct hypervisor_policy *p = policy_of(s);
	const json_t *v = feed_verdict(s->g->d->feed, s->name);
	double since = boot_s() - s->ended;
	bool young = s->ended_clock && since < (p ? p->probation : 0);
	char why[400];

	if (!p)
		return;
	if (s->bad && s->ended_clock && !young)
		s->bad = 0;
	if (is_scheduled(s, p)) {
		if (s->state == REJUV_IDLE) {
			snprintf(why, sizeof(why), "schedule: %s", p->schedule_text);
			want(s, why, false);
		} else {
			write_down(s);
		}
		return;
	}
	if (s->state != REJUV_IDLE || !v)
		return;
	if (s->ended_clock && since < p->min_interval && !(young && s->bad < BAD_MOST))
		return;
	if (!is_old(p, v, why, sizeof(why)) || (p->dry_run && s->dry_run > 0 && boot_s() - s->dry_run < p->min_interval))
		return;
	s->bad = young ? s->bad + 1 : 0;
	want(s, why, false);
}

bool is_allowed(const struct subject *s)
{
	const struct hypervisor_policy *p = policy_of(s);
	time_t now = time(NULL);
	bool open = !p || !p->nwindows;

	if (working(s->g) >= s->g->d->config->max_concurrent || s->g->d->stopping || !inventory_vms(s->g->d->inventory))
		return false;
	if (s->by_user || is_replacing(s->name)) /* (that one is gone already, or will be) */
		return true;
	for (size_t i = 0; p && i < p->nwindows; i++)
		open = open || window_is_open(&p->windows[i], now);
	for (size_t i = 0; p && i < p->nblackouts; i++)
		open = open && !blackout_is_on(&p->blackouts[i], now);
	return open;
}
