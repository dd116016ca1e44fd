/* store.h: what the ageing monitor has seen and thought, kept in a file: SQLite, in WAL mode (https://sqlite.org/wal.html).
 *
 * Values are kept as medians of minutes for 8 days, of quarters of an hour for 90 days; verdicts and events for 90.  The file
 * never grows beyond a limit: before that the oldest goes.  One writes (a lock beside the file says who), any number read
 * meanwhile.  Killed at any time it holds all but the last minute; where it cannot be written, because the disk is full, say,
 * that minute is lost and said to be, and the next one is tried again.
 *
 * Time.  All that is stored has a place on a timeline that never goes back, in seconds: it begins with the clock, or where the
 * last writer ended if the clock is behind that, and goes on with CLOCK_BOOTTIME whatever is done to the clock.  aging_store_clock()
 * tells what the clock said.
 *
 * Needs the C library and SQLite.  A store is used by one thread at a time.  Functions that may fail return -1 and set *error to
 * a line that is valid until the next call; texts handed to callbacks are valid during the call.
 */
#ifndef AGING_STORE_H
#define AGING_STORE_H

#include "aging-monitor/aging.h"

#include <stdint.h>

struct aging_store;

/* Opens the file for reading, or, with a limit of bytes, for writing: it is made if it is not there, and if it is no store it is
 * put aside as PATH.bad.  NULL with *error: also, when writing, if somebody else does. */
#define AGING_STORE_LEAST (4ull << 20) /* bytes: of a limit */
struct aging_store *aging_store_open(const char *path, uint64_t limit, const char **error);
void aging_store_close(struct aging_store *s);
/* Does somebody write it? */
bool aging_store_is_written(const char *path);

/* Now, on the timeline; for who only reads: as the last writer would say. */
double aging_store_now(const struct aging_store *s);
/* For tests: from now on the timeline goes so many times as fast. */
void aging_store_hurry(struct aging_store *s, double speed);
/* What the clock (seconds since 1970) showed at that time. */
double aging_store_clock(const struct aging_store *s, double t);

/* ---- writing
 *
 * What is written is there for others once aging_store_commit() has returned 0; if that fails all since the last one is undone.
 */

/* The subject of that identity, new or not, by its present name; a successor of the same name has another identity.  Its id lasts
 * until something fails, or the store is tidied. */
int aging_store_subject(struct aging_store *s, const char *name, const char *identity, int64_t *id, const char **error);
/* It does since time `began` what another subject of that name, the newest before it, did until `ended` at the latest: from now on
 * what is restored has its history, too (aging_subject_succeed()).  1: so it is; 0: there is no such one that was there within
 * the day before. */
int aging_store_succeed(struct aging_store *s, int64_t id, const char *name, double ended, double began, const char **error);
/* Since when; INFINITY if it is nobody's successor. */
double aging_store_began(struct aging_store *s, int64_t id);
/* What there is of its indicators on one side (inside it, as it says; outside, as is seen of it), into `into`, judged as it was
 * in the last hour; not of the minute that is going on, which begins anew. */
int aging_store_restore(struct aging_store *s, int64_t id, bool outside, struct aging_subject *into, const char **error);
/* The medians of the minute that begins at `t`, a multiple of 60, of all indicators that have one. */
int aging_store_minute(struct aging_store *s, int64_t id, bool outside, const struct aging_subject *from, double t,
		       const char **error);
/* A judgement, and whether the state is another than before. */
int aging_store_verdict(struct aging_store *s, int64_t id, double t, const struct aging_health *h, bool changed, const char **error);
/* What has happened; `name` NULL: to the monitor itself. */
int aging_store_event(struct aging_store *s, double t, const char *name, const char *kind, const char *text, const char **error);
/* Drops what is too old, and the oldest if the limit is near; to be called every hour. */
int aging_store_tidy(struct aging_store *s, double t, const char **error);
int aging_store_commit(struct aging_store *s, const char **error);

/* ---- reading */

struct aging_stored {
	const char *name;
	double t;
	enum aging_state state;
	bool changed;
	const char *indicator; /* or NULL; then all but evidence and contention is NaN */
	double left, slope, low, high, exhausted_in, earliest, latest, window, p;
	double contention, bursts;
	unsigned long refused;
	const char *culprits; /* "name share, ..." */
	const char *evidence;
};
/* Judgements since t, oldest first, of subjects of that name (NULL: all); with `newest` only the last of each, if it is not older. */
int aging_store_each_verdict(struct aging_store *s, const char *name, double since, bool newest,
			     void (*each)(void *ctx, const struct aging_stored *v), void *ctx, const char **error);
/* Values of an indicator of the newest subject of that name, oldest first: minutes and before them quarters of an hour. */
int aging_store_each_value(struct aging_store *s, const char *name, const char *indicator, double since,
			   void (*each)(void *ctx, double t, double value), void *ctx, double *limit, const char **error);
/* Indicators of the newest subject of that name, and when they were seen last. */
int aging_store_each_indicator(struct aging_store *s, const char *name,
			       void (*each)(void *ctx, const char *indicator, enum aging_kind kind, double limit), void *ctx,
			       const char **error);
struct aging_event {
	int64_t id;
	double t;
	const char *name, *kind, *text; /* name: NULL for the monitor itself */
};
/* Events of a number greater than `after` and since t, oldest first. */
int aging_store_each_event(struct aging_store *s, const char *name, int64_t after, double since,
			   void (*each)(void *ctx, const struct aging_event *e), void *ctx, const char **error);

#endif
