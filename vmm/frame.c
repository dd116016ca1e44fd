/* frame.c: messages over a stream; the contract is in frame.h. */
#include "vmm/frame.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEADER = 4, READ_SIZE = 64 * 1024 };

void frames_init(struct frames *f, int fd)
{
	*f = (struct frames){.fd = fd};
}

void frames_free(struct frames *f)
{
	free(f->in);
	free(f->out);
	f->in = f->out = NULL;
	f->in_len = f->in_size = f->out_len = f->out_size = 0;
}

static void reserve(uint8_t **buf, size_t *size, size_t want)
{
	if (want <= *size)
		return;
	*size = MAX(want, 2 * *size);
	*buf = xrealloc(*buf, *size);
}

static void drop(uint8_t *buf, size_t *len, size_t n)
{
	*len -= n;
	memmove(buf, buf + n, *len);
}

int frames_flush(struct frames *f, struct error *e)
{
	size_t done = 0;
	int r = 0;

	while (done < f->out_len) {
		ssize_t n = write(f->fd, f->out + done, f->out_len - done);

		if (n > 0)
			done += (size_t)n;
		else if (n < 0 && errno == EAGAIN)
			break;
		else if (n == 0 || errno != EINTR) {
			r = error_set_errno(e, "the other half's stream");
			break;
		}
	}
	drop(f->out, &f->out_len, done);
	return r;
}

int frames_send(struct frames *f, const ProtobufCMessage *m, struct error *e)
{
	size_t len = protobuf_c_message_get_packed_size(m);
	uint32_t le = htole32((uint32_t)len);

	if (len > FRAME_MAX || f->out_len > 2 * FRAME_MAX)
		return error_set(e, "a message of %zu bytes is too large, or nobody reads", len);
	reserve(&f->out, &f->out_size, f->out_len + HEADER + len);
	memcpy(f->out + f->out_len, &le, HEADER);
	protobuf_c_message_pack(m, f->out + f->out_len + HEADER);
	f->out_len += HEADER + len;
	return frames_flush(f, e);
}

int frames_read(struct frames *f, struct error *e)
{
	ssize_t n;

	reserve(&f->in, &f->in_size, f->in_len + READ_SIZE);
	n = read(f->fd, f->in + f->in_len, READ_SIZE);
	if (n > 0)
		f->in_len += (size_t)n;
	else if (n == 0 || (errno != EAGAIN && errno != EINTR))
		return error_set(e, "the other half has gone");
	return 0;
}

int frames_take(struct frames *f, const ProtobufCMessageDescriptor *type, ProtobufCMessage **m,
		struct error *e)
{
	uint32_t len;

	if (f->in_len < HEADER)
		return 0;
	memcpy(&len, f->in, HEADER);
	len = le32toh(len);
	if (len > FRAME_MAX)
		return error_set(e, "the other half made no sense");
	if (f->in_len - HEADER < len)
		return 0;
	*m = protobuf_c_message_unpack(type, NULL, len, f->in + HEADER);
	drop(f->in, &f->in_len, HEADER + len);
	return *m ? 1 : error_set(e, "the other half made no sense");
}
