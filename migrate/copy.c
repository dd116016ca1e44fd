/* copy.c: `vmbeam-migrate copy`: a VM's memory into other memory of the same machine, while the VM runs; for a handover
 * that is not to share it (zerocopy/zerocopy.h, handover_options.copy).
 *
 * Stands between source and destination: what the source says goes on to the destination once the last pages are there,
 * and the destination's word back to the source.  If this process ends, the two see it as the end of each other.
 */
#include "migrate/sender.h"
#include "migrate/session.h"
#include "migrate/tracking.h"
#include "vmm/client.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS = 2, SWITCH_NS = 20000000 };

struct copy {
	Vmb__Request *request;
	const Vmb__VmConfig *config;
	int source, destination; /* links */
	int from, to;		 /* RAM memfds */
	struct tracking tracking;
	struct wire_fds clients;
	struct precopy_result result;
	struct receiver *receiver;
	struct serve {
		struct copy *c;
		struct conn *conn;
		pthread_t thread;
		struct error error;
		int result;
	} serve[CONNECTIONS];
};

static int take_request(struct copy *c, struct error *e)
{
	ProtobufCMessage *m;
	struct wire_fds fds;

	if (wire_recv(NET_LINK_FD, &vmb__request__descriptor, &m, &fds, NET_TIMEOUT_MS, e) <= 0) {
		error_set(e, "nobody speaks");
		return -1;
	}
	c->request = (Vmb__Request *)m;
	if (c->request->kind_case != VMB__REQUEST__KIND_INCOMING || !c->request->incoming->provisional ||
	    !c->request->incoming->provisional->config || fds.count != 4) {
		error_set(e, "an incomplete message");
		return -1;
	}
	c->config = c->request->incoming->provisional->config;
	c->source = wire_take_fd(&fds, 0);
	c->destination = wire_take_fd(&fds, 1);
	c->from = wire_take_fd(&fds, 2);
	c->to = wire_take_fd(&fds, 3);
	return 0;
}

static bool progress(void *ctx, const struct precopy_progress *p)
{
	const struct copy *c = ctx;

	return c->result.stop_ns || net_tell_progress(p);
}

static int collect(void *ctx, uint64_t *dirty, struct error *e)
{
	return tracking_collect(&((struct copy *)ctx)->tracking, dirty, e);
}

static int throttle(void *ctx, unsigned int percent, struct error *e)
{
	return tracking_throttle(&((struct copy *)ctx)->tracking, percent, e);
}

static int stop(void *ctx, uint64_t *dirty, struct error *e)
{
	struct copy *c = ctx;

	net_reply_mark(VMB__REPLY__KIND_WARMED);
	return tracking_await_capture(&c->tracking, c->source, &c->clients, dirty, e);
}

static void *serve(void *ctx)
{
	struct serve *s = ctx;

	s->result = receiver_serve(s->c->receiver, s->conn, &s->error);
	return NULL;
}

static int start_receiver(struct copy *c, struct conn **conns, struct error *e)
{
	c->receiver = receiver_create(c->to, c->config->memory, NULL, 0, CONNECTIONS, NULL);
	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		struct serve *s = &c->serve[i];
		int pair[2];

		*s = (struct serve){.c = c};
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
			return error_set_errno(e, "socketpair");
		conns[i] = conn_new(pair[0], NULL, e);
		s->conn = conn_new(pair[1], NULL, e);
		if (!conns[i] || !s->conn)
			return -1;
		errno = pthread_create(&s->thread, NULL, serve, s);
		if (errno)
			return error_set_errno(e, "thread");
	}
	return 0;
}

static int copy(struct copy *c, const struct precopy_options *o, struct error *e)
{
	const struct precopy_source source = {.collect = collect, .stop = stop, .throttle = throttle, .ctx = c};
	struct conn *conns[CONNECTIONS];
	struct sender *s;

	if (start_receiver(c, conns, e) || tracking_begin(&c->tracking, c->config, e))
		return -1;
	s = sender_create(conns, CONNECTIONS, c->from, c->config->memory, 0, e);
	if (!s || precopy_send(s, &source, o, &c->result, e))
		return -1;
	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		pthread_join(c->serve[i].thread, NULL);
		if (c->serve[i].result) {
			*e = c->serve[i].error;
			return -1;
		}
	}
	return 0;
}

/* The destination's word, as it is. */
static int relay(const struct copy *c, struct error *e)
{
	Vmb__Link captured = VMB__LINK__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	ProtobufCMessage *m;
	int r;

	captured.kind_case = VMB__LINK__KIND_CAPTURED;
	captured.captured = &empty;
	if (wire_send(c->destination, &captured.base, c->clients.fd, c->clients.count, e) ||
	    wire_recv(c->destination, &vmb__link__descriptor, &m, NULL, -1, e) != 1)
		return error_set(e, "the destination has gone");
	r = wire_send(c->source, m, NULL, 0, e);
	protobuf_c_message_free_unpacked(m, NULL);
	return r;
}

static void tell_result(const struct copy *c)
{
	Vmb__Reply r = VMB__REPLY__INIT;
	Vmb__HandoverResult result = VMB__HANDOVER_RESULT__INIT;

	result.completed = true;
	result.bytes_sent = c->result.sent_pages * STREAM_PAGE;
	result.rounds = c->result.rounds;
	result.throttle = c->result.throttle;
	r.kind_case = VMB__REPLY__KIND_RESULT;
	r.result = &result;
	wire_send(NET_LINK_FD, &r.base, NULL, 0, NULL);
}

/* copy LIMIT_MS TIMEOUT_MS: as options of `send`. */
static int parse(int argc, char **argv, struct precopy_options *o, struct error *e)
{
	uint64_t limit, timeout;

	if (argc != 3 || parse_uint(argv[1], 0, 1000000000, &limit, e) || parse_uint(argv[2], 0, 1000000000, &timeout, e))
		return error_set(e, "copy: two numbers are expected");
	o->downtime_limit_ns = limit * 1000000;
	o->timeout_ns = timeout * 1000000;
	o->switch_ns = SWITCH_NS;
	return 0;
}

int copy_main(int argc, char **argv)
{
	struct copy c = {.source = -1, .destination = -1, .tracking.control = -1};
	struct precopy_options o = {.progress = progress, .ctx = &c};
	struct error e = {""};

	if (parse(argc, argv, &o, &e) || take_request(&c, &e) || copy(&c, &o, &e) || relay(&c, &e))
		return net_tell_failure(&e);
	tell_result(&c);
	return 0;
}
