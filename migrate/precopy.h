/* precopy.h: a VM's memory over connections, while the VM runs, in rounds: all that exists, then what was written
 * meanwhile, again and again, until what is left can be sent within the downtime that is allowed; then the VM is
 * stopped and the rest is sent.  (C. Clark et al., Live Migration of Virtual Machines, NSDI 2005, section 3.)
 *
 * Both ends block, and have a thread for each connection while they work.  The format is in stream.h.
 */
#ifndef MIGRATE_PRECOPY_H
#define MIGRATE_PRECOPY_H

#include "migrate/conn.h"
#include "migrate/stream.h"

enum { PRECOPY_MAX_CONNECTIONS = 16 };

struct precopy_extent {
	uint64_t start, size; /* bytes */
};

/* ---- sending */

/* What is sent.  A bitmap has a bit for each page of STREAM_PAGE, the lowest first. */
struct precopy_source {
	/* Adds the pages written since tracking began or since the last call, and protects them anew.  It runs on. */
	int (*collect)(void *ctx, uint64_t *dirty, struct error *e);
	/* Stops it for good, unless precopy_send() fails, and adds what was written since. */
	int (*stop)(void *ctx, uint64_t *dirty, struct error *e);
	/* Keeps it from running for so much of the time; NULL: that cannot be. */
	int (*throttle)(void *ctx, unsigned int percent, struct error *e);
	void *ctx;
};

struct precopy_progress {
	unsigned int round;
	uint64_t sent_pages, zero_pages; /* of all rounds */
	uint64_t round_pages, round_done; /* of this one */
	uint64_t rate;	      /* bytes of pages a second, as the receiver has confirmed them */
	uint64_t dirty_rate;  /* bytes a second that the VM writes, in pages */
	unsigned int throttle; /* percent */
	uint64_t expected_ns; /* downtime, were it stopped now */
};

enum precopy_then {
	PRECOPY_ONLY,
	PRECOPY_OR_POST_COPY,	/* instead of slowing it down */
	PRECOPY_THEN_POST_COPY, /* after the first round */
};

struct precopy_options {
	enum precopy_then post_copy;
	uint64_t downtime_limit_ns;
	uint64_t switch_ns;  /* downtime besides the last pages */
	uint64_t timeout_ns; /* to be stopped within; 0: none */
	/* Called about five times a second, from the thread of precopy_send().  True: go on. */
	bool (*progress)(void *ctx, const struct precopy_progress *p);
	void *ctx;
};

struct precopy_result {
	unsigned int rounds;
	uint64_t sent_pages, zero_pages;
	uint64_t rate, dirty_rate;
	unsigned int throttle; /* percent, at the end */
	bool post_copy; /* last_pages have not been sent */
	uint64_t stop_ns;     /* when stop() was called */
	uint64_t last_ns;     /* from then until the receiver had the last page */
	uint64_t last_pages;
	uint64_t last_round_ns; /* of that, sending them */
	uint64_t predicted_ns; /* the downtime that was expected then */
	bool feasible; /* if it has failed: had a stop ever been expected to keep the limit? */
	bool cancelled;
};

struct sender; /* sender.h: memory, connections, limit of the bandwidth */

/* 0: the VM is stopped, and the receiver has all of it, or knows what it has not (post_copy: postcopy.h goes on).  -1 and
 * *e: it runs on, or is to be let go on if stop() was called (stop_ns).  The connections are cut then. */
int precopy_send(struct sender *s, const struct precopy_source *source, const struct precopy_options *options,
		 struct precopy_result *result, struct error *e);

/* ---- receiving */

struct receiver;
struct faults; /* postcopy.h */

/* Finds out what pages the machine has; before a process gives up its file system. */
void receiver_look(void);
/* For a memory of `size` bytes in `memory`, a memfd of holes, from n connections.  extents: where pages will come, as
 * far as is known; memory is allocated there ahead, by a thread that lives until receiver_free().  faults: pages may come after the last round, too; NULL: no. */
struct receiver *receiver_create(int memory, uint64_t size, const struct precopy_extent *extents, size_t nextents,
				 unsigned int n, struct faults *faults);
/* Receives from one connection, in the calling thread, until the sender has said that there is no more (0), or -1 and
 * *e; then the others are given up, too.  Called n times, in n threads. */
int receiver_serve(struct receiver *r, struct conn *c, struct error *e);
/* Makes every receiver_serve() end.  Any thread. */
void receiver_abort(struct receiver *r);
/* No thread is in receiver_serve() any more. */
void receiver_free(struct receiver *r);

#endif
