/* internal.h: what the files of vmm/ share.  No other folder includes it.
 *
 * Threads of a vmm process: the main thread (event loop, every device backend) and one thread per
 * vCPU (KVM_RUN and the exits it returns).
 *
 * Lock: vm->lock guards all of struct vm and everything reached from it, except what is set before
 * the vCPU threads start and never changes (kvm and memory descriptors, configuration).  The event
 * loop holds it while it calls a handler, a vCPU thread while it handles an exit; nobody holds it
 * in KVM_RUN, in epoll_wait or while waiting for I/O.  It is the only lock.
 */
#ifndef VMM_INTERNAL_H
#define VMM_INTERNAL_H

#include "proto/vmbeam.pb-c.h"
#include "vmm/base.h"
#include "vmm/vmm.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <sys/uio.h>

/* ------------------------------------------------------------------ address map
 * RAM      0 .. 3 GiB and from 4 GiB on; offset in the memfd = address, less 1 GiB above the gap,
 *          so that address and offset agree modulo 2 MiB everywhere.
 * PCI      3.25 GiB .. 3.98 GiB, 32-bit BARs (declared in dsdt.asl)
 */
enum {
	IRQ_SERIAL = 4,
	IRQ_SCI = 9,
	GSI_MSI_BASE = 24, /* the IOAPIC's pins are 0..23 */
	SLOT_LOW_RAM = 0,
	SLOT_HIGH_RAM = 1,
	SLOT_WARM_STUB = 2,
	SLOT_WINDOW = 3,
	MAX_VCPUS = 64,
	MAX_PCI_DEVICES = 31,
	MAX_GSI_ROUTES = 1024,
	MAX_DISKS = VM_MAX_DISKS,
	MAX_NETS = VM_MAX_NETS,
	MAX_MODULES = VM_MAX_MODULES,
};
#define LOW_RAM_END  (3 * GIB)
#define HIGH_RAM     (4 * GIB)
#define PCI_BAR_BASE 0xd0000000u
#define PCI_BAR_END  0xfec00000u
#define HUGE_PAGE    (2 * MIB)
#define DIRTY_PAGE   4096 /* what a bit of a bitmap of written pages stands for */
/* The beam window begins at the first multiple of this above RAM. */
#define WINDOW_STEP  (64 * GIB)
#define MAX_WINDOW   (16384 * GIB)

/* ------------------------------------------------------------------ memory.c */

struct memory {
	int fd;        /* memfd, size sealed */
	uint64_t size; /* bytes, a multiple of 2 MiB */
	uint8_t *base; /* the whole memfd, shared, 2 MiB aligned */
	bool hugetlb;
	bool adopted; /* the memfd came from another process */
	bool fenced; /* captured: the accessor refuses everything */
	/* A host VM's beam window: address space that nobody can touch, until an extent is mapped into it. */
	uint8_t *window;
	uint64_t window_size, window_gpa; /* bytes, 0: none */
	int scratch; /* memfd behind what no extent is mapped over, once somebody has touched that; -1 */
	/* Pages that were written by devices, which KVM does not see (dirty.c): a bit each; NULL: nobody asks. */
	uint64_t *written;
	int guard;     /* userfaultfd, -1: none */
	bool arriving; /* not all of it has come */
};

/* Makes the memfd, or adopts `fd` (a handover); maps nothing yet. */
int memory_create(struct memory *m, uint64_t size, bool hugetlb, int fd, struct error *e);
int memory_map(struct memory *m, struct error *e);
/* After memory_create(). */
int memory_reserve_window(struct memory *m, uint64_t size, struct error *e);
/* Maps all of a guest's memfd into the window; takes it out again, which removes every translation, those
 * of nested guests too. */
int memory_beam_in(struct memory *m, uint64_t offset, uint64_t size, int fd, struct error *e);
int memory_beam_out(struct memory *m, uint64_t offset, uint64_t size, struct error *e);
/* Puts a little memory, the same again and again, over a part of the window where nothing is. */
int memory_beam_scratch(struct memory *m, uint64_t offset, uint64_t size, struct error *e);
/* A userfaultfd for all of it; it stays the memory's.  -1 with *e set. */
int memory_guard(struct memory *m, struct error *e);
/* Takes it all out of the page tables: the next touch of each page is a fault. */
void memory_forget_mappings(const struct memory *m);
/* Is it a memfd whose size is sealed?  Its size, or 0 with *e set. */
uint64_t memory_sealed_size(int fd, struct error *e);
/* The back half of a VM: part of the hypervisor's window device, which is closed here. */
int memory_adopt_window(struct memory *m, uint64_t size, int device, uint64_t offset, struct error *e);
void memory_destroy(struct memory *m);
/* To be called after each write through memory_at(), with where and how much. */
void memory_written(const struct memory *m, const void *at, size_t len);
/* The only way to guest memory: gpa and len -> pointer, or NULL if any byte lies outside RAM. */
void *memory_at(const struct memory *m, uint64_t gpa, uint64_t len);
/* Size of the part below the gap. */
uint64_t memory_low_size(const struct memory *m);
/* Makes the process's page tables hold what the memfd holds already; allocates nothing. */
void memory_prefault(const struct memory *m);

/* ------------------------------------------------------------------ window.c: who is in the beam window */

struct window;
struct wire_fds;
/* A BeamInRequest: takes the connection over, which is its lease. */
void window_beam_in(struct vm *vm, int fd, const Vmb__BeamInRequest *r, struct wire_fds *fds);
uint64_t window_faults(const struct vm *vm);
/* How long guests that left have held it up, in all. */
uint64_t window_frozen_ns(const struct vm *vm);
/* A handover: who is in the window; three descriptors of each, in that order; and taking them over. */
void window_state_get(const struct vm *vm, Vmb__VmState *s);
size_t window_files(const struct vm *vm, int *fds, size_t max);
int window_state_set(struct vm *vm, const Vmb__VmState *s, struct error *e);
size_t window_files_expected(const struct vm *vm);
int window_inherit(struct vm *vm, struct wire_fds *fds, size_t first, struct error *e);
/* A vCPU touched the window where nothing is: true if it may go on. */
bool window_fault(struct vm *vm);
void window_destroy(struct vm *vm);

/* ------------------------------------------------------------------ dirty.c: what has been written */

struct dirty;
/* In vm.c: turns KVM's log of what vCPUs write on or off. */
int vm_log_writes(struct vm *vm, bool on, struct error *e);
/* Is it throttled, and just not running for that? */
bool vm_is_held_back(const struct vm *vm);

/* ---------------------------------------- front.c, front_state.c, back.c: a VM in two halves */

struct front;
struct boot_entry;
/* Leases memory and a port of the guest hypervisor that vm->config->placement names, and has it build the
 * back half.  Every call on a front half blocks until the other has answered. */
int front_create(struct vm *vm, struct error *e);
/* Before the devices are made; front_create() after them. */
void front_prepare(struct vm *vm);
void front_destroy(struct vm *vm);
/* Leaves the hypervisor for good: a VM that has crashed must not hold its host VM. */
void front_leave(struct vm *vm);
int front_boot(struct vm *vm, const struct boot_entry *entry, struct error *e);
/* The vCPUs, as vcpu.c does it for a whole VM. */
void front_resume(struct vm *vm);
void front_pause(struct vm *vm);
/* The state of one that is paused, where it can be had: its vCPUs'.  NULL, or to be freed. */
Vmb__VmState *front_look(struct vm *vm);
Vmb__VmState *front_capture(struct vm *vm, struct error *e);
int front_restore(struct vm *vm, const Vmb__VmState *s, struct error *e);
int front_warm(struct vm *vm, struct error *e);
/* Captures the VM and leaves the hypervisor; and goes on in one to whose process `lease` is a connection, which is
 * taken over.  In between the VM is held here and cannot run. */
int front_suspend(struct vm *vm, uint64_t drain_timeout_ns, struct error *e);
int front_reattach(struct vm *vm, const char *placement, int lease, struct error *e);
int front_fence(struct vm *vm, struct error *e);
int front_unfence(struct vm *vm, struct error *e);
/* Its hypervisor has gone, but what was captured is all of it. */
void front_hold(struct vm *vm, const Vmb__VmState *captured);
void front_power_button(struct vm *vm);
/* What the back half counts, as it was told last; NULL: nothing yet.  The VM's, good until the loop goes on. */
const Vmb__BackInfo *front_told(struct vm *vm);
void front_msi(struct vm *vm, uint64_t address, uint32_t data);
/* address 0: the guest's writes there are not to be told any more. */
struct virtq;
void front_doorbell(struct virtq *q, uint64_t address);
extern const struct console_port front_serial_port;

struct back;
/* Builds the vCPUs' half of a VM whose RAM is at `offset` in the window device, which is closed here. */
struct vm *vm_create_back(const Vmb__VmConfig *config, int window, uint64_t offset, struct error *e);
/* In a vCPU's thread, locked: an access to a device. */
void back_access(struct vm *vm, bool mmio, uint64_t address, void *data, unsigned int len, bool write);
void back_pci_access(struct vm *vm, uint16_t port, void *data, unsigned int len, bool write);
/* A vCPU has left the guest; waiting for all of them, while their accesses are answered. */
void back_quiet(struct vm *vm);
void back_await_quiet(struct vm *vm);
/* The guest asks for a reset; the VM has crashed. */
void back_reset(struct vm *vm);
void back_crashed(struct vm *vm);

/* ------------------------------------------------------------------ loop.c */

struct loop;
struct loop_source;
typedef void loop_fn(void *ctx, uint32_t events);

struct loop *loop_create(pthread_mutex_t *lock, struct error *e);
void loop_destroy(struct loop *l);
/* Calls fn(ctx, events) under the lock whenever fd is ready (EPOLLIN, ...).  The fd stays the
 * caller's; remove the source before closing it. */
struct loop_source *loop_add(struct loop *l, int fd, uint32_t events, loop_fn *fn, void *ctx);
void loop_modify(struct loop_source *s, uint32_t events);
void loop_remove(struct loop_source *s);
/* Runs until loop_stop(); one wait and one dispatch with loop_once(timeout, -1: none). */
void loop_run(struct loop *l);
void loop_once(struct loop *l, int timeout_ms);
/* Calls fn once when the time (CLOCK_MONOTONIC) has come; there is one timer.  0: never. */
void loop_set_timer(struct loop *l, uint64_t due_ns, void (*fn)(void *ctx), void *ctx);
void loop_stop(struct loop *l);

/* ------------------------------------------------------------------ vcpu.c, vcpu_state.c */

enum vcpu_job { VCPU_JOB_NONE, VCPU_JOB_BEGIN, VCPU_JOB_CAPTURE, VCPU_JOB_RESTORE, VCPU_JOB_WARM };

struct vcpu {
	struct vm *vm;
	unsigned int index;
	int fd;
	struct kvm_run *run;
	size_t run_size;
	pthread_t thread;
	bool started;   /* the thread exists */
	int schedstat;  /* the thread's: /proc/PID/task/TID/schedstat; 0: not open */
	bool in_guest;  /* between leaving and coming back to the state where it may be captured */
	enum vcpu_job job;
	Vmb__VcpuState *job_state; /* result of a capture, input of a restore */
	struct error job_error;
	int job_result;
	uint64_t exits;
};

/* Limits of this machine's KVM that capture and restore need; filled once. */
struct kvm_caps {
	int xsave_size;
	int nested_size; /* 0: no nested state */
	bool xcrs;
	uint32_t tsc_khz; /* of the first vCPU */
	uint32_t *msrs; /* the list to carry: KVM_GET_MSR_INDEX_LIST less the skip table, and the MTRRs */
	size_t nmsrs;
};

int vcpu_create(struct vm *vm, unsigned int index, struct error *e);
int vcpu_start_thread(struct vcpu *v, struct error *e);
void vcpu_destroy(struct vcpu *v);
/* Lets the vCPUs into the guest; vm_resume() is this after the backends. */
void vcpus_resume(struct vm *vm);
/* With vm->lock held, vCPUs paused: run one job on every vCPU's own thread, in parallel. */
int vcpus_do(struct vm *vm, enum vcpu_job job, Vmb__VcpuState **states, struct error *e);

int vcpu_set_tsc_offset(struct vcpu *v, uint64_t offset, struct error *e);
int kvm_caps_read(struct vm *vm, struct error *e);
Vmb__VcpuState *vcpu_state_get(struct vcpu *v, struct error *e);
int vcpu_state_set(struct vcpu *v, const Vmb__VcpuState *s, struct error *e);
/* warm.c: runs a stub on this vCPU that reads a byte per 2 MiB of RAM; before its state is set. */
int vcpu_warm(struct vcpu *v, struct error *e);
/* Does this machine give such memory 2 MiB pages?  Asked before the sandbox. */
bool warm_huge_pages(bool hugetlb);
/* Puts the stub's slot in place, where the CPU has what it needs; before the sandbox. */
int warm_prepare(struct vm *vm, struct error *e);
void warm_destroy(struct vm *vm);
/* Checks the sizes in a message that came from elsewhere. */
int vcpu_state_validate(const struct vm *vm, const Vmb__VcpuState *s, struct error *e);

/* ------------------------------------------------------------------ cpuid.c */

/* The default CPU model of this machine: what its KVM and a KVM nested in it both support. */
/* The first guest-physical address that its MAXPHYADDR does not reach. */
uint64_t cpu_model_address_end(const Vmb__CpuModel *model);
int cpu_model_default(int kvm_fd, bool nesting, Vmb__CpuModel **model, struct error *e);
/* Can this machine run that model?  -1 and the first missing feature in *e if not. */
int cpu_model_check(int kvm_fd, const Vmb__CpuModel *model, struct error *e);
int cpu_model_apply(const Vmb__CpuModel *model, struct vcpu *v, struct error *e);

/* ------------------------------------------------------------------ boot.c, multiboot.c, acpi.c */

/* How the first vCPU enters the guest. */
struct boot_entry {
	enum boot_mode { BOOT_LINUX64, BOOT_PVH, BOOT_MULTIBOOT } mode;
	uint64_t rip, rsi, rbx, rax;
};

struct boot_files {
	int kernel, initrd;
	int modules[MAX_MODULES];
};

enum { BOOT_MAX_RANGES = 8 };
struct boot_range {
	uint64_t start, size;
	uint32_t type; /* E820: 1 RAM, 2 reserved */
};

/* Loads kernel, initrd, command line and tables into guest memory. */
int boot_load(struct vm *vm, struct boot_entry *entry, struct error *e);
/* Has a thread begin with it; boot_load() then waits for that one.  Memory and files are there. */
void boot_load_start(struct vm *vm);
void boot_load_cancel(struct vm *vm);
/* Sets vCPU 0's registers for `entry`. */
int boot_set_registers(struct vm *vm, const struct boot_entry *entry, struct error *e);
/* Is there a multiboot1 header?  Loads such an image. */
bool multiboot_find(int fd);
int multiboot_load(struct vm *vm, struct boot_entry *entry, struct error *e);
/* Loads the PT_LOAD segments of the kernel's ELF by physical address; *end is the highest. */
int boot_load_elf(struct vm *vm, uint64_t *entry, uint64_t *end, struct error *e);
/* Reads exactly len bytes of a file into guest memory. */
int boot_read(struct vm *vm, int fd, uint64_t off, uint64_t gpa, uint64_t len, const char *what,
	      struct error *e);
int boot_write_string(struct vm *vm, uint64_t gpa, const char *s, size_t max, struct error *e);
uint64_t boot_file_size(int fd);
unsigned int boot_memory_map(const struct vm *vm, struct boot_range map[BOOT_MAX_RANGES]);
/* Writes the ACPI tables; returns the RSDP's address. */
int acpi_write(struct vm *vm, uint64_t *rsdp, struct error *e);
#define ACPI_AREA      0xe0000u
#define ACPI_AREA_SIZE 0x20000u
enum { PM1_EVT_PORT = 0x600, PM1_CNT_PORT = 0x604 };

/* ------------------------------------------------------------------ pci.c, msix.c */

struct pci_device;

struct pci_device_ops {
	void (*bar_read)(struct pci_device *d, uint32_t off, void *data, unsigned int len);
	void (*bar_write)(struct pci_device *d, uint32_t off, const void *data, unsigned int len);
	/* BAR 0 appeared at d->bar_addr, or went (0): move the ioeventfds. */
	void (*bar_moved)(struct pci_device *d);
	/* A read or write of the config space at off that the device wants to see; may be NULL. */
	void (*config_access)(struct pci_device *d, unsigned int off, unsigned int len, bool write);
};

struct msix_vector {
	uint32_t addr_lo, addr_hi, data, ctrl; /* as in the table: 16 bytes */
	int irqfd;			       /* eventfd, bound to the vector's GSI */
	bool routed;			       /* KVM has, or is to get, this message: */
	uint32_t routed_lo, routed_hi, routed_data;
};

struct pci_device {
	struct vm *vm;
	const struct pci_device_ops *ops;
	unsigned int slot; /* device number on bus 0 */
	uint8_t config[256];
	uint8_t writable[256]; /* mask of the bits the guest may change */
	uint32_t bar_size;
	uint32_t bar_addr; /* where it decodes now, 0: nowhere */
	unsigned int caps_end; /* where the next capability goes; 0 before the first */
	unsigned int msix_cap; /* offset; 0: no MSI-X */
	unsigned int nvectors;
	uint64_t msix_pending;
	struct msix_vector *vectors;
	unsigned int gsi_base;
};

/* Takes the next slot of bus 0. */
int pci_device_init(struct pci_device *d, struct vm *vm, const struct pci_device_ops *ops,
		    uint16_t vendor, uint16_t device, uint32_t class_rev, uint32_t bar_size,
		    struct error *e);
unsigned int pci_add_capability(struct pci_device *d, uint8_t id, const void *body, size_t len);
void pci_device_reset(struct pci_device *d);
Vmb__PciState *pci_state_get(const struct pci_device *d);
int pci_state_set(struct pci_device *d, const Vmb__PciState *s, struct error *e);
uint32_t pci_config_read(struct vm *vm, uint16_t port, unsigned int len);
void pci_config_write(struct vm *vm, uint16_t port, uint32_t value, unsigned int len);
bool pci_mmio(struct vm *vm, uint64_t addr, void *data, unsigned int len, bool write);

enum { MSIX_NONE = 0xffff };
int msix_init(struct pci_device *d, unsigned int nvectors, uint32_t table_off, uint32_t pba_off,
	      struct error *e);
void msix_reset(struct pci_device *d);
void msix_destroy(struct pci_device *d);
void msix_state_get(const struct pci_device *d, Vmb__PciState *s);
/* Takes over the table; call irq_routes_flush() when all devices have theirs. */
int msix_state_set(struct pci_device *d, const Vmb__PciState *s, struct error *e);
void msix_read(struct pci_device *d, uint32_t off, void *data, unsigned int len);
void msix_write(struct pci_device *d, uint32_t off, const void *data, unsigned int len);
void msix_pba_read(struct pci_device *d, uint32_t off, void *data, unsigned int len);
void msix_control_changed(struct pci_device *d);
void msix_signal(struct pci_device *d, unsigned int vector);
/* Hands the whole routing table to KVM if it has changed. */
int irq_routes_flush(struct vm *vm, struct error *e);

/* ------------------------------------------------------------------ virtqueue.c, virtio.c */

enum { HOST_PORTS = VM_HOST_PORTS };

enum {
	VIRTIO_MAX_QUEUES = 2 * (HOST_PORTS + 1),
	VIRTQ_MAX_SIZE = 256,
	VIRTQ_MAX_IOV = VIRTQ_MAX_SIZE,
};

struct virtq {
	struct virtio_device *dev;
	unsigned int index;
	uint16_t max, size;
	bool ready;
	uint64_t desc, avail, used; /* guest-physical */
	uint16_t last_avail, used_idx, signalled_used;
	bool signalled_valid;
	uint16_t vector;
	int kick; /* eventfd, bound as ioeventfd while BAR 0 decodes */
	uint32_t kick_addr;
	struct loop_source *kick_source;
};

/* One chain of descriptors: first those the device reads, then those it writes. */
struct virtq_chain {
	uint16_t head;
	unsigned int nout, nin;
	uint64_t out_len, in_len;
	struct iovec iov[VIRTQ_MAX_IOV];
};

struct virtio_device;

struct virtio_ops {
	const char *name; /* "blk", "net", ...: the device's id is this and a number */
	uint16_t type;    /* virtio device id */
	uint32_t class_rev;
	unsigned int nqueues;
	uint64_t features;
	/* The driver has set DRIVER_OK, or state was restored. */
	void (*start)(struct virtio_device *d);
	/* The driver reset the device; nothing of it may touch memory after the return. */
	void (*reset)(struct virtio_device *d);
	void (*kicked)(struct virtio_device *d, struct virtq *q);
	/* Stop and start the backend around a capture; stop begins no new work. */
	void (*stop)(struct virtio_device *d);
	/* It runs on another machine now: the network is told where it is. */
	void (*announce)(struct virtio_device *d);
	/* Requests begun and not completed. */
	unsigned int (*inflight)(struct virtio_device *d);
	void (*config_write)(struct virtio_device *d, uint32_t off, unsigned int len);
	size_t (*save)(struct virtio_device *d, void **data); /* malloc'd; may be NULL */
	int (*load)(struct virtio_device *d, const void *data, size_t len, struct error *e);
	void (*destroy)(struct virtio_device *d);
};

struct virtio_device {
	struct pci_device pci; /* first: bar ops cast */
	const struct virtio_ops *ops;
	char id[16];
	uint64_t features; /* offered */
	uint64_t driver_features;
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select, config_vector;
	uint8_t status, isr, config_generation;
	bool backend_stopped; /* around a capture: nothing new is begun */
	bool reset_pending;   /* the driver has asked for a reset, requests are still in flight */
	struct virtq queues[VIRTIO_MAX_QUEUES];
	uint8_t config[96]; /* device-specific configuration */
	size_t config_len;
	unsigned int pci_cfg_cap;
};

int virtio_init(struct virtio_device *d, struct vm *vm, const struct virtio_ops *ops,
		unsigned int number, struct error *e);
static inline bool virtio_has(const struct virtio_device *d, unsigned int bit)
{
	return d->driver_features >> bit & 1;
}
bool virtio_running(const struct virtio_device *d);
/* The driver or its rings are broken: NEEDS_RESET, no queue is served until a reset. */
void virtio_fail(struct virtio_device *d, const char *why);
void virtio_config_changed(struct virtio_device *d);
void virtio_destroy(struct virtio_device *d);
/* Asks for a reset; virtio_quiesced() completes it once nothing is in flight. */
void virtio_reset(struct virtio_device *d);
void virtio_quiesced(struct virtio_device *d);
void virtio_kick_all(struct virtio_device *d);
void virtio_stop_backend(struct virtio_device *d);
void virtio_start_backend(struct virtio_device *d);
Vmb__DeviceState *virtio_state_get(struct virtio_device *d);
int virtio_state_set(struct virtio_device *d, const Vmb__DeviceState *s, struct error *e);

/* 1 and *chain, 0 if the ring is empty, -1 if it is broken (the device has failed). */
int virtq_pop(struct virtq *q, struct virtq_chain *chain);
/* Puts the last popped chain back. */
void virtq_unpop(struct virtq *q);
void virtq_push(struct virtq *q, uint16_t head, uint32_t written);
/* Several used entries that appear to the driver at once: fill n = 0, 1, ..., then publish. */
void virtq_fill(struct virtq *q, unsigned int n, uint16_t head, uint32_t written);
void virtq_publish(struct virtq *q, unsigned int count);
void virtq_interrupt(struct virtq *q);
/* Interrupts the driver if it wants to know. */
void virtq_notify(struct virtq *q);
/* Has it served again when the loop comes round, after the other devices. */
void virtq_serve_again(struct virtq *q);
/* Ask the driver (not) to kick; returns true if the ring has filled meanwhile. */
bool virtq_enable_kicks(struct virtq *q);
void virtq_disable_kicks(struct virtq *q);
size_t iov_read(const struct iovec *iov, unsigned int n, size_t off, void *buf, size_t len);
size_t iov_write(const struct iovec *iov, unsigned int n, size_t off, const void *buf, size_t len);
/* Writes to dst[max] the part of iov from off on, at most len bytes; returns the count used. */
unsigned int iov_slice(struct iovec *dst, unsigned int max, const struct iovec *iov,
		       unsigned int n, size_t off, size_t len);

/* Each registers itself with the VM, which destroys it; the descriptor stays the VM's. */
int virtio_blk_create(struct vm *vm, unsigned int n, int fd, bool read_only, struct error *e);
int virtio_net_create(struct vm *vm, unsigned int n, int tap, const uint8_t mac[6],
		      struct error *e);
int virtio_rng_create(struct vm *vm, struct error *e);
int virtio_balloon_create(struct vm *vm, struct error *e);
/* Bytes that the guest should give back, and that it says it has; 0 without a balloon. */
void balloon_read(const struct vm *vm, uint64_t *target, uint64_t *actual);
int balloon_set_target(struct vm *vm, uint64_t bytes, struct error *e);
int virtio_console_create(struct vm *vm, int listener, struct error *e);
/* The ports of a host VM, each a stream to its agent. */
int virtio_ports_create(struct vm *vm, struct error *e);
/* The L0 end of one that the agent has opened and nobody has used since; -1 with *e set. */
int virtio_ports_connect(struct vm *vm, unsigned int *id, struct error *e);
/* This process's end of it, -1 without; one that another process had (taken over on success). */
int virtio_ports_client(const struct vm *vm, unsigned int id);
int virtio_ports_inherit(struct vm *vm, unsigned int id, int fd);
int disk_open(const char *path, bool read_only, bool lock, struct error *e);
int disk_lock(int fd, const char *path, bool read_only, struct error *e);
void disk_unlock(int fd);
int tap_open(const char *name, struct error *e);

/* ------------------------------------------------------------------ ring.c: io_uring for all disks */

struct ring;
struct ring_request {
	/* res as in a completion: bytes or -errno. */
	void (*done)(struct ring_request *r, int res);
};
struct ring *ring_create(struct vm *vm, const int *files, unsigned int nfiles, struct error *e);
void ring_destroy(struct ring *r);
/* file is an index into files; false if the ring is full now. */
bool ring_readv(struct ring *r, struct ring_request *q, unsigned int file, const struct iovec *iov,
		unsigned int n, uint64_t off);
bool ring_writev(struct ring *r, struct ring_request *q, unsigned int file,
		 const struct iovec *iov, unsigned int n, uint64_t off);
bool ring_fdatasync(struct ring *r, struct ring_request *q, unsigned int file);
bool ring_fallocate(struct ring *r, struct ring_request *q, unsigned int file, int mode,
		    uint64_t off, uint64_t len);
void ring_submit(struct ring *r);
/* Waits for a completion, at most timeout_ms, and handles those that are there. */
void ring_wait(struct ring *r, int timeout_ms);

/* ------------------------------------------------------------------ serial.c, console.c, platform.c */

struct serial *serial_create(struct vm *vm);
void serial_destroy(struct serial *s);
void serial_reset(struct serial *s);
uint8_t serial_read(struct serial *s, unsigned int reg);
void serial_write(struct serial *s, unsigned int reg, uint8_t value);
/* Bytes from the console: returns how many were taken. */
size_t serial_receive(struct serial *s, const uint8_t *data, size_t len);
size_t serial_room(const struct serial *s);
/* What the guest has written and the console has not taken yet. */
const uint8_t *serial_tx(const struct serial *s, size_t *len);
void serial_tx_taken(struct serial *s, size_t len);
Vmb__SerialState *serial_state_get(const struct serial *s);
int serial_state_set(struct serial *s, const Vmb__SerialState *st, struct error *e);
void serial_update_irq(struct serial *s);

/* What a console stands before. */
struct console_port {
	/* What the guest has written and the console has not taken yet. */
	const uint8_t *(*tx)(void *port, size_t *len);
	void (*tx_taken)(void *port, size_t len);
	/* Bytes it can take from the clients now, and taking them; returns how many it took. */
	size_t (*room)(void *port);
	size_t (*receive)(void *port, const uint8_t *data, size_t len);
};
extern const struct console_port serial_port;

enum { CONSOLE_WAITING = 4096, CONSOLE_TX = 16 * 1024 };
/* Where the bytes of a back half's console go, instead of to clients. */
struct console_sink {
	/* What the guest has written: returns how much of it was taken. */
	size_t (*take)(void *ctx, const uint8_t *data, size_t len);
	/* Of console_input()'s bytes n more have reached the port. */
	void (*consumed)(void *ctx, size_t n);
};

struct console *console_create(struct vm *vm, const struct console_port *ops, void *port,
			       int listener, int file, struct error *e);
void console_destroy(struct console *c);
void console_add_client(struct console *c, int fd);
/* The guest has written: flush when the loop comes round.  Callable from a vCPU thread. */
void console_wake(struct console *c);
void console_flush(struct console *c);
/* The last of what it has passed on; the caller's to free. */
uint8_t *console_recent(const struct console *c, size_t *len);
void console_stop(struct console *c);
void console_start(struct console *c);
/* How much of the port's buffer the file and each client have had; the caller frees it. */
Vmb__ConsoleSent *console_sent(const struct console *c);
/* Clients added until console_start() come with the port's buffer; NULL: they have had nothing of it. */
void console_inherit(struct console *c, const Vmb__ConsoleSent *sent);
size_t console_clients(struct console *c, int *fds, size_t max);
void console_set_sink(struct console *c, const struct console_sink *sink, void *ctx);
/* Input that does not come from a client; returns how much was taken.  What has not reached the port yet is
 * console_waiting(). */
size_t console_input(struct console *c, const uint8_t *data, size_t len);
const uint8_t *console_waiting(const struct console *c, size_t *len);
/* The port has room again for bytes from the clients. */
void console_rx_ready(struct console *c);

/* Port I/O other than PCI and serial; len 1, 2 or 4. */
uint32_t platform_in(struct vm *vm, uint16_t port, unsigned int len);
void platform_out(struct vm *vm, uint16_t port, uint32_t value, unsigned int len);
void platform_power_button(struct vm *vm);
void platform_reset(struct vm *vm);
Vmb__PlatformState *platform_state_get(const struct vm *vm);
void platform_state_set(struct vm *vm, const Vmb__PlatformState *s);

struct platform {
	uint16_t pm1_status, pm1_enable, pm1_control;
	uint32_t pci_address;
};

void irq_line(struct vm *vm, unsigned int irq, bool level);

/* ------------------------------------------------------------------ sandbox.c */

/* The system calls of a table with reasons, for all threads.  before() is called when all is ready for it. */
int sandbox_filter_calls(void (*before)(void *ctx), void *ctx, struct error *e);

/* ------------------------------------------------------------------ vm.c */

enum vm_end { VM_END_NONE, VM_END_SHUTDOWN, VM_END_STOPPED, VM_END_DEBUG_EXIT, VM_END_MOVED, VM_END_MOVED_AWAY };

struct vm {
	pthread_mutex_t lock;
	pthread_cond_t vcpus_wake;   /* vCPU threads wait for running or a job */
	pthread_cond_t vcpus_quiet;  /* the main thread waits for vCPUs to leave the guest */

	Vmb__VmConfig *config;
	int kvm, fd; /* /dev/kvm, the VM */
	struct kvm_caps caps;
	struct memory memory;
	struct vm_files files;
	struct loop *loop;
	bool huge_pages; /* RAM is expected to be in 2 MiB pages */
	void *warm_stub; /* warm.c */
	const Vmb__BackWarm *warm_extents; /* a back half: what its memory holds; NULL: asks the memfd */
	struct boot_load *boot_load; /* boot.c: under way, or NULL */

	struct vcpu *vcpus;
	unsigned int nvcpus;
	int tasks; /* /proc/self/task, while the threads begin; -1 else */
	bool running;     /* vCPUs may be in KVM_RUN */
	bool user_paused; /* by request */
	bool (*may_run)(void *ctx); /* NULL: yes */
	void *may_run_ctx;
	bool backends_stopped; /* around a capture, and before the first run */
	struct control *control; /* to be told of a crash; NULL before it serves */
	bool reset_wanted;
	bool quit;
	uint64_t first_run_ns;
	Vmb__VmState *reset_state; /* as it was before the first KVM_RUN */

	struct platform platform;
	struct serial *serial;
	struct console *console;
	struct console *hvc;  /* of the virtio console, which owns it; NULL without */
	uint32_t hvc_clients; /* so many of the clients that come with the state are hvc's */
	struct pci_device *pci[MAX_PCI_DEVICES + 1]; /* by slot */
	struct pci_device host_bridge;
	unsigned int npci;
	struct virtio_device *virtio[MAX_PCI_DEVICES];
	unsigned int nvirtio;
	struct virtio_device *balloon; /* one of them; NULL without */
	struct virtio_device *ports;   /* a host VM's */
	struct window *window;	       /* a host VM's; NULL until the first guest comes */
	struct dirty *dirty; /* while its memory is being copied */
	struct front *front; /* the vCPUs are in a guest hypervisor */
	struct back *back;   /* the devices are with another process */
	struct ring *ring;
	unsigned int next_gsi;
	bool routes_dirty;

	int wake; /* eventfd: vCPU threads ask the loop for attention */
	struct loop_source *wake_source;
	enum vm_end end;
	int end_status;
	char crash[200]; /* why the VM cannot run on; empty if it can */
	uint64_t created_ns;
	uid_t owner_uid;    /* who started it; may use the control socket beside root */
	uint32_t handovers; /* it has been through */
};

/* ------------------------------------------------------------------ state.c */

/* What has passed since the time stamp counter was at `tsc`, in ns. */
uint64_t tsc_since(uint64_t tsc, uint32_t khz);
/* vCPUs, interrupt controllers and timer only: what a reset puts back. */
Vmb__VmState *vm_capture_cpus(struct vm *vm, struct error *e);
/* All devices as they are when a guest starts; drained before. */
void vm_reset_devices(struct vm *vm);
int vm_restore_cpus(struct vm *vm, const Vmb__VmState *s, struct error *e);
int vm_state_validate(const struct vm *vm, const Vmb__VmState *s, struct error *e);

/* From any thread, lock held. */
void vm_end(struct vm *vm, enum vm_end why, int status);
void vm_crash(struct vm *vm, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void vm_wake(struct vm *vm);
/* Makes every vCPU leave the guest at its next exit, without waiting for it. */
void vm_kick_all(struct vm *vm);

#endif
