/* send.c: the sending end of a migration between machines: the destination's part in a handover (session.h). */
#include "migrate/postcopy.h"
#include "migrate/session.h"
#include "migrate/tls.h"
#include "migrate/tracking.h"
#include "vmm/client.h"
#include "zerocopy/fault.h"
#include "zerocopy/zerocopy.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum {
	MAX_EXTENTS = 16384,
	QUERIES_MS = 40000, /* after a broken connection */
	COSTS = 8,
	MAX_COST_MS = 60000,
	FIRST_COST_NS = 20000000,
	RETRY_MS = 60000,   /* for a new one, while memory is missing there */
};

struct send {
	const char *address, *placement, *tls_dir; /* NULL: plain */
	SSL_CTX *ctx;
	struct precopy_options o;
	uint64_t bandwidth;
	unsigned int n;
	bool resume; /* it runs there, and has not got all of its memory */
	/* from the driver */
	Vmb__Request *incoming;
	int state, link, ram;
	struct owner *owner;
	uint16_t instance, source;
	struct tracking tracking;
	struct conn *main, *pages[PRECOPY_MAX_CONNECTIONS], *urgent;
	struct sender *sender;
	uint64_t rest; /* pages that were missing when it was started there */
	uint64_t bytes; /* of connections that have ended */
	struct postcopy *postcopy;
	uint8_t id[NET_ID];
	struct precopy_result result;
	bool complete; /* the other machine needs no memory any more */
	bool captured;
	bool prompt; /* the other machine has said by itself that it runs there */
	Vmb__HandoverResult told;
	struct phases phases;
};

/* ---- to the driver */

static void reply(Vmb__Reply *r)
{
	wire_send(NET_LINK_FD, &r->base, NULL, 0, NULL);
}

static bool progress(void *ctx, const struct precopy_progress *p)
{
	const struct send *s = ctx;

	return s->captured || net_tell_progress(p);
}

/* ---- to the VM's process */

static int take_incoming(struct send *s, struct error *e)
{
	ProtobufCMessage *m;
	struct wire_fds fds;
	const Vmb__IncomingRequest *in;

	if (wire_recv(NET_LINK_FD, &vmb__request__descriptor, &m, &fds, NET_TIMEOUT_MS, e) <= 0)
		return error_set(e, "nobody speaks");
	s->incoming = (Vmb__Request *)m;
	in = s->incoming->incoming;
	if (s->incoming->kind_case != VMB__REQUEST__KIND_INCOMING || !in->provisional || !in->provisional->config ||
	    fds.count != 3 + in->n_fd_names)
		return error_set(e, "an incomplete message");
	s->state = wire_take_fd(&fds, 0);
	s->link = wire_take_fd(&fds, 1);
	s->instance = (uint16_t)in->instance;
	fault_arm(in->fault);
	s->source = (uint16_t)in->source;
	for (size_t i = 0; i < in->n_fd_names; i++) {
		if (!strcmp(in->fd_names[i], "ram"))
			s->ram = wire_take_fd(&fds, 3 + i);
		else if (!strcmp(in->fd_names[i], "owner") && !(s->owner = owner_map(fds.fd[3 + i], e)))
			return -1;
	}
	wire_close_fds(&fds);
	return s->ram < 0 || !s->owner ? error_set(e, "the VM's memory or its owner word is missing") : 0;
}

static int collect(void *ctx, uint64_t *dirty, struct error *e)
{
	return tracking_collect(&((struct send *)ctx)->tracking, dirty, e);
}

static int throttle(void *ctx, unsigned int percent, struct error *e)
{
	return tracking_throttle(&((struct send *)ctx)->tracking, percent, e);
}

/* The driver sends the source on its way; the source says when its state is sealed, and where its memory was written. */
static int stop(void *ctx, uint64_t *dirty, struct error *e)
{
	struct send *s = ctx;
	struct wire_fds clients;

	net_reply_mark(VMB__REPLY__KIND_WARMED);
	if (tracking_await_capture(&s->tracking, s->link, &clients, dirty, e))
		return -1;
	wire_close_fds(&clients); /* whoever is at a console here is not there */
	s->captured = true;
	s->phases.mark = clock_ns();
	return 0;
}

/* ---- what a switch-over to that machine takes besides pages: the median of the last ones is reckoned with */

static char *costs_path(const struct send *s)
{
	char *name = xasprintf(".switch-%s", s->address), *path = runtime_path(name, NULL);

	free(name);
	return path;
}

/* Milliseconds, the newest first; how many. */
static size_t read_costs(const struct send *s, uint64_t costs[COSTS])
{
	char *path = costs_path(s), text[COSTS * 24], *save = text, *word;
	size_t n = 0;

	read_text(path, text, sizeof(text));
	free(path);
	while (n < COSTS && (word = strsep(&save, "\n")) && !parse_uint(word, 0, MAX_COST_MS, &costs[n], NULL))
		n++;
	return n;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* At most half of the limit: what is written meanwhile must have room, and one slow migration must not end all others. */
static uint64_t switch_ns(const struct send *s)
{
	uint64_t costs[COSTS];
	size_t n = read_costs(s, costs);

	qsort(costs, n, sizeof(*costs), compare);
	return MIN(n ? costs[n / 2] * 1000000 : FIRST_COST_NS, s->o.downtime_limit_ns / 2);
}

/* For the next time; without it that one only knows less. */
static void note_cost(const struct send *s, uint64_t ns)
{
	char *path = costs_path(s), text[COSTS * 24];
	uint64_t costs[COSTS];
	size_t n = read_costs(s, costs), len;
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	len = (size_t)snprintf(text, sizeof(text), "%llu\n", (unsigned long long)MIN(ns / 1000000 + 1, MAX_COST_MS + 0ull));
	for (size_t i = 0; i < MIN(n, COSTS - 1u); i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%llu\n", (unsigned long long)costs[i]);
	if (fd >= 0 && write_all(fd, text, len) < 0)
		log_line("%s: %s", path, strerror(errno));
	close_fd(&fd);
	free(path);
}

/* ---- to the other machine */

/* All that exists of the memory, coarsely: what is between two pieces is not worth a message. */
static size_t find_extents(const struct send *s, Vmb__NetExtent *x, Vmb__NetExtent **ptrs)
{
	size_t n = 0;
	uint64_t start, end = 0;

	while (next_extent(s->ram, &start, &end)) {
		if (!n || (n < MAX_EXTENTS && start - (x[n - 1].start + x[n - 1].size) >= STREAM_CHUNK)) {
			vmb__net_extent__init(&x[n]);
			x[n].start = start;
			ptrs[n] = &x[n];
			n++;
		}
		x[n - 1].size = end - x[n - 1].start;
	}
	return n;
}

static int ask_for_token(struct send *s, const Vmb__NetMessage *m, uint8_t token[NET_TOKEN], struct error *e)
{
	Vmb__NetMessage *answer;
	int r = -1;

	conn_set_timeout(s->main, NET_BUILD_MS);
	if (net_send(s->main, m, e) || net_receive(s->main, VMB__NET_MESSAGE__KIND__NOT_SET, &answer, e))
		return -1;
	s->complete = s->result.post_copy && answer->kind_case == VMB__NET_MESSAGE__KIND_STATUS;
	if (answer->kind_case != VMB__NET_MESSAGE__KIND_READY) {
		vmb__net_message__free_unpacked(answer, NULL);
		return error_set(e, s->complete ? "nothing is missing there" : "the receiver made no sense");
	}
	if (answer->ready->token.len != NET_TOKEN)
		error_set(e, "the receiver made no sense");
	else if (s->o.post_copy == PRECOPY_THEN_POST_COPY && !answer->ready->post_copy)
		error_set(e, "the other machine cannot receive by post-copy");
	else
		r = 0;
	if (!r)
		memcpy(token, answer->ready->token.data, NET_TOKEN);
	if (!r && !answer->ready->post_copy)
		s->o.post_copy = PRECOPY_ONLY;
	vmb__net_message__free_unpacked(answer, NULL);
	return r;
}

static int say_hello(struct send *s, uint8_t token[NET_TOKEN], struct error *e)
{
	Vmb__VmState *provisional = s->incoming->incoming->provisional;
	Vmb__NetMessage m = VMB__NET_MESSAGE__INIT;
	Vmb__NetHello hello = VMB__NET_HELLO__INIT;
	Vmb__NetExtent *x = xcalloc(MAX_EXTENTS, sizeof(*x)), **ptrs = xcalloc(MAX_EXTENTS, sizeof(*ptrs));
	int r;

	hello.version = NET_VERSION;
	hello.id = (ProtobufCBinaryData){NET_ID, s->id};
	hello.provisional = provisional;
	hello.extents = ptrs;
	hello.n_extents = find_extents(s, x, ptrs);
	hello.connections = s->n;
	hello.placement = (char *)(uintptr_t)s->placement;
	hello.post_copy = s->o.post_copy != PRECOPY_ONLY;
	m.kind_case = VMB__NET_MESSAGE__KIND_HELLO;
	m.hello = &hello;
	r = ask_for_token(s, &m, token, e);
	free(x);
	free(ptrs);
	return r;
}

/* After a break: the VM is there. */
static int say_resume(struct send *s, uint8_t token[NET_TOKEN], struct error *e)
{
	Vmb__NetMessage m = VMB__NET_MESSAGE__INIT;
	Vmb__NetResume resume = VMB__NET_RESUME__INIT;

	resume.id = (ProtobufCBinaryData){NET_ID, s->id};
	resume.connections = s->n;
	m.kind_case = VMB__NET_MESSAGE__KIND_RESUME;
	m.resume = &resume;
	return ask_for_token(s, &m, token, e);
}

static int attach(struct send *s, uint8_t token[NET_TOKEN], struct error *e)
{
	Vmb__NetMessage m = VMB__NET_MESSAGE__INIT;
	Vmb__NetAttach a = VMB__NET_ATTACH__INIT;

	m.kind_case = VMB__NET_MESSAGE__KIND_ATTACH;
	m.attach = &a;
	a.token = (ProtobufCBinaryData){NET_TOKEN, token};
	for (unsigned int i = 0; i < s->n; i++) {
		s->pages[i] = net_connect(s->address, s->ctx, e);
		if (!s->pages[i] || net_send(s->pages[i], &m, e))
			return -1;
	}
	if (s->o.post_copy == PRECOPY_ONLY)
		return 0;
	a.urgent = true;
	s->urgent = net_connect(s->address, s->ctx, e);
	return !s->urgent || net_send(s->urgent, &m, e) ? -1 : 0;
}

static void hang_up(struct send *s)
{
	s->bytes += s->main ? conn_sent(s->main) : 0;
	conn_free(s->main);
	for (unsigned int i = 0; i < s->n; i++) {
		s->bytes += s->pages[i] ? conn_sent(s->pages[i]) : 0;
		conn_free(s->pages[i]);
		s->pages[i] = NULL;
	}
	s->bytes += s->urgent ? conn_sent(s->urgent) : 0;
	conn_free(s->urgent);
	s->main = s->urgent = NULL;
}

static int send_state(struct send *s, struct error *e)
{
	Vmb__NetMessage m = VMB__NET_MESSAGE__INIT, *answer;
	Vmb__NetState state = VMB__NET_STATE__INIT;
	uint64_t now;
	int r;

	state.state = state_read(s->state, e);
	if (!state.state)
		return -1;
	now = clock_ns();
	state.age_ns = now - MIN(now, state.state->captured_ns);
	state.post_copy = s->result.post_copy;
	m.kind_case = VMB__NET_MESSAGE__KIND_STATE;
	m.state = &state;
	r = net_send(s->main, &m, e) || net_receive(s->main, VMB__NET_MESSAGE__KIND_RESTORED, &answer, e) ? -1 : 0;
	if (!r)
		vmb__net_message__free_unpacked(answer, NULL);
	vmb__vm_state__free_unpacked(state.state, NULL);
	return r;
}

/* 1: it runs there; 0: it never will; -1: nobody answers, *e says why. */
static int ask_status(const char *address, SSL_CTX *ctx, uint8_t id[NET_ID], struct error *e)
{
	Vmb__NetMessage m = VMB__NET_MESSAGE__INIT, *answer;
	struct conn *c = net_connect(address, ctx, e);
	int r = -1;

	m.kind_case = VMB__NET_MESSAGE__KIND_QUERY;
	m.query = (ProtobufCBinaryData){NET_ID, id};
	if (c)
		conn_set_timeout(c, NET_ASK_MS);
	if (c && !net_send(c, &m, e) && !net_receive(c, VMB__NET_MESSAGE__KIND_STATUS, &answer, e)) {
		r = answer->status->runs;
		vmb__net_message__free_unpacked(answer, NULL);
	}
	conn_free(c);
	return r;
}

/* From `go` on the VM is the other machine's to start, or to say that it never will. */
static int have_it_started(struct send *s, struct error *e)
{
	Vmb__NetMessage *answer;
	int runs = -1;

	if (!net_send_mark(s->main, VMB__NET_MESSAGE__KIND_GO, e) &&
	    !net_receive(s->main, VMB__NET_MESSAGE__KIND_STARTED, &answer, e)) {
		vmb__net_message__free_unpacked(answer, NULL);
		s->prompt = true;
		return 0;
	}
	for (uint64_t end = clock_ns() + QUERIES_MS * 1000000ull; runs < 0 && clock_ns() < end; poll(NULL, 0, 1000))
		runs = ask_status(s->address, s->ctx, s->id, e);
	if (runs > 0)
		return 0;
	if (runs < 0) { /* as if this process had died: the source keeps all, and says what is to be done */
		close_fd(&s->link);
		_exit(1);
	}
	return error_set(e, "the other machine has not started it");
}

static char *outgoing_path(const struct send *s)
{
	return runtime_path(s->incoming->incoming->provisional->config->name, "outgoing");
}

/* For whoever has to find out where the VM is, should this process die. */
static int note_outgoing(const struct send *s, struct error *e)
{
	char hex[2 * NET_ID + 1], *path = outgoing_path(s), *text;
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), r;

	for (size_t i = 0; i < NET_ID; i++)
		snprintf(hex + 2 * i, 3, "%02x", s->id[i]);
	/* (The last line: not before it has all of its memory there.) */
	text = xasprintf("%s\n%s\n%s\n%s", s->address, s->tls_dir ? s->tls_dir : "", hex, s->result.post_copy ? "post-copy\n" : "");
	r = fd < 0 || write_all(fd, text, strlen(text)) != (ssize_t)strlen(text) ? error_set_errno(e, "%s", path) : 0;
	close_fd(&fd);
	free(path);
	free(text);
	return r;
}

static void forget_outgoing(const struct send *s)
{
	char *path = outgoing_path(s);

	unlink(path);
	free(path);
}

static int switch_over(struct send *s, struct error *e)
{
	phases_end(&s->phases, s->result.post_copy ? "missing" : "last pages");
	if (fault_point("sender.copied"))
		return error_set(e, "fault injected");
	if (send_state(s, e))
		return -1;
	phases_end(&s->phases, "restore");
	if (fault_point("sender.restored"))
		return error_set(e, "fault injected");
	if (note_outgoing(s, e))
		return -1;
	if (!owner_commit(s->owner, s->source, s->instance))
		return error_set(e, "the source has taken the VM back");
	fault_point("sender.committed");
	if (have_it_started(s, e))
		return -1;
	phases_end(&s->phases, "resume");
	if (s->prompt && !s->result.post_copy)
		note_cost(s, s->phases.mark - s->result.stop_ns - s->result.last_round_ns);
	fault_point("sender.started");
	owner_start(s->owner, s->instance);
	return 0;
}

static int make_sender(struct send *s, struct error *e)
{
	s->sender = sender_create(s->pages, s->n, s->ram, s->incoming->incoming->provisional->config->memory, s->bandwidth, e);
	return s->sender ? 0 : -1;
}

static int migrate(struct send *s, struct error *e)
{
	const struct precopy_source source = {
		.collect = collect,
		.stop = stop,
		.throttle = throttle,
		.ctx = s,
	};
	uint8_t token[NET_TOKEN];

	s->main = net_connect(s->address, s->ctx, e);
	if (!s->main)
		return -1;
	if (say_hello(s, token, e) || attach(s, token, e))
		return -1;
	conn_set_timeout(s->main, CONN_TIMEOUT_MS);
	net_reply_mark(VMB__REPLY__KIND_PREPARED);
	if (tracking_begin(&s->tracking, s->incoming->incoming->provisional->config, e) || make_sender(s, e) ||
	    precopy_send(s->sender, &source, &s->o, &s->result, e))
		return -1;
	if (s->result.post_copy && !(s->postcopy = postcopy_begin(s->sender, s->urgent, e)))
		return -1;
	return switch_over(s, e);
}

/* ---- the rest, by post-copy */

static const char *tick(void *ctx)
{
	struct send *s = ctx;
	Vmb__Reply r = VMB__REPLY__INIT;
	Vmb__Progress m = VMB__PROGRESS__INIT;
	uint64_t done = (s->rest - MIN(s->rest, sender_left(s->sender))) * STREAM_PAGE;

	m.post_copy = true;
	m.total = s->rest * STREAM_PAGE;
	m.done = done;
	m.rate = done * 1000 / ((clock_ns() - s->sender->start_ns) / 1000000 + 1);
	r.kind_case = VMB__REPLY__KIND_PROGRESS;
	r.progress = &m;
	reply(&r);
	return NULL; /* there is no way back */
}

static void drop_sender(struct send *s)
{
	struct error ignored;

	postcopy_free(s->postcopy);
	if (s->sender)
		sender_end(s->sender, false, &ignored);
	sender_free(s->sender);
	s->postcopy = NULL;
	s->sender = NULL;
}

/* Over new connections. */
static int connect_again(struct send *s, struct error *e)
{
	uint8_t token[NET_TOKEN];

	drop_sender(s);
	hang_up(s);
	s->main = net_connect(s->address, s->ctx, e);
	if (!s->main || say_resume(s, token, e) || attach(s, token, e) || make_sender(s, e) ||
	    postcopy_learn(s->sender, s->urgent, e))
		return -1;
	s->rest = MAX(s->rest, sender_left(s->sender));
	s->postcopy = postcopy_begin(s->sender, s->urgent, e);
	return s->postcopy ? 0 : -1;
}

/* Until the other machine has all of it, or has not been there for a minute. */
static int send_rest(struct send *s, struct error *e)
{
	uint64_t give_up = clock_ns() + RETRY_MS * 1000000ull;
	int r = -1;

	s->rest = s->result.last_pages;
	if (s->postcopy)
		r = postcopy_push(s->postcopy, tick, s, e);
	while (r && clock_ns() < give_up) {
		if (s->postcopy || s->sender)
			log_line("%s: the rest of its memory is still to be sent: %s",
				 s->incoming->incoming->provisional->config->name, e->text);
		if (connect_again(s, e)) {
			drop_sender(s);
			if (s->complete) {
				r = 0;
				break;
			}
			poll(NULL, 0, 1000);
			continue;
		}
		r = postcopy_push(s->postcopy, tick, s, e);
		give_up = clock_ns() + RETRY_MS * 1000000ull;
	}
	if (!r)
		phases_end(&s->phases, "rest");
	return r ? -1 : vmm_simple_request(s->tracking.control, VMB__REQUEST__KIND_DEPART, NULL, NULL, NET_TIMEOUT_MS, e);
}

static void fill_result(struct send *s, bool completed, const struct error *e)
{
	s->told.completed = completed;
	s->told.error = (char *)(uintptr_t)(completed ? "" : e->text);
	s->told.phase = completed ? "resume" : s->captured ? "restore" : "copy";
	s->told.phases = s->phases.list;
	s->told.n_phases = s->phases.n;
	s->told.rounds = s->result.rounds;
	s->told.throttle = s->result.throttle;
	s->told.post_copy = s->result.post_copy;
	s->told.cpu_ns = process_cpu_ns();
}

/* Whether it runs there; its memory may follow. */
static int tell_source(struct send *s)
{
	Vmb__Link link = VMB__LINK__INIT;

	s->told.resume_ns = s->phases.mark;
	link.kind_case = VMB__LINK__KIND_RESTORED;
	link.restored = &s->told;
	return wire_send(s->link, &link.base, NULL, 0, NULL);
}

static void tell_driver(struct send *s)
{
	Vmb__Reply r = VMB__REPLY__INIT;

	hang_up(s);
	s->told.bytes_sent = s->bytes;
	r.kind_case = VMB__REPLY__KIND_RESULT;
	r.result = &s->told;
	reply(&r);
}

static int parse_id(const char *text, uint8_t id[NET_ID])
{
	if (strlen(text) != NET_ID * 2)
		return -1;
	for (size_t i = 0; i < NET_ID; i++)
		if (sscanf(text + 2 * i, "%2hhx", &id[i]) != 1)
			return -1;
	return 0;
}

static int parse(int argc, char **argv, struct send *s, struct error *e)
{
	static const struct option options[] = {
		{"to", required_argument, NULL, 'a'},	       {"tls", required_argument, NULL, 't'},
		{"connections", required_argument, NULL, 'c'}, {"downtime-limit", required_argument, NULL, 'l'},
		{"bandwidth", required_argument, NULL, 'b'},   {"timeout", required_argument, NULL, 'o'},
		{"switch", required_argument, NULL, 's'},      {"mode", required_argument, NULL, 'm'},
		{"resume", required_argument, NULL, 'r'},      {"placement", required_argument, NULL, 'p'},
		{NULL, 0, NULL, 0},
	};
	uint64_t n = 2;
	int opt, r = 0;

	s->o.downtime_limit_ns = 300000000;
	while (!r && (opt = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (opt == 'a')
			s->address = optarg;
		else if (opt == 't')
			s->tls_dir = optarg;
		else if (opt == 'c')
			r = parse_uint(optarg, 1, PRECOPY_MAX_CONNECTIONS, &n, e);
		else if (opt == 'b')
			r = parse_size(optarg, &s->bandwidth, e);
		else if (opt == 'p')
			s->placement = optarg;
		else if (opt == 'm')
			s->o.post_copy = !strcmp(optarg, "auto")	? PRECOPY_OR_POST_COPY
					 : !strcmp(optarg, "post-copy") ? PRECOPY_THEN_POST_COPY
									: PRECOPY_ONLY;
		else if (opt == 'r') {
			s->resume = true;
			r = parse_id(optarg, s->id);
		} else if (opt == 'l' || opt == 's' || opt == 'o') {
			uint64_t ms;

			r = parse_uint(optarg, 0, 1000000000, &ms, e);
			*(opt == 'l' ? &s->o.downtime_limit_ns : opt == 's' ? &s->o.switch_ns : &s->o.timeout_ns) = ms * 1000000;
		} else
			r = error_set(e, "send: unknown option");
	}
	s->n = (unsigned int)n;
	if (s->resume)
		s->o.post_copy = PRECOPY_THEN_POST_COPY;
	else if (getrandom(s->id, sizeof(s->id), 0) != sizeof(s->id))
		return error_set_errno(e, "random numbers");
	if (!r && s->address && !s->o.switch_ns)
		s->o.switch_ns = switch_ns(s);
	return r || !s->address ? error_set(e, "send: --to is missing, or an option is wrong") : 0;
}

/* The part that both `send` and `send --resume` end with. */
static int finish(struct send *s, struct error *e)
{
	int r = s->result.post_copy ? send_rest(s, e) : 0;

	if (r)
		return net_tell_failure(e); /* its note stays, for --resume */
	forget_outgoing(s);
	fill_result(s, true, e);
	tell_driver(s);
	net_reply_mark(VMB__REPLY__KIND_READY);
	return 0;
}

static int go_on(struct send *s, struct error *e)
{
	s->result.post_copy = true;
	s->tracking.control = vmm_connect(s->incoming->incoming->provisional->config->name, e);
	s->phases.mark = clock_ns();
	return s->tracking.control < 0 ? net_tell_failure(e) : finish(s, e);
}

int send_main(int argc, char **argv)
{
	struct send s = {.placement = "", .state = -1, .link = -1, .ram = -1, .tracking.control = -1};
	struct error e = {""};
	int r;

	vmb__handover_result__init(&s.told);
	s.o.progress = progress;
	s.o.ctx = &s;
	r = parse(argc, argv, &s, &e) || (s.tls_dir && !(s.ctx = tls_context(s.tls_dir, false, &e))) || take_incoming(&s, &e);
	if (r)
		return net_tell_failure(&e);
	if (s.resume)
		return go_on(&s, &e);
	r = migrate(&s, &e);
	if (r && !s.captured)
		return net_tell_failure(&e);
	fill_result(&s, !r, &e);
	if (!tell_source(&s) && r)
		forget_outgoing(&s);
	if (!r)
		return finish(&s, &e);
	drop_sender(&s);
	tell_driver(&s);
	return 1;
}

int ask_main(int argc, char **argv)
{
	struct error e = {""};
	SSL_CTX *ctx = NULL;
	uint8_t id[NET_ID];
	int runs;

	if (argc != 4 || parse_id(argv[3], id))
		return 1;
	if (argv[2][0] && !(ctx = tls_context(argv[2], false, &e)))
		runs = -1;
	else
		runs = ask_status(argv[1], ctx, id, &e);
	SSL_CTX_free(ctx);
	if (runs < 0)
		log_line("%s", e.text);
	return runs > 0 ? NET_RUNS_THERE : runs == 0 ? NET_RUNS_NOT_THERE : 1;
}
