/* incoming.c: `vmbeam-migrate receive`: listens, and takes the source's part in a handover for a VM that comes from another
 * machine (session.h).
 *
 * A thread for each connection.  Whoever connects is not trusted: without a certificate it gets no further than the
 * handshake; with one it can have a VM built, which the process that started this one checks and does.  One migration
 * at a time.
 */
#include "migrate/postcopy.h"
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
	unsigned int attached, ended, failed, n; /* connections for pages */
	int memory, state, link;
	/* post-copy; -1, NULL: not agreed */
	int uffd, missing;
	struct faults *faults;
	bool post_copy; /* pages are missing */
	bool complete; /* nothing is missing, or it has ended */
	bool started, armed, urgent, resumed;	/* is its connection there; it goes on after a break */
	struct conn *urgent_conn; /* while it is served */
	int urgent_ended;	/* 1: well, -1: not */
};
#define NO_SESSION {.memory = -1, .state = -1, .link = -1, .uffd = -1, .missing = -1}

static SSL_CTX *tls; /* NULL: plain */
static struct session session = NO_SESSION;
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

/* What is answered by yes or no. */
static int tell_parent(const Vmb__ReceiveRequest *r, struct error *e)
{
	struct wire_fds fds = {.count = 0};
	Vmb__Reply *reply;

	if (ask_parent(r, &reply, &fds, e))
		return -1;
	wire_close_fds(&fds);
	vmb__reply__free_unpacked(reply, NULL);
	return 0;
}

static int lock_disks(struct error *e)
{
	Vmb__ReceiveRequest r = VMB__RECEIVE_REQUEST__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	r.kind_case = VMB__RECEIVE_REQUEST__KIND_LOCK;
	r.lock = &empty;
	return tell_parent(&r, e);
}

static int make_faults(struct session *s, Vmb__Reply *reply, struct wire_fds *fds, bool must, struct error *e)
{
	uint64_t base = reply->kind_case == VMB__REPLY__KIND_PREPARED ? reply->prepared->memory_base : 0;
	off_t size = lseek(s->memory, 0, SEEK_END);

	vmb__reply__free_unpacked(reply, NULL);
	wire_close_fds(fds);
	if (s->uffd < 0 || s->missing < 0) /* not asked for, or not possible here */
		return must ? error_set(e, "no memory of it is missing") : 0;
	s->faults = faults_create(s->uffd, base, s->memory, (uint64_t)size, s->missing, e);
	return s->faults ? 0 : -1;
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
	p.post_copy = h->post_copy;
	p.placement = h->placement;
	r.kind_case = VMB__RECEIVE_REQUEST__KIND_PREPARE;
	r.prepare = &p;
	if (ask_parent(&r, &reply, &fds, e))
		return -1;
	s->memory = wire_take_fd(&fds, 0);
	s->state = wire_take_fd(&fds, 1);
	s->link = wire_take_fd(&fds, 2);
	s->uffd = wire_take_fd(&fds, 3);
	s->missing = wire_take_fd(&fds, 4);
	return make_faults(s, reply, &fds, false, e);
}

/* What a session before this one has left; its VM runs, or waits. */
static int take_up(const Vmb__NetResume *q, struct session *s, struct error *e)
{
	Vmb__ReceiveRequest r = VMB__RECEIVE_REQUEST__INIT;
	struct wire_fds fds = {.count = 0};
	Vmb__Reply *reply;

	r.kind_case = VMB__RECEIVE_REQUEST__KIND_RESUME;
	r.resume = q->id;
	if (ask_parent(&r, &reply, &fds, e))
		return -1;
	s->complete = reply->kind_case == VMB__REPLY__KIND_STATUS;
	if (s->complete) {
		vmb__reply__free_unpacked(reply, NULL);
		return 0;
	}
	s->memory = wire_take_fd(&fds, 0);
	s->uffd = wire_take_fd(&fds, 1);
	s->missing = wire_take_fd(&fds, 2);
	s->resumed = s->post_copy = true;
	return make_faults(s, reply, &fds, true, e) || faults_arm(s->faults, e) ? -1 : 0;
}

/* Arrived, or given up. */
static int tell_about(Vmb__ReceiveRequest__KindCase kind, const struct session *s, struct error *e)
{
	Vmb__ReceiveRequest r = VMB__RECEIVE_REQUEST__INIT;

	r.kind_case = kind;
	r.arrived = (ProtobufCBinaryData){NET_ID, (uint8_t *)(uintptr_t)s->id};
	return tell_parent(&r, e);
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
	r = receiver_create(memory, h->provisional->config->memory, x, h->n_extents, h->connections, session.faults);
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

static bool all_attached(const struct session *s)
{
	return s->attached == s->n;
}

static bool all_ended(const struct session *s)
{
	return s->ended == s->n;
}

/* For what the connections for pages do.  timeout_ms 0: for ever, or until one fails. */
static int await(struct session *s, bool (*is_so)(const struct session *s), int timeout_ms, struct error *e)
{
	uint64_t due = clock_ns() + (timeout_ms ? (uint64_t)timeout_ms : 1000000000ull) * 1000000;
	struct timespec ts = {(time_t)(due / 1000000000), (long)(due % 1000000000)};
	int r = 0;

	pthread_mutex_lock(&lock);
	while (!r && !is_so(s) && !s->failed && s->urgent_ended >= 0)
		r = pthread_cond_clockwait(&changed, &lock, CLOCK_MONOTONIC, &ts);
	r = is_so(s) && (!s->failed || s->urgent_ended > 0) ? 0 : error_set(e, "pages of the memory are missing, or a connection for them");
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

static int say_captured(int fd, struct error *e)
{
	Vmb__Link m = VMB__LINK__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	m.kind_case = VMB__LINK__KIND_CAPTURED;
	m.captured = &empty;
	return wire_send(fd, &m.base, NULL, 0, e);
}

static int say_go(const struct session *s, struct error *e)
{
	Vmb__Link m = VMB__LINK__INIT;
	Vmb__LinkGo go = VMB__LINK_GO__INIT;

	go.post_copy = s->post_copy;
	m.kind_case = VMB__LINK__KIND_GO;
	m.go = &go;
	return wire_send(s->link, &m.base, NULL, 0, e);
}

static bool has_urgent(const struct session *s)
{
	return s->urgent;
}

static bool has_all(const struct session *s)
{
	return s->urgent_ended > 0;
}

/* From here on missing pages are asked for; restoring may need some. */
static int begin_post_copy(struct session *s, struct error *e)
{
	if (!s->faults)
		return error_set(e, "the sender made no sense");
	if (await(s, has_urgent, PAGES_MS, e) || faults_arm(s->faults, e))
		return -1;
	pthread_mutex_lock(&lock);
	s->armed = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	return 0;
}

static int take_state(struct conn *c, struct session *s, struct error *e)
{
	Vmb__NetMessage *m;
	int r;

	/* As long as pages come: a connection for them that fails ends this one, too. */
	conn_set_timeout(c, 0);
	if (await(s, all_attached, PAGES_MS, e) || net_receive(c, VMB__NET_MESSAGE__KIND_STATE, &m, e))
		return -1;
	conn_set_timeout(c, START_MS);
	if (!m->state->state) {
		vmb__net_message__free_unpacked(m, NULL);
		return error_set(e, "the sender made no sense");
	}
	s->post_copy = m->state->post_copy;
	r = s->post_copy ? begin_post_copy(s, e) : await(s, all_ended, PAGES_MS, e);
	if (!r) {
		rebase_clocks(m->state->state, m->state->age_ns);
		r = state_write(s->state, m->state->state, e) < 0 || say_captured(s->link, e) ||
				    link_receive(s->link, VMB__LINK__KIND_READY, e) ||
				    lock_disks(e)
			    ? -1
			    : 0;
	}
	vmb__net_message__free_unpacked(m, NULL);
	return r;
}

static int say_ready(struct conn *c, struct session *s, struct error *e)
{
	Vmb__NetMessage m = VMB__NET_MESSAGE__INIT;
	Vmb__NetReady ready = VMB__NET_READY__INIT;

	ready.token = (ProtobufCBinaryData){NET_TOKEN, s->token};
	ready.post_copy = s->faults != NULL;
	m.kind_case = VMB__NET_MESSAGE__KIND_READY;
	m.ready = &ready;
	return net_send(c, &m, e);
}

/* It runs here; what is missing comes. */
static int receive_rest(struct session *s, struct error *e)
{
	struct error ignored;

	if (s->post_copy && await(s, has_all, 0, e))
		return -1;
	await(s, all_ended, PAGES_MS, &ignored); /* nothing more comes, but for a farewell */
	return tell_about(VMB__RECEIVE_REQUEST__KIND_ARRIVED, s, e);
}

static int receive_vm(struct conn *c, struct session *s, struct error *e)
{
	Vmb__NetMessage *go;

	if (say_ready(c, s, e) || take_state(c, s, e) || net_send_mark(c, VMB__NET_MESSAGE__KIND_RESTORED, e) ||
	    net_receive(c, VMB__NET_MESSAGE__KIND_GO, &go, e))
		return -1;
	vmb__net_message__free_unpacked(go, NULL);
	if (say_go(s, e) || link_receive(s->link, VMB__LINK__KIND_RESTORED, e))
		return -1;
	s->started = true;
	net_send_mark(c, VMB__NET_MESSAGE__KIND_STARTED, e); /* it runs here, whether the sender hears of it now or asks */
	return receive_rest(s, e);
}

static int say_complete(struct conn *c, struct error *e)
{
	Vmb__NetMessage m = VMB__NET_MESSAGE__INIT;
	Vmb__NetStatus status = VMB__NET_STATUS__INIT;

	status.runs = true;
	m.kind_case = VMB__NET_MESSAGE__KIND_STATUS;
	m.status = &status;
	return net_send(c, &m, e);
}

static int resume_vm(struct conn *c, struct session *s, struct error *e)
{
	if (s->complete)
		return say_complete(c, e);
	s->started = true;
	return say_ready(c, s, e) || await(s, all_attached, PAGES_MS, e) || await(s, has_urgent, PAGES_MS, e) || receive_rest(s, e)
		       ? -1
		       : 0;
}

/* Called with the lock. */
static void clear_session(void)
{
	close_fd(&session.memory);
	close_fd(&session.state);
	close_fd(&session.link);
	close_fd(&session.uffd);
	close_fd(&session.missing);
	faults_free(session.faults);
	session = (struct session)NO_SESSION;
	pthread_cond_broadcast(&changed);
}

/* Of `hello` or of `resume`.  Who else comes meanwhile is told to wait. */
static int begin_session(struct conn *c, const Vmb__NetHello *h, const Vmb__NetResume *q, struct error *e)
{
	int r;

	pthread_mutex_lock(&lock);
	if (session.n) {
		r = error_set(e, "another migration is being received");
	} else {
		session = (struct session)NO_SESSION;
		session.n = h ? h->connections : q->connections;
		session.main = c;
		memcpy(session.id, h ? h->id.data : q->id.data, NET_ID);
		r = 0;
	}
	pthread_mutex_unlock(&lock);
	if (r)
		return -1;
	if (getrandom(session.token, NET_TOKEN, 0) != NET_TOKEN)
		r = error_set_errno(e, "random numbers");
	else
		r = h ? prepare(h, &session, e) : take_up(q, &session, e);
	pthread_mutex_lock(&lock);
	if (r)
		clear_session();
	else if (!session.complete)
		session.receiver = h ? make_receiver(h, session.memory)
				     : receiver_create(session.memory, (uint64_t)lseek(session.memory, 0, SEEK_END), NULL, 0,
						       session.n, session.faults);
	pthread_mutex_unlock(&lock);
	return r;
}

static void end_session(void)
{
	struct error ignored;

	/* Its process may wait for a page that will never come. */
	if (!session.started && !session.complete)
		tell_about(VMB__RECEIVE_REQUEST__KIND_GIVEN_UP, &session, &ignored);
	if (session.receiver)
		receiver_abort(session.receiver);
	pthread_mutex_lock(&lock);
	session.failed++; /* whoever still waits */
	if (session.urgent_conn)
		conn_cut(session.urgent_conn);
	pthread_cond_broadcast(&changed);
	while (session.attached > session.ended || session.urgent_conn)
		pthread_cond_wait(&changed, &lock);
	receiver_free(session.receiver);
	clear_session();
	pthread_mutex_unlock(&lock);
}

static void on_hello(struct conn *c, const Vmb__NetHello *h)
{
	const char *name = h->provisional && h->provisional->config ? h->provisional->config->name : "?";
	struct error e;

	if (check_hello(h, &e) || begin_session(c, h, NULL, &e)) {
		log_line("%.64s: refused: %s", name, e.text);
		net_send_error(c, &e);
		return;
	}
	log_line("%s: being received, %llu MiB", name, (unsigned long long)(h->provisional->config->memory / MIB));
	if (receive_vm(c, &session, &e)) {
		log_line(session.started ? "%s: it runs here, and waits for the rest of its memory: %s" : "%s: not received: %s",
			 name, e.text);
		net_send_error(c, &e);
	} else {
		log_line("%s: received, it runs here", name);
	}
	end_session();
}

static void on_resume(struct conn *c, const Vmb__NetResume *q)
{
	struct error e;

	if (q->id.len != NET_ID || !q->connections || q->connections > PRECOPY_MAX_CONNECTIONS) {
		error_set(&e, "the sender made no sense");
		net_send_error(c, &e);
		return;
	}
	if (begin_session(c, NULL, q, &e)) {
		log_line("refused to go on: %s", e.text);
		net_send_error(c, &e);
		return;
	}
	log_line("the rest of a VM's memory is being received");
	if (resume_vm(c, &session, &e)) {
		log_line("the rest of its memory has not come: %s", e.text);
		net_send_error(c, &e);
	} else {
		log_line("it has all of its memory now");
	}
	end_session();
}

static bool is_token(const ProtobufCBinaryData *token)
{
	return session.receiver && token->len == NET_TOKEN && !CRYPTO_memcmp(token->data, session.token, NET_TOKEN);
}

static bool is_armed(const struct session *s)
{
	return s->armed || s->resumed;
}

static void on_urgent(struct conn *c, const ProtobufCBinaryData *token)
{
	struct faults *f = NULL;
	struct error e = {""};
	int r;

	pthread_mutex_lock(&lock);
	if (is_token(token) && session.faults && !session.urgent) {
		session.urgent = true;
		session.urgent_conn = c;
		f = session.faults;
		pthread_cond_broadcast(&changed);
	}
	pthread_mutex_unlock(&lock);
	if (!f)
		return;
	r = await(&session, is_armed, 0, &e);
	if (!r) {
		r = faults_serve(f, c, session.resumed, &e);
		if (r)
			log_line("the connection for urgent pages has failed: %s", e.text);
	}
	pthread_mutex_lock(&lock);
	session.urgent_ended = r ? -1 : 1;
	session.urgent_conn = NULL;
	if (r && session.armed)
		conn_cut(session.main);
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void on_attach(struct conn *c, const ProtobufCBinaryData *token)
{
	struct receiver *r = NULL;
	struct error e;
	int result;

	pthread_mutex_lock(&lock);
	if (is_token(token) && session.attached < session.n) {
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
		if (m->attach->urgent)
			on_urgent(c, &m->attach->token);
		else
			on_attach(c, &m->attach->token);
	} else if (m->kind_case == VMB__NET_MESSAGE__KIND_RESUME) {
		on_resume(c, m->resume);
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
