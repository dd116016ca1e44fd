/* send.c: the sending end of a migration between machines: the destination's part in a handover (session.h). */
#include "migrate/precopy.h"
#include "migrate/session.h"
#include "migrate/tls.h"
#include "vmm/client.h"
#include "zerocopy/fault.h"
#include "zerocopy/zerocopy.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

enum {
	MAX_EXTENTS = 16384,
	QUERIES_MS = 40000, /* after a broken connection */
};

struct send {
	const char *address, *tls_dir; /* NULL: plain */
	SSL_CTX *ctx;
	struct precopy_options o;
	unsigned int n;
	/* from the driver */
	Vmb__Request *incoming;
	int state, link, ram;
	struct owner *owner;
	uint16_t instance, source;
	/* to the VM's process: writes are noted for as long as it is open */
	int control;
	uint64_t *dirty; /* shared with it */
	size_t dirty_words;
	struct conn *main, *pages[PRECOPY_MAX_CONNECTIONS];
	uint8_t id[NET_ID];
	struct precopy_result result;
	bool captured;
	uint64_t captured_ns;
	Vmb__HandoverResult told;
	struct phases phases;
};

/* ---- to the driver */

static void reply(Vmb__Reply *r)
{
	wire_send(NET_LINK_FD, &r->base, NULL, 0, NULL);
}

static void reply_mark(Vmb__Reply__KindCase kind)
{
	Vmb__Reply r = VMB__REPLY__INIT;
	Vmb__Prepared prepared = VMB__PREPARED__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	r.kind_case = kind;
	if (kind == VMB__REPLY__KIND_PREPARED)
		r.prepared = &prepared;
	else
		r.ready = &empty;
	reply(&r);
}

static bool driver_has_gone(void)
{
	struct pollfd p = {.fd = NET_LINK_FD, .events = POLLIN};

	return poll(&p, 1, 0) > 0; /* it has no more to say until the end */
}

static bool progress(void *ctx, const struct precopy_progress *p)
{
	const struct send *s = ctx;
	Vmb__Reply r = VMB__REPLY__INIT;
	Vmb__Progress m = VMB__PROGRESS__INIT;

	if (s->captured)
		return true;
	m.round = p->round;
	m.total = p->round_pages * STREAM_PAGE;
	m.done = p->round_done * STREAM_PAGE;
	m.sent = p->sent_pages * STREAM_PAGE;
	m.rate = p->rate;
	m.dirty_rate = p->dirty_rate;
	m.expected_ns = p->expected_ns;
	r.kind_case = VMB__REPLY__KIND_PROGRESS;
	r.progress = &m;
	reply(&r);
	return !driver_has_gone();
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

static int track(struct send *s, struct error *e)
{
	const Vmb__VmConfig *c = s->incoming->incoming->provisional->config;
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	size_t bytes;
	int fd;

	s->dirty_words = (c->memory / STREAM_PAGE + 63) / 64;
	bytes = s->dirty_words * sizeof(*s->dirty);
	fd = sealed_memfd("vmbeam-written", bytes, 0, e);
	if (fd < 0)
		return -1;
	s->dirty = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	s->control = s->dirty == MAP_FAILED ? -1 : vmm_connect(c->name, e);
	r.kind_case = VMB__REQUEST__KIND_TRACK;
	r.track = &empty;
	if (s->control < 0 || vmm_request(s->control, &r, &fd, 1, NULL, NULL, NET_TIMEOUT_MS, e)) {
		close(fd);
		return -1;
	}
	close(fd);
	return 0;
}

static void take_dirty(struct send *s, uint64_t *dirty)
{
	for (size_t i = 0; i < s->dirty_words; i++)
		dirty[i] |= s->dirty[i];
	memset(s->dirty, 0, s->dirty_words * sizeof(*s->dirty));
}

static int collect(void *ctx, uint64_t *dirty, struct error *e)
{
	struct send *s = ctx;

	if (vmm_simple_request(s->control, VMB__REQUEST__KIND_COLLECT, NULL, NULL, NET_TIMEOUT_MS, e))
		return -1;
	take_dirty(s, dirty);
	return 0;
}

/* The driver sends the source on its way; the source says when its state is sealed, and where its memory was written. */
static int stop(void *ctx, uint64_t *dirty, struct error *e)
{
	struct send *s = ctx;
	ProtobufCMessage *m;
	struct wire_fds clients;
	bool captured;

	reply_mark(VMB__REPLY__KIND_WARMED);
	if (wire_recv(s->link, &vmb__link__descriptor, &m, &clients, -1, e) != 1)
		return error_set(e, "the source has given up");
	captured = ((Vmb__Link *)m)->kind_case == VMB__LINK__KIND_CAPTURED;
	protobuf_c_message_free_unpacked(m, NULL);
	wire_close_fds(&clients); /* whoever is at a console here is not there */
	if (!captured)
		return error_set(e, "the source has given up");
	s->captured = true;
	s->phases.mark = clock_ns();
	take_dirty(s, dirty);
	return 0;
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

static int say_hello(struct send *s, uint8_t token[NET_TOKEN], struct error *e)
{
	Vmb__VmState *provisional = s->incoming->incoming->provisional;
	Vmb__NetMessage m = VMB__NET_MESSAGE__INIT, *answer;
	Vmb__NetHello hello = VMB__NET_HELLO__INIT;
	Vmb__NetExtent *x = xcalloc(MAX_EXTENTS, sizeof(*x)), **ptrs = xcalloc(MAX_EXTENTS, sizeof(*ptrs));
	int r = -1;

	hello.version = NET_VERSION;
	hello.id = (ProtobufCBinaryData){NET_ID, s->id};
	hello.provisional = provisional;
	hello.extents = ptrs;
	hello.n_extents = find_extents(s, x, ptrs);
	hello.connections = s->n;
	m.kind_case = VMB__NET_MESSAGE__KIND_HELLO;
	m.hello = &hello;
	conn_set_timeout(s->main, NET_BUILD_MS);
	if (!net_send(s->main, &m, e) && !net_receive(s->main, VMB__NET_MESSAGE__KIND_READY, &answer, e)) {
		if (answer->ready->token.len == NET_TOKEN) {
			memcpy(token, answer->ready->token.data, NET_TOKEN);
			r = 0;
		} else {
			error_set(e, "the receiver made no sense");
		}
		vmb__net_message__free_unpacked(answer, NULL);
	}
	free(x);
	free(ptrs);
	return r;
}

static int attach(struct send *s, uint8_t token[NET_TOKEN], struct error *e)
{
	Vmb__NetMessage m = VMB__NET_MESSAGE__INIT;

	m.kind_case = VMB__NET_MESSAGE__KIND_ATTACH;
	m.attach = (ProtobufCBinaryData){NET_TOKEN, token};
	for (unsigned int i = 0; i < s->n; i++) {
		s->pages[i] = net_connect(s->address, s->ctx, e);
		if (!s->pages[i] || net_send(s->pages[i], &m, e))
			return -1;
	}
	return 0;
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
	text = xasprintf("%s\n%s\n%s\n", s->address, s->tls_dir ? s->tls_dir : "", hex);
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
	phases_end(&s->phases, "last pages");
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
	fault_point("sender.started");
	owner_start(s->owner, s->instance);
	return 0;
}

static int migrate(struct send *s, struct error *e)
{
	const struct precopy_source source = {
		.memory = s->ram,
		.size = s->incoming->incoming->provisional->config->memory,
		.collect = collect,
		.stop = stop,
		.ctx = s,
	};
	uint8_t token[NET_TOKEN];

	s->main = net_connect(s->address, s->ctx, e);
	if (!s->main)
		return -1;
	if (say_hello(s, token, e) || attach(s, token, e))
		return -1;
	conn_set_timeout(s->main, CONN_TIMEOUT_MS);
	reply_mark(VMB__REPLY__KIND_PREPARED);
	if (track(s, e) || precopy_send(s->pages, s->n, &source, &s->o, &s->result, e))
		return -1;
	return switch_over(s, e);
}

static void tell_result(struct send *s, bool completed, const struct error *e)
{
	Vmb__Link link = VMB__LINK__INIT;
	Vmb__Reply r = VMB__REPLY__INIT;

	s->told.completed = completed;
	s->told.error = (char *)(uintptr_t)(completed ? "" : e->text);
	s->told.phase = completed ? "resume" : s->captured ? "restore" : "copy";
	s->told.phases = s->phases.list;
	s->told.n_phases = s->phases.n;
	s->told.resume_ns = s->phases.mark;
	s->told.bytes_sent = conn_sent(s->main);
	for (unsigned int i = 0; i < s->n; i++)
		s->told.bytes_sent += s->pages[i] ? conn_sent(s->pages[i]) : 0;
	s->told.rounds = s->result.rounds;
	s->told.cpu_ns = process_cpu_ns();
	link.kind_case = VMB__LINK__KIND_RESTORED;
	link.restored = &s->told;
	if (s->captured)
		wire_send(s->link, &link.base, NULL, 0, NULL);
	r.kind_case = VMB__REPLY__KIND_RESULT;
	r.result = &s->told;
	reply(&r);
}

static int parse(int argc, char **argv, struct send *s, struct error *e)
{
	static const struct option options[] = {
		{"to", required_argument, NULL, 'a'},	       {"tls", required_argument, NULL, 't'},
		{"connections", required_argument, NULL, 'c'}, {"downtime-limit", required_argument, NULL, 'l'},
		{"bandwidth", required_argument, NULL, 'b'},   {"timeout", required_argument, NULL, 'o'},
		{"switch", required_argument, NULL, 's'},      {NULL, 0, NULL, 0},
	};
	uint64_t n = 2;
	int opt, r = 0;

	s->o.downtime_limit_ns = 300000000;
	s->o.switch_ns = 20000000;
	while (!r && (opt = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (opt == 'a')
			s->address = optarg;
		else if (opt == 't')
			s->tls_dir = optarg;
		else if (opt == 'c')
			r = parse_uint(optarg, 1, PRECOPY_MAX_CONNECTIONS, &n, e);
		else if (opt == 'b')
			r = parse_size(optarg, &s->o.bandwidth, e);
		else if (opt == 'l' || opt == 's' || opt == 'o') {
			uint64_t ms;

			r = parse_uint(optarg, 0, 1000000000, &ms, e);
			*(opt == 'l' ? &s->o.downtime_limit_ns : opt == 's' ? &s->o.switch_ns : &s->o.timeout_ns) = ms * 1000000;
		} else
			r = error_set(e, "send: unknown option");
	}
	s->n = (unsigned int)n;
	return r || !s->address ? error_set(e, "send: --to is missing, or an option is wrong") : 0;
}

int send_main(int argc, char **argv)
{
	struct send s = {.state = -1, .link = -1, .ram = -1, .control = -1};
	struct error e = {""};
	int r;

	vmb__handover_result__init(&s.told);
	s.o.progress = progress;
	s.o.ctx = &s;
	r = parse(argc, argv, &s, &e) || (s.tls_dir && !(s.ctx = tls_context(s.tls_dir, false, &e))) ||
	    getrandom(s.id, sizeof(s.id), 0) != sizeof(s.id) || take_incoming(&s, &e);
	if (!r)
		r = migrate(&s, &e);
	if (!s.main || (r && !s.captured)) {
		Vmb__Reply failed = VMB__REPLY__INIT;

		failed.error = e.text;
		reply(&failed);
		return 1;
	}
	forget_outgoing(&s);
	tell_result(&s, !r, &e);
	if (!r)
		reply_mark(VMB__REPLY__KIND_READY);
	return r ? 1 : 0;
}

int ask_main(int argc, char **argv)
{
	struct error e = {""};
	SSL_CTX *ctx = NULL;
	uint8_t id[NET_ID];
	int runs;

	if (argc != 4 || strlen(argv[3]) != sizeof(id) * 2)
		return 1;
	for (size_t i = 0; i < sizeof(id); i++)
		if (sscanf(argv[3] + 2 * i, "%2hhx", &id[i]) != 1)
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
