/* cgroup.h: a new VM's process is in a cgroup of its own, vmbeam/NAME (cgroup v2: Documentation/admin-guide/cgroup-v2.rst), whoever has
 * started it: what it uses is told by VM and can be limited there, and the end of a login session or of a service is none of its.  A
 * process that takes over from another goes where that one is (zerocopy/place.h), wherever somebody may have put it meanwhile; a
 * fresh hypervisor shares its predecessor's.
 *
 * Memory is charged to "vmbeam" as a whole, and the memory controller is not switched on below it: pages of a guest's are touched by its
 * process and by its hypervisor's, stay where they are when the guest moves, and would stay charged to a hypervisor that has gone.
 *
 * $VMBEAM_CGROUP is another name for "vmbeam", a path in the hierarchy; empty: none of this.  Where there is no cgroup v2, or it may not be
 * written, nothing happens: all of this is best effort.  All functions may be called from any thread.
 */
#ifndef VMM_CGROUP_H
#define VMM_CGROUP_H

/* Puts the calling process into the cgroup of that name, which is made. */
void cgroup_join(const char *name);
/* Removes the cgroup of a VM whose process has ended, and all others in which there is none. */
void cgroup_remove(const char *name);

#endif
