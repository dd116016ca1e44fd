/* reception.c: `vmbeam receive`, a process, begun again if it ends: daemon.h.  It outlives the daemon: a VM may be on its way.  One that an
 * earlier daemon has begun is left to go on; until it ends a new one finds its address taken, and is tried again. */
#include "rejuv/daemon/daemon.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
	struct child_options o = {.argv = argv, .in = -1, .out = -1, .err = STDERR_FILENO, .keep = -1, .ended = ended, .ctx = r};
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
	r->child = child_start(r->d->children, &o, &e);
	if (!r->child) {
		backoff_ended(&r->again);
		event(r->d, NULL, "receive", "%s", e.text);
	}
}

void reception_tick(struct reception *r)
{
	char *wanted = r->d->config->receive ? wanted_args(r->d->config) : NULL;

	if (r->child && (!wanted || strcmp(wanted, r->args))) {
		kill(child_pid(r->child), SIGTERM);
		r->said = false;
	} else if (!r->child && wanted && backoff_is_over(&r->again)) {
		begin(r);
	}
	free(wanted);
}
