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

enum { RUNNING_MOST = 16, WAITING_MOST = 64, KEPT = 64, ARGS_MOST = 64, OUTPUT_MOST = 1 << 20, LINE_MOST = 1024 };

/* What needs a terminal, never ends, or is no business of a daemon's is not among them. */
static const char *const commands[] = {"run",	     "list",	   "info",    "pause", "resume", "stop", "balloon",
				       "dump",	     "migrate", "hypervisor", "rejuvenate", "monitor", "events", "certs"};

struct job {
	struct job *next;
	struct jobs *jobs;
	int64_t id;
	char name[32]; /* in events */
	json_t *command;
	struct child *child; /* NULL: it has not begun, or has ended */
	bool waits;
	int out, err;	     /* memfds of what it prints; err: what came through `progress` */
	struct source progress;
	char line[LINE_MOST];
	size_t len;
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

static void hang_up(struct job *j)
{
	if (j->progress.fd >= 0)
		unwatch_source(j->jobs->d, &j->progress);
	close_fd(&j->progress.fd);
}

static void destroy(struct job *j)
{
	if (j->child)
		child_forget(j->child); /* it goes on */
	hang_up(j);
	close_fd(&j->out);
	close_fd(&j->err);
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

/* Its lines become events: that is its progress. */
static void on_progress(void *ctx)
{
	struct job *j = ctx;
	char buf[4096];
	ssize_t n = read(j->progress.fd, buf, sizeof(buf));
	struct stat st;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		hang_up(j);
		return;
	}
	if (!fstat(j->err, &st) && st.st_size < OUTPUT_MOST && write_all(j->err, buf, (size_t)n) < 0)
		log_line("job: %s", strerror(errno));
	for (ssize_t i = 0; i < n; i++)
		if (buf[i] == '\n' || buf[i] == '\r' || j->len == sizeof(j->line) - 1) {
			j->line[j->len] = 0;
			if (j->len)
				event(j->jobs->d, j->name, "progress", "%s", j->line);
			j->len = 0;
		} else {
			j->line[j->len++] = buf[i];
		}
}

static void ended(void *ctx, int status, bool timed_out)
{
	struct job *j = ctx;

	(void)timed_out;
	j->child = NULL;
	while (j->progress.fd >= 0) { /* what is in the pipe still; others may hold it open */
		struct stat before, after;

		fstat(j->err, &before);
		on_progress(j);
		fstat(j->err, &after);
		if (before.st_size == after.st_size)
			break;
	}
	hang_up(j);
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

static void begin(struct job *j)
{
	char *argv[ARGS_MOST + 2] = {NULL};
	struct child_options o = {.argv = argv, .in = -1, .out = j->out, .keep = -1, .ended = ended, .ctx = j};
	struct daemon *d = j->jobs->d;
	struct error e = {"pipe"};
	int pipes[2];

	j->waits = false;
	if (!check(j->command, argv, &e) && !pipe2(pipes, O_CLOEXEC)) {
		fcntl(pipes[0], F_SETFL, O_NONBLOCK);
		j->progress.fd = pipes[0];
		o.err = pipes[1];
		if (!watch_source(d, &j->progress, &e))
			j->child = child_start(d->children, &o, &e);
		close(pipes[1]);
	}
	if (j->child) {
		event(d, j->name, "started", "%s%s%s", argv[1], argv[2] ? " " : "", argv[2] ? argv[2] : "");
		return;
	}
	hang_up(j);
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
	j->progress = (struct source){.fd = -1, .on = on_progress, .ctx = j};
	j->out = memfd_create("job", MFD_CLOEXEC);
	j->err = memfd_create("job", MFD_CLOEXEC);
	if (j->out < 0 || j->err < 0) {
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

/* What is no UTF-8 is told as "?". */
static json_t *text_in(int fd)
{
	struct stat st;
	size_t size = fstat(fd, &st) ? 0 : (size_t)MIN(st.st_size, (off_t)OUTPUT_MOST);
	char *text = xcalloc(1, size + 1);
	ssize_t n = pread_all(fd, text, size, 0);
	json_t *j = json_stringn(text, n > 0 ? (size_t)n : 0);

	for (ssize_t i = 0; !j && i < n; i++)
		if (text[i] < 0)
			text[i] = '?';
	if (!j)
		j = json_stringn(text, (size_t)MAX(n, 0));
	free(text);
	return j;
}

static json_t *to_json(const struct job *j, bool output)
{
	json_t *one = json_pack("{s:I, s:O, s:s, s:I}", "id", (json_int_t)j->id, "command", j->command, "state",
				j->waits ? "waiting" : j->child ? "running" : "ended", "begun_s", (json_int_t)j->begun);

	json_object_set_new(one, "ended_s", j->ended ? json_integer(j->ended) : json_null());
	json_object_set_new(one, "status", j->ended ? json_integer(j->status) : json_null());
	if (output) {
		json_object_set_new(one, "stdout", text_in(j->out));
		json_object_set_new(one, "stderr", text_in(j->err));
	}
	return one;
}

json_t *jobs_json(const struct jobs *jobs, int64_t id)
{
	struct job *j = id ? find(jobs, id) : jobs->first;
	json_t *array;

	if (id)
		return j ? to_json(j, true) : NULL;
	array = json_array();
	for (; j; j = j->next)
		json_array_append_new(array, to_json(j, false));
	return array;
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
