/* unit.h: what every unit test is made of.
 *
 * UNIT(suite, name) { ... } is a criterion test that also fails if it leaves memory or a descriptor
 * behind.  Tests need no KVM: fake_kvm.c answers in its place.
 */
#ifndef TESTS_UNIT_H
#define TESTS_UNIT_H

#include "tests/unit/fake_kvm.h"
#include "tests/unit/guest.h"

#include <criterion/criterion.h>

#define UNIT_SECONDS 40

#define UNIT(suite, name)                                                                          \
	static void suite##_##name(void);                                                          \
	Test(suite, name, .timeout = UNIT_SECONDS)                                                 \
	{                                                                                          \
		size_t before = count_fds();                                                       \
		suite##_##name();                                                                  \
		cr_assert_eq(count_fds(), before, "%zu descriptors before, %zu after", before,     \
			     count_fds());                                                         \
		cr_assert_not(leak_check(), "memory was leaked");                                  \
	}                                                                                          \
	static void suite##_##name(void)

int __lsan_do_recoverable_leak_check(void);

static inline int leak_check(void)
{
#if defined(__SANITIZE_THREAD__)
	return 0; /* it does not look for leaks */
#else
	return __lsan_do_recoverable_leak_check();
#endif
}

/* Open descriptors of this process. */
size_t count_fds(void);

/* A fixed sequence of numbers: the same in every run. */
static inline uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* The call failed and said why. */
#define assert_error(call, e, part)                                                                \
	do {                                                                                       \
		(e)->text[0] = 0;                                                                  \
		cr_assert_lt((int)(call), 0, "%s was accepted", #call);                            \
		cr_assert(strstr((e)->text, (part)), "'%s' does not say '%s'", (e)->text, (part)); \
	} while (0)

#endif
