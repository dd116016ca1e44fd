/* test_handover_toy.c: the handover's promise, with real processes that are killed: never two that
 * run, and once the state is sealed never none that can.
 *
 * Source, destination and driver are toys that follow source.c, destination.c and driver.c step by
 * step, on the real owner word and the real state memfd.  The guest is a counter in shared memory; its
 * registers are the value the counter has when it is captured.  A runner asks the word once, before it
 * starts, as a VMM does, and never again: if two are let run, they see each other's mark.
 *
 * Each scenario kills or holds up one or two of the three at one of their steps.  The steps of the
 * word can be replaced by ones that do not look before they write; the test must notice that.
 */
#include "tests/unit/unit.h"
#include "zerocopy/zerocopy.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum actor { SOURCE, DESTINATION, DRIVER, ACTORS };
enum action { NOTHING, KILL, HOLD };
enum { MAX_STEPS = 9, PATIENCE_MS = 15, HOLD_MS = 45, SETTLE_MS = 5000 };

static const char *const steps[ACTORS][MAX_STEPS] = {
	[SOURCE] = {"asked", "begun", "paused", "captured", "sealed", "sent", "leaving", "back",
		    "running again"},
	[DESTINATION] = {"born", "built", "prepared", "told", "restored", "committed", "started",
			 "running", "answered"},
	[DRIVER] = {"born", "prepared", "going", "heard"},
};

struct fault {
	enum action action;
	enum actor who;
	unsigned int step;
};

/* The word's steps as the toys take them. */
struct rules {
	const char *name;
	bool (*abort)(struct owner *o, uint16_t source, uint16_t destination);
	bool (*commit)(struct owner *o, uint16_t source, uint16_t destination);
	bool (*reclaim)(struct owner *o, uint16_t source, uint16_t destination);
	bool (*recover)(struct owner *o, uint16_t instance);
};

/* Shared by all; the guest's memory, and what the processes tell each other. */
struct world {
	atomic_ullong counter;
	atomic_int mark; /* who has run last */
	atomic_int pid[ACTORS];
	atomic_bool prepared, go, sent, answered, gave_up;
	atomic_int settled[ACTORS]; /* enum end */
	atomic_bool stop;
	char problem[200];
};
enum end { BUSY, RUNNING, KEPT /* its memory, for a dump */ };

static struct world *w;
static struct owner *word;
static int state_fd;
static const struct rules *rules;
static struct fault faults[2];
static enum actor self;

static void problem(const char *what, unsigned long long a, unsigned long long b)
{
	if (!w->problem[0])
		snprintf(w->problem, sizeof(w->problem), "%s (%llu, %llu)", what, a, b);
}

static void step(const char *name)
{
	for (size_t i = 0; i < 2; i++) {
		const struct fault *f = &faults[i];

		if (!f->action || f->who != self || strcmp(steps[self][f->step], name))
			continue;
		if (f->action == KILL)
			raise(SIGKILL);
		usleep(HOLD_MS * 1000);
	}
}

static int pidfd[ACTORS];

static bool is_dead(enum actor a)
{
	struct pollfd p = {.events = POLLIN};

	if (!pidfd[a])
		pidfd[a] = (int)syscall(SYS_pidfd_open, atomic_load(&w->pid[a]), 0);
	p.fd = pidfd[a];
	return poll(&p, 1, 0) > 0;
}

/* The guest, until *until.  `registers` is what it was captured with. */
static void run_guest(uint16_t me, unsigned long long registers, atomic_bool *until, bool watch_driver)
{
	struct owner_view v = owner_read(word);

	if (!v.started || v.owner != me) {
		problem("runs without the word", me, v.owner);
		return;
	}
	if (w->counter != registers)
		problem("runs with old registers: the guest went on without it", registers, w->counter);
	while (!*until && !w->stop) {
		w->mark = me;
		usleep(150);
		if (w->mark != me)
			problem("two are running", me, (unsigned long long)w->mark);
		w->counter++;
		if (watch_driver && is_dead(DRIVER) && !*until) {
			w->gave_up = true;
			w->settled[self] = RUNNING;
			watch_driver = false;
		}
	}
}

static void run_one_step(uint16_t me, unsigned long long registers)
{
	run_guest(me, registers, &(atomic_bool){true}, false);
	w->mark = me;
	w->counter++;
}

static void run_to_the_end(uint16_t me, unsigned long long registers)
{
	w->settled[self] = RUNNING;
	run_guest(me, registers, &w->stop, false);
}

static void source(void)
{
	Vmb__VmState s = VMB__VM_STATE__INIT;
	uint64_t start;

	run_guest(1, 0, &w->go, true);
	if (w->stop)
		return;
	step("asked");
	if (!owner_begin(word, 1, 2))
		problem("begin was refused", 0, 0);
	step("begun");
	step("paused");
	s.version = STATE_VERSION;
	s.clock_ns = w->counter;
	step("captured");
	if (state_write(state_fd, &s, NULL) < 0)
		problem("the state was not written", 0, 0);
	step("sealed");
	w->sent = true;
	step("sent");
	start = clock_ns();
	while (!w->answered && !is_dead(DESTINATION) && clock_ns() - start < PATIENCE_MS * 1000000ull)
		usleep(200);
	if (w->answered) {
		step("leaving");
		return;
	}
	if (!rules->abort(word, 1, 2)) {
		while (!is_dead(DESTINATION) && !owner_read(word).started && !w->stop)
			usleep(200);
		if (!is_dead(DESTINATION))
			return; /* it runs there */
		if (!rules->reclaim(word, 1, 2)) {
			w->settled[self] = KEPT; /* it had run on there */
			return;
		}
	}
	w->gave_up = true;
	step("back");
	run_one_step(1, s.clock_ns);
	step("running again");
	run_to_the_end(1, s.clock_ns + 1);
}

static unsigned long long registers(void)
{
	Vmb__VmState *s = state_read(state_fd, NULL);
	unsigned long long r = 0;

	if (!s) {
		problem("sealed, but not readable", 0, 0);
		return 0;
	}
	r = s->clock_ns;
	vmb__vm_state__free_unpacked(s, NULL);
	return r;
}

static void destination(void)
{
	unsigned long long r;

	step("born");
	step("built");
	w->prepared = true;
	step("prepared");
	while (!w->sent && !w->gave_up && !is_dead(SOURCE) && !w->stop)
		usleep(200);
	if (!state_is_sealed(state_fd)) {
		if (is_dead(SOURCE))
			w->settled[self] = KEPT;
		return;
	}
	step("told");
	r = registers();
	step("restored");
	if (!rules->commit(word, 1, 2)) {
		if (is_dead(SOURCE) && owner_read(word).owner == 1)
			w->settled[self] = KEPT; /* it had taken the VM back, and died then */
		return;
	}
	step("committed");
	if (!owner_start(word, 2))
		return;
	step("started");
	run_one_step(2, r);
	step("running");
	w->answered = true;
	step("answered");
	run_to_the_end(2, r + 1);
}

static void driver(void)
{
	uint16_t next;

	step("born");
	while (!w->prepared && !is_dead(DESTINATION) && !w->stop)
		usleep(200);
	step("prepared");
	if (is_dead(SOURCE) || !is_dead(DESTINATION))
		w->go = true;
	else
		return; /* nothing has begun: the source runs on */
	step("going");
	while (!w->stop) {
		bool source_over = is_dead(SOURCE) || w->settled[SOURCE],
		     destination_over = is_dead(DESTINATION) || w->settled[DESTINATION];

		if (source_over && destination_over)
			break;
		usleep(200);
	}
	step("heard");
	if (!is_dead(SOURCE) || !is_dead(DESTINATION))
		return;
	/* A third process takes over; here the driver itself. */
	next = owner_next_instance(word);
	if (!state_is_sealed(state_fd) || !rules->recover(word, next)) {
		w->settled[self] = KEPT;
		return;
	}
	if (!owner_start(word, next))
		problem("start was refused after a recovery", next, 0);
	run_to_the_end(next, registers());
}

/* ---- one scenario */

static void wait_for_end(void)
{
	while (!w->stop && w->settled[self] != BUSY)
		usleep(1000); /* alive, with what it holds */
}

static void give_birth(enum actor a)
{
	static void (*const life[ACTORS])(void) = {source, destination, driver};
	pid_t pid = fork();

	if (pid > 0) {
		w->pid[a] = pid;
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	self = a;
	while (!w->pid[ACTORS - 1])
		usleep(100);
	life[a]();
	wait_for_end();
	_exit(0);
}

/* Nobody has anything left to do. */
static bool all_settled(void)
{
	for (int a = 0; a < ACTORS; a++)
		if (!w->settled[a] && !is_dead(a))
			return false;
	return true;
}

static bool is_killed(enum actor a)
{
	return (faults[0].action == KILL && faults[0].who == a) ||
	       (faults[1].action == KILL && faults[1].who == a);
}

static void judge(void)
{
	struct owner_view v = owner_read(word);
	bool sealed = state_is_sealed(state_fd), runs = v.started && !v.candidate;
	unsigned int runners = 0, kept = 0;
	unsigned long long before = w->counter;

	for (int a = 0; a < ACTORS; a++) {
		runners += w->settled[a] == RUNNING && !is_dead(a);
		kept += w->settled[a] == KEPT && !is_dead(a);
	}
	for (int i = 0; i < 20000 && runners && w->counter < before + 2; i++)
		usleep(500);
	if (runners > 1)
		problem("two have the VM", runners, v.owner);
	if (runners && w->counter < before + 2)
		problem("it has the VM and does not run it", v.owner, 0);
	if (runners && !v.started)
		problem("runs, and the word does not say so", v.owner, v.candidate);
	if (!runners && sealed && !runs)
		problem("sealed, and nobody runs it", v.owner, v.candidate);
	if (!runners && !kept && !is_killed(DRIVER))
		problem("nobody has even its memory", v.owner, v.candidate);
	if (!runners && !is_dead(SOURCE) && w->settled[SOURCE] != KEPT)
		problem("the source lives and does not run it", v.owner, v.candidate);
}

/* Returns what went wrong; "" if nothing did. */
static const char *play(const struct rules *r, struct fault f0, struct fault f1)
{
	static char result[sizeof(w->problem)];
	int owner_fd = owner_create(NULL);
	uint64_t deadline;

	memset(w, 0, sizeof(*w));
	word = owner_map(owner_fd, NULL);
	state_fd = state_create(NULL);
	rules = r;
	faults[0] = f0;
	faults[1] = f1;
	for (int a = 0; a < ACTORS; a++)
		give_birth(a);
	deadline = clock_ns() + SETTLE_MS * 1000000ull;
	while (!all_settled() && clock_ns() < deadline)
		usleep(500);
	if (!all_settled())
		problem("it comes to no end", (unsigned long long)w->settled[SOURCE],
			(unsigned long long)w->settled[DESTINATION]);
	else
		judge();
	w->stop = true;
	for (int a = 0; a < ACTORS; a++) {
		waitpid(w->pid[a], NULL, 0);
		close_fd(&pidfd[a]);
		pidfd[a] = 0;
	}
	memcpy(result, w->problem, sizeof(result));
	owner_unmap(word);
	close(owner_fd);
	close(state_fd);
	return result;
}

static const struct rules real = {"real", owner_abort, owner_commit, owner_reclaim, owner_recover};

static void check(struct fault f0, struct fault f1)
{
	static const char *const who[] = {"source", "destination", "driver"};
	static const char *const what[] = {"nothing", "killed", "held up"};
	const char *p = play(&real, f0, f1);

	cr_expect(!p[0], "%s; %s %s at '%s', %s %s at '%s'", p, who[f0.who], what[f0.action],
		  steps[f0.who][f0.step], who[f1.who], what[f1.action],
		  f1.action ? steps[f1.who][f1.step] : "");
}

static void begin_worlds(void)
{
	w = mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(w, MAP_FAILED);
}

#define EACH_STEP(a, s) for (unsigned int s = 0; s < MAX_STEPS && steps[a][s]; s++)

static void one_victim(enum actor a, enum action action)
{
	begin_worlds();
	EACH_STEP(a, s)
		check((struct fault){action, a, s}, (struct fault){NOTHING});
}

static void two_victims(enum actor a, enum action action_a, enum actor b, enum action action_b)
{
	begin_worlds();
	EACH_STEP(a, s)
		EACH_STEP(b, t)
			check((struct fault){action_a, a, s}, (struct fault){action_b, b, t});
}

UNIT(toy_handover, survives_the_source_killed_anywhere)
{
	one_victim(SOURCE, KILL);
}

UNIT(toy_handover, survives_the_destination_killed_anywhere)
{
	one_victim(DESTINATION, KILL);
}

UNIT(toy_handover, survives_the_driver_killed_anywhere)
{
	one_victim(DRIVER, KILL);
}

UNIT(toy_handover, survives_any_of_them_held_up_anywhere)
{
	one_victim(SOURCE, HOLD);
	one_victim(DESTINATION, HOLD);
	one_victim(DRIVER, HOLD);
}

UNIT(toy_handover, survives_source_and_destination_killed_anywhere)
{
	two_victims(SOURCE, KILL, DESTINATION, KILL);
}

UNIT(toy_handover, survives_source_and_driver_killed_anywhere)
{
	two_victims(SOURCE, KILL, DRIVER, KILL);
}

UNIT(toy_handover, survives_destination_and_driver_killed_anywhere)
{
	two_victims(DESTINATION, KILL, DRIVER, KILL);
}

UNIT(toy_handover, survives_the_source_killed_while_the_destination_is_held_up)
{
	two_victims(SOURCE, KILL, DESTINATION, HOLD);
}

/* ---- the test itself: steps that write without looking are noticed */

static bool blindly(struct owner *o, uint16_t owner, bool started)
{
	uint64_t *p = (uint64_t *)o;

	*p = ((*p >> 32) + 1) << 32 | (uint64_t)owner << 16 | started;
	return true;
}

static bool blind_abort(struct owner *o, uint16_t source, uint16_t destination)
{
	(void)destination;
	return blindly(o, source, true);
}

static bool blind_commit(struct owner *o, uint16_t source, uint16_t destination)
{
	(void)source;
	return blindly(o, destination, false);
}

static bool blind_recover(struct owner *o, uint16_t instance)
{
	return blindly(o, instance, false);
}

static bool no_recover(struct owner *o, uint16_t instance)
{
	(void)o, (void)instance;
	return false;
}

static bool is_noticed(const struct rules *r, enum action a, enum action b)
{
	EACH_STEP(SOURCE, s)
		EACH_STEP(DESTINATION, t)
			if (play(r, (struct fault){a, SOURCE, s}, (struct fault){b, DESTINATION, t})[0])
				return true;
	return false;
}

UNIT(toy_handover, would_show_a_step_that_does_not_look)
{
	static const struct {
		struct rules rules;
		enum action source, destination;
	} table[] = {
		{{"blind commit", owner_abort, blind_commit, owner_reclaim, owner_recover}, NOTHING, HOLD},
		{{"blind abort", blind_abort, owner_commit, owner_reclaim, owner_recover}, NOTHING, HOLD},
		{{"blind reclaim", owner_abort, owner_commit, blind_abort, owner_recover}, HOLD, KILL},
		{{"blind recover", owner_abort, owner_commit, owner_reclaim, blind_recover}, KILL, KILL},
		{{"no recover", owner_abort, owner_commit, owner_reclaim, no_recover}, KILL, KILL},
	};

	begin_worlds();
	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		cr_expect(is_noticed(&table[i].rules, table[i].source, table[i].destination), "%s",
			  table[i].rules.name);
}
