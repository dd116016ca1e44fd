/* wire.c: framing of messages on unix sockets; the contract is in wire.h. */
#include "vmm/wire.h"
#include "vmm/base.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

union fd_control {
	char buf[CMSG_SPACE(sizeof(int) * WIRE_MAX_FDS)];
	struct cmsghdr align;
};

static void set_buffers(int sock)
{
	int size = 2 * WIRE_MAX_MESSAGE;

	/* Root may pass the system's limit; otherwise what it allows must do. */
	if (setsockopt(sock, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
		setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

ProtobufCMessage *message_copy(const ProtobufCMessage *m)
{
	size_t len = protobuf_c_message_get_packed_size(m);
	uint8_t *buf = xcalloc(1, len);
	ProtobufCMessage *copy;

	protobuf_c_message_pack(m, buf);
	copy = protobuf_c_message_unpack(m->descriptor, NULL, len, buf);
	free(buf);
	return copy;
}

void phases_end(struct phases *p, const char *name)
{
	uint64_t now = clock_ns();
	Vmb__Phase *last = &p->phase[p->n];

	if (p->n == ARRAY_LEN(p->phase))
		return;
	vmb__phase__init(last);
	last->name = (char *)(uintptr_t)name;
	last->ns = now - p->mark;
	p->list[p->n++] = last;
	p->mark = now;
}

int wire_send(int sock, const ProtobufCMessage *msg, const int *fds, size_t nfds, struct error *e)
{
	size_t len = protobuf_c_message_get_packed_size(msg);
	union fd_control control;
	struct iovec iov = {.iov_len = len};
	struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};
	uint8_t *buf;
	ssize_t n;

	if (len > WIRE_MAX_MESSAGE || nfds > WIRE_MAX_FDS)
		return error_set(e, "message of %zu bytes and %zu descriptors is too large", len, nfds);
	buf = xcalloc(1, len + 1);
	protobuf_c_message_pack(msg, buf);
	iov.iov_base = buf;
	/* A packet without a byte would read as end of file. */
	if (len == 0)
		iov.iov_len = 1;
	if (nfds) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		hdr.msg_control = control.buf;
		hdr.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		c = CMSG_FIRSTHDR(&hdr);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
	}
	do {
		n = sendmsg(sock, &hdr, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	free(buf);
	if (n < 0)
		return error_set_errno(e, "cannot send a message");
	return 0;
}

static void collect_fds(struct msghdr *hdr, struct wire_fds *fds)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(hdr); c; c = CMSG_NXTHDR(hdr, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n && fds->count < WIRE_MAX_FDS; i++)
			memcpy(&fds->fd[fds->count++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
	}
}

int wire_recv(int sock, const ProtobufCMessageDescriptor *desc, ProtobufCMessage **msg,
	      struct wire_fds *fds, int timeout_ms, struct error *e)
{
	union fd_control control;
	struct iovec iov;
	struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf};
	struct pollfd p = {.fd = sock, .events = POLLIN};
	struct wire_fds dropped;
	uint8_t *buf;
	ssize_t n;
	int r;

	if (!fds)
		fds = &dropped;
	fds->count = 0;
	do {
		r = poll(&p, 1, timeout_ms);
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		return error_set_errno(e, "poll");
	if (r == 0)
		return error_set(e, "no answer within %d ms", timeout_ms);

	buf = xcalloc(1, WIRE_MAX_MESSAGE + 1);
	iov.iov_base = buf;
	iov.iov_len = WIRE_MAX_MESSAGE + 1;
	hdr.msg_controllen = sizeof(control.buf);
	do {
		n = recvmsg(sock, &hdr, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n >= 0)
		collect_fds(&hdr, fds);
	if (n <= 0) {
		free(buf);
		if (n < 0 && errno != ECONNRESET)
			return error_set_errno(e, "cannot receive a message");
		wire_close_fds(fds); /* a packet without a byte reads as the end, but can bring some */
		return 0;
	}
	*msg = NULL;
	if (n <= WIRE_MAX_MESSAGE && !(hdr.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		*msg = protobuf_c_message_unpack(desc, NULL, n == 1 && !buf[0] ? 0 : (size_t)n, buf);
	free(buf);
	if (!*msg) {
		wire_close_fds(fds);
		return error_set(e, "a packet of %zd bytes is not a %s message", n, desc->short_name);
	}
	if (fds == &dropped)
		wire_close_fds(fds);
	return 1;
}

int wire_take_fd(struct wire_fds *fds, size_t i)
{
	int fd;

	if (i >= fds->count)
		return -1;
	fd = fds->fd[i];
	fds->fd[i] = -1;
	return fd;
}

void wire_close_fds(struct wire_fds *fds)
{
	for (size_t i = 0; i < fds->count; i++)
		close_fd(&fds->fd[i]);
	fds->count = 0;
}

static int unix_address(const char *path, struct sockaddr_un *addr, struct error *e)
{
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	if (strlen(path) >= sizeof(addr->sun_path))
		return error_set(e, "%s: longer than a socket's path may be", path);
	strcpy(addr->sun_path, path);
	return 0;
}

int wire_connect(const char *path, struct error *e)
{
	struct sockaddr_un addr;
	int fd;

	if (unix_address(path, &addr, e))
		return -1;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_set_errno(e, "socket");
	set_buffers(fd);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		error_set_errno(e, "%s", path);
		close(fd);
		return -1;
	}
	return fd;
}

int wire_listen(const char *path, int type, struct error *e)
{
	struct sockaddr_un addr;
	mode_t old;
	int fd, r;

	if (unix_address(path, &addr, e))
		return -1;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set_errno(e, "socket");
	set_buffers(fd);
	unlink(path);
	old = umask(0177);
	r = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
	umask(old);
	if (r || listen(fd, 64)) {
		error_set_errno(e, "%s", path);
		close(fd);
		return -1;
	}
	return fd;
}

int wire_accept(int listener)
{
	/* A client that takes no answers loses them: nobody waits for it with the VM's lock held. */
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd >= 0)
		set_buffers(fd);
	return fd;
}

int wire_pair(int fds[2], struct error *e)
{
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		return error_set_errno(e, "socketpair");
	set_buffers(fds[0]);
	set_buffers(fds[1]);
	return 0;
}
