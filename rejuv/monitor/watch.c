/* watch.c: the ageing monitor at work: watch.h. */
#include "rejuv/monitor/watch.h"

#include "aging-monitor/collect.h"
#include "nested/hypervisor.h"
#include "rejuv/cli.h"
#include "rejuv/operations.h"
#include "vmm/client.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SOON_S = 90, ANSWER_MS = 2000, AGAIN_S = 30, GONE_S = 30, FORGOTTEN_S = 3600, SILENT_S = 30, MINUTE = 60, HOUR = 3600, OPERATIONS = 5, HUNG = 64 };
#define SLOW_S 1
#define SELDOM 10 /* times as long as it took: what is slow is not asked before */
#define SLOWER 4 /* times: so much slower an agent's answers, and what is done with VMs, are those of an old hypervisor */

/* How long the last operations of a kind took. */
struct durations {
	double s[OPERATIONS];
	size_t n;
};

struct subject {
	struct subject *next;
	char *name;
	int64_t id;		       /* in the store; 0: not known yet */
	char identity[VM_IDENTITY];    /* who it is as long as it lives */
	struct aging_subject *inside;  /* by what it says of itself; of a VM that is no hypervisor always empty */
	struct aging_subject *outside; /* by what is seen of it from here */
	bool judges_inside, judges_outside;
	struct aging_process process; /* of its vmm process */
	struct aging_health health[2];
	const struct aging_health *verdict; /* one of them; NULL: not judged yet */
	enum aging_state said;
	double seen, asked, answered; /* times (now_s()); of its agent, 0: it has none */
	double ask_again;	      /* who does not answer, or slowly, is not asked before */
	double rebooted;	      /* when that was told last */
	double appeared, began;	      /* on the timeline; since when it does a predecessor's work that it has not taken over yet (INFINITY: none) */
	double ended;		      /* of a predecessor that is to be looked up: when its work did, at the latest; NAN: nothing is */
	bool silent, gone;
	uint64_t uptime_ns;
	unsigned long refused;
	struct durations took[OPERATION_KINDS];
};

struct watch {
	struct aging_store *store;
	FILE *lines; /* what happens is said there; NULL: nowhere */
	struct aging_collector *host;
	struct subject *first;
	struct {
		char name[64];
		double again;
	} hung[HUNG]; /* VMs whose process does not answer: not asked before */
	double stored, judge, tidied; /* on the timeline: minutes before; when next, when last */
	unsigned long failures;
	bool failing, waiting; /* something was written that others cannot see yet */
};

/* Of what is not stored; what is has its time on the store's timeline. */
static double now_s(void)
{
	return (double)clock_ns() / 1e9;
}

/* ---- the store: what it does not take is lost, and everything goes on */

static bool stored(struct watch *w, int r, const char *error)
{
	/* What was undone has perhaps taken the numbers of subjects with it. */
	for (struct subject *s = w->first; r && s; s = s->next)
		s->id = 0;
	if (r) {
		w->failures++;
		if (!w->failing)
			log_line("%s; what is seen meanwhile is not stored", error);
	} else if (w->failing) {
		log_line("it is stored again");
	}
	w->failing = r;
	return !r;
}

static void __attribute__((format(printf, 4, 5)))
report(struct watch *w, const char *name, const char *kind, const char *fmt, ...)
{
	char text[400];
	const char *error;
	va_list ap;
	int r;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (w->lines)
		fprintf(w->lines, "%-20s %-10s %s\n", name ? name : "monitor", kind, text);
	r = aging_store_event(w->store, aging_store_now(w->store), name, kind, text, &error);
	stored(w, r, error);
	w->waiting = true;
}

static void commit(struct watch *w)
{
	const char *error;
	int r = aging_store_commit(w->store, &error);

	w->waiting = false;
	stored(w, r, error);
}

static void store_minutes(struct watch *w, double t)
{
	double from = w->stored, to = floor(t / MINUTE) * MINUTE;
	const char *error = "";
	int r = 0;

	if (from >= to)
		return;
	w->stored = to;
	if (from > 0)
		for (struct subject *s = w->first; s && !r; s = s->next)
			for (double m = fmax(from, to - HOUR); m < to && !r; m += MINUTE)
				r = aging_store_subject(w->store, s->name, s->identity, &s->id, &error) ? -1
				    : aging_store_minute(w->store, s->id, false, s->inside, m, &error) ||
					      aging_store_minute(w->store, s->id, true, s->outside, m, &error)
					    ? -1
					    : 0;
	if (!r)
		r = aging_store_commit(w->store, &error);
	w->waiting = false;
	if (stored(w, r, error) && t - w->tidied < HOUR)
		return;
	w->tidied = t;
	r = aging_store_tidy(w->store, t, &error);
	stored(w, r, error);
}

/* ---- subjects */

static void destroy(struct subject *s)
{
	aging_subject_destroy(s->inside);
	aging_subject_destroy(s->outside);
	free(s->name);
	free(s);
}

struct watch *watch_create(struct aging_store *store, FILE *lines)
{
	struct watch *w = xcalloc(1, sizeof(*w));

	w->store = store;
	w->lines = lines;
	w->host = aging_collector_create("/proc", runtime_dir());
	w->judge = INFINITY;
	w->tidied = aging_store_now(store);
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

static void identify(const char *name, bool host, char *text, size_t size)
{
	if (host)
		read_text("/proc/sys/kernel/random/boot_id", text, size);
	else
		vm_identity(name, text, size);
	text[strcspn(text, "\n")] = 0;
}

/* Its history, if it is known; 0, or -1 and none of it. */
static int read_history(struct watch *w, struct subject *s)
{
	struct aging_subject *inside = aging_subject_create(), *outside = aging_subject_create();
	const char *error = "out of memory";
	int r = !inside || !outside || aging_store_subject(w->store, s->name, s->identity, &s->id, &error) ||
				aging_store_restore(w->store, s->id, false, inside, &error) ||
				aging_store_restore(w->store, s->id, true, outside, &error)
			? -1
			: 0;

	stored(w, r, error);
	if (r) {
		aging_subject_destroy(inside);
		aging_subject_destroy(outside);
		return -1;
	}
	aging_subject_destroy(s->inside);
	aging_subject_destroy(s->outside);
	s->inside = inside;
	s->outside = outside;
	s->verdict = NULL;
	return 0;
}

static struct subject *new_subject(struct watch *w, const char *name, const char *identity)
{
	struct subject *s = xcalloc(1, sizeof(*s));
	struct aging_indicator any;

	s->name = xstrdup(name);
	snprintf(s->identity, sizeof(s->identity), "%s", identity);
	s->inside = aging_subject_create();
	s->outside = aging_subject_create();
	if (!s->inside || !s->outside) {
		destroy(s);
		return NULL;
	}
	s->appeared = aging_store_now(w->store);
	s->began = INFINITY;
	s->ended = NAN;
	if (!read_history(w, s)) {
		double began = aging_store_began(w->store, s->id);

		if (!is_fresh_name(name) && !aging_subject_indicator(s->inside, 0, &any))
			s->ended = INFINITY;
		if (s->appeared < began + AGING_SETTLED_S)
			s->began = began;
	}
	s->next = w->first;
	w->first = s;
	return s;
}

static void is_gone(struct watch *w, struct subject *s)
{
	if (s->gone)
		return;
	s->gone = true;
	report(w, s->name, "gone", "it is not there any more");
}

/* NULL: there is no memory for it. */
static struct subject *subject_of(struct watch *w, const char *name, bool host)
{
	struct subject **p = &w->first, *s;
	char identity[64];

	identify(name, host, identity, sizeof(identity));
	while (*p && strcmp((*p)->identity, identity))
		p = &(*p)->next;
	s = *p;
	/* Who bore the name before does not any more: nothing is said of it under a successor's name. */
	for (struct subject *o = !s || strcmp(s->name, name) ? w->first : NULL; o; o = o->next)
		if (o != s && !strcmp(o->name, name))
			is_gone(w, o);
	if (s && strcmp(s->name, name)) {
		report(w, name, "renamed", "it was %s", s->name);
		if (is_fresh_name(s->name) && !is_fresh_name(name))
			s->ended = s->appeared;
		free(s->name);
		s->name = xstrdup(name);
	}
	if (!s) {
		s = new_subject(w, name, identity);
		if (s) {
			report(w, name, "appeared", "it is watched from now on");
			w->judge = fmin(w->judge, aging_store_now(w->store) + SOON_S);
		}
	}
	if (s && s->gone)
		report(w, name, "appeared", "it is there again");
	if (s) {
		s->seen = now_s();
		s->gone = false;
	}
	return s;
}

/* A hypervisor, or this machine, does what another of that name did, from which it has been renamed (NAME.new) or after which it
 * was started: it takes over its history once it has settled. */
static void take_over(struct watch *w, struct subject *s, double t)
{
	const char *error = "";
	int r;

	if (!isnan(s->ended) && s->judges_inside) {
		r = aging_store_subject(w->store, s->name, s->identity, &s->id, &error);
		if (!r)
			r = aging_store_succeed(w->store, s->id, s->name, s->ended, t, &error);
		stored(w, r < 0, error);
		s->ended = NAN;
		if (r > 0)
			s->began = t;
	}
	if (t < s->began + AGING_SETTLED_S + MINUTE)
		return;
	s->began = INFINITY;
	if (!read_history(w, s))
		report(w, s->name, "took over", "the history of its predecessor goes on, from its own level");
	w->judge = t;
}

static void forget(struct watch *w, double round)
{
	for (struct subject **p = &w->first; *p;) {
		struct subject *s = *p;
		double for_s = round - s->seen; /* a round may take long */

		if (for_s > GONE_S)
			is_gone(w, s);
		if (for_s < FORGOTTEN_S) {
			p = &s->next;
			continue;
		}
		*p = s->next;
		destroy(s);
	}
}

/* ---- sampling */

static void add_all(struct watch *w, struct aging_subject *s, const struct aging_samples *samples)
{
	double t = aging_store_now(w->store);

	for (size_t i = 0; i < samples->n; i++)
		aging_subject_add(s, samples->sample[i].name, samples->sample[i].kind, samples->sample[i].limit, t,
				  samples->sample[i].value);
}

static void add_durations(struct subject *s, struct aging_samples *samples)
{
	for (int k = 0; k < OPERATION_KINDS; k++) {
		const struct durations *d = &s->took[k];

		if (d->n)
			aging_sample_add(samples, AGING_LATENCY, SLOWER, aging_median(d->s, MIN(d->n, OPERATIONS)), "%s_time",
					 operation_names[k]);
	}
}

static void operation_done(void *ctx, const char *where, enum operation what, double took)
{
	struct watch *w = ctx;

	for (struct subject *s = w->first; s; s = s->next)
		if (!strcmp(s->name, where))
			s->took[what].s[s->took[what].n++ % OPERATIONS] = took;
}

/* Whatever the agent says: aging_subject_add() looks at each. */
static void add_answer(struct watch *w, struct subject *s, const Vmb__AgentSamples *a)
{
	double t = aging_store_now(w->store);

	/* (Its history stays: what it says does not rid it of that.) */
	if (a->uptime_ns < s->uptime_ns && now_s() - s->rebooted > HOUR) {
		report(w, s->name, "rebooted", "it says that it has booted anew");
		s->rebooted = now_s();
	}
	s->uptime_ns = a->uptime_ns;
	for (size_t i = 0; i < a->n_sample && i < AGING_INDICATORS; i++)
		if (a->sample[i]->kind <= AGING_PLAIN)
			aging_subject_add(s->inside, a->sample[i]->name, (enum aging_kind)a->sample[i]->kind, a->sample[i]->limit, t,
					  a->sample[i]->value);
}

static void ask_agent(struct watch *w, struct subject *s, struct aging_samples *samples)
{
	Vmb__AgentMessage question = VMB__AGENT_MESSAGE__INIT, *m;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	double begin = now_s(), t;
	struct error e;

	if (begin < s->ask_again) {
		s->asked = begin;
		return;
	}
	question.kind_case = VMB__AGENT_MESSAGE__KIND_SAMPLES_REQUEST;
	question.samples_request = &empty;
	m = agent_ask(s->name, &question, ANSWER_MS, &e);
	s->asked = t = now_s();
	if (m || s->answered == 0)
		s->answered = t;
	if (t - begin > SLOW_S)
		s->ask_again = t + (m ? SELDOM * (t - begin) : AGAIN_S);
	if (m && m->kind_case == VMB__AGENT_MESSAGE__KIND_SAMPLES) {
		add_answer(w, s, m->samples);
		aging_sample_add(samples, AGING_LATENCY, SLOWER, t - begin, "answer_time");
	}
	if (m)
		vmb__agent_message__free_unpacked(m, NULL);
	if (s->silent != (s->asked - s->answered >= SILENT_S)) {
		s->silent = !s->silent;
		report(w, s->name, s->silent ? "silent" : "answers", "its agent %s", s->silent ? "does not answer" : "answers again");
	}
}

/* A guest of a hypervisor runs there: how long its vCPUs waited for a CPU its process here is told. */
static void sample_vm(struct watch *w, struct subject *s, const Vmb__InfoReply *info)
{
	struct aging_samples samples = {.n = 0};
	char path[40], comm[32];

	s->judges_outside = true;
	s->judges_inside = info->config->window;
	if (info->config->window)
		ask_agent(w, s, &samples);
	/* (It is the VM's word.) */
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)info->pid);
	read_text(path, comm, sizeof(comm));
	if (!strcmp(comm, "vmbeam-vmm\n"))
		aging_collect_process("/proc", (int)info->pid, &s->process, now_s(), &samples);
	add_durations(s, &samples);
	add_all(w, s->outside, &samples);
}

static void sample_host(struct watch *w)
{
	struct subject *s = w->host ? subject_of(w, "host", true) : NULL;
	struct aging_samples samples = {.n = 0};

	if (!s)
		return;
	s->judges_inside = true;
	aging_collect(w->host, now_s(), &samples);
	add_durations(s, &samples);
	add_all(w, s->inside, &samples);
}

/* 0 and *reply, or -1. */
static int ask_vm(struct watch *w, const char *name, Vmb__Reply **reply)
{
	double now = now_s();
	size_t free_slot = HUNG;
	struct error e;

	for (size_t i = 0; i < HUNG; i++)
		if (w->hung[i].again > now && !strcmp(w->hung[i].name, name))
			return -1;
		else if (w->hung[i].again <= now)
			free_slot = i;
	if (!vm_info_within(name, ANSWER_MS, reply, &e))
		return 0;
	if (now_s() - now > SLOW_S && free_slot < HUNG) {
		snprintf(w->hung[free_slot].name, sizeof(w->hung[0].name), "%.63s", name);
		w->hung[free_slot].again = now_s() + AGAIN_S;
	}
	return -1;
}

void watch_event(struct watch *w, const char *name, const char *kind, const char *text)
{
	FILE *lines = w->lines;

	w->lines = NULL; /* who tells it knows it */
	report(w, name, kind, "%s", text);
	w->lines = lines;
}

bool watch_tick(struct watch *w)
{
	bool judges;
	struct dirent **names;
	double t, round = now_s();
	int n;

	sample_host(w);
	n = scandir(runtime_dir(), &names, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		Vmb__Reply *reply;
		struct subject *s;

		if (names[i]->d_name[0] != '.' && !ask_vm(w, names[i]->d_name, &reply)) {
			s = subject_of(w, names[i]->d_name, false);
			if (s)
				sample_vm(w, s, reply->info);
			vmb__reply__free_unpacked(reply, NULL);
		}
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	operations_read(operation_done, w); /* now that all are known */
	forget(w, round);
	t = aging_store_now(w->store);
	judges = t >= w->judge;
	if (judges)
		watch_judge(w);
	store_minutes(w, t);
	for (struct subject *s = w->first; s; s = s->next)
		take_over(w, s, t);
	if (w->waiting)
		commit(w);
	return judges;
}

/* ---- judging */

/* What it says of itself, unless what is seen of it from here is worse; of one whose agent is silent nobody knows how it is,
 * unless that was known before. */
static struct aging_health *judge(struct subject *s, double t)
{
	struct aging_health *h = &s->health[0];
	size_t n;

	if (s->judges_inside)
		aging_subject_judge(s->inside, t, h);
	if (!s->judges_outside)
		return h;
	aging_subject_judge(s->outside, t, &s->health[1]);
	if (!s->judges_inside)
		return &s->health[1];
	if (s->health[1].state > h->state && (h->state != AGING_STATE_UNKNOWN || s->health[1].state >= AGING_STATE_AGEING))
		h = &s->health[1];
	if (!s->silent)
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

void watch_judge(struct watch *w)
{
	double t = aging_store_now(w->store);
	bool stores = true; /* where it fails once it is not tried for the others, each of which might wait for it */

	w->judge = t + AGING_JUDGE_S;
	for (struct subject *s = w->first; s; s = s->next) {
		const struct aging_health *h;
		const char *error = "";
		bool changed;
		int r;

		if (s->gone)
			continue;
		h = judge(s, t);
		changed = !s->verdict || h->state != s->said;
		s->verdict = h;
		if (changed)
			report(w, s->name, aging_state_name(h->state), "%s", h->evidence);
		s->said = h->state;
		if (h->refused > 2 * s->refused) {
			report(w, s->name, "nonsense", "%lu samples of its agent made no sense", h->refused);
			s->refused = h->refused;
		}
		if (!stores)
			continue;
		r = aging_store_subject(w->store, s->name, s->identity, &s->id, &error) ||
				    aging_store_verdict(w->store, s->id, t, h, changed, &error)
			    ? -1
			    : 0;
		stores = stored(w, r, error);
		w->waiting = true;
	}
}

void watch_each(const struct watch *w, void (*each)(void *ctx, const struct watched *s), void *ctx)
{
	for (const struct subject *s = w->first; s; s = s->next) {
		struct watched one = {.name = s->name, .identity = s->identity, .inside = s->judges_inside ? s->inside : NULL,
				      .outside = s->judges_outside ? s->outside : NULL, .health = s->verdict,
				      .silent = s->asked - s->answered};

		if (!s->gone)
			each(ctx, &one);
	}
}

unsigned long watch_store_failures(const struct watch *w)
{
	return w->failures;
}
