/* beat_jobs.c: jobs of a known amount of work, for measuring how fast a guest is: with beat.jobs=1 beat does
 * nothing by itself but what the console asks for, a name a line, and answers "job NAME ns=N".
 *
 *   cpu     arithmetic in registers
 *   mem     reads that depend on each other, all over the memory (beat.mem)
 *   touch   one write to each 4 KiB of it
 *   exit    CPUID: an exit to KVM
 *   io      reads the serial port's line status: an exit to the VMM
 */
#include "tests/guests/beat.h"

#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

enum { CPU_STEPS = 20000000, MEM_STEPS = 400000, EXITS = 2000, IOS = 300, LINE_STATUS = 0x3f8 + 5 };

static uint64_t *memory;
static size_t pages;

static uint64_t step(uint64_t x)
{
	x ^= x << 13;
	x ^= x >> 7;
	return x ^ x << 17;
}

static uint64_t job_cpu(void)
{
	uint64_t x = 88172645463325252ull;

	for (unsigned i = 0; i < CPU_STEPS; i++)
		x = step(x);
	return x;
}

/* Each page's second word is random; where it goes on depends on what it has read. */
static uint64_t job_mem(void)
{
	uint64_t x = 88172645463325252ull;

	for (unsigned i = 0; i < MEM_STEPS; i++)
		x = step(x + memory[x % pages * (PAGE_BYTES / 8) + 1]);
	return x;
}

static uint64_t job_touch(void)
{
	for (size_t i = 0; i < pages; i++)
		((volatile uint64_t *)memory)[i * (PAGE_BYTES / 8)]++;
	return 0;
}

static uint64_t job_exit(void)
{
	unsigned a = 0, b, c, d;

	for (unsigned i = 0; i < EXITS; i++)
		__cpuid(0, a, b, c, d);
	return a;
}

static uint64_t job_io(void)
{
	unsigned seen = 0;

	for (unsigned i = 0; i < IOS; i++)
		seen += inb(LINE_STATUS);
	return seen;
}

static const struct {
	const char *name;
	uint64_t (*run)(void);
} jobs[] = {
	{"cpu", job_cpu}, {"mem", job_mem}, {"touch", job_touch}, {"exit", job_exit}, {"io", job_io},
};

static void run(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(jobs); i++)
		if (!strcmp(name, jobs[i].name)) {
			uint64_t start = clock_ns();

			__asm__ volatile("" : : "r"(jobs[i].run())); /* it is used */
			say("job %s ns=%llu", name, (unsigned long long)(clock_ns() - start));
			return;
		}
	say("job %s is not known", name);
}

void jobs_run(void)
{
	struct termios t;
	char line[32];

	pages = opt_number("mem", 64 * MIB) / PAGE_BYTES;
	memory = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || iopl(3))
		die("jobs: no memory or no ports");
	for (size_t i = 0; i < pages; i++)
		memory[i * (PAGE_BYTES / 8) + 1] = step(i + 1);
	if (!tcgetattr(STDIN_FILENO, &t)) {
		t.c_lflag &= ~(tcflag_t)ECHO;
		tcsetattr(STDIN_FILENO, TCSANOW, &t);
	}
	say("jobs ready");
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\r\n")] = 0;
		run(line);
	}
	die("jobs: the console has closed");
}
