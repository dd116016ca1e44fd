/* operations.h: how long what was done with VMs took, noted by the commands that did it for whoever watches: an old hypervisor
 * is slow at it.  A file of lines in the runtime folder; where nobody reads them it stops growing. */
#ifndef REJUV_OPERATIONS_H
#define REJUV_OPERATIONS_H

#include <stdint.h>

enum operation { OPERATION_CREATE, OPERATION_DESTROY, OPERATION_MIGRATE };
enum { OPERATION_KINDS = 3 };
extern const char *const operation_names[OPERATION_KINDS];

/* It took so long at that placement (VmConfig). */
void operation_note(enum operation what, const char *placement, uint64_t ns);
/* Calls `done` for what has been noted since the last call, of any process; `where`: "host" or a hypervisor, took: s. */
void operations_read(void (*done)(void *ctx, const char *where, enum operation what, double took), void *ctx);

#endif
