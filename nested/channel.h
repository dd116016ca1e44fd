/* channel.h: messages between L0 and a guest hypervisor's agent over a stream of bytes that may begin
 * anywhere: a virtio console, of which each end may be new.
 *
 * A frame is a mark of 4 bytes, the length of the message (32 bits, little endian) and the message, a
 * packed AgentMessage.  Whoever reads looks for the mark: what stands before it, and what is no
 * message, is skipped.  One thread only.
 */
#ifndef NESTED_CHANNEL_H
#define NESTED_CHANNEL_H

#include "proto/vmbeam.pb-c.h"
#include "vmm/base.h"

enum {
	AGENT_VERSION = 1,
	CHANNEL_MAX_MESSAGE = 64 * 1024, /* bytes */
};

struct channel {
	int fd; /* the caller's */
	size_t len;
	uint8_t buf[8 + CHANNEL_MAX_MESSAGE];
};

void channel_init(struct channel *c, int fd);
/* Sends one message, within timeout_ms.  Returns 0, or -1 with *e set. */
int channel_send(struct channel *c, const Vmb__AgentMessage *m, int timeout_ms, struct error *e);
/* The next message within timeout_ms: 1 and *m (free with vmb__agent_message__free_unpacked), 0 if none has
 * come, -1 with *e set when the other end has closed. */
int channel_receive(struct channel *c, Vmb__AgentMessage **m, int timeout_ms, struct error *e);

#endif
