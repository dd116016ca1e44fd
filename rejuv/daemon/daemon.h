/* daemon.h: the parts of vmbeamd, one process with one thread and one loop.  Whatever takes time or may hang is done by processes of its
 * own (child.h), most of them the vmbeam program: nothing of a VM depends on the daemon being alive.
 *
 *   main.c       options, start, the loop
 *   engine.c     what it is about with each hypervisor: machine.c's actions, the journal; step.c: who does it; wanted.c: when
 *   inventory.c  what there is: `vmbeam list`
 *   feed.c       the ageing monitor, a process, and what it says
 *   reception.c  what takes VMs from other machines, a process
 *   events.c     what has happened, for whoever listens
 *   api.c        HTTP over a unix socket; jobs.c: what it has others do
 */
#ifndef REJUV_DAEMON_DAEMON_H
#define REJUV_DAEMON_DAEMON_H

#include "rejuv/daemon/child.h"
#include "rejuv/daemon/config.h"
#include "rejuv/daemon/journal.h"

#include <jansson.h>

struct daemon {
	const char *config_path;
	struct config *config;
	struct journal *journal;
	struct children *children;
	int epoll;
	struct engine *engine;
	struct inventory *inventory;
	struct feed *feed;
	struct events *events;
	struct reception *reception;
	struct jobs *jobs;
	struct api *api;
	uint64_t slowest_ns; /* turn of the loop */
	bool stopping;
};

/* ---- events.c: each becomes a line on standard output, goes to the ageing monitor's history, and to who listens */

struct events *events_create(struct daemon *d);
void events_destroy(struct events *e);
/* name: a VM or hypervisor, or NULL: the daemon itself. */
void event(struct daemon *d, const char *name, const char *kind, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* Those of a number greater than `after`, as far as they are kept: a new array of {id, clock_s, name, kind, text}. */
json_t *events_after(const struct events *e, int64_t after);
int64_t events_last(const struct events *e);

/* ---- inventory.c */

struct inventory *inventory_create(struct daemon *d);
void inventory_destroy(struct inventory *i);
/* Looks again if it is time. */
void inventory_tick(struct inventory *i);
/* Looks again as soon as may be. */
void inventory_soon(struct inventory *i);
/* What `vmbeam list --json` said last; NULL: not yet. */
const json_t *inventory_vms(const struct inventory *i);
/* Of a VM: its object, or NULL. */
const json_t *inventory_vm(const struct inventory *i, const char *name);
bool is_hypervisor(const json_t *vm);

/* ---- feed.c */

struct feed *feed_create(struct daemon *d);
void feed_destroy(struct feed *f);
void feed_tick(struct feed *f);
/* (Events of the monitor's own are not told to it again.) */
void feed_event(struct feed *f, const char *name, const char *kind, const char *text);
/* The newest judgement of a hypervisor or of "host", if it is not an hour old and not of another that
 * bore the name before: {name, state, indicator, exhausted_in_s, evidence, values, curve}. */
const json_t *feed_verdict(const struct feed *f, const char *name);
/* Its output can be read. */
void feed_read(struct feed *f);

/* ---- reception.c: `vmbeam receive`, if it is configured */

struct reception *reception_create(struct daemon *d);
void reception_destroy(struct reception *r);
void reception_tick(struct reception *r);

/* ---- engine.c */

struct engine *engine_create(struct daemon *d, struct error *e);
void engine_destroy(struct engine *g);
/* Does what is to be done now. */
void engine_tick(struct engine *g);
/* There is a new inventory. */
void engine_inventory(struct engine *g);
/* A user wants it, or no more: -1 with *e set. */
int engine_want(struct engine *g, const char *name, const char *why, struct error *e);
int engine_cancel(struct engine *g, const char *name, struct error *e);
/* All it is about: an array. */
json_t *engine_json(const struct engine *g);
/* Is a process at a step for any of them? */
bool engine_is_working(const struct engine *g);

/* ---- jobs.c */

struct jobs *jobs_create(struct daemon *d);
void jobs_destroy(struct jobs *j);
/* command: an array, e.g. ["migrate", "web", "--to", "hv-b"].  Its number, or -1 with *e set. */
int64_t jobs_start(struct jobs *j, json_t *command, struct error *e);
/* Begins one that waits, if it may; are there more to be begun? */
bool jobs_run(struct jobs *j);
json_t *jobs_json(const struct jobs *j);
/* One, with what it has printed from bytes `out` and `err` on, at most 64 KiB of each; NULL: there is none.  All in all it keeps the
 * first MiB of each. */
json_t *job_json(const struct jobs *jobs, int64_t id, uint64_t out, uint64_t err);
int jobs_kill(struct jobs *j, int64_t id, struct error *e);

/* ---- api.c */

struct api *api_create(struct daemon *d, struct error *e);
void api_destroy(struct api *a);
/* Something has happened: who listens is told. */
void api_event(struct api *a);
/* To be called at least when it is time: CLOCK_MONOTONIC ns, UINT64_MAX: no matter when. */
uint64_t api_deadline(struct api *a);
void api_run(struct api *a);

/* ---- loop.c */

/* When a program that has ended is begun again: soon if it has run for long, else ever later. */
struct backoff {
	double begun, wait, next; /* boot_s(); s */
};
bool backoff_is_over(const struct backoff *b);
void backoff_begin(struct backoff *b);
/* How long to wait now, s. */
double backoff_ended(struct backoff *b);

/* Has that process the file open?  What a lock says of who has it may be old. */
bool process_holds(int pid, const char *path);

/* All of a file, of at most 16 MiB, as JSON; NULL: it is none, or fd is no file. */
json_t *read_json(int fd);

/* CLOCK_BOOTTIME in s: it goes on while the machine sleeps, and nobody sets it. */
double boot_s(void);
/* Calls on(ctx) whenever fd can be read. */
struct source {
	int fd;
	void (*on)(void *ctx);
	void *ctx;
};
int watch_source(struct daemon *d, struct source *s, struct error *e);
void unwatch_source(struct daemon *d, struct source *s);

#endif
