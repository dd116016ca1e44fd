/* tracking.h: which pages a VM's process has written while they are copied (vmm/vmm.h, vm_track_writes()); its control
 * socket, as the VM's name says.  Blocking; one thread.
 */
#ifndef MIGRATE_TRACKING_H
#define MIGRATE_TRACKING_H

#include "proto/vmbeam.pb-c.h"
#include "vmm/base.h"
#include "vmm/wire.h"

struct tracking {
	int control; /* writes are noted for as long as it is open; -1: not */
	uint64_t *written; /* a bit for each page, shared with the process */
	size_t words;
};

int tracking_begin(struct tracking *t, const Vmb__VmConfig *c, struct error *e);
/* For precopy.h: adds what has been written since; of one that runs. */
int tracking_collect(struct tracking *t, uint64_t *dirty, struct error *e);
int tracking_throttle(struct tracking *t, unsigned int percent, struct error *e);
/* Waits until the source of a handover says that it has captured the VM, and adds what was written until then.  Its
 * console clients are in *clients.  -1 with *e set: it has given up. */
int tracking_await_capture(struct tracking *t, int link, struct wire_fds *clients, uint64_t *dirty, struct error *e);

#endif
