/* fault.h: named points at which a test can make a party of a handover die, hang or fail.
 *
 * A fault is "POINT=kill", "POINT=hold" (the process stops itself: whoever tests kills somebody else
 * meanwhile, then continues it) or "POINT=fail".  It comes from $VMBEAM_FAULT of the driver, which
 * passes it on.  Points are listed in fault.c; a test walks the list.  Those of
 * a migration between machines (migrate/send.c) are walked by tests/lab/network.sh.
 */
#ifndef ZEROCOPY_FAULT_H
#define ZEROCOPY_FAULT_H

#include <stdbool.h>
#include <stddef.h>

extern const char *const fault_points[];
extern const size_t fault_points_count;

/* The fault this process obeys; copied.  NULL or "": none. */
void fault_arm(const char *fault);
/* Obeys it if it names this point; true: the caller is to fail here. */
bool fault_point(const char *point);

#endif
