/* place.h: gives a process the place of another. */
#ifndef ZEROCOPY_PLACE_H
#define ZEROCOPY_PLACE_H

#include <sys/types.h>

/* Gives process `to` the cgroup, CPUs, resource limits and OOM score of the process behind a pidfd, as
 * far as the caller may.  Threads it has already keep theirs. */
void place_like(int source_pidfd, pid_t to);

#endif
