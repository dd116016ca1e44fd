/* child.c: programs that vmbeamd has run: child.h. */
#include "rejuv/daemon/child.h"

#include "rejuv/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct child {
	struct child *next;
	pid_t pid;
	uint64_t deadline;
	bool timed_out;
	void (*ended)(void *ctx, int status, bool timed_out);
	void *ctx;
};

struct children {
	struct child *first;
};

struct children *children_create(void)
{
	return xcalloc(1, sizeof(struct children));
}

void children_destroy(struct children *c)
{
	while (c && c->first) {
		struct child *one = c->first;

		c->first = one->next;
		free(one);
	}
	free(c);
}

/* What it inherits is at descriptors of no use to us: 3 is that which it keeps. */
static void become(const struct child_options *o, const char *program, int null)
{
	sigset_t none;
	int in = o->in < 0 ? null : o->in, out = o->out < 0 ? null : o->out, err = o->err < 0 ? null : o->err;

	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	/* (All of them are above 2: the daemon has its own standard files.) */
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0 || (o->keep >= 0 && o->keep != 3 && dup2(o->keep, 3) < 0))
		_exit(126);
	if (o->keep == 3)
		fcntl(3, F_SETFD, 0);
	close_range(o->keep >= 0 ? 4 : 3, ~0u, 0);
	execv(program, o->argv);
	_exit(127);
}

struct child *child_start(struct children *c, const struct child_options *o, struct error *e)
{
	char *program = cli_program(o->argv[0]);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct child *one = NULL;
	pid_t pid = -1;

	fflush(NULL);
	if (null < 0 || (pid = fork()) < 0)
		error_set_errno(e, "%s", o->argv[0]);
	if (!pid)
		become(o, program, null);
	close_fd(&null);
	free(program);
	if (pid < 0)
		return NULL;
	one = xcalloc(1, sizeof(*one));
	one->pid = pid;
	one->deadline = o->timeout > 0 ? clock_ns() + (uint64_t)(o->timeout * 1e9) : UINT64_MAX;
	one->ended = o->ended;
	one->ctx = o->ctx;
	one->next = c->first;
	c->first = one;
	return one;
}

pid_t child_pid(const struct child *c)
{
	return c->pid;
}

void child_kill(struct child *c)
{
	/* (It may not have its session yet.) */
	if (kill(-c->pid, SIGKILL))
		kill(c->pid, SIGKILL);
}

void child_forget(struct child *c)
{
	c->ended = NULL;
}

static void tell(struct children *c, struct child *one, int status)
{
	struct child **p = &c->first;

	while (*p != one)
		p = &(*p)->next;
	*p = one->next;
	if (one->ended)
		one->ended(one->ctx, status, one->timed_out);
	free(one);
}

void children_reap(struct children *c)
{
	uint64_t now = clock_ns();
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (struct child *one = c->first; one; one = one->next)
			if (one->pid == pid) {
				tell(c, one, status);
				break;
			}
	for (struct child *one = c->first; one; one = one->next)
		if (one->deadline <= now) {
			one->deadline = UINT64_MAX;
			one->timed_out = true;
			child_kill(one);
		}
}

uint64_t children_deadline(const struct children *c)
{
	uint64_t least = UINT64_MAX;

	for (const struct child *one = c->first; one; one = one->next)
		least = MIN(least, one->deadline);
	return least;
}
