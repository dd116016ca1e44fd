/* engine.c: what vmbeamd is about with each hypervisor: machine.c's actions.
 *
 * A state is journaled before what it stands for is begun.  What it stands for is a step (rejuv/steps.h), done by a process that outlives
 * the daemon: it holds the lock .work-NAME.lock of the runtime folder, and leaves what it has to say in .work-NAME.STEP.out.  After a
 * restart that process is waited for; one that has ended without a word has been cut off, and its step is done again.
 *
 * Captured state and memfds need no keeper: driver, source and destination of a handover each hold them (zerocopy.h), and none of the
 * three is the daemon.
 */
#include "rejuv/daemon/daemon.h"

#include "rejuv/cli.h"
#include "rejuv/steps.h"
#include "vmm/client.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BAD_MOST = 3, OUTPUT_MOST = 1 << 20, WRITE_AGAIN_S = 5, GUESTS_MOST = VM_HOST_PORTS };

struct subject {
	struct subject *next;
	struct engine *g;
	char *name;
	enum rejuv_state state;
	/* Journaled with it: */
	int64_t run;	/* of the journal; 0: none is under way */
	int64_t step;	/* grows with each state: names the output */
	char *why;	/* it is wanted */
	char *reason;	/* of the last failure */
	bool by_user, cancelled;
	size_t method;	/* of its policy's */
	json_t *guests; /* {name, outcome: waiting, moved, stuck or left, by, ...}, in the order in which they are moved */
	size_t guest;	/* that is on its way */
	char identity[VM_IDENTITY]; /* of the old one */
	double retry_wait;
	unsigned int bad; /* fresh ones, one after another, that turned bad in their probation */
	struct due due;
	int64_t ended_clock; /* the last one; 0: there was none */
	/* Not: */
	double ended, retry_at, write_again; /* boot_s() */
	bool written, present;
	struct child *child; /* at the step */
	bool others;	     /* some process that is not our child may be at it */
	double step_begun;
};

struct engine {
	struct daemon *d;
	struct subject *first;
	const char *fault; /* tests: "STATE=kill" or "STATE.begun=kill" */
};

static void take(struct subject *s, enum rejuv_event e);

static const struct hypervisor_policy *policy_of(const struct subject *s)
{
	return config_hypervisor(s->g->d->config, s->name);
}

static void set_text(char **text, const char *value)
{
	char *copy = value ? xstrdup(value) : NULL;

	free(*text);
	*text = copy;
}

static void fault(const struct subject *s, const char *where)
{
	char point[64];

	snprintf(point, sizeof(point), "%s%s=", rejuv_state_name(s->state), where);
	if (s->g->fault && !strncmp(s->g->fault, point, strlen(point)))
		raise(!strcmp(s->g->fault + strlen(point), "stop") ? SIGSTOP : SIGKILL);
}

/* ---- the journal */

static json_t *to_json(const struct subject *s)
{
	return json_pack("{s:I, s:I, s:s?, s:s?, s:b, s:b, s:I, s:O, s:I, s:s, s:f, s:I, s:s?, s:I, s:I}", "run", (json_int_t)s->run, "step",
			 (json_int_t)s->step, "why", s->why, "reason", s->reason, "by_user", s->by_user, "cancelled", s->cancelled,
			 "method", (json_int_t)s->method, "guests", s->guests, "guest", (json_int_t)s->guest, "identity", s->identity,
			 "retry_wait", s->retry_wait, "bad", (json_int_t)s->bad, "schedule", s->due.text, "handled",
			 (json_int_t)s->due.handled, "ended_clock", (json_int_t)s->ended_clock);
}

static int64_t number_of(const json_t *j, const char *key)
{
	return json_integer_value(json_object_get(j, key));
}

static void from_json(struct subject *s, const json_t *j)
{
	json_t *guests = json_object_get(j, "guests");

	s->run = number_of(j, "run");
	s->step = number_of(j, "step");
	set_text(&s->why, json_string_value(json_object_get(j, "why")));
	set_text(&s->reason, json_string_value(json_object_get(j, "reason")));
	s->by_user = json_is_true(json_object_get(j, "by_user"));
	s->cancelled = json_is_true(json_object_get(j, "cancelled"));
	s->method = (size_t)number_of(j, "method");
	if (json_is_array(guests)) {
		json_decref(s->guests);
		s->guests = json_incref(guests);
	}
	s->guest = (size_t)number_of(j, "guest");
	snprintf(s->identity, sizeof(s->identity), "%s", text_of(j, "identity"));
	s->retry_wait = json_number_value(json_object_get(j, "retry_wait"));
	s->bad = (unsigned int)number_of(j, "bad");
	set_text(&s->due.text, json_string_value(json_object_get(j, "schedule")));
	s->due.handled = number_of(j, "handled");
	s->ended_clock = number_of(j, "ended_clock");
	if (s->ended_clock)
		s->ended = boot_s() - (double)MAX((int64_t)time(NULL) - s->ended_clock, 0);
}

/* Until it is written nothing is begun. */
static void write_down(struct subject *s)
{
	json_t *data = to_json(s);
	struct error e;
	bool was = s->written;

	s->written = !journal_set(s->g->d->journal, s->name, s->state, data, &e);
	s->write_again = boot_s() + WRITE_AGAIN_S;
	if (!s->written && was)
		event(s->g->d, s->name, "waits", "%s", e.text);
	json_decref(data);
}

static void report(struct subject *s, const char *outcome)
{
	json_t *all;
	struct error e;

	if (!s->run)
		return;
	all = json_pack("{s:O, s:s}", "guests", s->guests, "method",
			policy_of(s) && s->method < policy_of(s)->nmethods ? method_names[policy_of(s)->methods[s->method]] : "");
	if (journal_report(s->g->d->journal, s->run, outcome, outcome && strcmp(outcome, "completed") ? s->reason : NULL, all, &e))
		event(s->g->d, s->name, "unwritten", "%s", e.text);
	json_decref(all);
	if (outcome)
		s->run = 0;
}

/* ---- steps */

static char *work_path(const struct subject *s, const char *end)
{
	return xasprintf("%s/.work-%s.%s", runtime_dir(), s->name, end);
}

static char *output_path(const struct subject *s, int64_t step, const char *end)
{
	return xasprintf("%s/.work-%s.%lld.%s", runtime_dir(), s->name, (long long)step, end);
}

static void remove_output(const struct subject *s, int64_t step)
{
	char *out = output_path(s, step, "out"), *err = output_path(s, step, "err");

	unlink(out);
	unlink(err);
	free(out);
	free(err);
}

static json_t *current_guest(const struct subject *s)
{
	return json_array_get(s->guests, s->guest);
}

/* On another machine, that is. */
static bool goes_far(const json_t *guest)
{
	return !strcmp(text_of(guest, "by"), method_names[METHOD_PRE_COPY]);
}

static void add(char **argv, size_t *n, const char *a, const char *b)
{
	argv[(*n)++] = (char *)(uintptr_t)a;
	if (b)
		argv[(*n)++] = (char *)(uintptr_t)b;
}

/* The command of the state's step. */
static void fill_command(const struct subject *s, char **argv, char text[32])
{
	const struct hypervisor_policy *p = policy_of(s);
	const json_t *guest = current_guest(s);
	const struct vm_policy *vm = config_vm(s->g->d->config, text_of(guest, "name"));
	bool at_guest = s->state == REJUV_MOVING || s->state == REJUV_VERIFYING;
	size_t n = 0;

	add(argv, &n, "vmbeam", NULL);
	if (s->state == REJUV_MOVING && goes_far(guest)) {
		add(argv, &n, "migrate", text_of(guest, "name"));
		add(argv, &n, "--to", p && p->target ? p->target : "");
		if (s->g->d->config->tls)
			add(argv, &n, "--tls", s->g->d->config->tls);
		add(argv, &n, "--mode", vm->post_copy ? "auto" : "pre-copy");
		if (vm->max_downtime > 0) {
			snprintf(text, 32, "%.0f", fmin(fmax(vm->max_downtime * 1000, 30), 100000));
			add(argv, &n, "--downtime-limit", text);
		}
	} else {
		add(argv, &n, "rejuvenate", s->name);
		add(argv, &n, "--step", rejuv_step(s->state));
		if (s->state == REJUV_PREPARING)
			add(argv, &n, "--method", p && s->method < p->nmethods && p->methods[s->method] == METHOD_BEAM ? "beam" : "auto");
		if (at_guest)
			add(argv, &n, "--guest", text_of(guest, "name"));
		if (s->state == REJUV_VERIFYING && vm->probe)
			add(argv, &n, "--probe", vm->probe);
		if (s->state == REJUV_RETIRING)
			add(argv, &n, "--identity", s->identity);
	}
	add(argv, &n, "--json", NULL);
	argv[n] = NULL;
}

static void step_ended(void *ctx, int status, bool timed_out);

static void begin_step(struct subject *s)
{
	const struct hypervisor_policy *p = policy_of(s);
	char *out = output_path(s, s->step, "out"), *err = output_path(s, s->step, "err"), *argv[24], text[32];
	struct child_options o = {.argv = argv, .in = -1, .out = -1, .err = -1, .timeout = p ? p->step_timeout : 600, .ended = step_ended, .ctx = s};
	struct error e;

	s->others = false;
	s->step_begun = boot_s();
	o.keep = rejuvenation_lock(s->name, NULL);
	if (o.keep < 0) {
		s->others = true; /* `vmbeam rejuvenate`, by hand: after it */
	} else {
		o.out = open(out, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		o.err = open(err, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		fill_command(s, argv, text);
		s->child = o.out < 0 || o.err < 0 ? NULL : child_start(s->g->d->children, &o, &e);
		if (!s->child) {
			s->others = true; /* and is tried again */
			log_line("%s: step %s: %s", s->name, rejuv_step(s->state), o.out < 0 || o.err < 0 ? strerror(errno) : e.text);
		} else if (ftruncate(o.keep, 0) || dprintf(o.keep, "%d\n", (int)child_pid(s->child)) < 0) {
			log_line("%s: %s", s->name, strerror(errno));
		}
	}
	close_fd(&o.keep);
	close_fd(&o.out);
	close_fd(&o.err);
	free(out);
	free(err);
	fault(s, ".begun");
}

/* The only place where a state changes. */
static void enter(struct subject *s, enum rejuv_state to, const char *text)
{
	if (to != s->state)
		event(s->g->d, s->name, rejuv_state_name(to), "%s", text);
	s->state = to;
	s->step++;
	write_down(s);
	fault(s, "");
	if (s->written && rejuv_is_working(s->state))
		begin_step(s);
	remove_output(s, s->step - 1);
}

/* ---- what a step has said */

static json_t *read_json(const char *path)
{
	char *text = xcalloc(1, OUTPUT_MOST);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : pread_all(fd, text, OUTPUT_MOST, 0);
	json_t *j = n > 0 ? json_loadb(text, (size_t)n, 0, NULL) : NULL;

	close_fd(&fd);
	free(text);
	return j;
}

/* The first line of what it said on its standard error. */
static void first_line(const char *path, char *text, size_t size)
{
	read_text(path, text, size);
	text[strcspn(text, "\n")] = 0;
}

static json_t *new_guest(const char *name)
{
	return json_pack("{s:s, s:s, s:s}", "name", name, "outcome", "waiting", "by", method_names[METHOD_BEAM]);
}

/* Those that are in the old one now, in the order of their policies; those that have left it before are kept. */
static void list_guests(struct subject *s, const json_t *names)
{
	const struct hypervisor_policy *p = policy_of(s);
	bool far = p && s->method < p->nmethods && p->methods[s->method] == METHOD_PRE_COPY;
	json_t *all = json_array(), *name, *guest;
	size_t i;

	json_array_foreach(s->guests, i, guest)
		if (!strcmp(text_of(guest, "outcome"), "moved"))
			json_array_append(all, guest);
	for (enum move_policy m = MOVE_YES; m <= MOVE_NEVER; m++)
		json_array_foreach(names, i, name)
			if (json_is_string(name) && config_vm(s->g->d->config, json_string_value(name))->move == m &&
			    json_array_size(all) < GUESTS_MOST) {
				guest = new_guest(json_string_value(name));
				if (far)
					json_object_set_new(guest, "by", json_string(method_names[METHOD_PRE_COPY]));
				if (m == MOVE_NEVER) { /* it has come since */
					json_object_set_new(guest, "outcome", json_string("stuck"));
					json_object_set_new(guest, "error", json_string("it is never to be moved"));
				}
				json_array_append_new(all, guest);
			}
	json_decref(s->guests);
	s->guests = all;
}

static void note_move(struct subject *s, const json_t *result, bool ok)
{
	static const char *const keys[] = {"mode", "to", "downtime_ns", "total_ns", "memory_bytes"};
	json_t *guest = current_guest(s), *move = json_array_get(json_object_get(result, "guests"), 0), *v;
	const struct vm_policy *vm = config_vm(s->g->d->config, text_of(guest, "name"));
	double downtime;

	if (!move) /* `migrate` says it at once */
		move = (json_t *)(uintptr_t)result;
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if ((v = json_object_get(move, keys[i])))
			json_object_set(guest, keys[i], v);
	if (!ok)
		return;
	json_object_set_new(guest, "outcome", json_string("moved"));
	downtime = (double)number_of(guest, "downtime_ns") / 1e9;
	if (vm->max_downtime > 0 && downtime > vm->max_downtime)
		event(s->g->d, text_of(guest, "name"), "slow", "it stood still for %.0f ms, %.0f were allowed", downtime * 1e3,
		      vm->max_downtime * 1e3);
}

/* result: what the step has said; NULL: nothing of use. */
static void finish_step(struct subject *s, const json_t *result, const char *error)
{
	bool ok = result && !strcmp(text_of(result, "outcome"), "completed");
	const char *said = text_of(result, "error");
	enum rejuv_event e = ok ? REJUV_DONE : REJUV_FAILED;
	json_t *guests = json_object_get(result, "guests");

	s->child = NULL;
	if (!ok)
		set_text(&s->reason, said[0] ? said : error);
	if (s->state == REJUV_PREPARING && ok) {
		snprintf(s->identity, sizeof(s->identity), "%s", text_of(result, "identity"));
		list_guests(s, json_object_get(result, "names"));
	}
	if (s->state == REJUV_MOVING && current_guest(s))
		note_move(s, result, ok);
	if (s->state == REJUV_REPLACING && json_is_array(guests) && json_array_size(guests))
		json_array_extend(s->guests, guests);
	if (!ok)
		event(s->g->d, s->name, "failed", "%s: %s", rejuv_step(s->state), s->reason);
	inventory_soon(s->g->d->inventory);
	if (s->cancelled && rejuv_action(s->state, REJUV_CANCELLED) != REJUV_IGNORE)
		e = REJUV_CANCELLED;
	take(s, e);
}

static void step_ended(void *ctx, int status, bool timed_out)
{
	struct subject *s = ctx;
	char *out = output_path(s, s->step, "out"), *err = output_path(s, s->step, "err"), error[400];
	json_t *result = read_json(out);

	first_line(err, error, sizeof(error));
	if (timed_out)
		snprintf(error, sizeof(error), "it was not over in time");
	else if (!error[0] && WIFSIGNALED(status))
		snprintf(error, sizeof(error), "it was ended by signal %d", WTERMSIG(status));
	else if (!error[0])
		snprintf(error, sizeof(error), "it ended with status %d and said nothing", WEXITSTATUS(status));
	free(out);
	free(err);
	finish_step(s, timed_out ? NULL : result, error);
	json_decref(result);
}

/* A process that is not our child was, or may be, at the step. */
static void look_after_others(struct subject *s)
{
	const struct hypervisor_policy *p = policy_of(s);
	int lock = rejuvenation_lock(s->name, NULL);
	char *out, *path, text[32];
	json_t *result;

	if (lock < 0) {
		if (boot_s() - s->step_begun < (p ? p->step_timeout : 600))
			return;
		path = work_path(s, "lock");
		read_text(path, text, sizeof(text));
		free(path);
		if (atoi(text) > 1) {
			event(s->g->d, s->name, "killed", "process %d was not over in time", atoi(text));
			kill(-atoi(text), SIGKILL);
		}
		s->step_begun = boot_s();
		return;
	}
	close(lock);
	s->others = false;
	out = output_path(s, s->step, "out");
	result = read_json(out);
	free(out);
	if (result)
		finish_step(s, result, "");
	else
		take(s, REJUV_RESTARTED);
	json_decref(result);
}

/* ---- actions */

static bool has_method(const struct hypervisor_policy *p, enum method m)
{
	for (size_t i = 0; p && i < p->nmethods; i++)
		if (p->methods[i] == m)
			return true;
	return false;
}

static void block(struct subject *s)
{
	const struct hypervisor_policy *p = policy_of(s);
	double first = p ? p->retry : 600, most = p ? p->retry_most : 6 * 3600;
	char text[500];

	report(s, "blocked");
	s->retry_wait = s->retry_wait > 0 ? fmin(s->retry_wait * 2, fmax(most, first)) : first;
	s->retry_at = boot_s() + s->retry_wait;
	s->by_user = false;
	snprintf(text, sizeof(text), "%s; tried again in %.0f s", s->reason ? s->reason : "", s->retry_wait);
	enter(s, REJUV_BLOCKED, text);
}

/* Of a guest in the old one, as the inventory has it: one that is never to be moved; NULL: there is none. */
static const char *never_moved(const struct subject *s)
{
	const json_t *vm = inventory_vm(s->g->d->inventory, s->name);
	json_t *name;
	size_t i;

	json_array_foreach(json_object_get(vm, "guests"), i, name)
		if (json_is_string(name) && config_vm(s->g->d->config, json_string_value(name))->move == MOVE_NEVER)
			return json_string_value(name);
	return NULL;
}

/* By its method number s->method, or the first after it that may be. */
static void begin_method(struct subject *s)
{
	const struct hypervisor_policy *p = policy_of(s);
	const char *never = never_moved(s);
	char text[200];

	while (p && never && s->method < p->nmethods && p->methods[s->method] != METHOD_WARM)
		s->method++;
	if (!p || s->method >= p->nmethods) {
		snprintf(text, sizeof(text), never && p ? "%.60s is never to be moved" : "there is no method for it", never);
		set_text(&s->reason, text);
		s->method = 0;
		block(s);
		return;
	}
	enter(s, p->methods[s->method] == METHOD_WARM ? REJUV_REPLACING : REJUV_PREPARING, s->why ? s->why : "");
}

static void prepare(struct subject *s)
{
	struct error e;
	int64_t run = journal_begin(s->g->d->journal, s->name, s->why ? s->why : "", &e);

	if (run < 0) { /* nothing is begun that could not be gone on with */
		set_text(&s->reason, e.text);
		block(s);
		return;
	}
	s->run = run;
	s->cancelled = false;
	set_text(&s->reason, NULL);
	begin_method(s);
}

static size_t count(const struct subject *s, const char *outcome)
{
	json_t *guest;
	size_t i, n = 0;

	json_array_foreach(s->guests, i, guest)
		n += !strcmp(text_of(guest, "outcome"), outcome);
	return n;
}

static void next_guest(struct subject *s)
{
	const struct hypervisor_policy *p = policy_of(s);
	char text[200];
	json_t *guest;
	size_t i;

	json_array_foreach(s->guests, i, guest)
		if (!strcmp(text_of(guest, "outcome"), "waiting")) {
			s->guest = i;
			snprintf(text, sizeof(text), "%.64s, %zu of %zu", text_of(guest, "name"), i + 1, json_array_size(s->guests));
			if (s->state == REJUV_MOVING) /* (the same state is no news) */
				event(s->g->d, s->name, "moving", "%s", text);
			enter(s, REJUV_MOVING, text);
			return;
		}
	if (count(s, "stuck") && count(s, "moved"))
		block(s);
	else if (count(s, "stuck"))
		enter(s, REJUV_ROLLING_BACK, "none could be moved");
	else if (p && s->method < p->nmethods && p->methods[s->method] == METHOD_PRE_COPY)
		enter(s, REJUV_REPLACING, "its guests are on another machine");
	else
		enter(s, REJUV_RETIRING, "all are in the fresh one");
}

static void fall_back(struct subject *s)
{
	const struct hypervisor_policy *p = policy_of(s);
	json_t *guest = current_guest(s);

	if (s->state == REJUV_PREPARING) {
		if (p && ++s->method < p->nmethods) {
			begin_method(s);
			return;
		}
		s->method = 0;
		enter(s, REJUV_ROLLING_BACK, s->reason ? s->reason : "");
	} else if (!goes_far(guest) && has_method(p, METHOD_PRE_COPY)) {
		json_object_set_new(guest, "by", json_string(method_names[METHOD_PRE_COPY]));
		event(s->g->d, text_of(guest, "name"), "falls-back", "by pre-copy to %s", p->target);
		enter(s, REJUV_MOVING, "");
	} else {
		json_object_set_new(guest, "outcome", json_string("stuck"));
		json_object_set_new(guest, "error", json_string(s->reason ? s->reason : ""));
		next_guest(s);
	}
}

/* Which is known of moved guests: they are in the fresh one, or were, before they went back. */
static void settle(struct subject *s)
{
	const struct hypervisor_policy *p = policy_of(s);

	if (s->cancelled) {
		set_text(&s->reason, "cancelled");
		report(s, "cancelled");
		s->cancelled = s->by_user = false;
		s->method = 0;
		json_array_clear(s->guests);
		enter(s, REJUV_IDLE, "cancelled");
		return;
	}
	/* The next time by the next method. */
	s->method = p && s->method + 1 < p->nmethods && count(s, "stuck") ? s->method + 1 : 0;
	block(s);
	json_array_clear(s->guests);
}

static void finish(struct subject *s)
{
	char text[200];

	snprintf(text, sizeof(text), "rejuvenated: %zu guest VMs", json_array_size(s->guests));
	report(s, "completed");
	s->ended = boot_s();
	s->ended_clock = time(NULL);
	s->retry_wait = 0;
	s->method = 0;
	s->by_user = s->cancelled = false;
	set_text(&s->reason, NULL);
	json_array_clear(s->guests);
	enter(s, REJUV_IDLE, text);
}

static void destroy(struct subject *s)
{
	if (s->child)
		child_forget(s->child);
	json_decref(s->guests);
	free(s->name);
	free(s->why);
	free(s->reason);
	free(s->due.text);
	free(s);
}

static void forget(struct subject *s)
{
	struct subject **p = &s->g->first;
	char *lock = work_path(s, "lock");
	struct error e;

	event(s->g->d, s->name, "gone", "it is not there any more");
	if (journal_forget(s->g->d->journal, s->name, &e))
		event(s->g->d, s->name, "unwritten", "%s", e.text);
	unlink(lock);
	free(lock);
	remove_output(s, s->step);
	while (*p != s)
		p = &(*p)->next;
	*p = s->next;
	destroy(s);
}

static void take(struct subject *s, enum rejuv_event e)
{
	switch (rejuv_action(s->state, e)) {
	case REJUV_WAIT:
		enter(s, REJUV_DUE, s->why ? s->why : "");
		break;
	case REJUV_PREPARE:
		prepare(s);
		break;
	case REJUV_AGAIN:
		event(s->g->d, s->name, "again", "%s was cut off, and is done again", rejuv_step(s->state));
		enter(s, s->state, "");
		break;
	case REJUV_NEXT:
		next_guest(s);
		break;
	case REJUV_VERIFY:
		if (goes_far(current_guest(s))) /* that machine has seen to it */
			next_guest(s);
		else
			enter(s, REJUV_VERIFYING, text_of(current_guest(s), "name"));
		break;
	case REJUV_FALL_BACK:
		fall_back(s);
		break;
	case REJUV_ROLL_BACK:
		enter(s, REJUV_ROLLING_BACK, s->cancelled ? "cancelled" : s->reason ? s->reason : "");
		break;
	case REJUV_BLOCK:
		block(s);
		break;
	case REJUV_SETTLE:
		settle(s);
		break;
	case REJUV_FINISH:
		finish(s);
		break;
	case REJUV_ABANDON:
		s->by_user = false;
		enter(s, REJUV_IDLE, "cancelled");
		break;
	case REJUV_FORGET:
		forget(s);
		break;
	default:
		break;
	}
}

/* ---- when it is wanted */

static void want(struct subject *s, const char *why, bool by_user)
{
	const struct hypervisor_policy *p = policy_of(s);

	if (p && p->dry_run && !by_user) {
		event(s->g->d, s->name, "dry-run", "it would be rejuvenated: %s", why);
		s->ended = boot_s();
		return;
	}
	set_text(&s->why, why);
	s->by_user = by_user;
	s->retry_wait = 0;
	take(s, REJUV_WANTED);
}

/* So much later than its time, always the same here, something else on another machine. */
static time_t jitter(const struct subject *s, double most)
{
	char id[64];
	uint64_t h = 14695981039346656037ull; /* FNV-1a */

	read_text("/etc/machine-id", id, sizeof(id));
	for (const char *p = id; *p; p++)
		h = (h ^ (unsigned char)*p) * 1099511628211ull;
	for (const char *p = s->name; *p; p++)
		h = (h ^ (unsigned char)*p) * 1099511628211ull;
	return most >= 1 ? (time_t)(h % (uint64_t)(most + 1)) : 0;
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
static bool is_old(const struct subject *s, const struct hypervisor_policy *p, const json_t *v, char *why, size_t size)
{
	const char *state = text_of(v, "state"), *evidence = text_of(v, "evidence");
	json_t *left = json_object_get(v, "exhausted_in_s"), *values = json_object_get(v, "values");

	(void)s;
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

static void consider(struct subject *s)
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
	/* (What was thought of the old one does not count.) */
	if (s->state != REJUV_IDLE || !v || (s->ended_clock && json_real_value(json_object_get(v, "boot_s")) < s->ended))
		return;
	if (s->ended_clock && since < p->min_interval && !(young && s->bad < BAD_MOST))
		return;
	if (!is_old(s, p, v, why, sizeof(why)))
		return;
	s->bad = young ? s->bad + 1 : 0;
	want(s, why, false);
}

static size_t working(const struct engine *g)
{
	size_t n = 0;

	for (const struct subject *s = g->first; s; s = s->next)
		n += rejuv_is_working(s->state);
	return n;
}

static bool is_allowed(const struct subject *s)
{
	const struct hypervisor_policy *p = policy_of(s);
	time_t now = time(NULL);
	bool open = !p || !p->nwindows;

	if (working(s->g) >= s->g->d->config->max_concurrent || s->g->d->stopping || !inventory_vms(s->g->d->inventory))
		return false;
	if (s->by_user)
		return true;
	for (size_t i = 0; p && i < p->nwindows; i++)
		open = open || window_is_open(&p->windows[i], now);
	for (size_t i = 0; p && i < p->nblackouts; i++)
		open = open && !blackout_is_on(&p->blackouts[i], now);
	return open;
}

static void tick(struct subject *s)
{
	if (!s->written && boot_s() >= s->write_again) {
		write_down(s);
		if (s->written && rejuv_is_working(s->state) && !s->child && !s->others)
			begin_step(s);
	}
	if (!s->written)
		return;
	if (s->others) {
		look_after_others(s);
		return;
	}
	consider(s);
	if (s->state == REJUV_DUE && is_allowed(s))
		take(s, REJUV_ALLOWED);
	else if (s->state == REJUV_BLOCKED && boot_s() >= s->retry_at)
		take(s, REJUV_RETRY);
}

void engine_tick(struct engine *g)
{
	struct subject *next;

	for (struct subject *s = g->first; s; s = next) {
		next = s->next;
		tick(s);
	}
}

/* ---- hypervisors come and go */

static struct subject *find(const struct engine *g, const char *name)
{
	struct subject *s = g->first;

	while (s && strcmp(s->name, name))
		s = s->next;
	return s;
}

static struct subject *new_subject(struct engine *g, const char *name)
{
	struct subject *s = xcalloc(1, sizeof(*s));

	s->g = g;
	s->name = xstrdup(name);
	s->guests = json_array();
	s->written = true;
	s->next = g->first;
	g->first = s;
	return s;
}

/* NAME.new of one that is there, or is known. */
static bool is_fresh_one(const struct engine *g, const char *name)
{
	size_t n = strlen(name);
	char base[72];

	if (n <= 4 || n >= sizeof(base) || strcmp(name + n - 4, ".new"))
		return false;
	snprintf(base, sizeof(base), "%.*s", (int)n - 4, name);
	return find(g, base) || inventory_vm(g->d->inventory, base);
}

void engine_inventory(struct engine *g)
{
	struct subject *next;
	json_t *vm;
	size_t i;

	for (struct subject *s = g->first; s; s = s->next)
		s->present = false;
	json_array_foreach(inventory_vms(g->d->inventory), i, vm) {
		const char *name = text_of(vm, "vm");
		struct subject *s = find(g, name);

		if (!s && is_hypervisor(vm) && !is_fresh_one(g, name) && strlen(name) <= REJUVENATION_MOST_NAME) {
			s = new_subject(g, name);
			event(g->d, name, "appeared", "%s", policy_of(s) ? "it is looked after" : "the configuration says nothing of it");
		}
		if (s)
			s->present = true;
	}
	for (struct subject *s = g->first; s; s = next) {
		char fresh[80];

		next = s->next;
		snprintf(fresh, sizeof(fresh), "%s.new", s->name);
		if (!s->present && !inventory_vm(g->d->inventory, fresh))
			take(s, REJUV_GONE);
	}
}

/* ---- the daemon begins and ends */

static void remember(void *ctx, const char *name, enum rejuv_state state, json_t *data)
{
	struct engine *g = ctx;
	struct subject *s = new_subject(g, name);

	from_json(s, data);
	s->state = state;
	s->others = rejuv_is_working(state);
	s->step_begun = boot_s();
	s->retry_at = boot_s() + s->retry_wait;
	if (s->others)
		event(g->d, name, "restarted", "it was %s; that goes on", rejuv_state_name(state));
}

struct engine *engine_create(struct daemon *d, struct error *e)
{
	struct engine *g = xcalloc(1, sizeof(*g));

	g->d = d;
	g->fault = getenv("VMBEAM_DAEMON_FAULT");
	if (!journal_each(d->journal, remember, g, e))
		return g;
	engine_destroy(g);
	return NULL;
}

void engine_destroy(struct engine *g)
{
	while (g && g->first) {
		struct subject *s = g->first;

		g->first = s->next;
		destroy(s);
	}
	free(g);
}

bool engine_is_working(const struct engine *g)
{
	return working(g) > 0;
}

/* ---- what users want */

int engine_want(struct engine *g, const char *name, const char *why, struct error *e)
{
	struct subject *s = find(g, name);

	if (!s)
		return error_set(e, "no such hypervisor");
	if (rejuv_action(s->state, REJUV_WANTED) == REJUV_IGNORE && s->state != REJUV_DUE)
		return error_set(e, "it is %s already", rejuv_state_name(s->state));
	if (!policy_of(s))
		return error_set(e, "the configuration says nothing of it: [hypervisor %.60s] or [hypervisor *] is needed", name);
	s->by_user = true;
	if (s->state != REJUV_DUE)
		want(s, why, true);
	else
		write_down(s);
	engine_tick(g);
	return 0;
}

int engine_cancel(struct engine *g, const char *name, struct error *e)
{
	struct subject *s = find(g, name);

	if (!s)
		return error_set(e, "no such hypervisor");
	if (rejuv_action(s->state, REJUV_CANCELLED) == REJUV_IGNORE)
		return error_set(e, s->state == REJUV_IDLE ? "nothing is wanted of it" : "it is too late for that: it is %s",
				 rejuv_state_name(s->state));
	s->cancelled = true;
	if (rejuv_is_working(s->state)) { /* after this step */
		write_down(s);
		event(g->d, name, "cancelled", "after the step that is under way");
	} else {
		take(s, REJUV_CANCELLED);
	}
	return 0;
}

json_t *engine_json(const struct engine *g)
{
	json_t *array = json_array();

	for (const struct subject *s = g->first; s; s = s->next) {
		const struct hypervisor_policy *p = policy_of(s);
		json_t *one = json_pack("{s:s, s:s, s:s?, s:s?, s:O, s:b, s:b}", "hypervisor", s->name, "state", rejuv_state_name(s->state),
					"why", s->state == REJUV_IDLE ? NULL : s->why, "reason", s->reason, "guests", s->guests, "managed",
					p != NULL, "journaled", s->written);

		json_object_set_new(one, "next_schedule_s", s->due.next > 0 ? json_integer(s->due.next) : json_null());
		json_object_set_new(one, "last_completed_s", s->ended_clock ? json_integer(s->ended_clock) : json_null());
		json_object_set_new(one, "retry_in_s",
				    s->state == REJUV_BLOCKED ? json_real(fmax(s->retry_at - boot_s(), 0)) : json_null());
		json_object_set_new(one, "run", s->run ? json_integer(s->run) : json_null());
		json_array_append_new(array, one);
	}
	return array;
}
