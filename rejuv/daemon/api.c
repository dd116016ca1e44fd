/* api.c: HTTP/1.1 and JSON over a unix socket (libmicrohttpd, in the daemon's loop): daemon.h; rejuv/daemon/openapi.json describes it.
 *
 * A second door is for browsers, if it is configured: TCP, a page (dashboard.html) and what that needs, to whoever has the token in
 * dashboard.token of the state folder.
 * Who may use the socket: root, the daemon's own user, and members of the configured group, by the socket's mode and the peer's credentials.  They can have
 * the daemon do whatever root can do with vmbeam.
 * A client that is slow, silent or too long-winded is dropped: connections, headers, bodies and time are bounded; nobody is waited for.
 */
#include "rejuv/daemon/daemon.h"

#include "rejuv/daemon/dashboard.h"
#include "rejuv/daemon/openapi.h"
#include "rejuv/cli.h"
#include "rejuv/monitor/address.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <math.h>
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { CONNECTIONS = 256, TIMEOUT_S = 20, HEADERS = 32 * 1024, BODY_MOST = 64 * 1024, STREAMS = 32, BEAT_S = 15, GROUPS = 256, BACKLOG = 128 };

/* A client that listens to events. */
struct stream {
	struct stream *next;
	struct api *api;
	struct MHD_Connection *connection;
	int64_t seen;  /* the last event it has been given */
	char *text;    /* what it is being given */
	size_t len, at;
	bool suspended;
	double beat; /* the last it was told */
};

enum { TOKEN = 32 }; /* characters */

/* The socket's, or the browsers'. */
struct door {
	struct api *api;
	bool is_public;
	struct MHD_Daemon *http; /* NULL: closed */
	struct source source;
};

struct api {
	struct daemon *d;
	struct door socket, browsers;
	char token[TOKEN + 1];
	int listener;
	char *path;
	gid_t group;
	bool has_group;
	struct stream *streams;
	size_t nstreams;
	double beat;
};

struct request {
	char *body;
	size_t len;
	bool too_large;
};

struct reply {
	unsigned int status;
	json_t *json;
	const void *text; /* instead; constant */
	size_t len;
	const char *type;
};

static struct reply fail(unsigned int status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static struct reply fail(unsigned int status, const char *fmt, ...)
{
	char text[500];
	va_list ap;
	json_t *s;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	s = json_string(text);
	return (struct reply){.status = status, .json = json_pack("{s:o}", "error", s ? s : json_string("?"))};
}

static struct reply ok(json_t *j)
{
	return j ? (struct reply){.status = MHD_HTTP_OK, .json = j} : fail(MHD_HTTP_INTERNAL_SERVER_ERROR, "no answer");
}

/* ---- what can be asked for: `name` is what stands for {name} */

struct ask {
	struct api *api;
	struct MHD_Connection *connection;
	char name[80];
	const json_t *body; /* or NULL */
};

static struct reply get_status(const struct ask *q)
{
	const struct daemon *d = q->api->d;

	return ok(json_pack("{s:s, s:i, s:f, s:s, s:I}", "program", "vmbeamd", "pid", (int)getpid(), "slowest_turn_ms",
			    (double)d->slowest_ns / 1e6, "config", d->config_path, "last_event", (json_int_t)events_last(d->events)));
}

static struct reply get_vms(const struct ask *q)
{
	const json_t *vms = inventory_vms(q->api->d->inventory);

	return ok(vms ? json_incref((json_t *)(uintptr_t)vms) : json_array());
}

static struct reply get_vm(const struct ask *q)
{
	const json_t *vm = inventory_vm(q->api->d->inventory, q->name);

	return vm ? ok(json_incref((json_t *)(uintptr_t)vm)) : fail(MHD_HTTP_NOT_FOUND, "%s: no such VM", q->name);
}

static struct reply get_hypervisors(const struct ask *q)
{
	return ok(engine_json(q->api->d->engine));
}

static struct reply get_ageing(const struct ask *q)
{
	const json_t *v = feed_verdict(q->api->d->feed, q->name);

	return v ? ok(json_incref((json_t *)(uintptr_t)v)) : fail(MHD_HTTP_NOT_FOUND, "%s: nothing is known of it as of now", q->name);
}

static struct reply post_rejuvenate(const struct ask *q)
{
	struct error e;

	if (engine_want(q->api->d->engine, q->name, "asked for", &e))
		return fail(!strcmp(e.text, "no such hypervisor") ? MHD_HTTP_NOT_FOUND : MHD_HTTP_CONFLICT, "%s: %s", q->name, e.text);
	return (struct reply){.status = MHD_HTTP_ACCEPTED, .json = json_pack("{s:s}", "hypervisor", q->name)};
}

static struct reply delete_rejuvenate(const struct ask *q)
{
	struct error e;

	if (engine_cancel(q->api->d->engine, q->name, &e))
		return fail(!strcmp(e.text, "no such hypervisor") ? MHD_HTTP_NOT_FOUND : MHD_HTTP_CONFLICT, "%s: %s", q->name, e.text);
	return (struct reply){.status = MHD_HTTP_ACCEPTED, .json = json_pack("{s:s}", "hypervisor", q->name)};
}

static struct reply get_rejuvenations(const struct ask *q)
{
	const char *name = MHD_lookup_connection_value(q->connection, MHD_GET_ARGUMENT_KIND, "hypervisor");
	struct error e;
	json_t *runs = journal_runs(q->api->d->journal, name, 200, &e);

	return runs ? ok(runs) : fail(MHD_HTTP_SERVICE_UNAVAILABLE, "%s", e.text);
}

static struct reply get_jobs(const struct ask *q)
{
	return ok(jobs_json(q->api->d->jobs));
}

static int64_t job_number(const struct ask *q)
{
	uint64_t id;
	struct error e;

	return parse_uint(q->name, 1, INT64_MAX, &id, &e) ? -1 : (int64_t)id;
}

/* A number in the query; 0 if it is not there. */
static int number_asked(const struct ask *q, const char *name, uint64_t *number, struct error *e)
{
	const char *text = MHD_lookup_connection_value(q->connection, MHD_GET_ARGUMENT_KIND, name);

	*number = 0;
	if (!text || !parse_uint(text, 0, INT64_MAX, number, e))
		return 0;
	return error_set(e, "%s: a number of bytes, or of an event, is expected", name);
}

static struct reply get_job(const struct ask *q)
{
	uint64_t out, err;
	struct error e;
	json_t *j;

	if (number_asked(q, "stdout", &out, &e) || number_asked(q, "stderr", &err, &e))
		return fail(MHD_HTTP_BAD_REQUEST, "%s", e.text);
	j = job_json(q->api->d->jobs, job_number(q), out, err);
	return j ? ok(j) : fail(MHD_HTTP_NOT_FOUND, "no such job");
}

static struct reply post_job(const struct ask *q)
{
	json_t *command = json_object_get(q->body, "command");
	struct error e;
	int64_t id = jobs_start(q->api->d->jobs, command, &e);

	if (id < 0)
		return fail(strstr(e.text, "waiting already") ? MHD_HTTP_TOO_MANY_REQUESTS : MHD_HTTP_BAD_REQUEST, "%s", e.text);
	return (struct reply){.status = MHD_HTTP_ACCEPTED, .json = json_pack("{s:I}", "id", (json_int_t)id)};
}

static struct reply delete_job(const struct ask *q)
{
	struct error e;

	return jobs_kill(q->api->d->jobs, job_number(q), &e) ? fail(MHD_HTTP_NOT_FOUND, "%s", e.text) : ok(json_object());
}

static struct reply get_events(const struct ask *q)
{
	uint64_t id;
	struct error e;

	if (number_asked(q, "after", &id, &e))
		return fail(MHD_HTTP_BAD_REQUEST, "%s", e.text);
	return ok(events_after(q->api->d->events, (int64_t)id));
}

static struct reply get_description(const struct ask *q)
{
	(void)q;
	return (struct reply){.status = MHD_HTTP_OK, .text = openapi_json, .len = openapi_json_len, .type = "application/json"};
}

static const struct route {
	const char *method, *path;
	struct reply (*answer)(const struct ask *q);
	bool is_public; /* for browsers, too */
} routes[] = {
	{"GET", "/v1/status", get_status, true},
	{"GET", "/v1/vms", get_vms, true},
	{"GET", "/v1/vms/{name}", get_vm, true},
	{"GET", "/v1/hypervisors", get_hypervisors, true},
	{"GET", "/v1/hypervisors/{name}/ageing", get_ageing, true},
	{"POST", "/v1/hypervisors/{name}/rejuvenate", post_rejuvenate, true},
	{"DELETE", "/v1/hypervisors/{name}/rejuvenate", delete_rejuvenate, true},
	{"GET", "/v1/rejuvenations", get_rejuvenations, true},
	{"GET", "/v1/events", get_events, true},
	{"GET", "/v1/jobs", get_jobs, false},
	{"POST", "/v1/jobs", post_job, false},
	{"GET", "/v1/jobs/{name}", get_job, false},
	{"DELETE", "/v1/jobs/{name}", delete_job, false},
	{"GET", "/v1/openapi.json", get_description, true},
};

/* Does the path fit?  Then what stands for {name} is in `name`. */
static bool fits(const char *pattern, const char *url, char *name, size_t size)
{
	const char *hole = strchr(pattern, '{'), *end = hole ? strchr(hole, '}') + 1 : NULL;
	size_t n;

	if (!hole)
		return !strcmp(pattern, url);
	if (strncmp(pattern, url, (size_t)(hole - pattern)))
		return false;
	url += hole - pattern;
	n = strcspn(url, "/");
	if (!n || n >= size || strcmp(url + n, end))
		return false;
	snprintf(name, size, "%.*s", (int)n, url);
	return vm_name_is_valid(name);
}

static struct reply answer_to(struct ask *q, bool is_public, const char *method, const char *url)
{
	bool known = false;

	if (!strcmp(method, MHD_HTTP_METHOD_HEAD))
		method = MHD_HTTP_METHOD_GET;
	for (size_t i = 0; i < ARRAY_LEN(routes); i++)
		if ((routes[i].is_public || !is_public) && fits(routes[i].path, url, q->name, sizeof(q->name))) {
			if (!strcmp(routes[i].method, method))
				return routes[i].answer(q);
			known = true;
		}
	return known ? fail(MHD_HTTP_METHOD_NOT_ALLOWED, "%s cannot be asked for that", url)
		     : fail(MHD_HTTP_NOT_FOUND, "there is no such thing: /v1/openapi.json says what there is");
}

/* ---- sending */

static enum MHD_Result send_reply(struct MHD_Connection *c, struct reply *r)
{
	struct MHD_Response *response;
	enum MHD_Result result;
	char *text = r->json ? json_dumps(r->json, JSON_INDENT(1) | JSON_PRESERVE_ORDER) : NULL;

	if (text)
		response = MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
	else
		response = MHD_create_response_from_buffer(r->len, (void *)(uintptr_t)(r->text ? r->text : ""), MHD_RESPMEM_PERSISTENT);
	json_decref(r->json);
	if (!response) {
		free(text);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, r->type ? r->type : "application/json");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
	MHD_add_response_header(response, "X-Frame-Options", "DENY");
	MHD_add_response_header(response, "Content-Security-Policy",
				"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:");
	result = MHD_queue_response(c, r->status, response);
	MHD_destroy_response(response);
	return result;
}

/* ---- events as they happen: text/event-stream (HTML Living Standard, 9.2) */

static void fill_stream(struct stream *s)
{
	json_t *array = events_after(s->api->d->events, s->seen), *one;
	size_t i, size = 0;
	FILE *f;

	free(s->text);
	s->text = NULL;
	s->at = s->len = 0;
	f = open_memstream(&s->text, &size);
	json_array_foreach(array, i, one) {
		char *text = json_dumps(one, JSON_COMPACT);

		s->seen = json_integer_value(json_object_get(one, "id"));
		if (f && text)
			fprintf(f, "id: %lld\ndata: %s\n\n", (long long)s->seen, text);
		free(text);
	}
	json_decref(array);
	if (f && !fclose(f))
		s->len = size;
}

static ssize_t read_stream(void *ctx, uint64_t pos, char *buf, size_t max)
{
	struct stream *s = ctx;
	size_t n;

	(void)pos;
	if (s->at == s->len)
		fill_stream(s);
	if (!s->len && s->beat < s->api->beat) { /* woken for nothing: is it there still? */
		n = MIN(max, (size_t)3);
		memcpy(buf, ":\n\n", n);
		s->beat = s->api->beat;
		return (ssize_t)n;
	}
	n = MIN(max, s->len - s->at);
	if (!n) {
		s->suspended = true;
		MHD_suspend_connection(s->connection);
		return 0;
	}
	memcpy(buf, s->text + s->at, n);
	s->at += n;
	return (ssize_t)n;
}

static void end_stream(void *ctx)
{
	struct stream *s = ctx, **p = &s->api->streams;

	while (*p != s)
		p = &(*p)->next;
	*p = s->next;
	s->api->nstreams--;
	free(s->text);
	free(s);
}

static enum MHD_Result begin_stream(struct api *a, struct MHD_Connection *c)
{
	const char *last = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Last-Event-ID");
	struct stream *s;
	struct MHD_Response *response;
	enum MHD_Result result;
	uint64_t id;
	struct error e;
	struct reply busy;

	if (a->nstreams >= STREAMS) {
		busy = fail(MHD_HTTP_SERVICE_UNAVAILABLE, "%d clients listen already", STREAMS);
		return send_reply(c, &busy);
	}
	s = xcalloc(1, sizeof(*s));
	s->api = a;
	s->connection = c;
	s->beat = a->beat;
	s->seen = last && !parse_uint(last, 0, INT64_MAX, &id, &e) ? (int64_t)id : events_last(a->d->events);
	s->next = a->streams;
	a->streams = s;
	a->nstreams++;
	response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 4096, read_stream, s, end_stream);
	if (!response) {
		end_stream(s);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
	MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	result = MHD_queue_response(c, MHD_HTTP_OK, response);
	MHD_destroy_response(response);
	return result;
}

static void wake_streams(struct api *a)
{
	for (struct stream *s = a->streams; s; s = s->next)
		if (s->suspended) {
			s->suspended = false;
			MHD_resume_connection(s->connection);
		}
}

void api_event(struct api *a)
{
	wake_streams(a);
}

/* ---- who asks */

/* Who has the token, which takes the same time whatever is wrong with it. */
static bool has_token(const struct api *a, struct MHD_Connection *c)
{
	const char *given = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
	unsigned char differ = 0;

	if (!given || strncmp(given, "Bearer ", 7) || strlen(given + 7) != TOKEN)
		return false;
	for (size_t i = 0; i < TOKEN; i++)
		differ |= (unsigned char)(given[7 + i] ^ a->token[i]);
	return !differ;
}

/* Of the socket's other end: root, we ourselves, or a member of the group. */
static bool may_ask(const struct api *a, struct MHD_Connection *c)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct ucred peer = {.uid = (uid_t)-1};
	socklen_t len = sizeof(peer);
	gid_t groups[GROUPS];

	if (!info || getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &peer, &len))
		return false;
	if (peer.uid == 0 || peer.uid == geteuid() || (a->has_group && peer.gid == a->group))
		return true;
	len = sizeof(groups);
	if (!a->has_group || getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len))
		return false;
	for (size_t i = 0; i < len / sizeof(*groups); i++)
		if (groups[i] == a->group)
			return true;
	return false;
}

static struct reply reply_to(const struct door *door, struct MHD_Connection *c, const char *url, const char *method, const struct request *r)
{
	struct ask q = {.api = door->api, .connection = c};
	json_t *body = NULL;
	json_error_t je;
	struct reply reply;

	if (r->too_large)
		return fail(MHD_HTTP_CONTENT_TOO_LARGE, "a body has at most %d bytes", BODY_MOST);
	if (r->len && !(body = json_loadb(r->body, r->len, JSON_REJECT_DUPLICATES, &je)))
		return fail(MHD_HTTP_BAD_REQUEST, "the body is no JSON: line %d, column %d: %s", je.line, je.column, je.text);
	q.body = body;
	reply = answer_to(&q, door->is_public, method, url);
	json_decref(body);
	return reply;
}

static enum MHD_Result answer(void *ctx, struct MHD_Connection *c, const char *url, const char *method, const char *version,
			      const char *data, size_t *size, void **state)
{
	const struct door *door = ctx;
	struct api *a = door->api;
	struct request *r = *state;
	const char *accept;
	struct reply reply;

	(void)version;
	if (!r) {
		if (!strcmp(url, "/") && !strcmp(method, MHD_HTTP_METHOD_GET)) {
			reply = (struct reply){.status = MHD_HTTP_OK, .text = dashboard_html, .len = dashboard_html_len, .type = "text/html; charset=utf-8"};
			return send_reply(c, &reply);
		}
		if (door->is_public ? !has_token(a, c) : !may_ask(a, c)) {
			reply = door->is_public ? fail(MHD_HTTP_UNAUTHORIZED, "the address needs the token of %s/dashboard.token behind a #", state_dir())
						: fail(MHD_HTTP_FORBIDDEN, "only root and group %s may", a->d->config->group);
			return send_reply(c, &reply);
		}
		*state = xcalloc(1, sizeof(*r));
		return MHD_YES;
	}
	if (*size) {
		if (r->len + *size > BODY_MOST) {
			r->too_large = true;
		} else {
			r->body = xrealloc(r->body, r->len + *size);
			memcpy(r->body + r->len, data, *size);
			r->len += *size;
		}
		*size = 0;
		return MHD_YES;
	}
	accept = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_ACCEPT);
	if (!strcmp(url, "/v1/events") && !strcmp(method, MHD_HTTP_METHOD_GET) && accept && strstr(accept, "text/event-stream"))
		return begin_stream(a, c);
	reply = reply_to(door, c, url, method, r);
	return send_reply(c, &reply);
}

static void over(void *ctx, struct MHD_Connection *c, void **state, enum MHD_RequestTerminationCode why)
{
	struct request *r = *state;

	(void)ctx;
	(void)c;
	(void)why;
	if (r)
		free(r->body);
	free(r);
	*state = NULL;
}

/* What libmicrohttpd has to say of clients is not worth a line each. */
static void say_nothing(void *ctx, const char *fmt, va_list ap)
{
	(void)ctx;
	(void)fmt;
	(void)ap;
}

/* ---- */

static int listen_at(struct api *a, struct error *e)
{
	const char *path = a->d->config->socket;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const struct group *g = getgrnam(a->d->config->group);
	struct stat st;
	mode_t mask;
	int r;

	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(e, "%s: the path is too long", path);
	strcpy(address.sun_path, path);
	a->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (a->listener < 0)
		return error_set_errno(e, "socket");
	/* One that has ended badly has left it; another, with another state folder, listens there. */
	if (!lstat(path, &st) && S_ISSOCK(st.st_mode)) {
		if (!connect(a->listener, (struct sockaddr *)&address, sizeof(address)) || errno == EAGAIN)
			return error_set(e, "%s: somebody listens there already", path);
		unlink(path);
	}
	mask = umask(0777);
	r = bind(a->listener, (struct sockaddr *)&address, sizeof(address));
	umask(mask);
	if (r)
		return error_set_errno(e, "%s", path);
	a->path = xstrdup(path);
	a->has_group = g != NULL;
	a->group = g ? g->gr_gid : 0;
	if (g && chown(path, (uid_t)-1, a->group))
		return error_set_errno(e, "%s", path);
	if (chmod(path, g ? 0660 : 0600) || listen(a->listener, BACKLOG))
		return error_set_errno(e, "%s", path);
	if (!g)
		log_line("there is no group %s: only root may use %s", a->d->config->group, path);
	return 0;
}

static void on_http(void *ctx)
{
	(void)ctx; /* api_run() is called in each turn of the loop */
}

static int open_door(struct door *door, const struct sockaddr *address, struct error *e)
{
	struct api *a = door->api;
	const union MHD_DaemonInfo *info;
	const struct MHD_OptionItem where[] = {
		address ? (struct MHD_OptionItem){MHD_OPTION_SOCK_ADDR, 0, (void *)(uintptr_t)address}
			: (struct MHD_OptionItem){MHD_OPTION_LISTEN_SOCKET, a->listener, NULL},
		{MHD_OPTION_END, 0, NULL},
	};
	unsigned int flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;

	if (address && address->sa_family == AF_INET6)
		flags |= MHD_USE_IPv6;
	door->http = MHD_start_daemon(flags, 0, NULL, NULL, answer, door, MHD_OPTION_EXTERNAL_LOGGER, say_nothing, NULL,
				      MHD_OPTION_CONNECTION_LIMIT, (unsigned int)CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
				      (unsigned int)TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADERS,
				      MHD_OPTION_NOTIFY_COMPLETED, over, NULL, MHD_OPTION_ARRAY, where, MHD_OPTION_END);
	info = door->http ? MHD_get_daemon_info(door->http, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
	if (!info)
		return -1;
	door->source = (struct source){.fd = info->epoll_fd, .on = on_http, .ctx = a};
	return watch_source(a->d, &door->source, e);
}

/* The token: as it was, or a new one. */
static int read_token(struct api *a, struct error *e)
{
	char *path = xasprintf("%s/dashboard.token", state_dir());
	unsigned char random[TOKEN / 2];
	int fd, r = 0;

	read_text(path, a->token, sizeof(a->token));
	if (strlen(a->token) != TOKEN || strspn(a->token, "0123456789abcdef") != TOKEN) {
		if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
			r = error_set_errno(e, "random numbers");
		for (size_t i = 0; i < sizeof(random); i++)
			snprintf(a->token + 2 * i, 3, "%02x", random[i]);
		fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (!r && (fd < 0 || write_all(fd, a->token, TOKEN) < 0))
			r = error_set_errno(e, "%s", path);
		close_fd(&fd);
	}
	free(path);
	return r;
}

/* Without it the daemon does its work all the same. */
static void let_browsers_in(struct api *a)
{
	const char *listen = a->d->config->dashboard;
	struct error e = {"the address is taken, or not ours"};
	struct addrinfo *info = address_resolve(listen, &e);

	if (!info || read_token(a, &e) || open_door(&a->browsers, info->ai_addr, &e))
		event(a->d, NULL, "dashboard", "%s: %s", listen, e.text);
	if (info)
		freeaddrinfo(info);
}

static void close_door(struct door *door)
{
	if (door->source.fd >= 0)
		unwatch_source(door->api->d, &door->source);
	if (door->http)
		MHD_stop_daemon(door->http); /* closes the listener, too */
	door->http = NULL;
}

struct api *api_create(struct daemon *d, struct error *e)
{
	struct api *a = xcalloc(1, sizeof(*a));

	a->d = d;
	a->listener = a->socket.source.fd = a->browsers.source.fd = -1;
	a->socket.api = a->browsers.api = a;
	a->browsers.is_public = true;
	error_set(e, "%s: the API cannot be begun", d->config->socket);
	if (listen_at(a, e) || open_door(&a->socket, NULL, e)) {
		api_destroy(a);
		return NULL;
	}
	if (d->config->dashboard)
		let_browsers_in(a);
	return a;
}

void api_destroy(struct api *a)
{
	if (!a)
		return;
	wake_streams(a);
	if (!a->socket.http)
		close_fd(&a->listener);
	close_door(&a->browsers);
	close_door(&a->socket);
	if (a->path)
		unlink(a->path);
	free(a->path);
	free(a);
}

uint64_t api_deadline(struct api *a)
{
	struct MHD_Daemon *const all[] = {a->socket.http, a->browsers.http};
	uint64_t deadline = UINT64_MAX;
	MHD_UNSIGNED_LONG_LONG ms;

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		if (all[i] && MHD_get_timeout(all[i], &ms) == MHD_YES)
			deadline = MIN(deadline, clock_ns() + ms * 1000000);
	return deadline;
}

void api_run(struct api *a)
{
	double now = boot_s();

	if (a->streams && fmod(now, BEAT_S) < 1 && now - a->beat > 2) {
		a->beat = now;
		wake_streams(a);
	}
	MHD_run(a->socket.http);
	if (a->browsers.http)
		MHD_run(a->browsers.http);
}
