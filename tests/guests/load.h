/* load.h: between the load generator (load.c) and the protocol it is linked with (load_redis.c,
 * load_http.c).  One thread; a client has one request under way at a time.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LOAD_REQUEST_BYTES 1024
#define LOAD_REPLY_BYTES   (4u << 20)

enum { REPLY_PARTIAL = 0, REPLY_WRONG = -1 };

struct load_protocol {
	const char *name, *port, *usage;
	/* An option of the protocol's own: 0, or -1 if it is none. */
	int (*option)(const char *name, const char *value);
	/* The state of client number `index`. */
	void *(*client)(unsigned index);
	/* The client's next request into `buf` of LOAD_REQUEST_BYTES; its length. */
	size_t (*request)(void *client, char *buf);
	/* The reply, as far as it has come: its length, REPLY_PARTIAL, or REPLY_WRONG after a line
	 * on stderr.
	 */
	ssize_t (*reply)(void *client, const char *buf, size_t len);
	/* The request under way failed: nobody knows whether the server did it. */
	void (*lost)(void *client);
};

extern const struct load_protocol load_protocol;

#endif
