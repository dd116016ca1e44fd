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
 * guest sees it, not as the VMM believes it to be.  Preemption, interrupts and, under emulation,
 * the machine's own scheduling are in it too.  They are there in every tick, so the checker takes
 * the median of all ticks as the normal gap and subtracts it.  Printing the tick line is a matter
 * of its own: it costs an exit per character, 34 ms a line in a nested guest under emulation, and
 * would hide any shorter pause.  So gaps that touch the printing of a line are kept apart from the
 * others, and each kind is judged by its own median.
 *
 * A worker that sleeps to keep its rate counts only how much too late it woke; a pause within its
 * sleep is not seen, as a real program would not see it.  So measure gaps with beat.rate=0.
 *
 * Cycles become ns by the ratio of the TSC to CLOCK_MONOTONIC since the start.
 */
#include "tests/guests/beat.h"

#include <time.h>
#include <x86intrin.h>

static _Atomic uint64_t top_mono, top_tsc, backward;
static _Atomic unsigned prints; /* odd: the ticker's line is on its way out */
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

static void went_back(const char *clock, uint64_t by)
{
	if (atomic_fetch_add(&backward, 1) < MAX_REPORTS / 4)
		say("BEAT CLOCK %s went back by %llu", clock, (unsigned long long)by);
}

static void check(const char *clock, _Atomic uint64_t *top, uint64_t seen, uint64_t now)
{
	if (now < seen)
		went_back(clock, seen - now);
	else
		raise_to(top, now);
}

void clock_check(void)
{
	uint64_t mono = atomic_load(&top_mono), now = clock_ns();
	uint64_t tsc;
	int64_t offset;

	check("monotonic", &top_mono, mono, now);
	tsc = atomic_load(&top_tsc);
	check("TSC", &top_tsc, tsc, read_tsc());
	/* Read later than `now`, however much: the guest may have stood still between the two. */
	offset = (int64_t)(clock_real() - now);
	if (offset < first_offset)
		went_back("realtime", (uint64_t)(first_offset - offset));
}

uint64_t clock_backward_steps(void)
{
	return atomic_load(&backward);
}

void clock_start(void)
{
	uint64_t real = clock_real();

	first_mono = clock_ns();
	first_tsc = read_tsc();
	first_offset = (int64_t)(real - first_mono); /* not more than it is */
}

static double ns_per_cycle(void)
{
	uint64_t tsc = read_tsc() - first_tsc;

	return tsc ? (double)(clock_ns() - first_mono) / (double)tsc : 0;
}

void gap_printing(void)
{
	atomic_fetch_add(&prints, 1);
}

/* A thread may lose its CPU to the ticker in the middle of a look: so `prints` is read before the
 * TSC where a gap begins and after it where one ends.
 */
void gap_restart(struct gap_watch *g)
{
	g->last_prints = atomic_load(&prints);
	g->last = read_tsc();
}

static void add(struct gap_watch *g, uint64_t cycles)
{
	unsigned now = atomic_load(&prints);
	_Atomic uint64_t *longest = &g->longest[now % 2 || now != g->last_prints];

	if (cycles > atomic_load_explicit(longest, memory_order_relaxed))
		raise_to(longest, cycles);
}

void gap_add_ns(struct gap_watch *g, uint64_t ns)
{
	add(g, (uint64_t)((double)ns / ns_per_cycle()));
}

void gap_look(struct gap_watch *g)
{
	unsigned before = atomic_load(&prints);
	uint64_t now = read_tsc();

	if (now < g->last)
		went_back("CPU's TSC", g->last - now);
	else
		add(g, now - g->last);
	g->last = now;
	g->last_prints = before;
}

static void take(_Atomic uint64_t *cycles, uint64_t *longest)
{
	uint64_t ns = (uint64_t)((double)atomic_exchange(cycles, 0) * ns_per_cycle());

	*longest = MAX(*longest, ns);
}

void gap_take(struct gap_watch *g, struct gaps *longest)
{
	take(&g->longest[false], &longest->quiet);
	take(&g->longest[true], &longest->printing);
}
