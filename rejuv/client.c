/* client.c: the command line as a client of vmbeamd: client.h.  HTTP/1.1, a connection for each question (RFC 9112). */
#include "rejuv/client.h"

#include "rejuv/cli.h"
#include "vmm/client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { ANSWER_MS = 30000, ANSWER_MOST = 8 << 20, LOOK_MS = 300 };

static int connect_to_daemon(void)
{
	const char *given = getenv("VMBEAM_SOCKET");
	char *path = given && given[0] ? xstrdup(given) : xasprintf("%s/vmbeamd.sock", runtime_dir());
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = -1;

	if (strlen(path) < sizeof(address.sun_path)) {
		strcpy(address.sun_path, path);
		fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)))
			close_fd(&fd);
	}
	free(path);
	return fd;
}

bool daemon_is_there(void)
{
	int fd = connect_to_daemon();
	bool is = fd >= 0;

	close_fd(&fd);
	return is;
}

static int send_question(int fd, const char *method, const char *path, const json_t *body, struct error *e)
{
	char *text = body ? json_dumps(body, JSON_COMPACT) : xstrdup("");
	char *all = xasprintf("%s %s HTTP/1.1\r\nHost: vmbeamd\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s", method, path,
			      text ? strlen(text) : 0, text ? text : "");
	int r = send(fd, all, strlen(all), MSG_NOSIGNAL) == (ssize_t)strlen(all) ? 0 : error_set_errno(e, "vmbeamd");

	free(all);
	free(text);
	return r;
}

/* Until it is closed; a string. */
static char *receive_answer(int fd, struct error *e)
{
	char *text = xcalloc(1, ANSWER_MOST + 1);
	uint64_t deadline = clock_ns() + ANSWER_MS * 1000000ull;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	size_t len = 0;
	ssize_t n = 1;

	while (n > 0 && len < ANSWER_MOST && clock_ns() < deadline) {
		if (poll(&p, 1, ANSWER_MS) <= 0)
			break;
		n = recv(fd, text + len, ANSWER_MOST - len, 0);
		len += n > 0 ? (size_t)n : 0;
	}
	if (!n && len)
		return text;
	free(text);
	error_set(e, "vmbeamd does not answer");
	return NULL;
}

/* (The daemon's answers have a length, and are not chunked.) */
static int read_answer(const char *text, json_t **reply, struct error *e)
{
	const char *body = strstr(text, "\r\n\r\n");
	int status = 0;
	json_t *j = body ? json_loads(body + 4, JSON_DECODE_ANY, NULL) : NULL;
	const char *error = json_string_value(json_object_get(j, "error"));
	int r = 0;

	if (sscanf(text, "HTTP/1.%*d %d", &status) != 1 || !j)
		r = error_set(e, "vmbeamd made no sense");
	else if (status >= 400)
		r = error_set(e, "%s", error ? error : "vmbeamd refused it");
	if (!r && reply)
		*reply = json_incref(j);
	json_decref(j);
	return r;
}

int daemon_ask(const char *method, const char *path, const json_t *body, json_t **reply, struct error *e)
{
	int fd = connect_to_daemon(), r = -1;
	char *text;

	if (fd < 0)
		return error_set_errno(e, "vmbeamd");
	if (!send_question(fd, method, path, body, e) && (text = receive_answer(fd, e))) {
		r = read_answer(text, reply, e);
		free(text);
	}
	close(fd);
	return r;
}

/* Its object among the hypervisors: a new reference, or NULL. */
static json_t *find_hypervisor(const char *name)
{
	json_t *all, *one, *found = NULL;
	struct error e;
	size_t i;

	if (daemon_ask("GET", "/v1/hypervisors", NULL, &all, &e))
		return NULL;
	json_array_foreach(all, i, one)
		if (!strcmp(text_of(one, "hypervisor"), name))
			found = json_incref(one);
	json_decref(all);
	return found;
}

bool daemon_manages(const char *hypervisor)
{
	json_t *h = find_hypervisor(hypervisor);
	bool is = json_is_true(json_object_get(h, "managed"));

	json_decref(h);
	return is;
}

/* ---- commands */

int daemon_command(int argc, char **argv)
{
	json_t *command = json_array(), *body, *reply, *job;
	long long id, out = 0, err = 0;
	char path[128];
	struct error e;
	int r;

	for (int i = 0; i < argc; i++)
		json_array_append_new(command, json_string(argv[i]));
	body = json_pack("{s:o}", "command", command);
	r = daemon_ask("POST", "/v1/jobs", body, &reply, &e);
	json_decref(body);
	if (r)
		return cli_fail("%s: %s", argv[0], e.text);
	id = json_integer_value(json_object_get(reply, "id"));
	json_decref(reply);
	for (;;) {
		long long was = out + err;
		bool is_over;

		snprintf(path, sizeof(path), "/v1/jobs/%lld?stdout=%lld&stderr=%lld", id, out, err);
		if (daemon_ask("GET", path, NULL, &job, &e))
			return cli_fail("%s: %s", argv[0], e.text);
		fputs(text_of(job, "stderr"), stderr);
		fputs(text_of(job, "stdout"), stdout);
		fflush(stdout);
		out = json_integer_value(json_object_get(job, "stdout_next"));
		err = json_integer_value(json_object_get(job, "stderr_next"));
		is_over = !strcmp(text_of(job, "state"), "ended");
		r = (int)json_integer_value(json_object_get(job, "status"));
		json_decref(job);
		if (out + err > was) /* there may be more */
			continue;
		if (is_over)
			return r;
		poll(NULL, 0, LOOK_MS);
	}
}

/* Says what has happened to it since event number *last. */
static void say_events(const char *name, int64_t *last, bool json)
{
	json_t *events, *one;
	char path[64];
	struct error e;
	size_t i;

	snprintf(path, sizeof(path), "/v1/events?after=%lld", (long long)*last);
	if (daemon_ask("GET", path, NULL, &events, &e))
		return;
	json_array_foreach(events, i, one) {
		*last = json_integer_value(json_object_get(one, "id"));
		if (!json && !strcmp(text_of(one, "name"), name))
			printf("%-12s %s\n", text_of(one, "kind"), text_of(one, "text"));
	}
	fflush(stdout);
	json_decref(events);
}

/* The newest rejuvenation of it: a new reference, or NULL. */
static json_t *newest_run(const char *name)
{
	json_t *runs, *one = NULL;
	char path[128];
	struct error e;

	snprintf(path, sizeof(path), "/v1/rejuvenations?hypervisor=%.80s", name);
	if (daemon_ask("GET", path, NULL, &runs, &e))
		return NULL;
	one = json_incref(json_array_get(runs, 0));
	json_decref(runs);
	return one;
}

int daemon_rejuvenate(const char *name, bool json)
{
	char path[128], state[32], error[300];
	json_t *status = NULL, *h, *run;
	int64_t last, before;
	struct error e;
	bool well;

	if (daemon_ask("GET", "/v1/status", NULL, &status, &e))
		return cli_fail("%s: %s", name, e.text);
	last = json_integer_value(json_object_get(status, "last_event"));
	json_decref(status);
	run = newest_run(name);
	before = json_integer_value(json_object_get(run, "id"));
	json_decref(run);
	snprintf(path, sizeof(path), "/v1/hypervisors/%.80s/rejuvenate", name);
	if (daemon_ask("POST", path, NULL, NULL, &e))
		return cli_fail("%s", e.text);
	do {
		poll(NULL, 0, LOOK_MS);
		say_events(name, &last, json);
		h = find_hypervisor(name);
		snprintf(state, sizeof(state), "%.31s", h ? text_of(h, "state") : "gone");
		json_decref(h);
	} while (strcmp(state, "idle") && strcmp(state, "blocked") && strcmp(state, "gone"));
	run = newest_run(name);
	well = !strcmp(text_of(run, "outcome"), "completed") && json_integer_value(json_object_get(run, "id")) > before;
	snprintf(error, sizeof(error), "%s", well || json_integer_value(json_object_get(run, "id")) > before ? text_of(run, "error") : "");
	if (json && run)
		cli_print_json(json_incref(run));
	json_decref(run);
	return well ? EXIT_OK : cli_fail("%s: not rejuvenated: %s", name, error[0] ? error : state);
}
