/* channel.c: framed messages over a stream of bytes; the contract is in channel.h. */
#include "nested/channel.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const uint8_t mark[4] = {0x7f, 'V', 'M', 'A'};

enum { HEADER = 8 };

void channel_init(struct channel *c, int fd)
{
	c->fd = fd;
	c->len = 0;
}

static int wait_for(int fd, short events, uint64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = events};
	uint64_t now = clock_ns();
	int n = poll(&p, 1, now < deadline ? (int)((deadline - now + 999999) / 1000000) : 0);

	return n < 0 && errno == EINTR ? 1 : n;
}

int channel_send(struct channel *c, const Vmb__AgentMessage *m, int timeout_ms, struct error *e)
{
	uint64_t deadline = clock_ns() + (uint64_t)timeout_ms * 1000000;
	size_t len = vmb__agent_message__get_packed_size(m), done = 0;
	uint32_t le = htole32((uint32_t)len);
	uint8_t *frame;
	int r = 0;

	if (len > CHANNEL_MAX_MESSAGE)
		return error_set(e, "a message of %zu bytes to the agent", len);
	frame = xcalloc(1, HEADER + len);
	memcpy(frame, mark, sizeof(mark));
	memcpy(frame + sizeof(mark), &le, sizeof(le));
	vmb__agent_message__pack(m, frame + HEADER);
	len += HEADER;
	while (done < len && !r) {
		ssize_t n;

		if (wait_for(c->fd, POLLOUT, deadline) <= 0) {
			r = error_set(e, "the agent's channel takes nothing");
			break;
		}
		n = write(c->fd, frame + done, len - done);
		if (n >= 0)
			done += (size_t)n;
		else if (errno != EINTR && errno != EAGAIN)
			r = error_set_errno(e, "the agent's channel");
	}
	free(frame);
	return r;
}

static void discard(struct channel *c, size_t n)
{
	c->len -= n;
	memmove(c->buf, c->buf + n, c->len);
}

/* Drops what cannot begin a frame. */
static void find_mark(struct channel *c)
{
	size_t at = 0;

	while (at < c->len && memcmp(c->buf + at, mark, MIN(sizeof(mark), c->len - at)) != 0)
		at++;
	discard(c, at);
}

/* A message out of what has been read; NULL if there is none yet. */
static Vmb__AgentMessage *take(struct channel *c)
{
	for (;;) {
		Vmb__AgentMessage *m;
		uint32_t len;

		find_mark(c);
		if (c->len < HEADER)
			return NULL;
		memcpy(&len, c->buf + sizeof(mark), sizeof(len));
		len = le32toh(len);
		if (len > CHANNEL_MAX_MESSAGE) {
			discard(c, 1);
			continue;
		}
		if (c->len < HEADER + (size_t)len)
			return NULL;
		m = vmb__agent_message__unpack(NULL, len, c->buf + HEADER);
		/* No message: the mark was part of something else; the next may be inside. */
		discard(c, m ? HEADER + len : 1);
		if (m)
			return m;
	}
}

int channel_receive(struct channel *c, Vmb__AgentMessage **m, int timeout_ms, struct error *e)
{
	uint64_t deadline = clock_ns() + (uint64_t)timeout_ms * 1000000;

	for (bool looked = false;; looked = true) {
		ssize_t n;

		*m = take(c);
		if (*m)
			return 1;
		if (looked && clock_ns() >= deadline) /* whatever is still coming in */
			return 0;
		if (wait_for(c->fd, POLLIN, deadline) <= 0)
			return 0;
		n = read(c->fd, c->buf + c->len, sizeof(c->buf) - c->len);
		if (n > 0)
			c->len += (size_t)n;
		else if (n == 0 || (errno != EINTR && errno != EAGAIN))
			return error_set(e, "the agent's channel has closed");
	}
}
