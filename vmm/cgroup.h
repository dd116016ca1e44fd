/* cgroup.h: each VM's processes are in a cgroup of their own, vmbeam/NAME (cgroup v2: Documentation/admin-guide/cgroup-v2.rst), whoever has
 * started them: what they use is told by VM and can be limited there, and the end of a login session or of a service is none of
 * theirs.
 *
 * Memory is charged to "vmbeam" as a whole, and the memory controller is not switched on below it: pages of a guest's are touched by its
 * process and by its hypervisor's, stay where they are when the guest moves, and would stay charged to a hypervisor that has gone.
 *
 * $VMBEAM_CGROUP is another name for "vmbeam", a path in the hierarchy; empty: none of this.  Where there is no cgroup v2, or it may not be
 * written, nothing happens: all of this is best effort.  All functions may be called from any thread.
 */
#ifndef VMM_CGROUP_H
#define VMM_CGROUP_H

/* Puts the calling process into a VM's cgroup, which is made. */
void cgroup_join(const char *vm);
/* All processes of one VM's are those of another name from now on. */
void cgroup_rename(const char *from, const char *to);
/* Removes a VM's cgroup, whose processes have ended or are about to, and all others in which there is none. */
void cgroup_remove(const char *vm);

#endif
