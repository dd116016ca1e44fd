/* record.c: `vmbeam monitor --record`: the ageing monitor at work. */
#include "rejuv/monitor/monitor.h"
#include "rejuv/monitor/watch.h"

#include "rejuv/cli.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

/* ---- for another program */

enum { CURVE_DAYS = 8, CURVE_POINTS = 300 };

/* What is known of an indicator: [[time, value], ...], medians of equal parts of that time, a minute at least. */
static json_t *curve(const struct aging_store *store, const struct aging_subject *s, const char *name)
{
	json_t *points = json_array();
	struct aging_indicator i;
	size_t k = 0;

	while (aging_subject_indicator(s, k, &i) && strcmp(i.name, name))
		k++;
	if (aging_subject_indicator(s, k, &i)) {
		double from = fmax(i.first, i.seen - CURVE_DAYS * 86400.), part = 60 * ceil(fmax(i.seen - from, 60) / CURVE_POINTS / 60);
		double clock = aging_store_clock(store, i.seen) - i.seen;

		for (int n = 0; from + n * part <= i.seen; n++) {
			double t = from + n * part, median = aging_subject_median(s, k, t, t + part);

			if (!isnan(median))
				json_array_append_new(points, json_pack("[I, f]", (json_int_t)(clock + t), median));
		}
	}
	return points;
}

static void say_verdict(void *ctx, const struct watched *s)
{
	const struct aging_health *h = s->health;
	json_t *values = json_object(), *j;
	struct aging_indicator i;

	for (size_t k = 0; s->inside && aging_subject_indicator(s->inside, k, &i); k++)
		if (i.kind != AGING_PART)
			json_object_set_new(values, i.name, json_number(i.value));
	if (h) {
		j = json_pack("{s:s, s:s, s:s, s:s?, s:o, s:o, s:o, s:o, s:s, s:O, s:o}", "name", s->name, "identity", s->identity, "state",
			      aging_state_name(h->state), "indicator", h->indicator, "exhausted_in_s",
			      json_number(h->indicator ? h->verdict.exhausted_in : NAN), "earliest_s",
			      json_number(h->indicator ? h->verdict.earliest : NAN), "latest_s",
			      json_number(h->indicator ? h->verdict.latest : NAN), "silent_s", json_number(s->silent), "evidence", h->evidence,
			      "values", values, "curve",
			      s->inside ? curve(ctx, s->inside, h->indicator ? h->indicator : "memory_available") : json_array());
		json_dumpf(j, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(j);
	}
	json_decref(values);
}

/* A line each of what is told, or nothing more is to come (false). */
static bool take_events(struct watch *w, int timeout_ms)
{
	static char buf[8192];
	static size_t len;
	struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
	char *line = buf, *end;
	ssize_t n;

	if (poll(&p, 1, timeout_ms) <= 0)
		return true;
	n = read(STDIN_FILENO, buf + len, sizeof(buf) - 1 - len);
	if (n <= 0)
		return n < 0;
	len += (size_t)n;
	buf[len] = 0;
	while ((end = strchr(line, '\n'))) {
		char *kind, *text;

		*end = 0;
		kind = strchr(line, ' ');
		text = kind ? strchr(kind + 1, ' ') : NULL;
		if (text) {
			*kind++ = 0;
			*text++ = 0;
			watch_event(w, line, kind, text);
		}
		line = end + 1;
	}
	len -= (size_t)(line - buf);
	memmove(buf, line, len);
	if (len == sizeof(buf) - 1) /* no line of ours is so long */
		len = 0;
	return true;
}

/* Until it is time for the next round. */
static void wait_until(struct watch *w, const struct record_options *o, uint64_t next)
{
	uint64_t now;

	while (!interrupted && (now = clock_ns()) < next) {
		int ms = (int)((next - now) / 1000000);

		if (!o->json)
			poll(NULL, 0, ms);
		else if (!take_events(w, ms))
			interrupted = SIGTERM;
		if (!ms)
			break;
	}
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
	w = watch_create(store, o->json ? NULL : stdout);
	while (!interrupted && (!o->length || clock_ns() - begin < o->length * 1000000000u)) {
		if (watch_tick(w) && o->json)
			watch_each(w, say_verdict, store);
		if (http)
			publish(http, w);
		next = MAX(next + o->interval_ms * 1000000u, clock_ns());
		wait_until(w, o, next);
	}
	watch_judge(w);
	if (aging_store_commit(store, &error))
		cli_fail("%s", error);
	http_destroy(http);
	watch_destroy(w);
	aging_store_close(store);
	return EXIT_OK;
}
