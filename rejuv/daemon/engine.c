/* engine.c: what vmbeamd is about with each hypervisor: machine.c's actions.
 *
 * A state is journaled before what it stands for is begun: a step (rejuv/steps.h), done by a process that outlives the daemon (step.c).  After a
 * restart that process is waited for; one that has ended without a word has been cut off, and its step is done again.
 *
 * Captured state and memfds need no keeper: driver, source and destination of a handover each hold them (zerocopy.h), and none of the
 * three is the daemon.
 */
#include "rejuv/daemon/subject.h"

#include "rejuv/steps.h"
#include "vmm/client.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WRITE_AGAIN_S = 5, HELD_RETRY_S = 5, GUESTS_MOST = VM_HOST_PORTS, LEFTOVER_SEEN = 2 };

static void take(struct subject *s, enum rejuv_event e);

const struct hypervisor_policy *policy_of(const struct subject *s)
{
	return config_hypervisor(s->g->d->config, s->name);
}

void fault(const struct subject *s, const char *where)
{
	char point[64];

	snprintf(point, sizeof(point), "%s%s=", rejuv_state_name(s->state), where);
	if (s->g->fault && !strncmp(s->g->fault, point, strlen(point)))
		raise(!strcmp(s->g->fault + strlen(point), "stop") ? SIGSTOP : SIGKILL);
}

/* ---- the journal */

static json_t *to_json(const struct subject *s)
{
	return json_pack("{s:I, s:I, s:s?, s:s?, s:b, s:b, s:b, s:I, s:O, s:I, s:s, s:f, s:I, s:s?, s:I, s:I}", "run", (json_int_t)s->run, "step",
			 (json_int_t)s->step, "why", s->why, "reason", s->reason, "by_user", s->by_user, "cancelled", s->cancelled,
			 "held", s->held, "method", (json_int_t)s->method, "guests", s->guests, "guest", (json_int_t)s->guest, "identity",
			 s->identity, "retry_wait", s->retry_wait, "bad", (json_int_t)s->bad, "schedule", s->due.text, "handled",
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
	s->held = json_is_true(json_object_get(j, "held"));
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
void write_down(struct subject *s)
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
	if (journal_report(s->g->d->journal, s->run, outcome, strcmp(outcome, "completed") ? s->reason : NULL, all, &e))
		event(s->g->d, s->name, "unwritten", "%s", e.text);
	json_decref(all);
	s->run = 0;
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
		step_begin(s);
	if (s->written) /* else the journal still says that it is wanted */
		step_remove_output(s, s->step - 1);
}

static json_t *new_guest(const char *name)
{
	return json_pack("{s:s, s:s, s:s}", "name", name, "outcome", "waiting", "by", method_names[METHOD_BEAM]);
}

static bool is_among(const json_t *names, const char *wanted)
{
	json_t *name;
	size_t i;

	json_array_foreach(names, i, name)
		if (json_is_string(name) && !strcmp(json_string_value(name), wanted))
			return true;
	return false;
}

/* Those that are in the old one now, in the order of their policies; those that have left it before are kept. */
static void list_guests(struct subject *s, const json_t *names)
{
	const struct hypervisor_policy *p = policy_of(s);
	bool far = p && s->method < p->nmethods && p->methods[s->method] == METHOD_PRE_COPY;
	json_t *all = json_array(), *name, *guest;
	size_t i;

	json_array_foreach(s->guests, i, guest)
		if (!strcmp(text_of(guest, "outcome"), "moved") && !is_among(names, text_of(guest, "name")))
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
void step_over(struct subject *s, const json_t *result, const char *error)
{
	bool ok = result && !strcmp(text_of(result, "outcome"), "completed");
	const char *said = text_of(result, "error");
	enum rejuv_event e = ok ? REJUV_DONE : REJUV_FAILED;
	json_t *guests = json_object_get(result, "guests");

	s->child = NULL;
	s->held = !ok && is_replacing(s->name) && (!result || json_is_true(json_object_get(result, "held")));
	if (!ok)
		set_text(&s->reason, said[0] ? said : error);
	if (s->state == REJUV_PREPARING && ok) {
		snprintf(s->identity, sizeof(s->identity), "%s", text_of(result, "identity"));
		list_guests(s, json_object_get(result, "names"));
	}
	if (s->state == REJUV_MOVING && current_guest(s))
		note_move(s, result, ok);
	if (s->state == REJUV_REPLACING && ok && json_is_array(guests) && json_array_size(guests) <= GUESTS_MOST)
		json_array_extend(s->guests, guests);
	if (!ok)
		event(s->g->d, s->name, "failed", "%s: %s", rejuv_step(s->state), s->reason);
	inventory_soon(s->g->d->inventory);
	if (s->cancelled && rejuv_action(s->state, REJUV_CANCELLED) != REJUV_IGNORE)
		e = REJUV_CANCELLED;
	take(s, e);
}

void step_cut_off(struct subject *s)
{
	take(s, s->cancelled && rejuv_action(s->state, REJUV_CANCELLED) != REJUV_IGNORE ? REJUV_CANCELLED : REJUV_RESTARTED);
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
	if (s->held) /* nobody else lets them go */
		s->retry_wait = HELD_RETRY_S;
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

	if (is_replacing(s->name)) {
		enter(s, REJUV_REPLACING, "it was cut off, and is gone on with");
		return;
	}
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
	int64_t run;

	if (s->cancelled && !is_replacing(s->name)) { /* and could not go back then */
		enter(s, REJUV_ROLLING_BACK, "cancelled");
		return;
	}
	run = journal_begin(s->g->d->journal, s->name, s->why ? s->why : "", &e);
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
	report(s, "blocked");
	json_array_clear(s->guests); /* all are where they were */
	block(s);
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
	free(s->cannot);
	free(s->due.text);
	free(s);
}

static void forget(struct subject *s)
{
	struct subject **p = &s->g->first;
	struct error e;

	event(s->g->d, s->name, "gone", "it is not there any more");
	if (journal_forget(s->g->d->journal, s->name, &e))
		event(s->g->d, s->name, "unwritten", "%s", e.text);
	step_remove_lock(s);
	step_remove_output(s, s->step);
	while (*p != s)
		p = &(*p)->next;
	*p = s->next;
	destroy(s);
}

static bool has_fresh_one(const struct subject *s)
{
	char fresh[80];
	const json_t *vm;

	snprintf(fresh, sizeof(fresh), "%s" FRESH, s->name);
	vm = inventory_vm(s->g->d->inventory, fresh);
	return vm && is_hypervisor(vm);
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
		if (has_fresh_one(s)) { /* some of its guests may be there */
			s->cancelled = true;
			enter(s, REJUV_ROLLING_BACK, "cancelled");
		} else {
			enter(s, REJUV_IDLE, "cancelled");
		}
		break;
	case REJUV_FORGET:
		forget(s);
		break;
	default:
		break;
	}
}

void want(struct subject *s, const char *why, bool by_user)
{
	const struct hypervisor_policy *p = policy_of(s);

	if (p && p->dry_run && !by_user) {
		event(s->g->d, s->name, "dry-run", "it would be rejuvenated: %s", why);
		s->dry_run = boot_s();
		write_down(s); /* (a time of its schedule has been seen to) */
		return;
	}
	set_text(&s->why, why);
	s->by_user = by_user;
	s->cancelled = false;
	s->retry_wait = 0;
	take(s, REJUV_WANTED);
}

size_t working(const struct engine *g)
{
	size_t n = 0;

	for (const struct subject *s = g->first; s; s = s->next)
		n += rejuv_is_working(s->state);
	return n;
}

static void tick(struct subject *s)
{
	if (!s->written && boot_s() >= s->write_again) {
		write_down(s);
		if (s->written && rejuv_is_working(s->state) && !s->child && !s->others && !s->cannot)
			step_begin(s);
	}
	if (!s->written)
		return;
	if (s->cannot) {
		char *why = s->cannot;

		s->cannot = NULL;
		step_over(s, NULL, why);
		free(why);
		return;
	}
	if (s->others) {
		step_look_after_others(s);
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
	s->seed = seed(name);
	s->written = true;
	s->next = g->first;
	g->first = s;
	return s;
}

static void appear(struct engine *g, const char *name)
{
	struct subject *s = new_subject(g, name);

	event(g->d, name, "appeared", "%s", policy_of(s) ? "it is looked after" : "the configuration says nothing of it");
}

/* Of a hypervisor that nothing is known of; NAME.new stands for NAME, whether or not that is still there. */
static void meet(struct engine *g, const char *name)
{
	char base[72];

	snprintf(base, sizeof(base), "%s", name);
	strip_fresh(base);
	if (!find(g, base) && strlen(base) <= REJUVENATION_MOST_NAME)
		appear(g, base);
}

/* NAME.new is there, or its guests are held, and nobody remembers why: the journal was lost, or who rejuvenated by hand has died.  It is
 * gone on with.  (What was asked before the last rejuvenation ended may still have its NAME.new.) */
static void look_for_leftover(struct subject *s)
{
	int lock;

	if (s->state != REJUV_IDLE || !policy_of(s) || !(has_fresh_one(s) || is_replacing(s->name))) {
		s->leftover = 0;
		return;
	}
	if (++s->leftover != LEFTOVER_SEEN)
		return;
	lock = rejuvenation_lock(s->name, NULL);
	if (lock < 0) { /* by hand, right now */
		s->leftover--;
		return;
	}
	close(lock);
	want(s, "a rejuvenation was cut off, and nothing was known of it", false);
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

		if (!s && is_hypervisor(vm))
			meet(g, name);
		s = find(g, name);
		if (s)
			s->present = true;
	}
	for (struct subject *s = g->first; s; s = next) {
		next = s->next;
		look_for_leftover(s);
		if (!s->present && !has_fresh_one(s) && !is_replacing(s->name))
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

/* Hypervisors that are not there while they are replaced, and the journal knows nothing of them. */
static void meet_replaced(struct engine *g)
{
	json_t *names = replacing_names(), *v;
	const char *name;

	json_object_foreach(names, name, v)
		if (!find(g, name) && strlen(name) <= REJUVENATION_MOST_NAME)
			appear(g, name);
	json_decref(names);
}

struct engine *engine_create(struct daemon *d, struct error *e)
{
	struct engine *g = xcalloc(1, sizeof(*g));

	g->d = d;
	g->fault = getenv("VMBEAM_DAEMON_FAULT");
	if (!journal_each(d->journal, remember, g, e)) {
		meet_replaced(g);
		return g;
	}
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
	if (is_replacing(s->name) && (s->held || rejuv_is_working(s->state)))
		return error_set(e, "it is too late for that: its guests are held");
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
					"why", s->state == REJUV_IDLE ? NULL : s->why, "reason",
					s->written ? s->reason : "the journal cannot be written: nothing is begun", "guests", s->guests,
					"managed", p != NULL, "journaled", s->written);

		json_object_set_new(one, "next_schedule_s", s->due.next > 0 ? json_integer(s->due.next) : json_null());
		json_object_set_new(one, "last_completed_s", s->ended_clock ? json_integer(s->ended_clock) : json_null());
		json_object_set_new(one, "retry_in_s",
				    s->state == REJUV_BLOCKED ? json_real(fmax(s->retry_at - boot_s(), 0)) : json_null());
		json_object_set_new(one, "run", s->run ? json_integer(s->run) : json_null());
		json_array_append_new(array, one);
	}
	return array;
}
