/* lab-io.c: byte streams and messages between the two ends of the lab (contracts: lab-internal.h).
 */
#include "nested/lab-internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void lab_wire_put(struct lab_wire *w, enum lab_msg_type type, const void *data, size_t len)
{
	struct lab_msg m = {.type = type, .len = (uint32_t)len};

	w->out = xrealloc(w->out, w->out_len + sizeof(m) + len);
	memcpy(w->out + w->out_len, &m, sizeof(m));
	if (len)
		memcpy(w->out + w->out_len + sizeof(m), data, len);
	w->out_len += sizeof(m) + len;
}

int lab_wire_flush(struct lab_wire *w)
{
	while (w->out_len) {
		ssize_t n = write(w->fd, w->out, w->out_len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -1;
		w->out_len -= (size_t)n;
		memmove(w->out, w->out + n, w->out_len);
	}
	return 0;
}

int lab_wire_fill(struct lab_wire *w)
{
	char buf[4096];
	ssize_t n;

	while ((n = read(w->fd, buf, sizeof(buf))) > 0) {
		w->in = xrealloc(w->in, w->in_len + (size_t)n);
		memcpy(w->in + w->in_len, buf, (size_t)n);
		w->in_len += (size_t)n;
	}
	return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
}

int lab_wire_take(struct lab_wire *w,
		  int (*handle)(void *arg, uint32_t type, const char *data, size_t len), void *arg)
{
	size_t at = 0;
	int ret = 0;

	while (!ret && w->in_len - at >= sizeof(struct lab_msg)) {
		struct lab_msg m;

		memcpy(&m, w->in + at, sizeof(m));
		if (m.type >= LAB_MSG_TYPES || m.len > LAB_MSG_MAX) {
			ret = -1;
			break;
		}
		if (w->in_len - at - sizeof(m) < m.len)
			break;
		ret = handle(arg, m.type, w->in + at + sizeof(m), m.len);
		at += sizeof(m) + m.len;
	}
	w->in_len -= at;
	if (at)
		memmove(w->in, w->in + at, w->in_len);
	return ret;
}

void lab_pump_close(struct lab_pump *p)
{
	close_fd(&p->from);
	if (p->to >= 0 && p->half_close) {
		/* At a full close QEMU would drop what it has not read yet. */
		shutdown(p->to, SHUT_WR);
		p->to = -1;
	}
	close_fd(&p->to);
	p->head = p->tail = 0;
}

void lab_pump_poll(const struct lab_pump *p, struct pollfd fds[2])
{
	bool full = p->tail - p->head == sizeof(p->buf);

	/* poll() reports a hang-up even to those who wait for nothing: leave `from` out then. */
	fds[0] = (struct pollfd){.fd = full ? -1 : p->from, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = p->to, .events = p->tail > p->head ? POLLOUT : 0};
}

void lab_pump_step(struct lab_pump *p, const struct pollfd fds[2])
{
	ssize_t n;

	if (p->from >= 0 && fds[0].revents) {
		if (p->head) {
			memmove(p->buf, p->buf + p->head, p->tail - p->head);
			p->tail -= p->head;
			p->head = 0;
		}
		n = read(p->from, p->buf + p->tail, sizeof(p->buf) - p->tail);
		if (n > 0)
			p->tail += (size_t)n;
		else if (n == 0 || (errno != EAGAIN && errno != EINTR))
			close_fd(&p->from);
	}
	if (p->to >= 0 && p->tail > p->head && (fds[1].revents & POLLOUT)) {
		n = write(p->to, p->buf + p->head, MIN(p->tail - p->head, p->chunk));
		if (n > 0) {
			p->head += (size_t)n;
			p->total += (uint64_t)n;
		} else if (n < 0 && errno != EAGAIN && errno != EINTR) {
			lab_pump_close(p);
		}
	} else if (p->to >= 0 && (fds[1].revents & (POLLERR | POLLHUP | POLLNVAL))) {
		lab_pump_close(p);
	}
	if (p->from < 0 && p->tail == p->head)
		lab_pump_close(p);
}
