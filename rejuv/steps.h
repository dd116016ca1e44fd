/* steps.h: what a rejuvenation is made of, for who puts it together: `vmbeam rejuvenate` (cmd_rejuvenate.c), which does all of them in
 * a row, and vmbeamd, which has each done by a process of its own.
 *
 * Every step may be done again after it was cut off at any point, and then does what is left of it.  Whatever fails, each guest VM runs
 * where it is said to be: in the old one, in the fresh one (NAME.new), on the host, or crashed with its memory kept.
 * Steps block until they are over.  The caller must have one thread only (vmm_spawn()).
 */
#ifndef REJUV_STEPS_H
#define REJUV_STEPS_H

#include "proto/vmbeam.pb-c.h"
#include "vmm/vmm.h"
#include "zerocopy/zerocopy.h"

#include <jansson.h>
#include <stdbool.h>

struct rejuvenation {
	const char *name;
	char fresh[72]; /* its name until the old one is gone */
	bool quiet;	/* no lines for somebody who watches */
	uint64_t parallel; /* guest VMs on their way at a time */
	struct handover_options o;
	char *guests[VM_HOST_PORTS];
	size_t nguests;
	Vmb__Reply *old; /* its info; it is there that the guests' names are */
	uint64_t available[2]; /* bytes, before and after */
	json_t *moves;
	bool held; /* guests are, and run nowhere: somebody has to come again */
	const char *probe; /* a shell command that is to succeed once the guest has been moved; NULL: none */
};

enum { REJUVENATION_MOST_NAME = 59 };
/* With the options of a handover as they usually are; name stays the caller's.  To be freed with rejuvenation_clear(). */
void rejuvenation_init(struct rejuvenation *r, const char *name);
void rejuvenation_clear(struct rejuvenation *r);

/* A line for somebody who watches. */
void rejuvenation_say(const struct rejuvenation *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* If NAME.new has taken all there was and NAME is gone, it gets its name. */
int rejuvenation_mend(struct rejuvenation *r, struct error *e);
/* What is in the old one; tells its guests its name, if it has not got it for long. */
int rejuvenation_look(struct rejuvenation *r, struct error *e);
/* Is there memory for a second one? */
int rejuvenation_admit(struct rejuvenation *r, struct error *e);
/* NAME.new is there, and healthy. */
int rejuvenation_prepare(struct rejuvenation *r, struct error *e);
/* All guests, or (guest not NULL) that one, to `place` (VmConfig), which they may be at already. */
int rejuvenation_move(struct rejuvenation *r, const char *guest, const char *place, struct error *e);
/* Does it run there, do its vCPUs get on, does its probe succeed?  One that its user has paused need only be there. */
int rejuvenation_verify(const struct rejuvenation *r, const char *guest, const char *place, struct error *e);
/* The old one, which is empty, ends, and NAME.new gets its name.  identity: the old one's, or NULL. */
int rejuvenation_retire(struct rejuvenation *r, const char *identity, struct error *e);
/* The guests of NAME.new go back to NAME, or to the host if that is gone, and NAME.new ends. */
int rejuvenation_back(struct rejuvenation *r, struct error *e);
/* The guests are held, NAME ends and is started anew, and they go on in it, or on the host if it does not come up.  If one has been cut
 * off, or NAME has not come up (is_replacing()), it is to be done again first of all, without a look: NAME may be gone.  Guests on the host
 * come back then. */
int rejuvenation_replace(struct rejuvenation *r, struct error *e);
/* It is not to be done again: guests that are held go on where they can, the others stay where they are. */
int rejuvenation_give_up(struct rejuvenation *r, struct error *e);

/* Of NAME, into the folder retired/NAME@DATE of the state folder: log (what its process said), console (what its kernel said last),
 * info.json.  The last 20 are kept. */
void remains_keep(const char *name);

/* ---- parts of the steps */

/* A request that has no reply but that it was done; with a descriptor (or NULL). */
int vm_ask(const char *vm, Vmb__Request *req, const int *fd, struct error *e);
/* Starts one like the old one. */
int rejuvenation_launch(struct rejuvenation *r, const char *name, struct error *e);
int rejuvenation_look_at_fresh(struct rejuvenation *r, const char *name, struct error *e);
/* Does it run there, or is it there, paused by its user? */
bool rejuvenation_is_there(const char *guest, const char *place);
/* Ends the old one, if it is empty. */
int rejuvenation_retire_old(struct rejuvenation *r, struct error *e);
/* Ends that hypervisor, whatever is in it. */
int rejuvenation_end(const char *name, struct error *e);
void rejuvenation_clear_old(struct rejuvenation *r);

#endif
