/* session.c: messages on a connection; the contract is in session.h. */
#include "migrate/session.h"
#include "migrate/tls.h"
#include "vmm/wire.h"

#include <endian.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int net_send(struct conn *c, const Vmb__NetMessage *m, struct error *e)
{
	size_t len = vmb__net_message__get_packed_size(m);
	uint32_t le = htole32((uint32_t)len);
	uint8_t *buf;
	int r;

	if (len > NET_MESSAGE_MAX)
		return error_set(e, "a message of %zu bytes is too large", len);
	buf = xcalloc(1, sizeof(le) + len);
	memcpy(buf, &le, sizeof(le));
	vmb__net_message__pack(m, buf + sizeof(le));
	r = conn_write(c, buf, sizeof(le) + len, e) || conn_flush(c, e) ? -1 : 0;
	free(buf);
	return r;
}

int net_receive(struct conn *c, Vmb__NetMessage__KindCase kind, Vmb__NetMessage **m, struct error *e)
{
	uint32_t le;
	uint8_t *buf;
	size_t len;
	int got = conn_read(c, &le, sizeof(le), e);

	if (got)
		return got < 0 ? -1 : error_set(e, "the other side has closed the connection");
	len = le32toh(le);
	if (len > NET_MESSAGE_MAX)
		return error_set(e, "the other side made no sense");
	buf = xcalloc(1, MAX(len, (size_t)1));
	got = conn_read(c, buf, len, e);
	*m = got ? NULL : vmb__net_message__unpack(NULL, len, buf);
	free(buf);
	if (got)
		return got < 0 ? -1 : error_set(e, "the other side has closed the connection");
	if (*m && (*m)->error[0])
		error_set(e, "%.300s", (*m)->error);
	else if (!*m || (kind && (*m)->kind_case != kind))
		error_set(e, "the other side made no sense");
	else
		return 0;
	if (*m)
		vmb__net_message__free_unpacked(*m, NULL);
	*m = NULL;
	return -1;
}

int net_send_mark(struct conn *c, Vmb__NetMessage__KindCase kind, struct error *e)
{
	Vmb__NetMessage m = VMB__NET_MESSAGE__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	m.kind_case = kind;
	m.go = &empty; /* every mark's member of the union is a pointer to an empty message */
	return net_send(c, &m, e);
}

int net_send_error(struct conn *c, const struct error *why)
{
	Vmb__NetMessage m = VMB__NET_MESSAGE__INIT;
	struct error ignored;

	m.error = (char *)(uintptr_t)why->text;
	return net_send(c, &m, &ignored);
}

static void reply(const Vmb__Reply *r)
{
	wire_send(NET_LINK_FD, &r->base, NULL, 0, NULL);
}

void net_reply_mark(Vmb__Reply__KindCase kind)
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

bool net_tell_progress(const struct precopy_progress *p)
{
	struct pollfd driver = {.fd = NET_LINK_FD, .events = POLLIN};
	Vmb__Reply r = VMB__REPLY__INIT;
	Vmb__Progress m = VMB__PROGRESS__INIT;

	m.round = p->round;
	m.total = p->round_pages * STREAM_PAGE;
	m.done = p->round_done * STREAM_PAGE;
	m.sent = p->sent_pages * STREAM_PAGE;
	m.rate = p->rate;
	m.dirty_rate = p->dirty_rate;
	m.expected_ns = p->expected_ns;
	m.throttle = p->throttle;
	r.kind_case = VMB__REPLY__KIND_PROGRESS;
	r.progress = &m;
	reply(&r);
	return poll(&driver, 1, 0) <= 0; /* it has no more to say until the end */
}

int net_tell_failure(const struct error *e)
{
	Vmb__Reply failed = VMB__REPLY__INIT;

	failed.error = (char *)(uintptr_t)e->text;
	reply(&failed);
	return 1;
}

struct conn *net_connect(const char *address, SSL_CTX *ctx, struct error *e)
{
	int fd = conn_connect(address, NET_TIMEOUT_MS, e);
	const struct timeval t = {NET_TIMEOUT_MS / 1000, 0};
	char *host;
	SSL *ssl = NULL;

	if (fd < 0)
		return NULL;
	/* For the handshake; later reads have their own. */
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
	host = ctx ? conn_host(address, e) : NULL;
	if (ctx)
		ssl = host ? tls_shake_hands(ctx, fd, host, e) : NULL;
	free(host);
	if (ctx && !ssl) {
		close(fd);
		return NULL;
	}
	return conn_new(fd, ssl, e);
}
