/* postcopy.h: the rest of a VM's memory, after the VM has been started at the other machine; what it touches meanwhile
 * comes first.  (M. R. Hines, K. Gopalan, Post-copy based live virtual machine migration, VEE 2009.)
 *
 * The receiver has been told what is missing (stream.h, MISSING).  The missing pages of the VM's process are guarded by
 * its userfaultfd (Documentation/admin-guide/mm/userfaultfd.rst; shared memory, missing and minor faults), which it keeps
 * open itself: without anybody who serves the faults the VM stands still, and never sees a page that has not come.
 */
#ifndef MIGRATE_POSTCOPY_H
#define MIGRATE_POSTCOPY_H

#include "migrate/sender.h"

/* ---- sending */

struct postcopy;

/* Sends what the receiver wants over `urgent`, from a thread of its own.  The bitmap has what the receiver has not. */
struct postcopy *postcopy_begin(struct sender *s, struct conn *urgent, struct error *e);
/* Sends all the rest; 0: the receiver has all of it.  tick: as for sender_round().  -1 and *e: connections are cut. */
int postcopy_push(struct postcopy *p, const char *(*tick)(void *ctx), void *ctx, struct error *e);
/* Ends the thread, too. */
void postcopy_free(struct postcopy *p);
/* After a break, over new connections and before postcopy_begin(): the receiver says what it has not. */
int postcopy_learn(struct sender *s, struct conn *urgent, struct error *e);

/* ---- receiving */

struct faults;

/* uffd guards the mapping at `base` of all of `memory` (memfd, `size` bytes) in the VM's process.  missing: memfd, size
 * sealed, a bit for each page that has yet to come; whoever holds it can go on.  Descriptors stay the caller's. */
struct faults *faults_create(int uffd, uint64_t base, int memory, uint64_t size, int missing, struct error *e);
void faults_free(struct faults *f);
/* These pages of a chunk are missing.  Before faults_arm(). */
void faults_add_missing(struct faults *f, const struct stream_record *r);
/* From here on the VM's process waits for what is missing.  (After a break, anew.) */
int faults_arm(struct faults *f, struct error *e);
bool faults_are_armed(const struct faults *f);
/* A record's pages, each at its place; any thread.  -1 and *e if one is not missing. */
int faults_place(struct faults *f, const struct stream_record *r, const uint8_t *pages, struct error *e);
/* Asks for what the VM's process waits for, and places it, until nothing is missing any more: 0; or -1 and *e.
 * tell: the sender asks what is missing first. */
int faults_serve(struct faults *f, struct conn *urgent, bool tell, struct error *e);

#endif
