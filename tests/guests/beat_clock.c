/* beat_clock.c: does a clock go back, and how long was the guest not running?  Used by all of beat.
 *
 * Going back.  Every worker, every few hundred pages, reads the highest CLOCK_MONOTONIC and the
 * highest TSC that any CPU has published, then reads the clock itself: smaller means it went back
 * (the order matters: first the shared value, then the clock).  On its own CPU it does so for the
 * TSC after each page.  CLOCK_REALTIME is watched through its offset to CLOCK_MONOTONIC: nobody
 * sets the time in this guest, so a smaller offset means that it was moved back.
 *
 * The gap.  A worker at full speed looks at the TSC after every page, some microseconds apart, so
 * an interval of milliseconds means that its CPU was not running: the pause as a program in the
 * guest sees it, not as the VMM believes it to be.  Three things are in it that are no fault of the
 * VMM's: preemption by the ticker (printing a line costs an exit per character), interrupts, and
 * under emulation the machine's own scheduling.  They are there in every tick, so the checker
 * takes the median of all ticks as the normal gap and subtracts it.  A worker that sleeps to keep
 * its rate counts only how much too late it woke; a pause within its sleep is not seen, as a real
 * program would not see it.  So measure gaps with beat.rate=0.
 *
 * Cycles become ns by the ratio of the TSC to CLOCK_MONOTONIC since the start.
 */
#include "tests/guests/beat.h"

#include <time.h>
#include <x86intrin.h>

/* An offset of CLOCK_REALTIME that shrinks by less is the two reads being apart in time. */
#define REAL_SLACK_NS 1000000000ll

static _Atomic uint64_t top_mono, top_tsc, backward;
static uint64_t first_mono, first_tsc;
static int64_t first_offset;

uint64_t clock_real(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Not before earlier loads, which the comparison with a shared maximum relies on. */
static uint64_t read_tsc(void)
{
	_mm_lfence();
	return __rdtsc();
}

static void raise_to(_Atomic uint64_t *top, uint64_t value)
{
	uint64_t seen = atomic_load_explicit(top, memory_order_relaxed);

	while (seen < value && !atomic_compare_exchange_weak(top, &seen, value))
		;
}

static void check(_Atomic uint64_t *top, uint64_t seen, uint64_t now)
{
	if (now < seen)
		atomic_fetch_add(&backward, 1);
	else
		raise_to(top, now);
}

void clock_check(void)
{
	uint64_t mono = atomic_load(&top_mono);
	uint64_t tsc;
	int64_t offset;

	check(&top_mono, mono, clock_ns());
	tsc = atomic_load(&top_tsc);
	check(&top_tsc, tsc, read_tsc());
	offset = (int64_t)(clock_real() - clock_ns());
	if (offset < first_offset - REAL_SLACK_NS)
		atomic_fetch_add(&backward, 1);
}

uint64_t clock_backward_steps(void)
{
	return atomic_load(&backward);
}

void clock_start(void)
{
	first_mono = clock_ns();
	first_tsc = read_tsc();
	first_offset = (int64_t)(clock_real() - first_mono);
}

static double ns_per_cycle(void)
{
	uint64_t tsc = read_tsc() - first_tsc;

	return tsc ? (double)(clock_ns() - first_mono) / (double)tsc : 0;
}

void gap_restart(struct gap *g)
{
	g->last = read_tsc();
}

static void gap_add(struct gap *g, uint64_t cycles)
{
	if (cycles > atomic_load_explicit(&g->recent, memory_order_relaxed))
		raise_to(&g->recent, cycles);
}

void gap_add_ns(struct gap *g, uint64_t ns)
{
	gap_add(g, (uint64_t)((double)ns / ns_per_cycle()));
}

void gap_look(struct gap *g)
{
	uint64_t now = read_tsc();

	if (now < g->last)
		atomic_fetch_add(&backward, 1);
	else
		gap_add(g, now - g->last);
	g->last = now;
}

uint64_t gap_take_ns(struct gap *g)
{
	return (uint64_t)((double)atomic_exchange(&g->recent, 0) * ns_per_cycle());
}
