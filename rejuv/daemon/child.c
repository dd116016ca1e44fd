/* child.c: programs that vmbeamd has run: child.h. */
#include "rejuv/daemon/child.h"

#include "rejuv/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
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

/* By posix_spawn(): a fork() would copy the page tables first.  -1 with errno. */
static pid_t spawn(const struct child_options *o, const char *program, int null)
{
	const int files[] = {o->in < 0 ? null : o->in, o->out < 0 ? null : o->out, o->err < 0 ? null : o->err, o->keep};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, usual;
	pid_t pid = -1;
	int n = o->keep < 0 ? 3 : 4, r = 0;

	sigemptyset(&none);
	sigemptyset(&usual);
	if (!o->writes_on)
		sigaddset(&usual, SIGPIPE);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &usual);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawn_file_actions_init(&actions);
	/* (All of them are above 3: the daemon has its own standard files, and its epoll.) */
	for (int i = 0; i < n && !r; i++)
		r = posix_spawn_file_actions_adddup2(&actions, files[i], i);
	if (!r)
		r = posix_spawn_file_actions_addclosefrom_np(&actions, n);
	if (!r)
		r = posix_spawn(&pid, program, &actions, &attr, o->argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	errno = r;
	return r ? -1 : pid;
}

struct child *child_start(struct children *c, const struct child_options *o, struct error *e)
{
	char *program = cli_program(o->argv[0]);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct child *one = NULL;
	pid_t pid = null < 0 ? -1 : spawn(o, program, null);

	if (pid < 0)
		error_set_errno(e, "%s", program);
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
