/* place.c: puts a new vmm process where the one stands that it takes over from: cgroup (limits, accounts,
 * and whose end would end it), CPUs, resource limits, OOM score.  What the driver may not set stays as the
 * driver has it. */
#include "zerocopy/place.h"

#include "vmm/base.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const int limits[] = {RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_CORE, RLIMIT_FSIZE,
			     RLIMIT_AS};

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, text, strlen(text)) < 0)
		log_line("%s: %m", path);
	close_fd(&fd);
}

/* Of a pidfd; 0 if the process has ended. */
static pid_t pid_of(int pidfd)
{
	char path[64], text[512], *at;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	read_text(path, text, sizeof(text));
	at = strstr(text, "\nPid:");
	return at ? MAX(atoi(at + 5), 0) : 0;
}

/* Version 2 has one line that begins with "0::". */
static void join_cgroup(pid_t from, pid_t to)
{
	char path[64], theirs[4096], ours[4096], *cgroup, pid[16];

	snprintf(path, sizeof(path), "/proc/%d/cgroup", from);
	read_text(path, theirs, sizeof(theirs));
	read_text("/proc/self/cgroup", ours, sizeof(ours));
	cgroup = strstr(theirs, "0::/");
	if (!cgroup || !strcmp(theirs, ours))
		return;
	cgroup[strcspn(cgroup, "\n")] = 0;
	snprintf(pid, sizeof(pid), "%d", to);
	cgroup = xasprintf("/sys/fs/cgroup%s/cgroup.procs", cgroup + 3);
	write_file(cgroup, pid);
	free(cgroup);
}

void place_like(int source_pidfd, pid_t to)
{
	pid_t from = pid_of(source_pidfd);
	char path[64], text[32];
	struct rlimit rlimit;
	cpu_set_t cpus;

	if (!from)
		return;
	join_cgroup(from, to);
	if (!sched_getaffinity(from, sizeof(cpus), &cpus))
		sched_setaffinity(to, sizeof(cpus), &cpus);
	for (size_t i = 0; i < ARRAY_LEN(limits); i++)
		if (!prlimit(from, (enum __rlimit_resource)limits[i], NULL, &rlimit))
			prlimit(to, (enum __rlimit_resource)limits[i], &rlimit, NULL);
	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", from);
	read_text(path, text, sizeof(text));
	snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", to);
	if (text[0])
		write_file(path, text);
}
