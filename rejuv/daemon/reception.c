/* reception.c: `vmbeam receive`, a process, begun again if it ends: daemon.h.  It outlives the daemon: a VM may be on its way.  It holds a lock
 * that says who it is and how it was called; so one that an earlier daemon has begun goes on, or, if that is not what is configured now,
 * is told to end. */
#include "rejuv/daemon/daemon.h"

#include "rejuv/cli.h"
#include "vmm/client.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { TEXT = 64 * 1024 };

struct reception {
	struct daemon *d;
	struct child *child;
	struct backoff again;
	char *args; /* it runs with; NULL: it does not */
	bool said;
};

struct reception *reception_create(struct daemon *d)
{
	struct reception *r = xcalloc(1, sizeof(*r));

	r->d = d;
	return r;
}

void reception_destroy(struct reception *r)
{
	if (!r)
		return;
	if (r->child)
		child_forget(r->child);
	free(r->args);
	free(r);
}

/* All that is configured of it: another text, another process. */
static char *wanted_args(const struct config *c)
{
	char *text = xasprintf(" --listen %s --tls %s", c->receive, c->tls);

	for (size_t i = 0; i < c->nallowed; i++) {
		char *more = xasprintf("%s --allow %s", text, c->allowed[i]);

		free(text);
		text = more;
	}
	return text;
}

static char *lock_path(void)
{
	return xasprintf("%s/.receive.lock", runtime_dir());
}

/* Is there one of an earlier daemon?  If it is not what is wanted it is told to end. */
static bool is_another_there(const char *wanted)
{
	char *path = lock_path(), *text, *args;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW), pid;
	bool there = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;

	close_fd(&fd);
	if (there) {
		text = xcalloc(1, TEXT);
		read_text(path, text, TEXT);
		pid = (int)strtol(text, &args, 10);
		if ((!wanted || strcmp(wanted, args) != 0) && pid > 1 && process_holds(pid, path))
			kill(pid, SIGTERM);
		free(text);
	}
	free(path);
	return there;
}

static void ended(void *ctx, int status, bool timed_out)
{
	struct reception *r = ctx;

	(void)timed_out;
	r->child = NULL;
	backoff_ended(&r->again);
	if (!r->said)
		event(r->d, NULL, "receive", "'vmbeam receive%s' has ended (status %d), and is tried again", r->args, status);
	r->said = true;
}

static void begin(struct reception *r)
{
	const struct config *c = r->d->config;
	char *argv[8 + 2 * CONFIG_WINDOWS];
	char *path = lock_path();
	struct child_options o = {.argv = argv, .in = -1, .out = -1, .err = STDERR_FILENO, .ended = ended, .ctx = r};
	struct error e;
	int n = 0;

	argv[n++] = (char *)(uintptr_t) "vmbeam";
	argv[n++] = (char *)(uintptr_t) "receive";
	argv[n++] = (char *)(uintptr_t) "--listen";
	argv[n++] = c->receive;
	argv[n++] = (char *)(uintptr_t) "--tls";
	argv[n++] = c->tls;
	for (size_t i = 0; i < c->nallowed; i++) {
		argv[n++] = (char *)(uintptr_t) "--allow";
		argv[n++] = c->allowed[i];
	}
	argv[n] = NULL;
	free(r->args);
	r->args = wanted_args(c);
	backoff_begin(&r->again);
	o.keep = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (o.keep < 0 || flock(o.keep, LOCK_EX | LOCK_NB))
		error_set_errno(&e, "%s", path);
	else
		r->child = child_start(r->d->children, &o, &e);
	if (!r->child) {
		backoff_ended(&r->again);
		event(r->d, NULL, "receive", "%s", e.text);
	} else if (ftruncate(o.keep, 0) || dprintf(o.keep, "%d%s", (int)child_pid(r->child), r->args) < 0) {
		log_line("%s: %s", path, strerror(errno));
	}
	close_fd(&o.keep);
	free(path);
}

void reception_tick(struct reception *r)
{
	char *wanted = r->d->config->receive ? wanted_args(r->d->config) : NULL;

	if (r->child && (!wanted || strcmp(wanted, r->args))) {
		kill(child_pid(r->child), SIGTERM);
		r->said = false;
	} else if (!r->child && !is_another_there(wanted) && wanted && backoff_is_over(&r->again)) {
		begin(r);
	}
	free(wanted);
}
