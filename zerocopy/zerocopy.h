/* zerocopy.h: who owns a VM, and the handover of a running VM to another process without copying
 * its memory.
 *
 * A handover has three parties: the driver (the migrate command), the source and the destination (two
 * vmm processes).  All three hold the RAM memfd, the owner word's memfd and the state memfd, so that
 * any two of them may be killed.  Source and destination talk on a link of their own while the VM is
 * stopped; the driver only sets it going.
 *
 *   driver              source                         destination
 *   HandoverRequest --> (refuse, or)
 *                   <-- HandoverOffer, descriptors
 *   IncomingRequest, descriptors --------------------> build, load provisional state
 *                   <--------------------------------- Prepared, Warmed
 *   HandoverGo      --> begin, pause, drain, capture,
 *                       seal the state memfd
 *                       Link.captured ---------------> restore, commit, start
 *                       (leave) <--------------------- Link.restored
 *                   <-- HandoverResult               HandoverResult
 */
#ifndef ZEROCOPY_ZEROCOPY_H
#define ZEROCOPY_ZEROCOPY_H

#include "proto/vmbeam.pb-c.h"
#include "vmm/base.h"
#include "vmm/vmm.h"
#include "vmm/wire.h"

/* ---- the owner word
 *
 * One 64-bit word in a memfd, changed by compare-and-swap only.  Instances number the vmm processes
 * of a VM; 0 is nobody.
 *
 *   started ----begin----> moving ----commit----> taken ----start----> started (by the destination)
 *      ^                     |                      |
 *      +-------abort---------+                      |   (the destination died before it started)
 *      +------------------reclaim-------------------+
 *
 * A process lets its vCPUs run only while the word says "started" with its own instance; whoever
 * wins a swap knows that the other has lost it.
 */
struct owner;

struct owner_view {
	uint32_t epoch; /* grows with every change */
	uint16_t owner, candidate;
	bool started;
};

/* A new memfd (size sealed) whose word says: started, instance 1.  -1 with *e set. */
int owner_create(struct error *e);
/* Maps it; the descriptor stays the caller's.  NULL with *e set. */
struct owner *owner_map(int fd, struct error *e);
void owner_unmap(struct owner *o);
struct owner_view owner_read(const struct owner *o);
/* An instance number that no party of an earlier handover can still act under. */
uint16_t owner_next_instance(const struct owner *o);
/* Each returns whether the word was as the step demands, and is now changed. */
bool owner_begin(struct owner *o, uint16_t source, uint16_t destination);
bool owner_abort(struct owner *o, uint16_t source, uint16_t destination);
bool owner_commit(struct owner *o, uint16_t source, uint16_t destination);
bool owner_start(struct owner *o, uint16_t destination);
bool owner_reclaim(struct owner *o, uint16_t source, uint16_t dead_destination);
/* For a third process when both are dead and the state is complete: takes over from "moving" or
 * "taken"; then owner_start(). */
bool owner_recover(struct owner *o, uint16_t instance);

/* ---- state memfd: written once, then sealed */

int state_create(struct error *e);
/* Packs *s into it and seals it: from here on the capture is complete.  Returns its bytes or -1. */
ssize_t state_write(int fd, const Vmb__VmState *s, struct error *e);
bool state_is_sealed(int fd);
/* Checks magic, version, length and checksum; NULL with *e set. */
Vmb__VmState *state_read(int fd, struct error *e);

/* ---- source: part of every vmm process */

struct handover_source;
struct handover_source *handover_source_create(uint16_t instance);
void handover_source_attach(struct handover_source *s, struct vm *vm, struct control *control);
/* The number under which this process owns the VM after it has taken it over. */
void handover_source_set_instance(struct handover_source *s, uint16_t instance);
void handover_source_destroy(struct handover_source *s);
/* A control_other_fn: HandoverRequest. */
bool handover_source_request(void *source, int fd, const Vmb__Request *r, struct wire_fds *fds,
			     struct error *e);

/* ---- destination: how a vmm process begins in a handover
 *
 * Returns the VM, running or (if the source died too early) crashed with its memory kept; NULL when
 * there is nothing to run here, with *e set if that is a failure.  Sets the instance of *self.
 * become(): it is that VM's process from here on, and is told its name; start() calls vm_start().
 */
struct vm *handover_incoming(int driver, const Vmb__IncomingRequest *req, struct wire_fds *fds,
			     struct handover_source *self, void (*become)(const char *name),
			     int (*start)(struct vm *vm, struct error *e), struct error *e);

/* ---- driver */

struct handover_options {
	int (*entry)(void); /* what the new vmm process runs (vmm/client.h) */
	const char *placement; /* where to (VmConfig); NULL: where it is */
	bool dry_run; /* up to the moment before the guest would stop, then back */
	bool warm;
	uint64_t drain_timeout_ns;
	const char *fault; /* tests; NULL or "" without */
	/* The destination gets memory of its own: what this runs (a process, as entry) copies into it, stands between source
	 * and destination, and is told by an IncomingRequest with both links, the RAM memfd and the new one.  NULL: shared. */
	int (*copy)(void);
	/* The process that `entry` runs stands for another machine (migrate/session.h). */
	bool remote;
	bool rest;	     /* it runs there, and has not got all of its memory */
	uint64_t timeout_ns; /* then: until the guest is to be stopped; 0: none */
	void (*progress)(void *ctx, const Vmb__Progress *p);
	void *ctx;
};

/* What the source tells the driver then. */
#define HANDOVER_CANCELLED "cancelled"

enum { HANDOVER_MAX_PHASES = 16, HANDOVER_MAX_BLOCKERS = 8 };

struct handover_report {
	bool completed;
	bool cancelled;	   /* by request; not completed then */
	bool held;	   /* its hypervisor has gone; all of it is there, and it can be moved */
	bool crashed;	   /* not running anywhere; what is held is said in `error` */
	char from[64];	   /* placement (VmConfig) */
	char phase[32];	   /* where it failed */
	struct error error;
	char blockers[HANDOVER_MAX_BLOCKERS][200];
	size_t nblockers;
	struct {
		char name[24];
		uint64_t ns;
	} phases[HANDOVER_MAX_PHASES];
	size_t nphases;
	uint64_t memory_bytes;
	uint64_t total_ns; /* without the phase "warm" */
	uint64_t downtime_ns;
	uint64_t state_bytes; /* all that was copied */
	unsigned int rounds;  /* of pre-copy */
	bool remote, copied, post_copy;
	unsigned int throttle; /* percent, at the end of pre-copy */
	uint64_t cpu_source_ns, cpu_destination_ns;
};

/* Hands the VM over to a fresh vmm process.  Returns 0 if it completed (or, dry, if nothing blocks
 * it); the report says the rest.  Blocks until it is over. */
int handover_drive(const char *vm, const struct handover_options *o, struct handover_report *r);

#endif
