/* stamp.c: runs a command and notes when, and what CPU time was used meanwhile: a shell's own clock is too coarse and each of its
 * forks costs milliseconds under emulation.
 *
 *   stamp FILE [--gone PID] [--cgroup DIR]... [--base MS] [--every MS] -- COMMAND...
 *
 * FILE gets lines "start NS", "end NS" and, with --gone, "gone NS": CLOCK_MONOTONIC just before the command is started, after it
 * ended, and when process PID (which ran before) no longer does.  The first line is there from the start.
 * --cgroup   the command runs in the first of these (cgroup v2); "cpu NS" is what all of them used from start to end (or gone), and
 *            "base NS" what they used a second in the MS before, "at NS US US..." what each had used at that time, every MS
 *            (cpu.stat of Documentation/admin-guide/cgroup-v2.rst: without what the kernel's own threads do for them);
 *            "misses N" how often the last-level cache missed for them, where the machine has counters for that (perf_event_open(2))
 * Exit: the command's status, 1 if it could not be run.
 */
#include "vmm/base.h"

#include <err.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GONE_MS = 30000, CGROUPS = 8, COUNTERS = 4096 };

static struct {
	FILE *out;
	int stat[CGROUPS], procs; /* cpu.stat of each, cgroup.procs of the first */
	size_t n;
	int counter[COUNTERS]; /* of each cgroup on each CPU */
	size_t counters;
	bool no_counters; /* one of them could not be opened: none is read */
} m;

static void note(const char *what, uint64_t ns)
{
	fprintf(m.out, "%s %llu\n", what, (unsigned long long)ns);
	fflush(m.out);
}

static uint64_t used_us(size_t i)
{
	char text[256] = "";

	if (pread(m.stat[i], text, sizeof(text) - 1, 0) <= 0)
		err(1, "cpu.stat");
	return strtoull(text + strlen("usage_usec "), NULL, 10);
}

static uint64_t used_ns(void)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < m.n; i++)
		sum += used_us(i);
	return sum * 1000;
}

static void note_each(void)
{
	fprintf(m.out, "at %llu", (unsigned long long)clock_ns());
	for (size_t i = 0; i < m.n; i++)
		fprintf(m.out, " %llu", (unsigned long long)used_us(i));
	fputc('\n', m.out);
}

static int open_in(const char *dir, const char *file, int flags)
{
	char *path = xasprintf("%s/%s", dir, file);
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0)
		err(1, "%s", path);
	free(path);
	return fd;
}

static void count_misses(const char *dir)
{
	struct perf_event_attr attr = {.type = PERF_TYPE_HARDWARE, .size = sizeof(attr), .config = PERF_COUNT_HW_CACHE_MISSES};
	int cgroup = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	for (int cpu = 0; cpu < cpus && !m.no_counters; cpu++) {
		int fd = m.counters == COUNTERS ? -1 : (int)syscall(SYS_perf_event_open, &attr, cgroup, cpu, -1, PERF_FLAG_PID_CGROUP | PERF_FLAG_FD_CLOEXEC);

		if (fd < 0)
			m.no_counters = true;
		else
			m.counter[m.counters++] = fd;
	}
	close(cgroup);
}

static uint64_t missed(void)
{
	uint64_t sum = 0, one;

	for (size_t i = 0; i < m.counters; i++)
		sum += read(m.counter[i], &one, sizeof(one)) == sizeof(one) ? one : 0;
	return sum;
}

static void add_cgroup(const char *dir)
{
	if (m.n == CGROUPS)
		errx(2, "at most %d cgroups", CGROUPS);
	if (!m.n)
		m.procs = open_in(dir, "cgroup.procs", O_WRONLY);
	m.stat[m.n++] = open_in(dir, "cpu.stat", O_RDONLY);
	count_misses(dir);
}

/* Until it ends; its status. */
static int watch(pid_t child, int every)
{
	struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, child, 0), .events = POLLIN};
	int status;

	while (every && poll(&p, 1, every) == 0)
		note_each();
	if (waitpid(child, &status, 0) != child)
		err(1, "waitpid");
	return status;
}

static pid_t start(char **command)
{
	pid_t child = fork();

	if (!child) {
		if (m.n && write(m.procs, "0", 1) != 1)
			_exit(126);
		execvp(*command, command);
		_exit(127);
	}
	if (child < 0)
		err(1, "%s", *command);
	return child;
}

int main(int argc, char **argv)
{
	struct pollfd gone = {.fd = -1, .events = POLLIN};
	int status, base = 0, every = 0, i;
	uint64_t before, misses;
	pid_t child;

	for (i = 2; i + 1 < argc && strcmp(argv[i], "--") != 0; i += 2)
		if (!strcmp(argv[i], "--gone"))
			gone.fd = (int)syscall(SYS_pidfd_open, atoi(argv[i + 1]), 0);
		else if (!strcmp(argv[i], "--cgroup"))
			add_cgroup(argv[i + 1]);
		else if (!strcmp(argv[i], "--base"))
			base = atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--every"))
			every = atoi(argv[i + 1]);
		else
			break;
	if (i + 1 >= argc || strcmp(argv[i], "--") != 0)
		errx(2, "usage: stamp FILE [--gone PID] [--cgroup DIR]... [--base MS] [--every MS] -- COMMAND...");
	m.out = fopen(argv[1], "we");
	if (!m.out)
		err(1, "%s", argv[1]);
	before = used_ns();
	if (base) {
		poll(NULL, 0, base);
		note("base", (used_ns() - before) * 1000 / (uint64_t)base);
	}
	if (every)
		note_each();
	before = used_ns();
	misses = missed();
	note("start", clock_ns());
	child = start(argv + i + 1);
	status = watch(child, every);
	note("end", clock_ns());
	if (gone.fd >= 0 && !status) {
		if (poll(&gone, 1, GONE_MS) != 1)
			errx(1, "the process that was to be gone is still there");
		note("gone", clock_ns());
	}
	if (m.n)
		note("cpu", used_ns() - before);
	if (m.counters && !m.no_counters)
		note("misses", missed() - misses);
	if (every)
		note_each();
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
