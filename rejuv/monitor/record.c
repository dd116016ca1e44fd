/* record.c: `vmbeam monitor --record`: the ageing monitor at work. */
#include "rejuv/monitor/monitor.h"
#include "rejuv/monitor/watch.h"

#include "rejuv/cli.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static volatile sig_atomic_t interrupted;

static void interrupt(int sig)
{
	interrupted = sig;
}

static struct aging_store *open_store(const struct record_options *o)
{
	char *path = store_path(), *slash = strrchr(path, '/');
	struct aging_store *s = NULL;
	const char *error = path;

	*slash = 0;
	if (mkdir(path, 0700) && errno != EEXIST) {
		cli_fail("%s: %s", path, strerror(errno));
	} else {
		*slash = '/';
		s = aging_store_open(path, o->limit, &error);
		if (!s)
			cli_fail("%s", error);
	}
	free(path);
	return s;
}

static void add_metrics(void *ctx, const struct watched *s)
{
	metrics_add(ctx, s);
}

static void publish(struct http *http, const struct watch *w)
{
	struct metrics *m = metrics_create();

	watch_each(w, add_metrics, m);
	metrics_add_failures(m, (double)watch_store_failures(w));
	http_publish(http, metrics_text(m, false), metrics_text(m, true));
	metrics_destroy(m);
}

int record(const struct record_options *o)
{
	struct sigaction on_interrupt = {.sa_handler = interrupt};
	uint64_t begin = clock_ns(), next = begin;
	struct aging_store *store = open_store(o);
	struct http *http = NULL;
	const char *error = "";
	struct watch *w;
	struct error e;

	if (!store)
		return EXIT_FAILED;
	if (o->listen && !(http = http_create(o->listen, &e))) {
		aging_store_close(store);
		return cli_fail("%s", e.text);
	}
	sigaction(SIGINT, &on_interrupt, NULL);
	sigaction(SIGTERM, &on_interrupt, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (o->speed != 1)
		aging_store_hurry(store, (double)o->speed);
	w = watch_create(store);
	while (!interrupted && (!o->length || clock_ns() - begin < o->length * 1000000000u)) {
		uint64_t now;

		watch_tick(w);
		if (http)
			publish(http, w);
		now = clock_ns();
		next = MAX(next + o->interval_ms * 1000000u, now);
		if (!interrupted)
			poll(NULL, 0, (int)((next - now) / 1000000));
	}
	watch_judge(w);
	if (aging_store_commit(store, &error))
		cli_fail("%s", error);
	http_destroy(http);
	watch_destroy(w);
	aging_store_close(store);
	return EXIT_OK;
}
