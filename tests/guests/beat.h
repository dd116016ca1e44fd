/* beat.h: what the parts of the guest "beat" share.  See beat.c for what it is and how to start it.
 *
 * Threads: main() parses the options, starts the workers (memory, disk, net) and then becomes the
 * ticker.  Workers only write their own counters, with relaxed atomics; the ticker only reads them.
 */
#ifndef BEAT_H
#define BEAT_H

#include "vmm/base.h"

#include <stdatomic.h>

#define PAGE_BYTES  4096u
#define MAX_REPORTS 20 /* mismatches of one kind that get a line of their own */

/* The value of beat.NAME on the kernel command line, or `otherwise`. */
const char *opt_text(const char *name, const char *otherwise);
/* The same as a number; a suffix K, M or G is understood. */
uint64_t opt_number(const char *name, uint64_t otherwise);
uint64_t text_number(const char *text);

/* One whole line (without '\n') to the console by one write(2), so that lines never mix. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Says why and powers off: only for start-up. */
void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
/* Loads /modules/NAME.ko for each name of the list (NULL-terminated), unless it is loaded. */
void load_modules(const char *const *names);
void load_virtio(void); /* virtio over PCI */
/* A detached thread. */
void start_thread(void *(*fn)(void *), void *arg);

/* beat_clock.c: clocks that go back, and gaps. */
struct gaps {
	uint64_t quiet, printing; /* ns: while no tick line was being printed, and while one was */
};

struct gap_watch {
	_Alignas(64) _Atomic uint64_t longest[2]; /* TSC cycles since last taken, [printing] */
	uint64_t last;                            /* TSC at the last look; owner only */
	unsigned last_prints;
};

void clock_start(void);
uint64_t clock_real(void); /* CLOCK_REALTIME in ns; clock_ns() is CLOCK_MONOTONIC */
/* Reads the TSC, notes the gap since the last look and whether it went back on this CPU. */
void gap_look(struct gap_watch *g);
/* Forgets the last look: the time until the next one was spent waiting on purpose. */
void gap_restart(struct gap_watch *g);
/* Adds a gap measured otherwise, in ns. */
void gap_add_ns(struct gap_watch *g, uint64_t ns);
/* Raises *longest to the longest gaps since the last call (ticker only). */
void gap_take(struct gap_watch *g, struct gaps *longest);
/* The ticker calls it before and after it prints a line. */
void gap_printing(void);
/* Checks CLOCK_MONOTONIC, CLOCK_REALTIME's offset to it and the TSC against what any CPU saw. */
void clock_check(void);
uint64_t clock_backward_steps(void);

/* beat_mem.c: the memory oracle. */
struct mem_stats {
	uint64_t passes;  /* whole passes that every thread has made */
	uint64_t written; /* bytes of pages stepped */
	uint64_t bad;     /* mismatches */
	struct gaps gaps; /* longest of any thread since the last call */
};

void mem_start(unsigned cpus);
void mem_stats(struct mem_stats *s);

/* beat_disk.c and beat_net.c, if beat.disk and beat.net ask for them; else there are no stats. */
void disk_start(void);
bool disk_stats(uint64_t *written, uint64_t *bad);
void net_start(void);
bool net_stats(uint64_t *received, uint64_t *sent, uint64_t *bad);

/* beat_jobs.c: does what the console asks for, and never returns. */
void jobs_run(void) __attribute__((noreturn));

/* What word number `word` of the thing `id` holds after pass `stamp`. */
static inline uint64_t pattern(uint64_t stamp, uint64_t id, unsigned word)
{
	return (stamp * 0x9e3779b97f4a7c15ull ^ id * 0xc2b2ae3d27d4eb4full) +
	       word * 0x165667b19e3779f9ull;
}

#endif
