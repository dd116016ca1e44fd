/* beat_mem.c: the memory oracle.  Each thread owns a contiguous slice of one buffer and steps the
 * stamp of its pages by one, page after page, pass after pass, for ever.  So at any moment, walking
 * a slice, the stamp may step down once, by one: whoever reads the memory from outside (a dump, the
 * memfd) can check that without asking the guest.  Before a page is written it is verified: a lost
 * (old stamp), stale, swapped (wrong id) or torn (words of different stamps) page shows at once.
 *
 * A page, as 64-bit words:
 *   0                  PAGE_MAGIC
 *   1                  id: thread << 40 | page within the slice
 *   2                  stamp: the pass that wrote it, 0 from the first fill
 *   128 256 384 511    pattern(stamp, id, word): one in each quarter
 *   all others         the same of the last pass that wrote the page in full
 * Words named one by one are checked and written in every pass.  The others only in one pass of
 * beat.full (default 16), in which (pass + page) % full is 0: the check is for torn pages, and a
 * full one costs 50 times as much under emulation.
 */
#include "tests/guests/beat.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE_WORDS   (PAGE_BYTES / 8)
#define PAGE_MAGIC   0x7461654274616542ull /* "BeatBeat" */
#define HUGE_BYTES   (2 * MIB)
#define CHECK_CLOCKS 256       /* pages between two checks of the shared clocks */
#define MAX_BEHIND   100000000 /* ns a paced thread tries to catch up */

enum { W_MAGIC, W_ID, W_STAMP, W_FIRST_BODY };
static const unsigned every_pass[] = {128, 256, 384, 511};

struct worker {
	struct gap_watch gap;
	unsigned index;
	uint64_t *slice;
	uint64_t pages;
	_Atomic uint64_t passes, stepped;
};

static struct worker *workers;
static unsigned thread_count;
static uint64_t full_share;
static uint64_t rate; /* pages per second and thread; 0 is no limit */
static bool idle;
static _Atomic uint64_t mismatches;
static pthread_barrier_t filled;

static uint64_t page_id(const struct worker *me, uint64_t page)
{
	return (uint64_t)me->index << 40 | page;
}

/* The last pass up to `pass` that wrote all of the page (0 is the first fill). */
static uint64_t last_full(uint64_t pass, uint64_t page)
{
	uint64_t ago = (pass + page) % full_share;

	return pass > ago ? pass - ago : 0;
}

/* All of the page as pass `stamp` leaves it. */
static void write_all_words(const struct worker *me, uint64_t page, uint64_t stamp)
{
	uint64_t *w = me->slice + page * PAGE_WORDS;
	uint64_t id = page_id(me, page), body = last_full(stamp, page);

	w[W_MAGIC] = PAGE_MAGIC;
	w[W_ID] = id;
	w[W_STAMP] = stamp;
	for (unsigned i = W_FIRST_BODY; i < PAGE_WORDS; i++)
		w[i] = pattern(body, id, i);
	for (unsigned n = 0; n < ARRAY_LEN(every_pass); n++)
		w[every_pass[n]] = pattern(stamp, id, every_pass[n]);
}

/* `word` is the first that was seen to be wrong; `want` what it should be. */
static void report(const struct worker *me, uint64_t page, unsigned word, uint64_t want)
{
	const uint64_t *w = me->slice + page * PAGE_WORDS;

	if (atomic_fetch_add(&mismatches, 1) < MAX_REPORTS)
		say("BEAT MISMATCH thread=%u page=%llu want=%llx got=%llx word=%u pass=%llu "
		    "stamp=%llx id=%llx",
		    me->index, (unsigned long long)page, (unsigned long long)want,
		    (unsigned long long)w[word], word, (unsigned long long)me->passes + 1,
		    (unsigned long long)w[W_STAMP], (unsigned long long)w[W_ID]);
}

/* The page as pass `pass` must find it; false after reporting the first word that differs. */
static bool verify(const struct worker *me, uint64_t page, uint64_t pass, bool full)
{
	const uint64_t *w = me->slice + page * PAGE_WORDS;
	const uint64_t id = page_id(me, page), head[] = {PAGE_MAGIC, id, pass - 1};
	uint64_t body = last_full(pass - 1, page);
	unsigned next = 0;

	for (unsigned i = 0; i < W_FIRST_BODY; i++) {
		if (w[i] != head[i]) {
			report(me, page, i, head[i]);
			return false;
		}
	}
	for (unsigned n = 0; n < ARRAY_LEN(every_pass); n++) {
		if (w[every_pass[n]] != pattern(pass - 1, id, every_pass[n])) {
			report(me, page, every_pass[n], pattern(pass - 1, id, every_pass[n]));
			return false;
		}
	}
	for (unsigned i = W_FIRST_BODY; full && i < PAGE_WORDS; i++) {
		if (i == every_pass[next]) {
			next++;
		} else if (w[i] != pattern(body, id, i)) {
			report(me, page, i, pattern(body, id, i));
			return false;
		}
	}
	return true;
}

static void step(struct worker *me, uint64_t page, uint64_t pass)
{
	uint64_t *w = me->slice + page * PAGE_WORDS;
	uint64_t id = page_id(me, page);
	bool full = last_full(pass, page) == pass;

	/* A bad page is written anew, so that it is counted once, not for ever. */
	if (!verify(me, page, pass, full) || full) {
		write_all_words(me, page, pass);
		return;
	}
	w[W_STAMP] = pass;
	for (unsigned n = 0; n < ARRAY_LEN(every_pass); n++)
		w[every_pass[n]] = pattern(pass, id, every_pass[n]);
}

/* Sleeps when more than 1 ms ahead of the rate; `*from` is when page number 0 was due. */
static void keep_rate(struct worker *me, uint64_t *from, uint64_t *count)
{
	uint64_t due = *from + ++*count * 1000000000u / rate;
	uint64_t now = clock_ns();
	struct timespec until = {.tv_sec = (time_t)(due / 1000000000u),
				 .tv_nsec = (long)(due % 1000000000u)};

	if (now > due + MAX_BEHIND) {
		*from = now;
		*count = 0;
	} else if (due > now + 1000000) {
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		gap_add_ns(&me->gap, clock_ns() - due);
		gap_restart(&me->gap);
	}
}

static void *work(void *arg)
{
	struct worker *me = arg;
	uint64_t from, count = 0;

	for (uint64_t page = 0; page < me->pages; page++)
		write_all_words(me, page, 0);
	pthread_barrier_wait(&filled);
	if (idle)
		return NULL;
	from = clock_ns();
	gap_restart(&me->gap);
	for (uint64_t pass = 1;; pass++) {
		for (uint64_t page = 0; page < me->pages; page++) {
			step(me, page, pass);
			atomic_store_explicit(&me->stepped, me->stepped + 1, memory_order_relaxed);
			gap_look(&me->gap);
			if (page % CHECK_CLOCKS == 0)
				clock_check();
			if (rate)
				keep_rate(me, &from, &count);
		}
		atomic_store_explicit(&me->passes, pass, memory_order_relaxed);
	}
}

/* A line of /proc/meminfo in bytes. */
static uint64_t meminfo(const char *name)
{
	char line[128];
	unsigned long long kib = 0;
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, name, strlen(name)))
			sscanf(line + strlen(name), ": %llu", &kib);
	}
	if (f)
		fclose(f);
	return kib << 10;
}

static uint64_t bytes_to_use(void)
{
	const char *text = opt_text("mem", "25%");

	if (strchr(text, '%'))
		return meminfo("MemFree") / 100 * strtoul(text, NULL, 10);
	return text_number(text);
}

static void start_worker(struct worker *me, unsigned cpu)
{
	pthread_attr_t attr;
	pthread_t thread;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	pthread_attr_init(&attr);
	pthread_attr_setaffinity_np(&attr, sizeof(set), &set);
	errno = pthread_create(&thread, &attr, work, me);
	if (errno)
		die("memory thread %u: %s", me->index, strerror(errno));
}

/* Memory whose 2 MiB pages alternate, as the kernel gives them out, with others that are freed again. */
static void scatter(char *memory, uint64_t size)
{
	char *pad = mmap(NULL, size + HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pad == MAP_FAILED)
		die("beat.holes: %s", strerror(errno));
	madvise(pad, size + HUGE_BYTES, MADV_HUGEPAGE);
	for (uint64_t at = 0; at < size; at += HUGE_BYTES) {
		memory[at] = 1;
		pad[HUGE_BYTES - (uintptr_t)pad % HUGE_BYTES + at] = 1;
	}
	munmap(pad, size + HUGE_BYTES);
}

void mem_start(unsigned cpus)
{
	const char *rate_text = opt_text("rate", "0"), *thp = opt_text("thp", NULL);
	uint64_t pages_each;
	char *memory;

	thread_count = (unsigned)opt_number("threads", cpus);
	full_share = opt_number("full", 16);
	idle = !strcmp(rate_text, "idle");
	rate = idle ? 0 : text_number(rate_text) / PAGE_BYTES / thread_count;
	pages_each = bytes_to_use() / PAGE_BYTES / thread_count;
	if (!thread_count || !full_share || !pages_each)
		die("beat.mem, beat.threads and beat.full must leave each thread a page");

	memory = mmap(NULL, thread_count * pages_each * PAGE_BYTES + HUGE_BYTES,
		      PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("beat.mem: %s", strerror(errno));
	memory += HUGE_BYTES - (uintptr_t)memory % HUGE_BYTES;
	if (thp)
		madvise(memory, thread_count * pages_each * PAGE_BYTES,
			*thp == '1' ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	if (opt_number("holes", 0))
		scatter(memory, thread_count * pages_each * PAGE_BYTES);

	workers = aligned_alloc(64, thread_count * sizeof(*workers));
	memset(workers, 0, thread_count * sizeof(*workers));
	pthread_barrier_init(&filled, NULL, thread_count + 1);
	for (unsigned i = 0; i < thread_count; i++) {
		workers[i].index = i;
		workers[i].slice = (uint64_t *)(void *)(memory + i * pages_each * PAGE_BYTES);
		workers[i].pages = pages_each;
		start_worker(&workers[i], i % cpus);
	}
	pthread_barrier_wait(&filled);
	say("beat ready cpus=%u mem=%llu pages=%llu threads=%u", cpus,
	    (unsigned long long)(thread_count * pages_each * PAGE_BYTES),
	    (unsigned long long)(thread_count * pages_each), thread_count);
}

void mem_stats(struct mem_stats *s)
{
	*s = (struct mem_stats){.passes = UINT64_MAX, .bad = atomic_load(&mismatches)};
	for (unsigned i = 0; i < thread_count; i++) {
		uint64_t passes = atomic_load_explicit(&workers[i].passes, memory_order_relaxed);

		gap_take(&workers[i].gap, &s->gaps);
		s->passes = MIN(passes, s->passes);
		s->written += PAGE_BYTES *
			      atomic_load_explicit(&workers[i].stepped, memory_order_relaxed);
	}
}
