/* sender.h: a VM's memory to connections, a round at a time; what precopy.c and postcopy.c lean on.
 *
 * A round's pages are a bitmap; the connections' threads take chunks of it from one cursor, so that none waits for another
 * before the round's end.  There each tells the receiver, and is answered when the receiver has all of it: a round's time
 * is that of the whole way.  The format is in stream.h.
 */
#ifndef MIGRATE_SENDER_H
#define MIGRATE_SENDER_H

#include "migrate/conn.h"
#include "migrate/precopy.h"
#include "migrate/stream.h"

#include <pthread.h>
#include <stdatomic.h>

struct worker {
	struct sender *s;
	struct conn *c;
	pthread_t thread;
	uint8_t *buf; /* header, then pages */
	struct error error;
	bool failed;
};

struct sender {
	int memory;
	uint64_t bandwidth; /* bytes a second; 0: no limit */
	uint64_t pages, chunks;
	/* Of this round, a word for each chunk: whoever sends a page takes it out before. */
	_Atomic uint64_t *todo;
	struct worker workers[PRECOPY_MAX_CONNECTIONS];
	unsigned int n;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t round; /* that the workers are to send */
	bool announce;	/* not the pages themselves: that they are missing */
	unsigned int busy;
	bool end; /* no more rounds */
	const struct error *why; /* the first error */
	_Atomic bool stop;

	_Atomic uint64_t cursor, sent, zero, done; /* chunks; pages of all rounds; of this one */
	_Atomic uint64_t allowance; /* bytes that the limit of the bandwidth has let through */
	uint64_t start_ns;
};

/* Threads for n connections, which wait for a round.  NULL with *e set. */
struct sender *sender_create(struct conn **conns, unsigned int n, int memory, uint64_t size, uint64_t bandwidth,
			     struct error *e);
/* Sends what is in `todo`.  tick is called about five times a second from this thread; NULL, or why it is to be given up.
 * 0, or -1 and *e: the connections are cut then. */
int sender_round(struct sender *s, bool announce, const char *(*tick)(void *ctx), void *ctx, struct error *e);
/* The threads end; with `good` they tell the receiver that there is no more.  -1 with *e set if they could not. */
int sender_end(struct sender *s, bool good, struct error *e);
void sender_free(struct sender *s);
/* What the bitmap has. */
uint64_t sender_left(const struct sender *s);
/* Sends pages of a chunk that are out of the bitmap, over a connection that is no worker's.  Waits for the limit. */
int sender_chunk(struct worker *w, uint64_t chunk, uint64_t data, struct error *e);

#endif
