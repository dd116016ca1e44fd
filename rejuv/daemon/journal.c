/* journal.c: vmbeamd's journal: journal.h. */
#include "rejuv/daemon/journal.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { VERSION = 1, RUNS_KEPT = 2000, BAD_KEPT = 9 };

static const char schema[] = "CREATE TABLE hypervisor(name TEXT PRIMARY KEY, state TEXT NOT NULL, data TEXT NOT NULL) WITHOUT ROWID;"
			     "CREATE TABLE run(id INTEGER PRIMARY KEY AUTOINCREMENT, hypervisor TEXT NOT NULL, why TEXT NOT NULL,"
			     " begun INTEGER NOT NULL, ended INTEGER, outcome TEXT, error TEXT, report TEXT);";

struct journal {
	sqlite3 *db;
	int lock;
};

/* A statement whose `types` are bound: i int64_t, t text or NULL. */
static sqlite3_stmt *prepare(struct journal *j, struct error *e, const char *sql, const char *types, va_list ap)
{
	sqlite3_stmt *q = NULL;

	if (sqlite3_prepare_v2(j->db, sql, -1, &q, NULL) != SQLITE_OK) {
		error_set(e, "journal: %s", sqlite3_errmsg(j->db));
		return NULL;
	}
	for (int i = 0; types[i]; i++)
		if (types[i] == 'i')
			sqlite3_bind_int64(q, i + 1, va_arg(ap, int64_t));
		else
			sqlite3_bind_text(q, i + 1, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
	return q;
}

static sqlite3_stmt *ask(struct journal *j, struct error *e, const char *sql, const char *types, ...)
{
	sqlite3_stmt *q;
	va_list ap;

	va_start(ap, types);
	q = prepare(j, e, sql, types, ap);
	va_end(ap);
	return q;
}

static int run(struct journal *j, struct error *e, const char *sql, const char *types, ...)
{
	sqlite3_stmt *q;
	va_list ap;
	int r;

	va_start(ap, types);
	q = prepare(j, e, sql, types, ap);
	va_end(ap);
	if (!q)
		return -1;
	r = sqlite3_step(q);
	if (r != SQLITE_DONE)
		error_set(e, "journal: %s", sqlite3_errmsg(j->db));
	sqlite3_finalize(q);
	return r == SQLITE_DONE ? 0 : -1;
}

static int execute(struct journal *j, const char *sql, struct error *e)
{
	return sqlite3_exec(j->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : error_set(e, "journal: %s", sqlite3_errmsg(j->db));
}

static int64_t number(struct journal *j, const char *sql)
{
	sqlite3_stmt *q = ask(j, NULL, sql, "");
	int64_t n = q && sqlite3_step(q) == SQLITE_ROW ? sqlite3_column_int64(q, 0) : -1;

	sqlite3_finalize(q);
	return n;
}

/* 0, or -1: it is no journal of ours. */
static int set_up(struct journal *j, struct error *e)
{
	int64_t version = number(j, "PRAGMA user_version");
	char sql[64];

	if (version < 0 || execute(j, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;", e))
		return error_set(e, "journal: %s", sqlite3_errmsg(j->db));
	if (version > VERSION)
		return error_set(e, "journal: it is of a newer vmbeam");
	if (version == VERSION)
		return 0;
	snprintf(sql, sizeof(sql), "PRAGMA user_version=%d;", VERSION);
	return execute(j, "BEGIN IMMEDIATE", e) || execute(j, schema, e) || execute(j, sql, e) || execute(j, "COMMIT", e) ? -1 : 0;
}

static int open_db(struct journal *j, const char *path, struct error *e)
{
	if (sqlite3_open_v2(path, &j->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
		return error_set(e, "%s: %s", path, sqlite3_errmsg(j->db));
	return set_up(j, e);
}

static void put_aside(const char *path, const struct error *why)
{
	static const char *const parts[] = {"", "-wal", "-shm"};
	char *bad = xasprintf("%s.bad", path);

	for (int n = 2; !access(bad, F_OK) && n <= BAD_KEPT; n++) {
		free(bad);
		bad = xasprintf("%s.bad%d", path, n);
	}
	for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
		char *from = xasprintf("%s%s", path, parts[i]), *to = xasprintf("%s%s", bad, parts[i]);

		rename(from, to);
		free(from);
		free(to);
	}
	log_line("%s: %s; it is put aside as %s, what was under way is looked for among what is there", path, why->text, bad);
	free(bad);
}

static bool is_damaged(struct journal *j)
{
	int code = sqlite3_errcode(j->db);

	if (code != SQLITE_NOTADB && code != SQLITE_CORRUPT && number(j, "SELECT count(*) FROM sqlite_schema") < 0)
		code = sqlite3_errcode(j->db);
	return code == SQLITE_NOTADB || code == SQLITE_CORRUPT;
}

struct journal *journal_open(const char *path, struct error *e)
{
	struct journal *j = xcalloc(1, sizeof(*j));
	char *lock = xasprintf("%s.lock", path);
	int r = -1;

	j->lock = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (j->lock < 0) {
		error_set_errno(e, "%s", lock);
	} else if (flock(j->lock, LOCK_EX | LOCK_NB)) {
		error_set(e, "%s: another vmbeamd has it", path);
	} else {
		r = open_db(j, path, e);
		if (r && is_damaged(j)) {
			put_aside(path, e);
			sqlite3_close(j->db);
			j->db = NULL;
			r = open_db(j, path, e);
		}
	}
	free(lock);
	if (!r)
		return j;
	journal_close(j);
	return NULL;
}

void journal_close(struct journal *j)
{
	if (!j)
		return;
	sqlite3_close(j->db);
	close_fd(&j->lock);
	free(j);
}

int journal_set(struct journal *j, const char *hypervisor, enum rejuv_state s, const json_t *data, struct error *e)
{
	char *text = json_dumps(data, JSON_COMPACT);
	int r = text ? run(j, e, "INSERT OR REPLACE INTO hypervisor VALUES(?,?,?)", "ttt", hypervisor, rejuv_state_name(s), text)
		     : error_set(e, "journal: what is known of %s cannot be written down", hypervisor);

	free(text);
	return r;
}

int journal_forget(struct journal *j, const char *hypervisor, struct error *e)
{
	return run(j, e, "DELETE FROM hypervisor WHERE name=?", "t", hypervisor);
}

static const char *text_of(sqlite3_stmt *q, int column)
{
	const char *text = (const char *)sqlite3_column_text(q, column);

	return text ? text : "";
}

int journal_each(struct journal *j, void (*each)(void *ctx, const char *hypervisor, enum rejuv_state s, json_t *data), void *ctx,
		 struct error *e)
{
	sqlite3_stmt *q = ask(j, e, "SELECT name, state, data FROM hypervisor", "");
	int r;

	if (!q)
		return -1;
	while ((r = sqlite3_step(q)) == SQLITE_ROW) {
		int state = rejuv_state_of(text_of(q, 1));
		json_t *data = json_loads(text_of(q, 2), 0, NULL);

		if (state >= 0 && json_is_object(data))
			each(ctx, text_of(q, 0), (enum rejuv_state)state, data);
		else
			log_line("journal: %s: it makes no sense", text_of(q, 0));
		json_decref(data);
	}
	if (r != SQLITE_DONE)
		error_set(e, "journal: %s", sqlite3_errmsg(j->db));
	sqlite3_finalize(q);
	return r == SQLITE_DONE ? 0 : -1;
}

int64_t journal_begin(struct journal *j, const char *hypervisor, const char *why, struct error *e)
{
	if (run(j, e, "INSERT INTO run(hypervisor, why, begun) VALUES(?,?,?)", "tti", hypervisor, why, (int64_t)time(NULL)))
		return -1;
	run(j, NULL, "DELETE FROM run WHERE id <= ?", "i", (int64_t)sqlite3_last_insert_rowid(j->db) - RUNS_KEPT);
	return sqlite3_last_insert_rowid(j->db);
}

int journal_report(struct journal *j, int64_t id, const char *outcome, const char *error, const json_t *report, struct error *e)
{
	char *text = json_dumps(report, JSON_COMPACT);
	int r = run(j, e, "UPDATE run SET outcome=?1, ended=?2, error=?3, report=?4 WHERE id=?5", "titti", outcome,
		    (int64_t)time(NULL), error, text, id);

	free(text);
	return r;
}

json_t *journal_runs(struct journal *j, const char *hypervisor, int64_t most, struct error *e)
{
	sqlite3_stmt *q = ask(j, e,
			      "SELECT id, hypervisor, why, begun, ended, outcome, error, report FROM run WHERE ?1 IS NULL OR hypervisor=?1"
			      " ORDER BY id DESC LIMIT ?2",
			      "ti", hypervisor, most);
	json_t *array = json_array();
	int r = SQLITE_ERROR;

	while (q && (r = sqlite3_step(q)) == SQLITE_ROW) {
		json_t *one = json_pack("{s:I, s:s, s:s, s:I, s:s, s:s}", "id", (json_int_t)sqlite3_column_int64(q, 0), "hypervisor",
					text_of(q, 1), "why", text_of(q, 2), "begun_s", (json_int_t)sqlite3_column_int64(q, 3), "outcome",
					sqlite3_column_type(q, 5) == SQLITE_NULL ? "under way" : text_of(q, 5), "error", text_of(q, 6));
		json_t *report = json_loads(text_of(q, 7), 0, NULL);

		json_object_set_new(one, "ended_s",
				    sqlite3_column_type(q, 4) == SQLITE_NULL ? json_null() : json_integer(sqlite3_column_int64(q, 4)));
		json_object_set_new(one, "report", report ? report : json_null());
		json_array_append_new(array, one);
	}
	if (q && r != SQLITE_DONE)
		error_set(e, "journal: %s", sqlite3_errmsg(j->db));
	sqlite3_finalize(q);
	if (r == SQLITE_DONE)
		return array;
	json_decref(array);
	return NULL;
}
