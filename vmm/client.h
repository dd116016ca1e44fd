/* client.h: starting vmm processes, finding them and asking them things.
 *
 * Runtime files: $VMBEAM_RUNTIME_DIR or /run/vmbeam, one folder a VM:
 *   lock      held (flock) by the VM's processes for as long as the VM exists
 *   control   socket for Requests          console  socket, the serial console's bytes
 *   hvc       socket, the virtio console's bytes
 *   exit      "REASON STATUS" once it has ended
 *   log       the vmm processes' messages
 *   migration its id, of a VM that has come from another machine
 *   outgoing  where one is going to, from its commit until that is known: address, folder of certificates, id, and
 *             "post-copy" for as long as memory is missing there
 * All functions may be called from any thread; returned strings are the caller's to free().
 */
#ifndef VMM_CLIENT_H
#define VMM_CLIENT_H

#include "proto/vmbeam.pb-c.h"
#include "vmm/base.h"
#include "vmm/wire.h"

const char *runtime_dir(void);
/* Path of a file in a VM's folder; of the folder itself if file is NULL. */
char *runtime_path(const char *vm, const char *file);
/* Makes the VM's folder and takes its lock: the name is ours.  Returns the lock's descriptor. */
int runtime_claim(const char *vm, struct error *e);
/* Removes the VM's folder once nobody holds its lock, for which it waits at most wait_ms; false if
 * somebody still does. */
bool runtime_clear(const char *vm, int wait_ms);
/* Does a process of this VM's live? */
bool runtime_is_held(const char *vm);
/* Removes the VM's folder; the caller holds its lock. */
void runtime_remove(const char *vm);
/* Reads the exit record: true and the parts if the VM has ended. */
bool runtime_exit_record(const char *vm, char reason[64], int *status);

/* A connection to the VM's control socket; -1 with *e saying that it does not run. */
int vmm_connect(const char *vm, struct error *e);
/* Sends a request and waits for the reply, at most timeout_ms (-1: for ever).  An error the other
 * side reports becomes *e.  *reply (may be NULL) is freed with vmb__reply__free_unpacked(). */
int vmm_request(int fd, const Vmb__Request *r, const int *fds, size_t nfds, Vmb__Reply **reply,
		struct wire_fds *reply_fds, int timeout_ms, struct error *e);
int vmm_receive_reply(int fd, Vmb__Reply **reply, struct wire_fds *fds, int timeout_ms,
		      struct error *e);
/* The same for requests without content: Vmb__Request's kind_case. */
int vmm_simple_request(int fd, Vmb__Request__KindCase kind, Vmb__Reply **reply,
		       struct wire_fds *reply_fds, int timeout_ms, struct error *e);
/* Starts a vmm process of this same program, in a session of its own; *link is its first control
 * connection, VMM_LINK_FD there.  It is forked, not executed anew: that is what costs least, and
 * the program that asks is the one that is to run.  The caller must have one thread only.
 * Returns its pid. */
typedef int vmm_entry_fn(void);
pid_t vmm_spawn(vmm_entry_fn *entry, int *link, struct error *e);
enum { VMM_LINK_FD = 3 };

#endif
