/* watch.c: the ageing monitor at work: watch.h. */
#include "rejuv/watch.h"

#include "aging-monitor/collect.h"
#include "nested/hypervisor.h"
#include "rejuv/cli.h"
#include "vmm/client.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

enum { ANSWER_MS = 2000, FORGOTTEN_S = 3600, SILENT_S = 30 };
#define SLOWER 4 /* times: so much slower an agent's answers are those of an old hypervisor */

struct subject {
	struct subject *next;
	char *name;
	struct aging_subject *inside, *outside; /* by what it says of itself, and by what is seen of it from here */
	struct aging_process process;		/* of its vmm process */
	struct aging_health health[2];
	double seen, asked, answered; /* times; of its agent; 0: the host has none */
	uint64_t uptime_ns;
};

struct watch {
	struct aging_collector *host;
	struct subject *first;
};

static double now_s(void)
{
	return (double)clock_ns() / 1e9;
}

static void destroy(struct subject *s)
{
	aging_subject_destroy(s->inside);
	aging_subject_destroy(s->outside);
	free(s->name);
	free(s);
}

struct watch *watch_create(void)
{
	struct watch *w = xcalloc(1, sizeof(*w));

	w->host = aging_collector_create("/proc", runtime_dir());
	return w;
}

void watch_destroy(struct watch *w)
{
	while (w && w->first) {
		struct subject *s = w->first;

		w->first = s->next;
		destroy(s);
	}
	if (w)
		aging_collector_destroy(w->host);
	free(w);
}

static struct subject *subject_of(struct watch *w, const char *name)
{
	struct subject *s = w->first;

	while (s && strcmp(s->name, name))
		s = s->next;
	if (!s) {
		s = xcalloc(1, sizeof(*s));
		s->name = xstrdup(name);
		s->inside = aging_subject_create();
		s->outside = aging_subject_create();
		s->next = w->first;
		w->first = s;
	}
	s->seen = now_s();
	return s;
}

static void add_all(struct aging_subject *s, const struct aging_samples *samples, double t)
{
	for (size_t i = 0; s && i < samples->n; i++)
		aging_subject_add(s, samples->sample[i].name, samples->sample[i].kind, samples->sample[i].limit, t,
				  samples->sample[i].value);
}

/* Whatever the agent says: aging_subject_add() looks at each. */
static void add_answer(struct subject *s, const Vmb__AgentSamples *a, double t)
{
	/* One that has booted anew is another. */
	if (a->uptime_ns < s->uptime_ns) {
		aging_subject_destroy(s->inside);
		aging_subject_destroy(s->outside);
		s->inside = aging_subject_create();
		s->outside = aging_subject_create();
	}
	s->uptime_ns = a->uptime_ns;
	for (size_t i = 0; s->inside && i < a->n_sample && i < AGING_INDICATORS; i++)
		if (a->sample[i]->kind <= AGING_PLAIN)
			aging_subject_add(s->inside, a->sample[i]->name, (enum aging_kind)a->sample[i]->kind, a->sample[i]->limit, t,
					  a->sample[i]->value);
}

static void sample_hypervisor(struct watch *w, const Vmb__InfoReply *info)
{
	Vmb__AgentMessage question = VMB__AGENT_MESSAGE__INIT, *m;
	struct subject *s = subject_of(w, info->config->name);
	struct aging_samples samples = {.n = 0};
	Vmb__Empty empty = VMB__EMPTY__INIT;
	double begin = now_s(), t;
	struct error e;

	question.kind_case = VMB__AGENT_MESSAGE__KIND_SAMPLES_REQUEST;
	question.samples_request = &empty;
	m = agent_ask(info->config->name, &question, ANSWER_MS, &e);
	t = now_s();
	s->asked = t;
	if (m || s->answered == 0)
		s->answered = t;
	aging_collect_process("/proc", (int)info->pid, &s->process, t, &samples);
	if (m && m->kind_case == VMB__AGENT_MESSAGE__KIND_SAMPLES) {
		add_answer(s, m->samples, t);
		aging_sample_add(&samples, AGING_LATENCY, SLOWER, t - begin, "answer_time");
	}
	add_all(s->outside, &samples, t);
	if (m)
		vmb__agent_message__free_unpacked(m, NULL);
}

static void forget(struct watch *w, double t)
{
	for (struct subject **p = &w->first; *p;) {
		struct subject *s = *p;

		if (t - s->seen < FORGOTTEN_S) {
			p = &s->next;
			continue;
		}
		*p = s->next;
		destroy(s);
	}
}

void watch_sample(struct watch *w)
{
	struct aging_samples samples = {.n = 0};
	double t = now_s();
	struct dirent **names;
	int n;

	if (w->host) {
		aging_collect(w->host, t, &samples);
		add_all(subject_of(w, "host")->inside, &samples, t);
	}
	n = scandir(runtime_dir(), &names, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		Vmb__Reply *reply;
		struct error e;

		if (names[i]->d_name[0] != '.' && !vm_info(names[i]->d_name, &reply, &e)) {
			if (reply->info->config->window)
				sample_hypervisor(w, reply->info);
			vmb__reply__free_unpacked(reply, NULL);
		}
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	forget(w, now_s());
}

/* What it says of itself, unless what is seen of it from here is worse; of one whose agent is silent nobody knows how it is,
 * unless that was known before. */
static const struct aging_health *judge(struct subject *s, double t)
{
	struct aging_health *h = &s->health[0];
	size_t n;

	aging_subject_judge(s->inside, t, h);
	if (s->answered == 0)
		return h;
	aging_subject_judge(s->outside, t, &s->health[1]);
	if (s->health[1].state > h->state && (h->state != AGING_STATE_UNKNOWN || s->health[1].state >= AGING_STATE_AGEING))
		h = &s->health[1];
	if (s->asked - s->answered < SILENT_S)
		return h;
	n = strlen(h->evidence);
	if (h->state < AGING_STATE_AGEING) {
		h->state = AGING_STATE_UNKNOWN;
		n = 0;
	}
	snprintf(h->evidence + n, sizeof(h->evidence) - n, "%sits agent has not answered for %.0f s", n ? "; " : "",
		 s->asked - s->answered);
	return h;
}

void watch_judge(struct watch *w, void (*each)(void *ctx, const char *name, const struct aging_health *h), void *ctx)
{
	for (struct subject *s = w->first; s; s = s->next)
		if (s->inside && s->outside)
			each(ctx, s->name, judge(s, now_s()));
}
