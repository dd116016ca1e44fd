/* monitor.h: the parts of vmbeam-monitor, the program that `vmbeam` calls for what needs SQLite, HTTP or a screen: none of that is
 * in a process that runs a VM. */
#ifndef REJUV_MONITOR_MONITOR_H
#define REJUV_MONITOR_MONITOR_H

#include "aging-monitor/store.h"
#include "vmm/base.h"

#include <stdint.h>


/* Commands; each gets argv with argv[0] its own name. */
int monitor_main(int argc, char **argv);
int top_main(int argc, char **argv);
int events_main(int argc, char **argv);

/* words.c: $VMBEAM_STATE_DIR or /var/lib/vmbeam, and in it monitor.db; the caller's to free. */
char *store_path(void);
/* For reading; NULL with *e set. */
struct aging_store *store_open(struct error *e);
/* "2h", "3d", "2026-11-20" or "2026-11-20 13:00" (local time) as a time on the store's timeline. */
int parse_since(const char *text, const struct aging_store *s, double *t, struct error *e);
/* "2026-11-20 13:00:05" of a time on the timeline; of the newest call but one, too. */
const char *when(const struct aging_store *s, double t);

/* record.c: samples, judges and stores until it is interrupted, or for so long (s; 0: for ever). */
struct record_options {
	uint64_t interval_ms, length, limit; /* s, bytes */
	const char *listen;		     /* ADDR:PORT for /metrics, or NULL */
	uint64_t speed;			     /* for tests: the timeline's */
	bool json; /* for another program: its judgements are lines of JSON; it tells what else happens ("NAME KIND TEXT", a line each)
		    * on standard input, and ends it by closing that */
};
int record(const struct record_options *o);

/* metrics.c: all that is known, in the text format of Prometheus 0.0.4 or, `open`, OpenMetrics 1.0
 * (https://prometheus.io/docs/instrumenting/exposition_formats/, https://github.com/prometheus/OpenMetrics).  The text is the
 * caller's to free; NULL without memory. */
struct metrics;
struct watched;
struct metrics *metrics_create(void);
void metrics_add(struct metrics *m, const struct watched *s);
void metrics_add_failures(struct metrics *m, double store_failures);
char *metrics_text(struct metrics *m, bool open);
void metrics_destroy(struct metrics *m);

/* http.c: serves two texts at /metrics, from a thread of its own. */
struct http;
struct http *http_create(const char *listen, struct error *e);
/* They are the server's to free now. */
void http_publish(struct http *h, char *plain, char *open);
void http_destroy(struct http *h);

/* plot.c: an indicator (NULL: that of the last verdict, or memory_available) of NAME since t, drawn by gnuplot with the forecast
 * into a file whose name ends with .svg or .png. */
int plot(struct aging_store *s, const char *name, const char *indicator, double since, const char *out, struct error *e);

/* Numbers for people: "1.5 GiB", "12.3 %", "7 ms", "3.5 hours".  Texts last until the fourth call after. */
const char *human(double value, const char *unit);
const char *human_duration(double s);
/* One that JSON has no word for is null. */
struct json_t;
struct json_t *json_number(double x);

#endif
