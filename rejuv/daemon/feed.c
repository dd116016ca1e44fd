/* feed.c: the ageing monitor, `vmbeam monitor --record --json`: a process, begun again if it ends.  It says what it thinks of each hypervisor as
 * a line of JSON, and is told what happens here, for its history.  daemon.h. */
#include "rejuv/daemon/daemon.h"

#include "rejuv/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LINE_MOST = 256 * 1024, FRESH_S = 3600 };

struct feed {
	struct daemon *d;
	struct child *child;
	struct source from;
	int to;
	struct backoff again;
	char *line;
	size_t len;
	bool skips;	   /* the rest of a line that is too long */
	json_t *verdicts; /* by name */
};

struct feed *feed_create(struct daemon *d)
{
	struct feed *f = xcalloc(1, sizeof(*f));

	f->d = d;
	f->from.fd = f->to = -1;
	f->line = xcalloc(1, LINE_MOST);
	f->verdicts = json_object();
	return f;
}

static void hang_up(struct feed *f)
{
	if (f->from.fd >= 0)
		unwatch_source(f->d, &f->from);
	close_fd(&f->from.fd);
	close_fd(&f->to);
	f->len = 0;
}

void feed_destroy(struct feed *f)
{
	if (!f)
		return;
	if (f->child) {
		kill(child_pid(f->child), SIGTERM); /* it has something to write down */
		child_forget(f->child);
	}
	hang_up(f);
	json_decref(f->verdicts);
	free(f->line);
	free(f);
}

static void ended(void *ctx, int status, bool timed_out)
{
	struct feed *f = ctx;

	(void)timed_out;
	f->child = NULL;
	hang_up(f);
	event(f->d, NULL, "monitor", "the ageing monitor has ended (%s %d), and is begun again in %.0f s",
	      WIFSIGNALED(status) ? "signal" : "status", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), backoff_ended(&f->again));
}

static void on_output(void *ctx)
{
	feed_read(ctx);
}

static void begin(struct feed *f)
{
	const char *speed = getenv("VMBEAM_TEST_SPEED");
	char *argv[12], interval[24];
	int in[2] = {-1, -1}, out[2] = {-1, -1}, n = 0;
	struct child_options o = {.argv = argv, .err = STDERR_FILENO, .keep = -1, .ended = ended, .ctx = f};
	struct error e = {"pipe"};

	argv[n++] = (char *)(uintptr_t) "vmbeam-monitor";
	argv[n++] = (char *)(uintptr_t) "monitor";
	argv[n++] = (char *)(uintptr_t) "--record";
	argv[n++] = (char *)(uintptr_t) "--json";
	if (f->d->config->listen) {
		argv[n++] = (char *)(uintptr_t) "--listen";
		argv[n++] = f->d->config->listen;
	}
	if (speed && atoi(speed) > 0) { /* tests */
		argv[n++] = (char *)(uintptr_t) "--test-speed";
		argv[n++] = (char *)(uintptr_t)speed;
		argv[n++] = (char *)(uintptr_t) "--test-interval-ms";
		/* (A round takes up to a second under emulation.) */
		snprintf(interval, sizeof(interval), "%d", MAX(30000 / atoi(speed), 1500));
		argv[n++] = interval;
	}
	argv[n] = NULL;
	backoff_begin(&f->again);
	if (!pipe2(in, O_CLOEXEC | O_NONBLOCK) && !pipe2(out, O_CLOEXEC)) {
		fcntl(in[0], F_SETFL, 0);
		fcntl(out[0], F_SETFL, O_NONBLOCK);
		o.in = in[0];
		o.out = out[1];
		f->from = (struct source){.fd = out[0], .on = on_output, .ctx = f};
		if (!watch_source(f->d, &f->from, &e))
			f->child = child_start(f->d->children, &o, &e);
	}
	close_fd(&in[0]);
	close_fd(&out[1]);
	if (f->child) {
		f->to = in[1];
		return;
	}
	close_fd(&in[1]);
	hang_up(f);
	backoff_ended(&f->again);
	event(f->d, NULL, "monitor", "the ageing monitor cannot be begun: %s", e.text);
}

void feed_tick(struct feed *f)
{
	if (!f->child && f->d->config->monitor && backoff_is_over(&f->again))
		begin(f);
	else if (f->child && !f->d->config->monitor)
		kill(child_pid(f->child), SIGTERM);
}

static void take_line(struct feed *f, const char *line, size_t len)
{
	json_t *j = json_loadb(line, len, 0, NULL);
	const char *name = text_of(j, "name");

	/* (Of others there may be any number.) */
	if (!strcmp(name, "host") || inventory_vm(f->d->inventory, name)) {
		json_object_set_new(j, "boot_s", json_real(boot_s()));
		json_object_set(f->verdicts, name, j);
	}
	json_decref(j);
}

void feed_read(struct feed *f)
{
	ssize_t n = read(f->from.fd, f->line + f->len, LINE_MOST - f->len);
	char *line = f->line, *end;

	if (n <= 0) {
		if (!n || (errno != EAGAIN && errno != EINTR)) { /* it has closed it: its end follows */
			unwatch_source(f->d, &f->from);
			close_fd(&f->from.fd);
		}
		return;
	}
	f->len += (size_t)n;
	while ((end = memchr(line, '\n', f->len))) {
		size_t len = (size_t)(end - line) + 1;

		if (!f->skips)
			take_line(f, line, len);
		f->skips = false;
		f->len -= len;
		line += len;
	}
	memmove(f->line, line, f->len);
	if (f->len == LINE_MOST) {
		f->skips = true;
		f->len = 0;
	}
}

void feed_event(struct feed *f, const char *name, const char *kind, const char *text)
{
	char *line;

	if (f->to < 0)
		return;
	line = xasprintf("%s %s %s\n", name, kind, text);
	if (write(f->to, line, strlen(line)) < 0 && errno != EAGAIN) /* if it does not read it is told no more */
		close_fd(&f->to);
	free(line);
}

const json_t *feed_verdict(const struct feed *f, const char *name)
{
	const json_t *v = json_object_get(f->verdicts, name);
	char identity[VM_IDENTITY];

	if (!v || boot_s() - json_real_value(json_object_get(v, "boot_s")) >= FRESH_S)
		return NULL;
	if (!strcmp(name, "host"))
		return v;
	/* What was thought of a predecessor of that name does not count. */
	vm_identity(name, identity, sizeof(identity));
	return strcmp(text_of(v, "identity"), identity) ? NULL : v;
}
