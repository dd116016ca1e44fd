/* jobs.c: commands of vmbeam that API clients have the daemon do, each a process: daemon.h.  What they print is kept with them. */
#include "rejuv/daemon/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RUNNING_MOST = 16, WAITING_MOST = 64, KEPT = 64, ARGS_MOST = 64, OUTPUT_MOST = 1 << 20, PART_MOST = 64 << 10, LINE_MOST = 1024, TOLD_S = 1 };

/* What needs a terminal, never ends, or is no business of a daemon's is not among them. */
static const char *const commands[] = {"run",	     "list",	   "info",    "pause", "resume", "stop", "balloon",
				       "dump",	     "migrate", "hypervisor", "rejuvenate", "monitor", "events", "certs"};

/* One of its outputs: read from a pipe, kept up to OUTPUT_MOST in a memfd. */
struct output {
	struct job *job;
	struct source pipe;
	int kept;
};

struct job {
	struct job *next;
	struct jobs *jobs;
	int64_t id;
	char name[32]; /* in events */
	json_t *command;
	struct child *child; /* NULL: it has not begun, or has ended */
	bool waits;
	struct output out, err;
	char line[LINE_MOST]; /* of err, which is its progress */
	size_t len;
	double told; /* boot_s(), when a line was an event last */
	time_t begun, ended;
	int status; /* exit status; 128 + signal */
};

struct jobs {
	struct daemon *d;
	struct job *first; /* newest first */
	int64_t last;
};

struct jobs *jobs_create(struct daemon *d)
{
	struct jobs *j = xcalloc(1, sizeof(*j));

	j->d = d;
	return j;
}

static void hang_up(struct output *o)
{
	if (o->pipe.fd >= 0)
		unwatch_source(o->job->jobs->d, &o->pipe);
	close_fd(&o->pipe.fd);
}

static void destroy(struct job *j)
{
	if (j->child)
		child_forget(j->child); /* it goes on */
	hang_up(&j->out);
	hang_up(&j->err);
	close_fd(&j->out.kept);
	close_fd(&j->err.kept);
	json_decref(j->command);
	free(j);
}

void jobs_destroy(struct jobs *j)
{
	while (j && j->first) {
		struct job *one = j->first;

		j->first = one->next;
		destroy(one);
	}
	free(j);
}

/* Its lines become events, but not all of many. */
static void tell_progress(struct job *j, const char *text, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (text[i] == '\n' || text[i] == '\r' || j->len == sizeof(j->line) - 1) {
			j->line[j->len] = 0;
			if (j->len && boot_s() - j->told >= TOLD_S) {
				event(j->jobs->d, j->name, "progress", "%s", j->line);
				j->told = boot_s();
			}
			j->len = 0;
		} else {
			j->line[j->len++] = text[i];
		}
}

/* Reads what there is; 0: nothing. */
static size_t read_output(struct output *o)
{
	char buf[4096];
	ssize_t n = read(o->pipe.fd, buf, sizeof(buf));
	struct stat st;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0) {
		hang_up(o);
		return 0;
	}
	if (!fstat(o->kept, &st) && st.st_size < OUTPUT_MOST && write_all(o->kept, buf, (size_t)n) < 0)
		log_line("job: %s", strerror(errno));
	if (o == &o->job->err)
		tell_progress(o->job, buf, (size_t)n);
	return (size_t)n;
}

static void on_output(void *ctx)
{
	read_output(ctx);
}

/* What is in the pipe still; others may hold it open, and write on. */
static void drain(struct output *o)
{
	for (size_t sum = 0, n = 1; n && sum < OUTPUT_MOST && o->pipe.fd >= 0; sum += n)
		n = read_output(o);
	hang_up(o);
}

static void ended(void *ctx, int status, bool timed_out)
{
	struct job *j = ctx;

	(void)timed_out;
	j->child = NULL;
	drain(&j->out);
	drain(&j->err);
	j->ended = time(NULL);
	j->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	event(j->jobs->d, j->name, "ended", "status %d", j->status);
	inventory_soon(j->jobs->d->inventory);
}

static bool is_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (!strcmp(commands[i], name))
			return true;
	return false;
}

/* A command that would follow something for ever, or wants a terminal. */
static int check(const json_t *command, char **argv, struct error *e)
{
	size_t n = json_array_size(command), i;
	bool detached = false;
	json_t *arg;

	if (!json_is_array(command) || !n || n > ARGS_MOST)
		return error_set(e, "command: an array of 1 to %d strings is expected", ARGS_MOST);
	json_array_foreach(command, i, arg) {
		if (!json_is_string(arg) || strlen(json_string_value(arg)) != json_string_length(arg))
			return error_set(e, "command: an array of 1 to %d strings is expected", ARGS_MOST);
		argv[i + 1] = (char *)(uintptr_t)json_string_value(arg);
		detached = detached || !strcmp(argv[i + 1], "--detach");
		/* (Options may be cut short.) */
		if (strlen(argv[i + 1]) > 2 && (!strncmp("--follow", argv[i + 1], strlen(argv[i + 1])) ||
						!strncmp("--record", argv[i + 1], strlen(argv[i + 1]))))
			return error_set(e, "%s would never end: see /v1/events", argv[i + 1]);
	}
	argv[0] = (char *)(uintptr_t) "vmbeam";
	argv[n + 1] = NULL;
	if (!is_command(argv[1]))
		return error_set(e, "no such command");
	if (!strcmp(argv[1], "run") && !detached)
		return error_set(e, "run: only with --detach");
	return 0;
}

static void drop_oldest(struct jobs *jobs)
{
	struct job **p = &jobs->first;
	size_t n = 0;

	while (*p) {
		struct job *j = *p;

		n++;
		if (n > KEPT && !j->child && !j->waits) {
			*p = j->next;
			destroy(j);
		} else {
			p = &j->next;
		}
	}
}

/* The end that the process writes to, or -1. */
static int open_output(struct output *o, struct error *e)
{
	int pipes[2];

	if (pipe2(pipes, O_CLOEXEC))
		return error_set_errno(e, "pipe");
	fcntl(pipes[0], F_SETFL, O_NONBLOCK);
	o->pipe.fd = pipes[0];
	if (watch_source(o->job->jobs->d, &o->pipe, e)) {
		close_fd(&pipes[1]);
		return -1;
	}
	return pipes[1];
}

static void begin(struct job *j)
{
	char *argv[ARGS_MOST + 2] = {NULL};
	struct child_options o = {.argv = argv, .in = -1, .out = -1, .err = -1, .keep = -1, .writes_on = true, .ended = ended, .ctx = j};
	struct daemon *d = j->jobs->d;
	struct error e;

	j->waits = false;
	if (!check(j->command, argv, &e) && (o.out = open_output(&j->out, &e)) >= 0 && (o.err = open_output(&j->err, &e)) >= 0)
		j->child = child_start(d->children, &o, &e);
	close_fd(&o.out);
	close_fd(&o.err);
	if (j->child) {
		event(d, j->name, "started", "%s%s%s", argv[1], argv[2] ? " " : "", argv[2] ? argv[2] : "");
		return;
	}
	hang_up(&j->out);
	hang_up(&j->err);
	j->ended = time(NULL);
	j->status = 1;
	event(d, j->name, "ended", "it could not be begun: %s", e.text);
}

static size_t count(const struct jobs *jobs, bool waiting)
{
	size_t n = 0;

	for (const struct job *j = jobs->first; j; j = j->next)
		n += waiting ? j->waits : j->child != NULL;
	return n;
}

int64_t jobs_start(struct jobs *jobs, json_t *command, struct error *e)
{
	char *argv[ARGS_MOST + 2];
	struct job *j;

	if (check(command, argv, e))
		return -1;
	if (count(jobs, true) >= WAITING_MOST)
		return error_set(e, "%d jobs are waiting already", WAITING_MOST);
	j = xcalloc(1, sizeof(*j));
	j->jobs = jobs;
	j->command = json_incref(command);
	j->out = (struct output){.job = j, .pipe = {.fd = -1, .on = on_output, .ctx = &j->out}, .kept = memfd_create("job", MFD_CLOEXEC)};
	j->err = (struct output){.job = j, .pipe = {.fd = -1, .on = on_output, .ctx = &j->err}, .kept = memfd_create("job", MFD_CLOEXEC)};
	if (j->out.kept < 0 || j->err.kept < 0) {
		error_set_errno(e, "job");
		destroy(j);
		return -1;
	}
	j->id = ++jobs->last;
	snprintf(j->name, sizeof(j->name), "job-%lld", (long long)j->id);
	j->begun = time(NULL);
	j->waits = true;
	j->next = jobs->first;
	jobs->first = j;
	drop_oldest(jobs);
	return j->id;
}

bool jobs_run(struct jobs *jobs)
{
	struct job *oldest = NULL;

	for (struct job *j = jobs->first; j; j = j->next)
		if (j->waits)
			oldest = j;
	if (!oldest || count(jobs, false) >= RUNNING_MOST)
		return false;
	begin(oldest);
	return count(jobs, true) && count(jobs, false) < RUNNING_MOST;
}

static struct job *find(const struct jobs *jobs, int64_t id)
{
	struct job *j = jobs->first;

	while (j && j->id != id)
		j = j->next;
	return j;
}

/* How much of `text` is no beginning of a UTF-8 sequence (RFC 3629) that its end cuts off. */
static size_t whole(const char *text, size_t n)
{
	for (size_t back = 1; back <= 3 && back <= n; back++) {
		unsigned char c = (unsigned char)text[n - back];

		if (c < 0x80)
			return n;
		if (c >= 0xc0)
			return back < (c >= 0xf0 ? 4U : c >= 0xe0 ? 3U : 2U) ? n - back : n;
	}
	return n;
}

/* A part of it, and where the next begins.  What is no UTF-8 is told as "?". */
static json_t *part_of(const struct output *o, uint64_t from, uint64_t *next)
{
	char *text = xcalloc(1, PART_MOST);
	ssize_t n = from < OUTPUT_MOST + PART_MOST ? pread_all(o->kept, text, PART_MOST, (off_t)from) : 0;
	size_t len = n < 0 ? 0 : (size_t)n;
	json_t *j;

	if (len == PART_MOST || o->job->child)
		len = whole(text, len);
	*next = from + len;
	j = json_stringn(text, len);
	for (size_t i = 0; !j && i < len; i++)
		if (text[i] < 0)
			text[i] = '?';
	if (!j)
		j = json_stringn(text, len);
	free(text);
	return j;
}

static json_t *to_json(const struct job *j)
{
	json_t *one = json_pack("{s:I, s:O, s:s, s:I}", "id", (json_int_t)j->id, "command", j->command, "state",
				j->waits ? "waiting" : j->child ? "running" : "ended", "begun_s", (json_int_t)j->begun);

	json_object_set_new(one, "ended_s", j->ended ? json_integer(j->ended) : json_null());
	json_object_set_new(one, "status", j->ended ? json_integer(j->status) : json_null());
	return one;
}

json_t *jobs_json(const struct jobs *jobs)
{
	json_t *array = json_array();

	for (const struct job *j = jobs->first; j; j = j->next)
		json_array_append_new(array, to_json(j));
	return array;
}

json_t *job_json(const struct jobs *jobs, int64_t id, uint64_t out, uint64_t err)
{
	const struct job *j = find(jobs, id);
	json_t *one = j ? to_json(j) : NULL;

	if (!j)
		return NULL;
	json_object_set_new(one, "stdout", part_of(&j->out, out, &out));
	json_object_set_new(one, "stderr", part_of(&j->err, err, &err));
	json_object_set_new(one, "stdout_next", json_integer((json_int_t)out));
	json_object_set_new(one, "stderr_next", json_integer((json_int_t)err));
	return one;
}

int jobs_kill(struct jobs *jobs, int64_t id, struct error *e)
{
	struct job *j = find(jobs, id);

	if (!j)
		return error_set(e, "no such job");
	if (j->child)
		child_kill(j->child);
	if (j->waits) {
		j->waits = false;
		j->ended = time(NULL);
		j->status = 128 + SIGKILL;
	}
	return 0;
}
