/* store.c: the store of store.h. */
#include "aging-monitor/store.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

enum {
	VERSION = 1,
	BUSY_MS = 5000,
	MINUTE = 60,
	QUARTER = 900,
	HOUR = 3600,
	DAY = 24 * HOUR,
	MINUTES_KEPT = 8 * DAY,
	QUARTERS_KEPT = 90 * DAY,
	EVENTS_KEPT = 100000,
	GENERATIONS = 64,
	CLOCK_SET = 60, /* s: so much another is the clock set, not adjusted */
	SHRINKS = 40,
	LOOKS = 10,
	LOOK_US = 20000,
};
#define NEAR_LIMIT 0.85
#define SHRINK	   0.8

static const char schema[] =
	"CREATE TABLE run(t REAL NOT NULL, clock REAL NOT NULL, last REAL NOT NULL);"
	"CREATE TABLE subject(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, identity TEXT NOT NULL UNIQUE);"
	"CREATE TABLE series(id INTEGER PRIMARY KEY, subject INTEGER NOT NULL REFERENCES subject(id), outside INTEGER NOT NULL,"
	" name TEXT NOT NULL, kind INTEGER NOT NULL, full REAL NOT NULL, first REAL NOT NULL, usual REAL NOT NULL,"
	" UNIQUE(subject, outside, name));"
	/* t: its beginning */
	"CREATE TABLE minute(series INTEGER NOT NULL, t INTEGER NOT NULL, value REAL NOT NULL, PRIMARY KEY(series, t)) WITHOUT ROWID;"
	"CREATE TABLE quarter(series INTEGER NOT NULL, t INTEGER NOT NULL, value REAL NOT NULL, PRIMARY KEY(series, t)) WITHOUT ROWID;"
	"CREATE TABLE verdict(subject INTEGER NOT NULL, t REAL NOT NULL, state TEXT NOT NULL, changed INTEGER NOT NULL, indicator TEXT,"
	" left REAL, slope REAL, low REAL, high REAL, exhausted_in REAL, earliest REAL, latest REAL, window REAL, p REAL,"
	" contention REAL, bursts REAL, refused INTEGER NOT NULL, culprits TEXT NOT NULL, evidence TEXT NOT NULL,"
	" PRIMARY KEY(subject, t)) WITHOUT ROWID;"
	"CREATE TABLE event(id INTEGER PRIMARY KEY AUTOINCREMENT, t REAL NOT NULL, name TEXT, kind TEXT NOT NULL, text TEXT NOT NULL);";
/* (The first stores did not have it.) */
static const char succession[] = "CREATE TABLE IF NOT EXISTS succession(subject INTEGER PRIMARY KEY, predecessor INTEGER NOT NULL,"
				 " ended REAL NOT NULL, began REAL NOT NULL)";

struct aging_store {
	sqlite3 *db;
	char *path;
	int lock; /* -1: reading */
	bool begun; /* a transaction */
	uint64_t limit;
	double base, since, speed; /* the timeline, and CLOCK_BOOTTIME, when it was opened */
	double t, clock;    /* the newest line of `run` */
	char error[300];
};

static double seconds(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* ---- SQL */

static int fail(struct aging_store *s, const char **error)
{
	snprintf(s->error, sizeof(s->error), "%s: %s", s->path, sqlite3_errmsg(s->db));
	if (s->begun)
		sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
	s->begun = false;
	*error = s->error;
	return -1;
}

/* A statement whose `types` are bound: i int64_t, d double (NaN is NULL), t text; NULL on failure. */
static sqlite3_stmt *prepare_v(struct aging_store *s, const char *sql, const char *types, va_list ap)
{
	sqlite3_stmt *q;

	if (sqlite3_prepare_v2(s->db, sql, -1, &q, NULL) != SQLITE_OK)
		return NULL;
	for (int i = 0; types[i]; i++)
		if (types[i] == 'i')
			sqlite3_bind_int64(q, i + 1, va_arg(ap, int64_t));
		else if (types[i] == 'd')
			sqlite3_bind_double(q, i + 1, va_arg(ap, double));
		else
			sqlite3_bind_text(q, i + 1, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
	return q;
}

static sqlite3_stmt *prepare(struct aging_store *s, const char *sql, const char *types, ...)
{
	sqlite3_stmt *q;
	va_list ap;

	va_start(ap, types);
	q = prepare_v(s, sql, types, ap);
	va_end(ap);
	return q;
}

/* Steps through; 1: there is a row, 0: no more, and it is gone, -1: failed. */
static int step(struct aging_store *s, sqlite3_stmt *q, const char **error)
{
	int r = q ? sqlite3_step(q) : SQLITE_ERROR;

	if (r == SQLITE_ROW)
		return 1;
	if (r != SQLITE_DONE)
		fail(s, error);
	sqlite3_finalize(q);
	return r == SQLITE_DONE ? 0 : -1;
}

static int run(struct aging_store *s, const char **error, const char *sql, const char *types, ...)
{
	sqlite3_stmt *q;
	va_list ap;
	int r;

	if (s->lock >= 0 && !s->begun) {
		if (sqlite3_exec(s->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
			return fail(s, error);
		s->begun = true;
	}
	va_start(ap, types);
	q = prepare_v(s, sql, types, ap);
	va_end(ap);
	while ((r = step(s, q, error)) > 0)
		;
	return r;
}

/* One number; `otherwise` if there is no row or it is NULL. */
static double number(struct aging_store *s, double otherwise, const char *sql)
{
	sqlite3_stmt *q = prepare(s, sql, "");
	const char *error;
	double x = otherwise;

	if (step(s, q, &error) > 0) {
		if (sqlite3_column_type(q, 0) != SQLITE_NULL)
			x = sqlite3_column_double(q, 0);
		sqlite3_finalize(q);
	}
	return x;
}

static double column(sqlite3_stmt *q, int i)
{
	return sqlite3_column_type(q, i) == SQLITE_NULL ? NAN : sqlite3_column_double(q, i);
}

static const char *text(sqlite3_stmt *q, int i)
{
	return (const char *)sqlite3_column_text(q, i);
}

/* ---- opening */

static int lock_file(const char *path)
{
	char *name = sqlite3_mprintf("%s.lock", path);
	int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

	/* Who only looks whether somebody writes has it for a moment. */
	for (int i = 0; fd >= 0 && flock(fd, LOCK_EX | LOCK_NB); i++) {
		usleep(LOOK_US);
		if (i < LOOKS)
			continue;
		close(fd);
		fd = -1;
		errno = EWOULDBLOCK;
	}
	sqlite3_free(name);
	return fd;
}

bool aging_store_is_written(const char *path)
{
	char *name = sqlite3_mprintf("%s.lock", path);
	int fd = open(name, O_RDONLY | O_CLOEXEC);
	bool held = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;

	if (fd >= 0)
		close(fd);
	sqlite3_free(name);
	return held;
}

static bool is_sound(struct aging_store *s)
{
	sqlite3_stmt *q = prepare(s, "PRAGMA quick_check(1)", "");
	const char *error;
	bool sound;

	if (step(s, q, &error) <= 0)
		return false;
	sound = !strcmp(text(q, 0), "ok");
	sqlite3_finalize(q);
	return sound;
}

/* 0, -1 with *error, 1: it is no store. */
static int open_file(struct aging_store *s, const char *path, const char **error)
{
	bool write = s->lock >= 0;
	int r = sqlite3_open_v2(path, &s->db, write ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY, NULL);
	int version;

	if (r != SQLITE_OK)
		return fail(s, error);
	sqlite3_busy_timeout(s->db, BUSY_MS);
	r = sqlite3_exec(s->db, write ? "PRAGMA journal_mode=WAL" : "SELECT 1 FROM sqlite_schema", NULL, NULL, NULL);
	if (r == SQLITE_NOTADB || r == SQLITE_CORRUPT || (r == SQLITE_OK && write && !is_sound(s)))
		return 1;
	if (r != SQLITE_OK ||
	    (write && sqlite3_exec(s->db, "PRAGMA synchronous=NORMAL; PRAGMA journal_size_limit=8388608", NULL, NULL, NULL) != SQLITE_OK))
		return fail(s, error);
	version = (int)number(s, 0, "PRAGMA user_version");
	if (version == VERSION)
		return write && sqlite3_exec(s->db, succession, NULL, NULL, NULL) != SQLITE_OK ? fail(s, error) : 0;
	if (version || number(s, 0, "SELECT count(*) FROM sqlite_schema") > 0 || !write) {
		snprintf(s->error, sizeof(s->error), "%s: not a store of this version", path);
		*error = s->error;
		return -1;
	}
	if (run(s, error, "SELECT 1", "") || sqlite3_exec(s->db, schema, NULL, NULL, NULL) != SQLITE_OK ||
	    sqlite3_exec(s->db, succession, NULL, NULL, NULL) != SQLITE_OK || sqlite3_exec(s->db, "PRAGMA user_version=1; COMMIT", NULL, NULL, NULL) != SQLITE_OK)
		return fail(s, error);
	s->begun = false;
	return 0;
}

/* What was no store is kept for whoever wants to look at it. */
static int put_aside(const char *path)
{
	static const char *const ends[] = {"", "-wal", "-shm"};
	int r = 0;

	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		char *from = sqlite3_mprintf("%s%s", path, ends[i]), *to = sqlite3_mprintf("%s.bad%s", path, ends[i]);

		if (rename(from, to) && (i == 0 || errno != ENOENT))
			r = -1;
		sqlite3_free(from);
		sqlite3_free(to);
	}
	return r;
}

/* From now on the timeline and the clock differ by another amount. */
static int begin_run(struct aging_store *s, double t, double clock, const char **error)
{
	if (run(s, error, "INSERT INTO run VALUES(?, ?, ?)", "ddd", t, clock, t))
		return -1;
	s->t = t;
	s->clock = clock;
	return 0;
}

static int begin_timeline(struct aging_store *s, const char **error)
{
	double last = number(s, 0, "SELECT max(last) FROM run"), clock = seconds(CLOCK_REALTIME);
	char behind[80];

	/* A clock that is further ahead than what is kept is more likely wrong than right, and would have all of it thrown away. */
	bool ahead = last > 0 && clock - last > MINUTES_KEPT;

	s->since = seconds(CLOCK_BOOTTIME);
	s->base = ahead ? last + 1 : fmax(clock, last + 0.001);
	if (begin_run(s, s->base, clock, error))
		return -1;
	snprintf(behind, sizeof(behind), "the clock is %.0f s %s what was stored last", fabs(last - clock), ahead ? "ahead of" : "behind");
	if ((ahead || last - clock > 1) && aging_store_event(s, s->base, NULL, "clock", behind, error))
		return -1;
	return aging_store_commit(s, error);
}

static int set_limit(struct aging_store *s, const char **error)
{
	char sql[80];

	snprintf(sql, sizeof(sql), "PRAGMA max_page_count=%.0f", (double)s->limit / number(s, 4096, "PRAGMA page_size"));
	return sqlite3_exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : fail(s, error);
}

/* Opened with a smaller limit than before: the file shrinks at once. */
static int shrink(struct aging_store *s, const char **error)
{
	if (number(s, 0, "PRAGMA page_count") * number(s, 4096, "PRAGMA page_size") <= (double)s->limit)
		return 0;
	if (aging_store_tidy(s, aging_store_now(s), error))
		return -1;
	return sqlite3_exec(s->db, "VACUUM", NULL, NULL, NULL) == SQLITE_OK ? set_limit(s, error) : fail(s, error);
}

struct aging_store *aging_store_open(const char *path, uint64_t limit, const char **error)
{
	static char why[300];
	struct aging_store *s = calloc(1, sizeof(*s));
	int r;

	*error = "out of memory";
	if (!s || !(s->path = strdup(path))) {
		free(s);
		return NULL;
	}
	s->limit = limit;
	s->speed = 1;
	s->lock = limit ? lock_file(path) : -1;
	if (limit && s->lock < 0) {
		snprintf(why, sizeof(why), "%s: %s", path, errno == EWOULDBLOCK ? "somebody else writes it" : strerror(errno));
		*error = why;
		free(s->path);
		free(s);
		return NULL;
	}
	r = open_file(s, path, error);
	if (r > 0) {
		sqlite3_close(s->db);
		s->db = NULL;
		snprintf(s->error, sizeof(s->error), "%s: no store, and cannot be put aside", path);
		*error = s->error;
		r = limit && !put_aside(path) ? open_file(s, path, error) : -1;
	}
	if (!r && limit && (set_limit(s, error) || begin_timeline(s, error) || shrink(s, error)))
		r = -1;
	if (!r)
		return s;
	snprintf(why, sizeof(why), "%s", *error);
	*error = why;
	aging_store_close(s);
	return NULL;
}

void aging_store_close(struct aging_store *s)
{
	if (!s)
		return;
	sqlite3_close(s->db); /* what was not committed is undone */
	if (s->lock >= 0)
		close(s->lock);
	free(s->path);
	free(s);
}

double aging_store_now(const struct aging_store *s)
{
	/* (Another run may have begun since it was opened.) */
	if (s->lock < 0)
		return fmax(number((struct aging_store *)(uintptr_t)s, 0, "SELECT t - clock FROM run ORDER BY rowid DESC LIMIT 1") +
				    seconds(CLOCK_REALTIME),
			    number((struct aging_store *)(uintptr_t)s, 0, "SELECT max(last) FROM run"));
	return s->base + (seconds(CLOCK_BOOTTIME) - s->since) * s->speed;
}

void aging_store_hurry(struct aging_store *s, double speed)
{
	s->base = aging_store_now(s);
	s->since = seconds(CLOCK_BOOTTIME);
	s->speed = speed;
}

double aging_store_clock(const struct aging_store *s, double t)
{
	/* (The statement's cache changes, the store does not.) */
	struct aging_store *q = (struct aging_store *)(uintptr_t)s;
	sqlite3_stmt *run = prepare(q, "SELECT t, clock FROM run ORDER BY t > ?, abs(t - ?) LIMIT 1", "dd", t, t);
	const char *error;
	double clock = t;

	if (step(q, run, &error) > 0) {
		clock = t - column(run, 0) + column(run, 1);
		sqlite3_finalize(run);
	}
	return clock;
}

/* ---- writing */

int aging_store_subject(struct aging_store *s, const char *name, const char *identity, int64_t *id, const char **error)
{
	sqlite3_stmt *q;

	if (run(s, error,
		"INSERT INTO subject(name, identity) VALUES(?, ?) ON CONFLICT(identity) DO UPDATE SET name = excluded.name"
		" WHERE name <> excluded.name",
		"tt", name, identity))
		return -1;
	q = prepare(s, "SELECT id FROM subject WHERE identity = ?", "t", identity);
	if (step(s, q, error) <= 0)
		return -1;
	*id = sqlite3_column_int64(q, 0);
	sqlite3_finalize(q);
	return 0;
}

static int restore_indicators(struct aging_store *s, int64_t id, bool outside, struct aging_subject *into, const char **error)
{
	sqlite3_stmt *q = prepare(s, "SELECT name, kind, full, first, usual FROM series WHERE subject = ? AND outside = ?", "ii", id,
				  (int64_t)outside);
	int r;

	while ((r = step(s, q, error)) > 0) {
		struct aging_indicator i = {.name = text(q, 0), .kind = (enum aging_kind)sqlite3_column_int(q, 1), .limit = column(q, 2),
					    .first = column(q, 3), .usual = column(q, 4)};

		aging_subject_restore(into, &i);
	}
	return r;
}

/* Values of [from, to), in the order that `order` says; judged every AGING_JUDGE_S if that is by time. */
static int restore_values(struct aging_store *s, int64_t id, bool outside, struct aging_subject *into, double from, double to,
			  bool judge, const char **error)
{
	char sql[300];
	double judged = from;
	sqlite3_stmt *q;
	int r;

	snprintf(sql, sizeof(sql),
		 "SELECT name, kind, full, t, value FROM series CROSS JOIN minute ON minute.series = series.id"
		 " WHERE subject = ? AND outside = ? AND t >= ? AND t < ? ORDER BY %s",
		 judge ? "t" : "series.id, t");
	q = prepare(s, sql, "iidd", id, (int64_t)outside, from, to);
	while ((r = step(s, q, error)) > 0) {
		double t = column(q, 3);

		if (judge && t - judged >= AGING_JUDGE_S) {
			struct aging_health h;

			aging_subject_judge(into, t, &h);
			judged = t;
		}
		aging_subject_add(into, text(q, 0), (enum aging_kind)sqlite3_column_int(q, 1), column(q, 2), t, column(q, 4));
	}
	return r;
}

/* Who took over from whom, and when. */
struct succession {
	int64_t subject;
	double ended, began; /* of its predecessor's work, of its own; of the first of all INFINITY */
};

static int predecessor_of(struct aging_store *s, struct succession *of, int64_t *predecessor, const char **error)
{
	sqlite3_stmt *q = prepare(s, "SELECT predecessor, ended, began FROM succession WHERE subject = ?", "i", of->subject);
	int r = step(s, q, error);

	of->ended = of->began = INFINITY;
	if (r <= 0)
		return r;
	*predecessor = sqlite3_column_int64(q, 0);
	of->ended = column(q, 1);
	of->began = column(q, 2);
	sqlite3_finalize(q);
	return 1;
}

int aging_store_restore(struct aging_store *s, int64_t id, bool outside, struct aging_subject *into, const char **error)
{
	double now = aging_store_now(s), last = floor(now / MINUTE) * MINUTE, settled;
	struct succession line[GENERATIONS] = {{.subject = id}};
	struct aging_subject *old = NULL;
	size_t n;
	int r;

	for (n = 0;; n++) {
		r = predecessor_of(s, &line[n], &id, error);
		if (r < 0)
			return -1;
		if (!r || line[n].ended <= now - MINUTES_KEPT || n + 1 == GENERATIONS)
			break;
		line[n + 1].subject = id;
	}
	/* The oldest first; of a predecessor all there is. */
	for (; n > 0; n--) {
		struct aging_subject *next = aging_subject_create();

		if (!next || restore_indicators(s, line[n].subject, outside, next, error) ||
		    restore_values(s, line[n].subject, outside, next, now - MINUTES_KEPT, last, false, error)) {
			aging_subject_destroy(next);
			aging_subject_destroy(old);
			if (!next)
				*error = "out of memory";
			return -1;
		}
		if (old)
			aging_subject_succeed(next, old, line[n].ended, line[n].began);
		aging_subject_destroy(old);
		old = next;
	}
	/* Its own of the last hour, or since it has settled, are judged. */
	settled = fmax(last - HOUR, isfinite(line[0].began) ? fmin(last, ceil(line[0].began / MINUTE) * MINUTE + AGING_SETTLED_S) : 0);
	r = restore_indicators(s, line[0].subject, outside, into, error) ||
			    restore_values(s, line[0].subject, outside, into, now - MINUTES_KEPT, settled, false, error)
		    ? -1
		    : 0;
	if (!r && old)
		aging_subject_succeed(into, old, line[0].ended, line[0].began);
	aging_subject_destroy(old);
	return r ? r : restore_values(s, line[0].subject, outside, into, settled, last, true, error);
}

int aging_store_succeed(struct aging_store *s, int64_t id, const char *name, double ended, double began, const char **error)
{
	sqlite3_stmt *q = prepare(s,
				  "SELECT subject.id, max(t) + 60 AS last FROM subject JOIN series ON series.subject = subject.id"
				  " JOIN minute ON minute.series = series.id WHERE subject.name = ? AND subject.id < ?"
				  " GROUP BY subject.id ORDER BY subject.id DESC LIMIT 1",
				  "ti", name, id);
	int r = step(s, q, error);
	int64_t predecessor;
	double last;

	if (r <= 0)
		return r;
	predecessor = sqlite3_column_int64(q, 0);
	last = column(q, 1);
	sqlite3_finalize(q);
	if (began - last > DAY)
		return 0;
	return run(s, error, "INSERT OR REPLACE INTO succession VALUES(?, ?, ?, ?)", "iidd", id, predecessor, fmin(ended, last), began) ? -1 : 1;
}

double aging_store_began(struct aging_store *s, int64_t id)
{
	struct succession of = {.subject = id};
	const char *error;
	int64_t predecessor;

	predecessor_of(s, &of, &predecessor, &error);
	return of.began;
}

/* The number of an indicator's series, with what is known of it brought up to date. */
static int series_of(struct aging_store *s, int64_t id, bool outside, const struct aging_indicator *i, int64_t *series,
		     const char **error)
{
	for (int tries = 0; tries < 2; tries++) {
		sqlite3_stmt *q = prepare(s, "SELECT id, full, usual, kind FROM series WHERE subject = ? AND outside = ? AND name = ?",
					  "iit", id, (int64_t)outside, i->name);
		int r = step(s, q, error);
		bool same;

		if (r < 0)
			return -1;
		if (!r) {
			if (run(s, error, "INSERT INTO series(subject, outside, name, kind, full, first, usual) VALUES(?, ?, ?, ?, ?, ?, ?)",
				"iitiddd", id, (int64_t)outside, i->name, (int64_t)i->kind, i->limit, i->first, i->usual))
				return -1;
			continue;
		}
		*series = sqlite3_column_int64(q, 0);
		same = column(q, 1) == i->limit && column(q, 2) == i->usual && sqlite3_column_int(q, 3) == (int)i->kind;
		sqlite3_finalize(q);
		return same ? 0
			    : run(s, error, "UPDATE series SET full = ?, usual = ?, kind = ? WHERE id = ?", "ddii", i->limit, i->usual,
				  (int64_t)i->kind, *series);
	}
	return -1; /* not reached: it was inserted */
}

int aging_store_minute(struct aging_store *s, int64_t id, bool outside, const struct aging_subject *from, double t,
		       const char **error)
{
	struct aging_indicator i;

	for (size_t k = 0; aging_subject_indicator(from, k, &i); k++) {
		double value = aging_subject_median(from, k, t, t + MINUTE);
		int64_t series;

		if (isnan(value))
			continue;
		if (series_of(s, id, outside, &i, &series, error) ||
		    run(s, error, "INSERT OR REPLACE INTO minute VALUES(?, ?, ?)", "iid", series, (int64_t)t, value))
			return -1;
	}
	return 0;
}

int aging_store_verdict(struct aging_store *s, int64_t id, double t, const struct aging_health *h, bool changed, const char **error)
{
	const struct aging_verdict *v = &h->verdict;
	bool has = h->indicator;
	char culprits[300] = "";

	for (size_t i = 0, n = 0; i < h->culprits && n < sizeof(culprits); i++)
		n += (size_t)snprintf(culprits + n, sizeof(culprits) - n, "%s%s %.2f", i ? ", " : "", h->culprit[i].name,
				      h->culprit[i].share);
	return run(s, error,
		   "INSERT OR REPLACE INTO verdict VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		   "idtitddddddddddditt", id, t, aging_state_name(h->state), (int64_t)changed, h->indicator, has ? v->left : NAN,
		   has ? v->slope : NAN, has ? v->low : NAN, has ? v->high : NAN, has ? v->exhausted_in : NAN, has ? v->earliest : NAN,
		   has ? v->latest : NAN, has ? v->window : NAN, has ? v->p : NAN, h->contention, h->bursts, (int64_t)h->refused, culprits,
		   h->evidence);
}

int aging_store_event(struct aging_store *s, double t, const char *name, const char *kind, const char *what, const char **error)
{
	return run(s, error, "INSERT INTO event(t, name, kind, text) VALUES(?, ?, ?, ?)", "dttt", t, name, kind, what);
}

/* Drops values before these times; minutes become quarters of an hour first.  (Of each series: t is the second column of the
 * key.) */
static int drop_values(struct aging_store *s, double minutes, double quarters, const char **error)
{
	int64_t m = (int64_t)(minutes / QUARTER) * QUARTER, q = (int64_t)quarters;

	return run(s, error,
		   "INSERT OR REPLACE INTO quarter SELECT series, t / 900 * 900, avg(value) FROM minute"
		   " WHERE series IN (SELECT id FROM series) AND t >= ? AND t < ? GROUP BY series, t / 900",
		   "ii", q, m) ||
			       run(s, error, "DELETE FROM minute WHERE series IN (SELECT id FROM series) AND t < ?", "i", m) ||
			       run(s, error, "DELETE FROM quarter WHERE series IN (SELECT id FROM series) AND t < ?", "i", q)
		       ? -1
		       : 0;
}

static bool is_near_limit(struct aging_store *s)
{
	double used = number(s, 0, "PRAGMA page_count") - number(s, 0, "PRAGMA freelist_count");

	return used * number(s, 4096, "PRAGMA page_size") > NEAR_LIMIT * (double)s->limit;
}

int aging_store_tidy(struct aging_store *s, double t, const char **error)
{
	static const char *const unused[] = {
		"DELETE FROM series WHERE NOT EXISTS (SELECT 1 FROM minute WHERE series = series.id)"
		" AND NOT EXISTS (SELECT 1 FROM quarter WHERE series = series.id)",
		"DELETE FROM subject WHERE NOT EXISTS (SELECT 1 FROM series WHERE subject = subject.id)"
		" AND NOT EXISTS (SELECT 1 FROM verdict WHERE subject = subject.id)",
		"DELETE FROM succession WHERE subject NOT IN (SELECT id FROM subject) OR predecessor NOT IN (SELECT id FROM subject)",
	};
	double minutes = MINUTES_KEPT, quarters = QUARTERS_KEPT, verdicts = QUARTERS_KEPT;

	for (int i = 0; i < SHRINKS; i++) {
		if (drop_values(s, t - minutes, t - quarters, error) ||
		    run(s, error, "DELETE FROM verdict WHERE t < ? OR (t < ? AND NOT changed)", "dd", t - verdicts, t - fmin(MINUTES_KEPT, verdicts)) ||
		    run(s, error, "DELETE FROM event WHERE t < ? OR id <= (SELECT max(id) FROM event) - ?", "di", t - verdicts,
			(int64_t)EVENTS_KEPT) ||
		    run(s, error, "DELETE FROM run WHERE last < ?", "d", t - QUARTERS_KEPT))
			return -1;
		if (!is_near_limit(s))
			break;
		quarters *= SHRINK;
		verdicts *= SHRINK;
		minutes = fmin(minutes, quarters);
	}
	for (size_t i = 0; i < sizeof(unused) / sizeof(unused[0]); i++)
		if (run(s, error, unused[i], ""))
			return -1;
	return aging_store_commit(s, error);
}

int aging_store_commit(struct aging_store *s, const char **error)
{
	double t = aging_store_now(s), clock = seconds(CLOCK_REALTIME), by = clock - (t - s->t + s->clock);
	double was_t = s->t, was_clock = s->clock;
	char what[80];

	if (fabs(by) > CLOCK_SET && s->speed == 1) {
		snprintf(what, sizeof(what), "the clock was set by %+.0f s", by);
		if (begin_run(s, t, clock, error) || aging_store_event(s, t, NULL, "clock", what, error))
			return -1;
	}
	if (run(s, error, "UPDATE run SET last = ? WHERE rowid = (SELECT max(rowid) FROM run)", "d", t))
		return -1;
	if (sqlite3_exec(s->db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK) {
		s->t = was_t;
		s->clock = was_clock;
		return fail(s, error);
	}
	s->begun = false;
	return 0;
}

/* ---- reading */

static enum aging_state state_of(const char *name)
{
	for (int i = AGING_STATE_UNKNOWN; i <= AGING_STATE_CRITICAL; i++)
		if (!strcmp(aging_state_name((enum aging_state)i), name))
			return (enum aging_state)i;
	return AGING_STATE_UNKNOWN;
}

int aging_store_each_verdict(struct aging_store *s, const char *name, double since, bool newest,
			     void (*each)(void *ctx, const struct aging_stored *v), void *ctx, const char **error)
{
	sqlite3_stmt *q = prepare(
		s,
		newest ? "SELECT name, v.*, max(v.t) FROM subject CROSS JOIN verdict v ON v.subject = subject.id"
			 " WHERE (?1 IS NULL OR name = ?1) AND v.t >= ?2 GROUP BY name ORDER BY name"
		       : "SELECT name, v.* FROM subject CROSS JOIN verdict v ON v.subject = subject.id"
			 " WHERE (?1 IS NULL OR name = ?1) AND v.t >= ?2 ORDER BY v.t",
		"td", name, since);
	int r;

	while ((r = step(s, q, error)) > 0) {
		/* 0 name, 1 subject, then as in the schema */
		struct aging_stored v = {.name = text(q, 0), .t = column(q, 2), .state = state_of(text(q, 3)),
					 .changed = sqlite3_column_int(q, 4), .indicator = text(q, 5), .left = column(q, 6),
					 .slope = column(q, 7), .low = column(q, 8), .high = column(q, 9), .exhausted_in = column(q, 10),
					 .earliest = column(q, 11), .latest = column(q, 12), .window = column(q, 13), .p = column(q, 14),
					 .contention = column(q, 15), .bursts = column(q, 16),
					 .refused = (unsigned long)sqlite3_column_int64(q, 17), .culprits = text(q, 18),
					 .evidence = text(q, 19)};

		each(ctx, &v);
	}
	return r;
}

/* (Inside it and outside of the same name: what is seen from here.) */
#define NEWEST_SERIES                                                                                                              \
	"SELECT series.id FROM series JOIN subject ON series.subject = subject.id WHERE subject.name = ?1 AND series.name = ?2"    \
	" ORDER BY subject.id DESC, outside DESC LIMIT 1"

int aging_store_each_value(struct aging_store *s, const char *name, const char *indicator, double since,
			   void (*each)(void *ctx, double t, double value), void *ctx, double *limit, const char **error)
{
	sqlite3_stmt *q = prepare(s, "SELECT full FROM series WHERE id = (" NEWEST_SERIES ")", "tt", name, indicator);
	int r = step(s, q, error);

	if (r <= 0) {
		snprintf(s->error, sizeof(s->error), "%s: nothing is stored of '%s'", name, indicator);
		if (!r)
			*error = s->error;
		return -1;
	}
	*limit = column(q, 0);
	sqlite3_finalize(q);
	q = prepare(s,
		    "SELECT t + 450, value FROM quarter WHERE series = (" NEWEST_SERIES ") AND t >= ?3"
		    " UNION ALL SELECT t + 30, value FROM minute WHERE series = (" NEWEST_SERIES ") AND t >= ?3 ORDER BY 1",
		    "ttd", name, indicator, since);
	while ((r = step(s, q, error)) > 0)
		each(ctx, column(q, 0), column(q, 1));
	return r;
}

int aging_store_each_indicator(struct aging_store *s, const char *name,
			       void (*each)(void *ctx, const char *indicator, enum aging_kind kind, double limit), void *ctx,
			       const char **error)
{
	sqlite3_stmt *q = prepare(s,
				  "SELECT DISTINCT name, kind, full FROM series WHERE subject ="
				  " (SELECT max(id) FROM subject WHERE name = ?) ORDER BY name",
				  "t", name);
	int r;

	while ((r = step(s, q, error)) > 0)
		each(ctx, text(q, 0), (enum aging_kind)sqlite3_column_int(q, 1), column(q, 2));
	return r;
}

int aging_store_each_event(struct aging_store *s, const char *name, int64_t after, double since,
			   void (*each)(void *ctx, const struct aging_event *e), void *ctx, const char **error)
{
	sqlite3_stmt *q = prepare(s,
				  "SELECT id, t, name, kind, text FROM event WHERE (?1 IS NULL OR name = ?1) AND id > ?2 AND t >= ?3"
				  " ORDER BY id",
				  "tid", name, after, since);
	int r;

	while ((r = step(s, q, error)) > 0) {
		struct aging_event e = {.id = sqlite3_column_int64(q, 0), .t = column(q, 1), .name = text(q, 2), .kind = text(q, 3),
					.text = text(q, 4)};

		each(ctx, &e);
	}
	return r;
}
