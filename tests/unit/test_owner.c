/* test_owner.c: the owner word's steps, each over every state, and under races.  That the steps
 * together keep a VM from running twice, or not at all, is test_handover_toy.c's.
 */
#include "tests/unit/unit.h"
#include "zerocopy/zerocopy.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

/* The word as zerocopy/owner.c lays it out: its values are carried from version to version. */
static uint64_t word_of(struct owner_view v)
{
	return (uint64_t)v.epoch << 32 | (uint64_t)v.owner << 16 | (uint64_t)v.candidate << 1 |
	       v.started;
}

static struct owner_view view(uint32_t epoch, uint16_t owner, uint16_t candidate, bool started)
{
	return (struct owner_view){epoch, owner, candidate, started};
}

enum step { BEGIN, ABORT, COMMIT, START, RECLAIM, RECOVER, STEPS };

static bool take_step(struct owner *o, enum step s, uint16_t a, uint16_t b)
{
	switch (s) {
	case BEGIN:
		return owner_begin(o, a, b);
	case ABORT:
		return owner_abort(o, a, b);
	case COMMIT:
		return owner_commit(o, a, b);
	case START:
		return owner_start(o, a);
	case RECLAIM:
		return owner_reclaim(o, a, b);
	default:
		return owner_recover(o, a);
	}
}

static bool is_instance(uint16_t n)
{
	return n >= 1 && n <= 0x7fff;
}

/* What the diagram in zerocopy.h says, in other words than owner.c's: *v becomes the new state. */
static bool allowed(enum step s, struct owner_view *v, uint16_t a, uint16_t b)
{
	bool running = v->started && !v->candidate, moving = v->started && v->candidate,
	     taken = !v->started && !v->candidate;
	uint32_t epoch = v->epoch + 1;

	if (!is_instance(a))
		return false;
	if (s != START && s != RECOVER && (!is_instance(b) || a == b))
		return false;
	switch (s) {
	case BEGIN:
		return running && v->owner == a && (*v = view(epoch, a, b, true), true);
	case ABORT:
		return moving && v->owner == a && v->candidate == b &&
		       (*v = view(epoch, a, 0, true), true);
	case COMMIT:
		return moving && v->owner == a && v->candidate == b &&
		       (*v = view(epoch, b, 0, false), true);
	case START:
		return taken && v->owner == a && (*v = view(epoch, a, 0, true), true);
	case RECLAIM:
		return taken && v->owner == b && (*v = view(epoch, a, 0, true), true);
	default:
		return (moving || taken) && v->owner != a && v->candidate != a &&
		       (*v = view(epoch, a, 0, false), true);
	}
}

static const uint16_t numbers[] = {0, 1, 2, 3, 0x4000, 0x7fff, 0x8000, 0x8001, 0xffff};
enum { NUMBERS = ARRAY_LEN(numbers), CANDIDATES = 6 /* those of 15 bits */ };

/* Every step with every pair of numbers; returns how many were allowed. */
static unsigned int try_all_steps(struct owner *o, int fd, struct owner_view from)
{
	unsigned int taken = 0;

	for (size_t i = 0; i < STEPS * NUMBERS * NUMBERS; i++) {
		enum step s = (enum step)(i % STEPS);
		uint16_t a = numbers[i / STEPS % NUMBERS], b = numbers[i / STEPS / NUMBERS];
		uint64_t word = word_of(from);
		struct owner_view to = from;
		bool want = allowed(s, &to, a, b);

		pwrite_all(fd, &word, sizeof(word), 0);
		cr_assert_eq(take_step(o, s, a, b), want, "step %d(%x, %x) from %x, %x, %d", s, a, b,
			     from.owner, from.candidate, from.started);
		pread_all(fd, &word, sizeof(word), 0);
		cr_assert_eq(word, word_of(to));
		taken += want;
	}
	return taken;
}

UNIT(owner, each_step_works_from_its_own_states_and_from_no_other)
{
	static const uint32_t epochs[] = {1, 0x7fffffff, 0xffffffff};
	int fd = owner_create(NULL);
	struct owner *o = owner_map(fd, NULL);
	unsigned int taken = 0;

	for (size_t i = 0; i < ARRAY_LEN(epochs) * NUMBERS * CANDIDATES * 2; i++)
		taken += try_all_steps(o, fd,
				       view(epochs[i / (NUMBERS * CANDIDATES * 2)],
					    numbers[i / (CANDIDATES * 2) % NUMBERS],
					    numbers[i / 2 % CANDIDATES], i % 2));
	cr_assert_gt(taken, 100);
	owner_unmap(o);
	close(fd);
}

UNIT(owner, a_new_word_is_sealed_and_says_that_instance_1_runs)
{
	struct error e;
	int fd = owner_create(&e), other = memfd_with("12345678", 8), little, big;
	struct owner *o = owner_map(fd, &e);
	struct owner_view v = owner_read(o);

	cr_assert(v.owner == 1 && v.candidate == 0 && v.started && v.epoch == 1);
	cr_assert_neq(ftruncate(fd, 0), 0);
	cr_assert_neq(ftruncate(fd, 16), 0);
	cr_assert_null(owner_map(other, &e), "mapped an unsealed memfd");
	cr_assert_null(owner_map(-1, &e));
	little = memfd_with("1234567", 7);
	cr_assert_eq(fcntl(little, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
	cr_assert_null(owner_map(little, &e), "mapped a memfd that is too short");
	big = memfd_with("1234567890", 10);
	cr_assert_eq(fcntl(big, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	cr_assert_null(owner_map(big, &e), "mapped a memfd that can grow");
	owner_unmap(NULL);
	owner_unmap(o);
	close(fd);
	close(other);
	close(little);
	close(big);
}

UNIT(owner, the_next_instance_is_new_and_not_nobody)
{
	int fd = owner_create(NULL);
	struct owner *o = owner_map(fd, NULL);
	static bool recent[0x8000];
	uint16_t order[64] = {1}, me = 1;

	for (uint32_t i = 0; i < 4; i++)
		for (uint32_t low = 0; low <= 0xffff; low++) {
			uint16_t own = (uint16_t)(low + i), can = (uint16_t)((low + 2 * i) & 0x7fff), n;
			uint64_t word = word_of(view(low << (4 * i), own, can, true));

			pwrite_all(fd, &word, sizeof(word), 0);
			n = owner_next_instance(o);
			cr_assert(is_instance(n) && n != own && n != can, "%x after %x and %x", n, own,
				  can);
		}
	/* Handovers in a row, some of them given up: no number returns soon. */
	pwrite_all(fd, (uint64_t[]){word_of(view(0xffff0000, 1, 0, true))}, 8, 0);
	for (size_t i = 1; i < 100000; i++) {
		uint16_t n = owner_next_instance(o);

		cr_assert(!recent[n], "%u again at the %zuth handover", n, i);
		recent[order[i % ARRAY_LEN(order)]] = false;
		order[i % ARRAY_LEN(order)] = n;
		recent[n] = true;
		cr_assert(owner_begin(o, me, n));
		if (i % 5) {
			cr_assert(owner_commit(o, me, n) && owner_start(o, n));
			me = n;
		} else {
			cr_assert(owner_abort(o, me, n));
		}
	}
	owner_unmap(o);
	close(fd);
}

/* ---- two at once: exactly one may win */

struct racer {
	struct owner *o;
	enum step step;
	uint16_t a, b;
	pthread_barrier_t *gate;
	unsigned int won;
};

enum { ROUNDS = 20000 };

static void *race(void *arg)
{
	struct racer *r = arg;

	for (int i = 0; i < ROUNDS; i++) {
		pthread_barrier_wait(r->gate);
		r->won += take_step(r->o, r->step, r->a, r->b);
		pthread_barrier_wait(r->gate);
	}
	return NULL;
}

UNIT(owner, of_two_that_race_one_wins)
{
	static const struct {
		struct owner_view from;
		enum step step[2];
		uint16_t a[2], b[2];
	} table[] = {
		{{7, 1, 0, true}, {BEGIN, BEGIN}, {1, 1}, {2, 3}},
		{{7, 1, 2, true}, {ABORT, COMMIT}, {1, 1}, {2, 2}},
		{{7, 1, 2, true}, {ABORT, RECOVER}, {1, 3}, {2, 0}},
		{{7, 2, 0, false}, {START, RECLAIM}, {2, 1}, {0, 2}},
		{{7, 2, 0, false}, {RECOVER, RECLAIM}, {3, 1}, {0, 2}},
		{{7, 2, 0, false}, {RECOVER, START}, {3, 2}, {0, 0}},
	};
	int fd = owner_create(NULL);

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		uint64_t word = word_of(table[i].from), now;
		struct racer r[2];
		pthread_barrier_t gate;
		pthread_t thread[2];

		pthread_barrier_init(&gate, NULL, 3);
		for (int k = 0; k < 2; k++) {
			r[k] = (struct racer){owner_map(fd, NULL), table[i].step[k], table[i].a[k],
					      table[i].b[k],	   &gate,	     0};
			cr_assert_eq(pthread_create(&thread[k], NULL, race, &r[k]), 0);
		}
		for (int round = 0; round < ROUNDS; round++) {
			pwrite_all(fd, &word, sizeof(word), 0);
			pthread_barrier_wait(&gate);
			pthread_barrier_wait(&gate);
			pread_all(fd, &now, sizeof(now), 0);
			cr_assert_eq(now >> 32, 8, "row %zu: the epoch went to %u", i,
				     (unsigned int)(now >> 32));
			cr_assert_eq(r[0].won + r[1].won, (unsigned int)round + 1, "row %zu: %u and %u", i,
				     r[0].won, r[1].won);
		}
		for (int k = 0; k < 2; k++) {
			pthread_join(thread[k], NULL);
			owner_unmap(r[k].o);
		}
		pthread_barrier_destroy(&gate);
	}
	close(fd);
}
