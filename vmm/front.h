/* Between front.c and front_state.c: the front half of a VM whose vCPUs are in a guest hypervisor.  On the main
 * thread, with the VM's lock.
 */
#ifndef VMM_FRONT_H
#define VMM_FRONT_H

#include "vmm/frame.h"
#include "vmm/internal.h"

enum {
	FRONT_LEASE_MS = 20000, /* and a second for each GiB: that much may have to be taken out before */
	FRONT_CALL_MS = 30000,
	FRONT_RELAY_SIZE = 4 * CONSOLE_TX, /* of what came with a state; it grows no more than CONSOLE_TX else */
};

struct front {
	struct vm *vm;
	int lease;
	struct frames port;
	struct loop_source *source, *lease_source;
	uint32_t watching;
	uint64_t offset, last_id;
	bool gone;	/* no other half any more */
	bool resumed;	/* it runs, as far as this half knows */
	bool fenced;
	uint64_t signals; /* interrupts sent */
	Vmb__VmState *held; /* of a suspended VM */
	Vmb__BackInfo *told; /* NULL until it has been */
	/* The serial line: what came and no client has had yet, and what may be sent each way. */
	uint8_t tx[FRONT_RELAY_SIZE + CONSOLE_TX];
	size_t tx_len, credit, room;
};

/* As it is before there is another half. */
void front_begin(struct front *f);
/* Leases memory and a port in the hypervisor that vm->config->placement names, and has the other half built.
 * Takes `lease`, a connection to it; -1: there is none, and *e says why. */
int front_join(struct front *f, int lease, struct error *e);
/* Says no more to the other half. */
void front_hang_up(struct front *f);
/* And closes the lease, which takes the memory out of the window. */
void front_part(struct front *f);

/* The answer to a call; NULL and *e.  One that takes FRONT_CALL_MS or longer to come is a crash of the VM; one later
 * than a smaller timeout_ms is not waited for any more.  To be freed with vmb__front_event__free_unpacked(). */
Vmb__FrontEvent *front_ask(struct front *f, Vmb__FrontCall *c, int timeout_ms, struct error *e);
/* For calls that nothing but "done" answers. */
int front_call(struct front *f, Vmb__FrontCall *c, struct error *e);
/* What came together with an answer, while the guest runs: the loop sees only what comes later. */
void front_hear_rest(struct front *f);

#endif
