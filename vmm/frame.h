/* frame.h: protobuf messages over a stream that both ends see from its beginning: each a length (32
 * bits, little endian) and the packed message.  The peer is not trusted.  One thread at a time.
 */
#ifndef VMM_FRAME_H
#define VMM_FRAME_H

#include "vmm/base.h"

#include <protobuf-c/protobuf-c.h>

enum { FRAME_MAX = 4 << 20 }; /* bytes of a message */

struct frames {
	int fd; /* the caller's */
	uint8_t *in, *out;
	size_t in_len, in_size, out_len, out_size;
};

void frames_init(struct frames *f, int fd);
void frames_free(struct frames *f);
/* Puts a message behind those that wait, and sends what can be sent without waiting (all of it, if the
 * descriptor blocks).  -1 with *e set if the stream is broken. */
int frames_send(struct frames *f, const ProtobufCMessage *m, struct error *e);
/* Sends more of what waits; whether something still does is out_len. */
int frames_flush(struct frames *f, struct error *e);
/* Reads what is there, once.  -1 with *e set when the stream has ended. */
int frames_read(struct frames *f, struct error *e);
/* The next whole message: 1 and *m (free with protobuf_c_message_free_unpacked), 0 if there is none yet,
 * -1 with *e set if what came is none. */
int frames_take(struct frames *f, const ProtobufCMessageDescriptor *type, ProtobufCMessage **m,
		struct error *e);

#endif
