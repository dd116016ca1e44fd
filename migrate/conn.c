/* conn.c: connections; the contract is in conn.h. */
#include "migrate/conn.h"
#include "migrate/tls.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	DEAD_MS = 10000, /* what was sent and is not acknowledged for so long will not be */
	PROBE_S = 3,
	DIRECT = 64 * 1024, /* written from where it is */
};

struct conn {
	int fd;
	SSL *ssl;
	struct io_uring ring;
	bool ended; /* nothing more comes */
	uint8_t *out, *in;
	size_t out_len, in_at, in_len;
	uint64_t sent;
	int timeout_ms;
	int saved_errno; /* of what failed below OpenSSL */
};

/* ---- the socket */

/* One operation; its result as the system call would give it. */
static ssize_t complete(struct conn *c)
{
	struct io_uring_cqe *cqe;
	int r;

	do
		r = io_uring_submit_and_wait(&c->ring, 1);
	while (r == -EINTR);
	if (r < 0 || (r = io_uring_wait_cqe(&c->ring, &cqe)) < 0) {
		errno = -r;
		return -1;
	}
	r = cqe->res;
	io_uring_cqe_seen(&c->ring, cqe);
	if (r >= 0)
		return r;
	errno = -r;
	return -1;
}

static int send_all(struct conn *c, const uint8_t *data, size_t len)
{
	while (len) {
		ssize_t n;

		io_uring_prep_send(io_uring_get_sqe(&c->ring), c->fd, data, len, MSG_NOSIGNAL | MSG_WAITALL);
		n = complete(c);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		data += n;
		len -= (size_t)n;
		c->sent += (uint64_t)n;
	}
	return 0;
}

static ssize_t receive(struct conn *c, uint8_t *data, size_t len)
{
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	ssize_t n;

	if (c->timeout_ms && poll(&p, 1, c->timeout_ms) == 0) {
		errno = ETIMEDOUT;
		return -1;
	}
	do {
		io_uring_prep_recv(io_uring_get_sqe(&c->ring), c->fd, data, len, 0);
		n = complete(c);
	} while (n < 0 && errno == EINTR);
	return n;
}

static int flush_out(struct conn *c)
{
	size_t len = c->out_len;

	c->out_len = 0;
	return send_all(c, c->out, len);
}

static int put_out(struct conn *c, const uint8_t *data, size_t len)
{
	while (len) {
		size_t n = MIN(len, CONN_BUFFER - c->out_len);

		/* Large pieces are not copied. */
		if (!c->out_len && len >= DIRECT)
			return send_all(c, data, len);
		memcpy(c->out + c->out_len, data, n);
		c->out_len += n;
		data += n;
		len -= n;
		if (c->out_len == CONN_BUFFER && flush_out(c))
			return -1;
	}
	return 0;
}

/* What there is, at most len; 0 at the end. */
static ssize_t take_in(struct conn *c, uint8_t *data, size_t len)
{
	size_t n;

	if (!c->in_len && len >= DIRECT)
		return receive(c, data, len);
	if (!c->in_len) {
		ssize_t got = receive(c, c->in, CONN_BUFFER);

		if (got <= 0)
			return got;
		c->in_at = 0;
		c->in_len = (size_t)got;
	}
	n = MIN(len, c->in_len);
	memcpy(data, c->in + c->in_at, n);
	c->in_at += n;
	c->in_len -= n;
	return (ssize_t)n;
}

/* ---- what OpenSSL reads and writes */

static int bio_write(BIO *b, const char *data, int len)
{
	struct conn *c = BIO_get_data(b);

	if (!put_out(c, (const uint8_t *)data, (size_t)len))
		return len;
	c->saved_errno = errno;
	return -1;
}

static int bio_read(BIO *b, char *data, int len)
{
	struct conn *c = BIO_get_data(b);
	ssize_t n = take_in(c, (uint8_t *)data, (size_t)len);

	if (n < 0)
		c->saved_errno = errno;
	c->ended |= n == 0;
	return (int)n;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *ptr)
{
	(void)b;
	(void)num;
	(void)ptr;
	return cmd == BIO_CTRL_FLUSH; /* conn_flush() does it when there is a reason to */
}

static BIO_METHOD *bio_method;
static pthread_once_t bio_once = PTHREAD_ONCE_INIT;

static void make_method(void)
{
	bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "vmbeam connection");
	if (!bio_method || !BIO_meth_set_write(bio_method, bio_write) || !BIO_meth_set_read(bio_method, bio_read) ||
	    !BIO_meth_set_ctrl(bio_method, bio_ctrl))
		bio_method = NULL;
}

static int set_bios(struct conn *c, struct error *e)
{
	BIO *b;

	pthread_once(&bio_once, make_method);
	b = bio_method ? BIO_new(bio_method) : NULL;
	if (!b)
		return tls_error(e, "TLS");
	BIO_set_data(b, c);
	BIO_set_init(b, 1);
	BIO_up_ref(b);
	SSL_set0_rbio(c->ssl, b);
	SSL_set0_wbio(c->ssl, b);
	return 0;
}

/* ---- connections */

/* The other end may vanish without a word. */
static void set_options(int fd)
{
	int one = 1, dead = DEAD_MS, probe = PROBE_S, probes = DEAD_MS / 1000 / PROBE_S;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &probe, sizeof(probe));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &probe, sizeof(probe));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead, sizeof(dead));
}

struct conn *conn_new(int fd, SSL *ssl, struct error *e)
{
	struct conn *c = xcalloc(1, sizeof(*c));
	int r;

	c->fd = fd;
	c->ssl = ssl;
	c->timeout_ms = CONN_TIMEOUT_MS;
	c->in = xcalloc(1, CONN_BUFFER);
	c->out = xcalloc(1, CONN_BUFFER);
	set_options(fd);
	r = io_uring_queue_init(4, &c->ring, 0);
	if (r) {
		errno = -r;
		error_set_errno(e, "io_uring_setup");
		c->ring.ring_fd = -1;
	}
	if (r || (ssl && set_bios(c, e))) {
		conn_free(c);
		return NULL;
	}
	return c;
}

void conn_free(struct conn *c)
{
	if (!c)
		return;
	SSL_free(c->ssl);
	if (c->ring.ring_fd >= 0)
		io_uring_queue_exit(&c->ring);
	close(c->fd);
	free(c->in);
	free(c->out);
	free(c);
}

void conn_set_timeout(struct conn *c, int ms)
{
	c->timeout_ms = ms;
}

/* Why OpenSSL could not go on: below it, or with what came. */
static int tls_failed(struct conn *c, struct error *e)
{
	int why = SSL_get_error(c->ssl, 0);

	if (why != SSL_ERROR_SYSCALL || !c->saved_errno)
		return tls_error(e, "TLS");
	errno = c->saved_errno;
	return error_set_errno(e, "the connection");
}

int conn_write(struct conn *c, const void *data, size_t len, struct error *e)
{
	size_t n;

	if (!c->ssl)
		return put_out(c, data, len) ? error_set_errno(e, "the connection") : 0;
	errno = c->saved_errno = 0;
	return !len || SSL_write_ex(c->ssl, data, len, &n) == 1 ? 0 : tls_failed(c, e);
}

int conn_flush(struct conn *c, struct error *e)
{
	return flush_out(c) ? error_set_errno(e, "the connection") : 0;
}

/* Some of it; 0 at the end, with or without a farewell: what was agreed to be the end is not left to TLS. */
static ssize_t read_some(struct conn *c, uint8_t *data, size_t len, struct error *e)
{
	ssize_t n;
	size_t got;

	if (!c->ssl) {
		n = take_in(c, data, len);
		return n < 0 ? error_set_errno(e, "the connection") : n;
	}
	errno = c->saved_errno = 0;
	c->ended = false;
	if (SSL_read_ex(c->ssl, data, len, &got) == 1)
		return (ssize_t)got;
	if (c->ended || SSL_get_error(c->ssl, 0) == SSL_ERROR_ZERO_RETURN) {
		ERR_clear_error();
		return 0;
	}
	return tls_failed(c, e);
}

int conn_read(struct conn *c, void *data, size_t len, struct error *e)
{
	uint8_t *at = data;
	size_t left = len;

	while (left) {
		ssize_t n = read_some(c, at, left, e);

		if (n < 0)
			return -1;
		if (!n)
			return left == len ? 1 : error_set(e, "the other side has closed the connection");
		at += n;
		left -= (size_t)n;
	}
	return 0;
}

void conn_cut(struct conn *c)
{
	shutdown(c->fd, SHUT_RDWR);
}

int conn_fd(const struct conn *c)
{
	return c->fd;
}

bool conn_has_input(const struct conn *c)
{
	return c->in_len || (c->ssl && SSL_has_pending(c->ssl));
}

uint64_t conn_sent(const struct conn *c)
{
	return c->sent;
}

/* ---- addresses */

/* "HOST:PORT" into its parts; both in *host's memory. */
static int split(const char *address, char **host, char **port, struct error *e)
{
	char *copy = xstrdup(address), *colon = strrchr(copy, ':');
	size_t len;

	if (!colon || colon == copy || !colon[1]) {
		free(copy);
		*host = *port = NULL;
		error_set(e, "%s: HOST:PORT is expected", address);
		return -1;
	}
	*colon = 0;
	*port = colon + 1;
	len = strlen(copy);
	if (copy[0] == '[' && copy[len - 1] == ']') {
		copy[len - 1] = 0;
		memmove(copy, copy + 1, len - 1);
	}
	*host = copy;
	return 0;
}

char *conn_host(const char *address, struct error *e)
{
	char *host, *port;

	return split(address, &host, &port, e) ? NULL : host;
}

static struct addrinfo *look_up(const char *address, int flags, struct error *e)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags}, *list = NULL;
	char *host, *port;
	int r;

	if (split(address, &host, &port, e))
		return NULL;
	r = getaddrinfo(host, port, &hints, &list);
	if (r)
		error_set(e, "%s: %s", address, gai_strerror(r));
	free(host);
	return r ? NULL : list;
}

int conn_listen(const char *address, struct error *e)
{
	struct addrinfo *list = look_up(address, AI_PASSIVE, e);
	int fd, one = 1;

	if (!list)
		return -1;
	fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, list->ai_addr, list->ai_addrlen) || listen(fd, 64)) {
		error_set_errno(e, "%s", address);
		close_fd(&fd);
	}
	freeaddrinfo(list);
	return fd;
}

/* Within timeout_ms, which connect() itself does not know. */
static int connect_within(const struct addrinfo *a, int timeout_ms)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error = 0;
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	socklen_t len = sizeof(error);

	if (fd < 0)
		return -1;
	if (connect(fd, a->ai_addr, a->ai_addrlen) && errno != EINPROGRESS)
		error = errno;
	else if (poll(&p, 1, timeout_ms) <= 0)
		error = ETIMEDOUT;
	else
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
	if (!error && !fcntl(fd, F_SETFL, 0))
		return fd;
	close(fd);
	errno = error;
	return -1;
}

int conn_connect(const char *address, int timeout_ms, struct error *e)
{
	struct addrinfo *list = look_up(address, 0, e);
	int fd = -1;

	if (!list)
		return -1;
	for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
		fd = connect_within(a, timeout_ms);
	if (fd < 0)
		error_set_errno(e, "%s", address);
	freeaddrinfo(list);
	return fd;
}
