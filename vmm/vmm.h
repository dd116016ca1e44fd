/* vmm.h: one virtual machine on KVM, in one process.
 *
 * A vmm process is built in this order:
 *   vm_create()   /dev/kvm, memory, vCPUs, devices; opens nothing later
 *   vm_boot()     a new VM: kernel and tables into memory;     or
 *   vm_load_provisional()   one that comes from elsewhere
 *   vm_start()    no capability, no file system, few system calls; the vCPUs' threads
 *   vm_restore()  a VM captured elsewhere
 *   vm_resume(), vm_loop()
 *
 * Threads: every function here is called on the process's main thread; those marked "locked" with
 * the VM's lock held, as it is in every handler the event loop calls.  Handlers are added with
 * vm_watch().
 */
#ifndef VMM_VMM_H
#define VMM_VMM_H

#include "proto/vmbeam.pb-c.h"
#include "vmm/base.h"

/* Version of VmState that this program writes; it reads this one and the one before. */
enum { STATE_VERSION = 1 };

/* A host VM's ports: the most guest VMs that its hypervisor can run. */
enum { VM_HOST_PORTS = 16 };
enum { VM_MAX_DISKS = 16, VM_MAX_NETS = 8, VM_MAX_MODULES = 8 };

/* The descriptors that make up a VM beside its memory; -1 where there is none.  A handover passes
 * all of them on, in vm_files_list()'s order. */
struct vm_files {
	int ram;    /* memfd, size sealed */
	int owner;  /* memfd, the owner word (zerocopy.h) */
	int lock;   /* runtime directory's lock file, locked for as long as the VM exists */
	int control, console, hvc; /* listening sockets */
	int exit_record;      /* file that receives how the VM ended */
	int serial_file;
	int kernel, initrd;
	int modules[VM_MAX_MODULES];
	int disks[VM_MAX_DISKS];
	int taps[VM_MAX_NETS];
};
enum { VM_MAX_FILES = 10 + VM_MAX_MODULES + VM_MAX_DISKS + VM_MAX_NETS };

/* Can VMs here be hypervisors themselves?  Not on a KVM without SVM or VMX for its guests, nor without KVM. */
bool machine_can_nest(void);

void vm_files_init(struct vm_files *f);
void vm_files_close(struct vm_files *f);
/* Opens kernel, initrd, modules, disks (with `lock`: OFD locks, shared if read-only), taps and the serial
 * file as `config` names them. */
int vm_files_open(struct vm_files *f, const Vmb__VmConfig *config, bool lock, struct error *e);
/* Takes the locks then; -1 if another VM has one. */
int vm_files_lock(const struct vm_files *f, const Vmb__VmConfig *config, struct error *e);
void vm_files_unlock(const struct vm_files *f);
/* Memory for a VM that comes from elsewhere; otherwise vm_create() makes it. */
int vm_files_make_ram(struct vm_files *f, const Vmb__VmConfig *config, struct error *e);
/* Fills fds[] and names[] (both VM_MAX_FILES long; names are static strings or index-suffixed) with
 * what is open; returns the count. */
size_t vm_files_list(const struct vm_files *f, int *fds, char (*names)[16]);
/* Stores a descriptor under a name of that list; -1 if there is no such name. */
int vm_files_set(struct vm_files *f, const char *name, int fd);
/* Descriptors that another process gave: is there all that a VM of this (valid) configuration needs,
 * and of a kind that will do? */
int vm_files_check(const struct vm_files *f, const Vmb__VmConfig *config, struct error *e);

/* The first part of a VM's sandbox, for other processes, too: no file system but empty_dir, no capabilities, an
 * unprivileged user; for this thread and those that it starts. */
int sandbox_drop_privileges(const char *empty_dir, struct error *e);

struct vm;

/* What can be checked without opening anything: name, sizes, counts. */
int vm_config_validate(const Vmb__VmConfig *config, struct error *e);

/* Builds a VM of `config` (copied) that has not run.  Takes over *files in every case.
 * If config->cpu_model is absent the machine's default is chosen and stored in vm_config().
 * With `boot` the kernel is loaded by a thread meanwhile; vm_boot() is to follow. */
struct vm *vm_create(const Vmb__VmConfig *config, struct vm_files *files, bool boot,
		     struct error *e);
void vm_destroy(struct vm *vm);
int vm_boot(struct vm *vm, struct error *e);
/* Starts the vCPUs' threads, once the process has given up what it does not need any more: empty_dir
 * becomes its root directory.  NULL: it gives up nothing (tests). */
int vm_start(struct vm *vm, const char *empty_dir, struct error *e);
/* Runs the event loop until the VM has ended or vm_leave(); returns the exit status of the process.
 * *reason is a static string: "shutdown", "stopped", "debug-exit", "moved", VM_MOVED_AWAY. */
int vm_loop(struct vm *vm, const char **reason);
/* Ends vm_loop() without ending the VM: it lives on in another process, of another machine if `away`.  Locked. */
void vm_leave(struct vm *vm, bool away);
#define VM_MOVED_AWAY "moved-away"
void vm_lock(struct vm *vm);
void vm_unlock(struct vm *vm);

const Vmb__VmConfig *vm_config(const struct vm *vm);
struct vm_files *vm_get_files(struct vm *vm);
Vmb__RunState vm_run_state(const struct vm *vm);
/* Why a crashed VM cannot run on; "" if it can. */
const char *vm_crash_reason(const struct vm *vm);
/* Declares the VM unable to run (its memory stays for a dump).  Locked. */
void vm_set_crashed(struct vm *vm, const char *why);
uint64_t vm_first_run_ns(const struct vm *vm);
uint64_t vm_created_ns(const struct vm *vm);
/* Per vCPU: CPU time of its thread, ns. */
size_t vm_cpu_times(const struct vm *vm, uint64_t *ns, size_t max);
/* How long each vCPU's thread has waited for a CPU, as the guest is told by KVM's steal time; 0 if that is not known. */
size_t vm_delay_times(const struct vm *vm, uint64_t *ns, size_t max);
size_t vm_exit_counts(const struct vm *vm, uint64_t *counts, size_t max);
/* Translations that KVM has made for it, and for guests in it: pages of 4 KiB, 2 MiB, 1 GiB.  Returns VM_PAGE_SIZES;
 * 0 if KVM does not say. */
enum { VM_PAGE_SIZES = 3 };
size_t vm_page_counts(const struct vm *vm, uint64_t pages[VM_PAGE_SIZES]);
/* Descriptors that go with a captured VM, at most max; the VM's.  And at the other end, after vm_restore(): taken
 * over in every case. */
size_t vm_connections(struct vm *vm, int *fds, size_t max);
struct wire_fds;
int vm_inherit_connections(struct vm *vm, struct wire_fds *fds, struct error *e);
void vm_add_console_client(struct vm *vm, int fd);

/* Guests whose memory is in the beam window of this host VM, at most max; the strings are the VM's. */
size_t vm_guests(const struct vm *vm, char **names, size_t max);
/* Is the memory of one of them fenced off? */
bool vm_guest_is_leaving(const struct vm *vm);
/* A process in a guest hypervisor: runs the vCPUs of the VM that the other end of the stream `port`
 * describes, on memory of the window device at path `window`.  Returns the exit status.
 * hostile, for tests: when it is told to go it writes to the memory it had and lets the vCPUs run. */
int vm_back_process(int port, const char *window, const char *empty_dir, bool hostile);
/* Starts the vCPUs, if may_run() (below) agrees.  Locked. */
void vm_resume(struct vm *vm);
/* It has come from another machine: its network interfaces say so, for the sake of switches.  Locked. */
void vm_announce(struct vm *vm);
/* Asked each time before vCPUs are let into the guest: does this process have the VM? */
void vm_set_may_run(struct vm *vm, bool (*may_run)(void *ctx), void *ctx);
/* Returns when no vCPU is in the guest and each has completed its pending port or memory access.
 * Locked; gives the lock up while it waits. */
void vm_pause(struct vm *vm);
/* The same before vm_drain() and vm_capture(), except that the vCPUs of a guest VM in a hypervisor stop only with
 * the capture: one passage of the stream less.  What they ask of a device meanwhile waits there. */
void vm_pause_for_capture(struct vm *vm);
/* What the guest has done that is still to be acted upon (a shutdown, a reset, a crash), in words;
 * NULL if it may simply run on.  Locked. */
const char *vm_pending_event(const struct vm *vm);
/* What a user asked for, apart from pauses of ours.  Locked. */
void vm_set_user_paused(struct vm *vm, bool paused);
bool vm_user_paused(const struct vm *vm);
/* Presses the ACPI power button.  Locked. */
void vm_power_button(struct vm *vm);
/* Ends the VM at once.  Locked. */
void vm_stop(struct vm *vm);

/* ---- handover (the sequence is zerocopy/'s)
 *
 * Source:      vm_provisional, ..., vm_pause_for_capture, vm_drain, vm_capture; then either vm_uncapture and
 *              vm_resume, or vm_leave.
 * Destination: vm_create, vm_load_provisional, [vm_warm], vm_restore, vm_resume.
 * All locked.
 */

/* The devices' state as it is now, without stopping anything: enough for a destination to set up
 * interrupts and doorbells ahead of time.  Free with vmb__vm_state__free_unpacked(). */
Vmb__VmState *vm_provisional(struct vm *vm);
int vm_load_provisional(struct vm *vm, const Vmb__VmState *s, struct error *e);
/* Stops every device backend and waits until what it had begun is complete; on failure (timeout:
 * the message names the device) the backends run again.  Keeps the lock: nobody else is served meanwhile. */
int vm_drain(struct vm *vm, uint64_t timeout_ns, struct error *e);
/* The complete state of a paused and drained VM.  From here on the memory accessor refuses. */
Vmb__VmState *vm_capture(struct vm *vm, struct error *e);
/* After a capture: nothing in a guest hypervisor can change the VM any more, nor its memory.  vm_uncapture()
 * takes it back; else it holds until this process ends. */
int vm_fence(struct vm *vm, struct error *e);
/* The handover has failed: the backends and the accessor work again.  captured: what vm_capture() gave, or NULL if it
 * gave nothing.  With it a guest VM whose hypervisor has gone meanwhile is held (vm_is_held), not lost. */
void vm_uncapture(struct vm *vm, const Vmb__VmState *captured);
/* All of it is here, but it has no hypervisor to run in: it can be moved. */
bool vm_is_held(const struct vm *vm);
int vm_restore(struct vm *vm, const Vmb__VmState *s, struct error *e);
/* Fills this process's page tables and the VM's with the memory that exists; linear in its size. */
int vm_warm(struct vm *vm, struct error *e);

/* ---- copying a VM's memory while it runs (the sequence is migrate/'s); locked
 *
 * From vm_track_writes() on each page that is written is noted.  vm_collect_writes() adds what has been since to the
 * bitmap: a memfd, size sealed, with a bit for each 4 KiB of the RAM memfd, the lowest first; nobody else writes to it
 * meanwhile.  Not for a VM whose vCPUs are in a guest hypervisor, nor for a host VM.
 */
int vm_track_writes(struct vm *vm, int bitmap, struct error *e); /* takes over `bitmap` in every case */
int vm_collect_writes(struct vm *vm, struct error *e);
bool vm_is_tracked(const struct vm *vm);
void vm_untrack_writes(struct vm *vm);

/* Keeps the vCPUs from running for so much of the time, until vm_untrack_writes(). */
void vm_throttle(struct vm *vm, unsigned int percent);

/* ---- memory that comes after the start (migrate/postcopy.h); locked
 *
 * vm_guard_memory(), before vm_start(), gives a userfaultfd (the VM's, for as long as it exists) for the RAM memfd's
 * mapping, which begins at *base.  While memory is arriving the VM waits for what has not come, and cannot be moved.
 */
int vm_guard_memory(struct vm *vm, uint64_t *base, struct error *e);
void vm_set_arriving(struct vm *vm, bool arriving);
bool vm_is_arriving(const struct vm *vm);

/* Writes RAM and registers of a paused or crashed VM as an ELF core to fd.  Locked. */
int vm_dump(struct vm *vm, int fd, struct error *e);

/* Calls fn(ctx, events) under the lock when fd is ready for `events` (EPOLLIN, ...). */
struct loop_source;
struct loop_source *vm_watch(struct vm *vm, int fd, uint32_t events,
			     void (*fn)(void *ctx, uint32_t events), void *ctx);
void vm_unwatch(struct loop_source *s);


/* ---- control socket
 *
 * Each client sends Requests and gets one Reply to each (proto/vmbeam.proto).  Requests about the VM
 * itself are answered here; any other goes to `other`.
 */
struct control;

/* Called locked for a request that is not about the VM itself.  Returns true if it has taken the
 * connection `fd` over (and will close it); false to have it answered with *e as the error, or, if
 * e->text is empty, kept open. */
typedef bool control_other_fn(void *ctx, int fd, const Vmb__Request *r, struct wire_fds *fds,
			      struct error *e);

/* Starts serving the listening socket files.control. */
struct control *control_start(struct vm *vm, control_other_fn *other, void *ctx);
/* Tells those that wait how the VM ended, and closes every connection. */
void control_end(struct control *c, const char *reason, int status);
/* The VM cannot run on: those that wait are told, the process stays for a dump. */
void control_crashed(struct control *c);
void control_set_moving(struct control *c, bool moving);
/* What `info` says besides the state; a static string. */
void control_set_note(struct control *c, const char *note);
/* A Ready reply with these descriptors; -1 if it could not be sent. */
int control_reply_ready(int fd, const int *fds, size_t n);
int control_reply_error(int fd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
