/* wire.h: protobuf messages with descriptors over a SOCK_SEQPACKET socket.
 *
 * One packet holds one message; descriptors travel beside it (SCM_RIGHTS, unix(7)).  The peer is
 * not trusted: a packet that is cut short, too large or no message is an error, never a crash.
 */
#ifndef VMM_WIRE_H
#define VMM_WIRE_H

#include <stddef.h>
#include <sys/types.h>
#include "proto/vmbeam.pb-c.h"

struct error;

enum {
	WIRE_MAX_MESSAGE = 160 * 1024, /* bytes; a packet must fit the socket's send buffer */
	WIRE_MAX_FDS = 64,
};

/* Descriptors that came with a message; those the receiver does not take are closed by
 * wire_close_fds(). */
struct wire_fds {
	int fd[WIRE_MAX_FDS];
	size_t count;
};

/* A copy of its own; free with protobuf_c_message_free_unpacked(). */
ProtobufCMessage *message_copy(const ProtobufCMessage *m);

/* What the parts of something took, to be put into a message: its phases are `list`, of n. */
struct phases {
	Vmb__Phase phase[16], *list[16];
	size_t n;
	uint64_t mark; /* when the last one ended; CLOCK_MONOTONIC, ns */
};

/* One more: from the mark until now; more than 16 are not kept.  The name outlives the message. */
void phases_end(struct phases *p, const char *name);

/* Sends one message.  The descriptors stay the caller's.  Never raises SIGPIPE.
 * Returns 0, or -1 with *e set. */
int wire_send(int sock, const ProtobufCMessage *msg, const int *fds, size_t nfds,
	      struct error *e);

/* Receives one message of the type `desc`; *fds (may be NULL: descriptors are closed) is
 * overwritten.  timeout_ms -1 waits for ever, 0 does not wait.
 * Returns 1 and *msg (free with protobuf_c_message_free_unpacked), 0 when the peer has closed,
 * -1 with *e set. */
int wire_recv(int sock, const ProtobufCMessageDescriptor *desc, ProtobufCMessage **msg,
	      struct wire_fds *fds, int timeout_ms, struct error *e);

/* Takes descriptor i out of *fds: the caller owns it.  -1 if there is none. */
int wire_take_fd(struct wire_fds *fds, size_t i);
void wire_close_fds(struct wire_fds *fds);

/* A connected client socket, or a listening one (mode 0600), at `path`; -1 with *e set. */
int wire_connect(const char *path, struct error *e);
int wire_listen(const char *path, int type, struct error *e);
/* The next client of a listening socket; -1 if there is none now.  Sending to it does not wait. */
int wire_accept(int listener);
/* Two connected sockets with send buffers of WIRE_MAX_MESSAGE. */
int wire_pair(int fds[2], struct error *e);

#endif
