/* stamp.c: runs a command and notes when, for bench/round.sh: a shell's own clock is too coarse and
 * each of its forks costs milliseconds under emulation.
 *
 *   stamp FILE [--gone PID] -- COMMAND...
 *
 * FILE gets "start NS", "end NS" and, with --gone, "gone NS": CLOCK_MONOTONIC just before the command
 * is started, after it ended, and when process PID (which ran before) no longer does.  The first
 * line is there from the start.  Exit: the command's status, 1 if it could not be run.
 */
#include "vmm/base.h"

#include <err.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { GONE_MS = 30000 };

static FILE *out;

static void note(const char *what)
{
	fprintf(out, "%s %llu\n", what, (unsigned long long)clock_ns());
	fflush(out);
}

int main(int argc, char **argv)
{
	struct pollfd gone = {.fd = -1, .events = POLLIN};
	int status;
	char **command;
	pid_t child;

	if (argc > 4 && !strcmp(argv[2], "--gone"))
		gone.fd = (int)syscall(SYS_pidfd_open, atoi(argv[3]), 0);
	command = argv + (gone.fd < 0 ? 2 : 4);
	if (argc < 4 || strcmp(*command++, "--") || !*command)
		errx(2, "usage: stamp FILE [--gone PID] -- COMMAND...");
	out = fopen(argv[1], "we");
	if (!out)
		err(1, "%s", argv[1]);
	note("start");
	child = vfork();
	if (!child) {
		execvp(*command, command);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child)
		err(1, "%s", *command);
	note("end");
	if (gone.fd >= 0 && !status) {
		if (poll(&gone, 1, GONE_MS) != 1)
			errx(1, "process %s did not end", argv[3]);
		note("gone");
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
