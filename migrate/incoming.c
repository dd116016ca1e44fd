/* incoming.c: `vmbeam-migrate receive`: listens, and takes the source's part in a handover for a VM that comes from another
 * machine (session.h).
 *
 * A thread for each connection.  Whoever connects is not trusted: without a certificate it gets no further than the
 * handshake; with one it can have a VM built, which the process that started this one checks and does.  One migration
 * at a time.
 */
#include "migrate/precopy.h"
#include "migrate/session.h"
#include "migrate/tls.h"
#include "vmm/client.h"
#include "zerocopy/zerocopy.h"

#include <errno.h>
#include <getopt.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <x86intrin.h>

enum {
	MAX_CONNECTIONS = 64,
	MAX_EXTENTS = 16384,
	HANDSHAKE_S = 10,
	FIRST_MS = 10000,  /* for the first message */
	PAGES_MS = 30000,  /* for all connections to come, and to end when the state is there */
	START_MS = 60000,
};

/* The migration that is being received. */
struct session {
	uint8_t token[NET_TOKEN];
	uint8_t id[NET_ID];
	struct conn *main;
	struct receiver *receiver; /* NULL: there is none */
	unsigned int attached, ended, failed, n;
	int memory, state, link;
};

static SSL_CTX *tls; /* NULL: plain */
static struct session session;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the session, but for what only its own thread uses */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_mutex_t parent_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int connections;

/* ---- to the process that may start VMs */

/* Without it there is nothing to do here; and an answer that came late would be taken for the next one's. */
static void parent_has_gone(void)
{
	log_line("receive: the process that starts VMs has gone");
	_exit(1);
}

static int ask_parent(const Vmb__ReceiveRequest *r, Vmb__Reply **reply, struct wire_fds *fds, struct error *e)
{
	ProtobufCMessage *m;
	int result = 0;

	pthread_mutex_lock(&parent_lock);
	if (wire_send(NET_LINK_FD, &r->base, NULL, 0, e)) {
		if (errno == EMSGSIZE) {
			pthread_mutex_unlock(&parent_lock);
			return -1;
		}
		parent_has_gone();
	}
	if (wire_recv(NET_LINK_FD, &vmb__reply__descriptor, &m, fds, NET_BUILD_MS, e) <= 0)
		parent_has_gone();
	pthread_mutex_unlock(&parent_lock);
	*reply = (Vmb__Reply *)m;
	if ((*reply)->error[0])
		result = error_set(e, "%s", (*reply)->error);
	if (result) {
		wire_close_fds(fds);
		vmb__reply__free_unpacked(*reply, NULL);
	}
	return result;
}

static int simple_request(Vmb__ReceiveRequest__KindCase kind, struct error *e)
{
	Vmb__ReceiveRequest r = VMB__RECEIVE_REQUEST__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	struct wire_fds fds = {.count = 0};
	Vmb__Reply *reply;

	r.kind_case = kind;
	r.lock = &empty;
	if (ask_parent(&r, &reply, &fds, e))
		return -1;
	wire_close_fds(&fds);
	vmb__reply__free_unpacked(reply, NULL);
	return 0;
}

/* The VM, built but for its memory and its state. */
static int prepare(const Vmb__NetHello *h, struct session *s, struct error *e)
{
	Vmb__ReceiveRequest r = VMB__RECEIVE_REQUEST__INIT;
	Vmb__ReceivePrepare p = VMB__RECEIVE_PREPARE__INIT;
	struct wire_fds fds = {.count = 0};
	Vmb__Reply *reply;

	p.id = h->id;
	p.provisional = h->provisional;
	r.kind_case = VMB__RECEIVE_REQUEST__KIND_PREPARE;
	r.prepare = &p;
	if (ask_parent(&r, &reply, &fds, e))
		return -1;
	vmb__reply__free_unpacked(reply, NULL);
	s->memory = wire_take_fd(&fds, 0);
	s->state = wire_take_fd(&fds, 1);
	s->link = wire_take_fd(&fds, 2);
	wire_close_fds(&fds);
	return 0;
}

/* ---- a session */

static int check_hello(const Vmb__NetHello *h, struct error *e)
{
	const Vmb__VmState *p = h->provisional;

	if (h->version != NET_VERSION) {
		error_set(e, "the sender speaks version %u of the protocol, this receiver version %d", h->version, NET_VERSION);
		return -1;
	}
	if (h->id.len != NET_ID || !p || !p->config || !p->config->memory || p->config->memory % STREAM_PAGE ||
	    !h->connections || h->connections > PRECOPY_MAX_CONNECTIONS || h->n_extents > MAX_EXTENTS) {
		error_set(e, "the sender made no sense");
		return -1;
	}
	return 0;
}

static struct receiver *make_receiver(const Vmb__NetHello *h, int memory)
{
	struct precopy_extent *x = xcalloc(MAX(h->n_extents, (size_t)1), sizeof(*x));
	struct receiver *r;

	for (size_t i = 0; i < h->n_extents; i++)
		x[i] = (struct precopy_extent){h->extents[i]->start, h->extents[i]->size};
	r = receiver_create(memory, h->provisional->config->memory, x, h->n_extents, h->connections);
	free(x);
	return r;
}

/* This machine's clocks, as if it had been captured here.  What the way of the message takes is lost to the guest. */
static void rebase_clocks(Vmb__VmState *s, uint64_t age_ns)
{
	uint64_t now = clock_ns(), age = MIN(age_ns, now - 1), tsc = __rdtsc();

	s->captured_ns = now - age;
	for (size_t i = 0; i < s->n_vcpus && s->captured_tsc; i++)
		s->vcpus[i]->tsc_offset += s->captured_tsc + (uint64_t)((__uint128_t)age * s->tsc_khz / 1000000) - tsc;
}

/* All connections have come; or have come to their end, and well. */
static int await_pages(struct session *s, const unsigned int *which, struct error *e)
{
	uint64_t due = clock_ns() + PAGES_MS * 1000000ull;
	struct timespec ts = {(time_t)(due / 1000000000), (long)(due % 1000000000)};
	int r = 0;

	pthread_mutex_lock(&lock);
	while (!r && *which < s->n && !s->failed)
		r = pthread_cond_clockwait(&changed, &lock, CLOCK_MONOTONIC, &ts);
	r = *which == s->n && !s->failed ? 0 : error_set(e, "pages of the memory are missing, or a connection for them");
	pthread_mutex_unlock(&lock);
	return r;
}

static int link_receive(int fd, Vmb__Link__KindCase kind, struct error *e)
{
	ProtobufCMessage *m;
	Vmb__Link *l;
	int r = wire_recv(fd, &vmb__link__descriptor, &m, NULL, START_MS, e);

	if (r <= 0)
		return error_set(e, "the VM's process has ended");
	l = (Vmb__Link *)m;
	if (l->kind_case == VMB__LINK__KIND_RESTORED && !l->restored->completed)
		r = error_set(e, "%s", l->restored->error);
	else
		r = l->kind_case == kind ? 0 : error_set(e, "the VM's process made no sense");
	protobuf_c_message_free_unpacked(m, NULL);
	return r;
}

static int link_send(int fd, Vmb__Link__KindCase kind, struct error *e)
{
	Vmb__Link m = VMB__LINK__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	m.kind_case = kind;
	m.captured = &empty; /* go is one, too */
	return wire_send(fd, &m.base, NULL, 0, e);
}

static int take_state(struct conn *c, struct session *s, struct error *e)
{
	Vmb__NetMessage *m;
	int r;

	/* As long as pages come: a connection for them that fails ends this one, too. */
	conn_set_timeout(c, 0);
	if (await_pages(s, &s->attached, e) || net_receive(c, VMB__NET_MESSAGE__KIND_STATE, &m, e))
		return -1;
	conn_set_timeout(c, START_MS);
	if (!m->state->state) {
		vmb__net_message__free_unpacked(m, NULL);
		return error_set(e, "the sender made no sense");
	}
	r = await_pages(s, &s->ended, e);
	if (!r) {
		rebase_clocks(m->state->state, m->state->age_ns);
		r = state_write(s->state, m->state->state, e) < 0 || link_send(s->link, VMB__LINK__KIND_CAPTURED, e) ||
				    link_receive(s->link, VMB__LINK__KIND_READY, e) ||
				    simple_request(VMB__RECEIVE_REQUEST__KIND_LOCK, e)
			    ? -1
			    : 0;
	}
	vmb__net_message__free_unpacked(m, NULL);
	return r;
}

static int receive_vm(struct conn *c, struct session *s, struct error *e)
{
	Vmb__NetMessage m = VMB__NET_MESSAGE__INIT, *go;
	Vmb__NetReady ready = VMB__NET_READY__INIT;

	ready.token = (ProtobufCBinaryData){NET_TOKEN, s->token};
	m.kind_case = VMB__NET_MESSAGE__KIND_READY;
	m.ready = &ready;
	if (net_send(c, &m, e) || take_state(c, s, e) || net_send_mark(c, VMB__NET_MESSAGE__KIND_RESTORED, e) ||
	    net_receive(c, VMB__NET_MESSAGE__KIND_GO, &go, e))
		return -1;
	vmb__net_message__free_unpacked(go, NULL);
	if (link_send(s->link, VMB__LINK__KIND_GO, e) || link_receive(s->link, VMB__LINK__KIND_RESTORED, e))
		return -1;
	return net_send_mark(c, VMB__NET_MESSAGE__KIND_STARTED, e);
}

/* Called with the lock. */
static void clear_session(void)
{
	close_fd(&session.memory);
	close_fd(&session.state);
	close_fd(&session.link);
	session = (struct session){.memory = -1, .state = -1, .link = -1};
	pthread_cond_broadcast(&changed);
}

/* Who else comes meanwhile is told to wait. */
static int begin_session(struct conn *c, const Vmb__NetHello *h, struct error *e)
{
	int r;

	pthread_mutex_lock(&lock);
	if (session.n) {
		r = error_set(e, "another migration is being received");
	} else {
		session = (struct session){.n = h->connections, .main = c, .memory = -1, .state = -1, .link = -1};
		memcpy(session.id, h->id.data, NET_ID);
		r = 0;
	}
	pthread_mutex_unlock(&lock);
	if (r)
		return -1;
	r = getrandom(session.token, NET_TOKEN, 0) == NET_TOKEN ? prepare(h, &session, e)
								 : error_set_errno(e, "random numbers");
	pthread_mutex_lock(&lock);
	if (r)
		clear_session();
	else
		session.receiver = make_receiver(h, session.memory);
	pthread_mutex_unlock(&lock);
	return r;
}

static void end_session(void)
{
	receiver_abort(session.receiver);
	pthread_mutex_lock(&lock);
	while (session.attached > session.ended)
		pthread_cond_wait(&changed, &lock);
	receiver_free(session.receiver);
	clear_session();
	pthread_mutex_unlock(&lock);
}

static void on_hello(struct conn *c, const Vmb__NetHello *h)
{
	const char *name = h->provisional && h->provisional->config ? h->provisional->config->name : "?";
	struct error e;

	if (check_hello(h, &e) || begin_session(c, h, &e)) {
		log_line("%.64s: refused: %s", name, e.text);
		net_send_error(c, &e);
		return;
	}
	log_line("%s: being received, %llu MiB", name, (unsigned long long)(h->provisional->config->memory / MIB));
	if (receive_vm(c, &session, &e)) {
		log_line("%s: not received: %s", name, e.text);
		net_send_error(c, &e);
	} else {
		log_line("%s: received, it runs here", name);
	}
	end_session();
}

static void on_attach(struct conn *c, const ProtobufCBinaryData *token)
{
	struct receiver *r = NULL;
	struct error e;
	int result;

	pthread_mutex_lock(&lock);
	if (session.receiver && session.attached < session.n && token->len == NET_TOKEN &&
	    !CRYPTO_memcmp(token->data, session.token, NET_TOKEN)) {
		session.attached++;
		r = session.receiver;
		pthread_cond_broadcast(&changed);
	}
	pthread_mutex_unlock(&lock);
	if (!r)
		return;
	conn_set_timeout(c, CONN_TIMEOUT_MS);
	result = receiver_serve(r, c, &e);
	if (result)
		log_line("a connection has failed: %s", e.text);
	pthread_mutex_lock(&lock);
	session.ended++;
	session.failed += result != 0;
	if (result)
		conn_cut(session.main);
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

/* Only what is certain is answered: a sender that is told "no" goes on with the VM itself. */
static void on_query(struct conn *c, const ProtobufCBinaryData *id)
{
	uint64_t due = clock_ns() + NET_ASK_MS * 1000000ull / 2;
	struct timespec ts = {(time_t)(due / 1000000000), (long)(due % 1000000000)};
	Vmb__ReceiveRequest r = VMB__RECEIVE_REQUEST__INIT;
	Vmb__NetMessage m = VMB__NET_MESSAGE__INIT;
	struct wire_fds fds = {.count = 0};
	Vmb__Reply *reply;
	struct error e;
	bool busy;
	int late = 0;

	/* While it is being received nobody knows yet. */
	pthread_mutex_lock(&lock);
	while ((busy = session.n && id->len == NET_ID && !memcmp(id->data, session.id, NET_ID)) && !late)
		late = pthread_cond_clockwait(&changed, &lock, CLOCK_MONOTONIC, &ts);
	pthread_mutex_unlock(&lock);
	r.kind_case = VMB__RECEIVE_REQUEST__KIND_QUERY;
	r.query = *id;
	if (busy || ask_parent(&r, &reply, &fds, &e))
		return;
	wire_close_fds(&fds);
	if (reply->kind_case == VMB__REPLY__KIND_STATUS) {
		m.kind_case = VMB__NET_MESSAGE__KIND_STATUS;
		m.status = reply->status;
		net_send(c, &m, &e);
	}
	vmb__reply__free_unpacked(reply, NULL);
}

/* ---- connections */

static struct conn *welcome(int fd, struct error *e)
{
	struct timeval t = {HANDSHAKE_S, 0};
	SSL *ssl = NULL;

	/* For the handshake; what comes after it has keepalives. */
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
	if (tls && !(ssl = tls_shake_hands(tls, fd, NULL, e))) {
		close(fd);
		return NULL;
	}
	return conn_new(fd, ssl, e);
}

static void *serve(void *ctx)
{
	int fd = (int)(intptr_t)ctx;
	Vmb__NetMessage *m = NULL;
	struct error e;
	struct conn *c = welcome(fd, &e);

	if (c)
		conn_set_timeout(c, FIRST_MS);
	if (!c || net_receive(c, VMB__NET_MESSAGE__KIND__NOT_SET, &m, &e)) {
		log_line("refused: %s", e.text);
	} else if (m->kind_case == VMB__NET_MESSAGE__KIND_HELLO) {
		on_hello(c, m->hello);
	} else if (m->kind_case == VMB__NET_MESSAGE__KIND_ATTACH) {
		on_attach(c, &m->attach);
	} else if (m->kind_case == VMB__NET_MESSAGE__KIND_QUERY) {
		on_query(c, &m->query);
	}
	if (m)
		vmb__net_message__free_unpacked(m, NULL);
	conn_free(c);
	connections--;
	return NULL;
}

static void *watch_parent(void *ctx)
{
	struct pollfd p = {.fd = NET_LINK_FD, .events = 0};

	(void)ctx;
	while (poll(&p, 1, -1) <= 0)
		;
	parent_has_gone();
	return NULL;
}

static void accept_for_ever(int listener)
{
	pthread_attr_t detached;
	pthread_t watcher;

	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&watcher, &detached, watch_parent, NULL))
		return;
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		pthread_t t;

		if (fd < 0) {
			poll(NULL, 0, 100); /* out of descriptors, perhaps */
			continue;
		}
		if (connections >= MAX_CONNECTIONS || pthread_create(&t, &detached, serve, (void *)(intptr_t)fd))
			close(fd);
		else
			connections++;
	}
}

/* What reads what strangers send can do nothing else: no user, no file system. */
static int give_up_privileges(struct error *e)
{
	char *empty = runtime_path(".empty", NULL);
	int r;

	mkdir(runtime_dir(), 0755);
	mkdir(empty, 0555);
	r = sandbox_drop_privileges(empty, e);
	free(empty);
	return r;
}

int incoming_main(int argc, char **argv)
{
	static const struct option options[] = {{"listen", required_argument, NULL, 'l'},
						{"tls", required_argument, NULL, 't'},
						{NULL, 0, NULL, 0}};
	const char *address = NULL, *dir = NULL;
	struct error e;
	int opt, listener;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) >= 0)
		*(opt == 'l' ? &address : &dir) = optarg;
	listener = address ? conn_listen(address, &e) : error_set(&e, "--listen is missing");
	if (listener < 0 || (dir && !(tls = tls_context(dir, true, &e)))) {
		log_line("receive: %s", e.text);
		return 1;
	}
	receiver_look();
	if (give_up_privileges(&e)) {
		log_line("receive: %s", e.text);
		return 1;
	}
	log_line("receiving at %s%s", address, dir ? "" : ", without encryption");
	accept_for_ever(listener);
	return 1;
}
