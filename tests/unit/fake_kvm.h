/* fake_kvm.h: a machine for the tests and fuzz targets, without hardware.
 *
 * open("/dev/kvm"), every KVM ioctl, io_uring (ring.c) and the sandbox are replaced at link time
 * (--wrap); what is under test runs unchanged on top.  vCPUs, interrupt chips and timer only keep
 * what is written to them.  One process, any number of VMs.
 */
#ifndef TESTS_FAKE_KVM_H
#define TESTS_FAKE_KVM_H

#include "vmm/internal.h"

enum { FAKE_SLOTS = 2, FAKE_LOG = 1024 /* words: writes to the first 256 MiB of a slot are logged */ };
enum { FAKE_VCPUS = 4, FAKE_XSAVE_MAX = 64 << 10, FAKE_CPUID = 64, FAKE_MSRS = 16 };

/* What a vCPU holds; up to xsave without a gap, compared byte by byte. */
struct fake_vcpu {
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	struct kvm_debugregs debugregs;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct kvm_xcrs xcrs;
	uint8_t xsave[FAKE_XSAVE_MAX], nested[8192];
	uint64_t tsc_offset, tsc_deadline, mtrr, msr[FAKE_MSRS];
	struct kvm_mp_state mp_state;
};

struct fake_machine {
	struct fake_vcpu vcpu[FAKE_VCPUS];
	struct kvm_irqchip chip[3];
	struct kvm_pit_state2 pit2;
	uint64_t clock;
	uint8_t *ram;
	size_t logged[FAKE_SLOTS]; /* words; 0: not */
	uint64_t written[FAKE_SLOTS][FAKE_LOG];
};

struct fake_kvm {
	/* What it is to do. */
	bool absent;	    /* there is no /dev/kvm */
	bool direct_io;	    /* descriptors claim O_DIRECT */
	unsigned long fail; /* this request fails with EIO ... */
	unsigned int fail_after; /* ... after so many that succeed */
	int xsave_size, nested_size;
	struct kvm_cpuid_entry2 cpuid[FAKE_CPUID];
	unsigned int ncpuid;
	int (*run)(int vcpu_fd, struct kvm_run *run); /* KVM_RUN; NULL: waits for a kick */

	/* What it was told. */
	struct kvm_cpuid_entry2 set_cpuid[FAKE_VCPUS][FAKE_CPUID];
	unsigned int set_ncpuid[FAKE_VCPUS];
	struct {
		uint64_t addr;
		int fd;
	} doorbell[64];
	unsigned int ndoorbells;
	unsigned int mistakes; /* calls that KVM would have refused */
	struct kvm_irq_routing_entry route[MAX_GSI_ROUTES + 48];
	unsigned int nroutes, route_updates;
	bool irq_line[24];
	unsigned int irq_edges[24]; /* changes to high */
};
extern struct fake_kvm fake;

/* What was logged: printed only if VMBEAM_TEST_LOG is set. */
extern unsigned int log_lines;
extern char last_log[600];

/* The state behind a VM's descriptor. */
struct fake_machine *fake_machine(int vm_fd);
/* Where guest RAM's first byte lies. */
uint8_t *fake_ram(int fd);
/* Fills all of it with bytes that depend on seed. */
void fake_machine_fill(struct fake_machine *m, uint64_t seed);

/* The disks' io_uring. */
enum fake_disk { DISK_WORKS, DISK_HANGS, DISK_ERROR, DISK_SHORT, DISK_RING_FULL };
extern enum fake_disk fake_disk;
extern bool real_ring; /* no fake at all */
extern unsigned int fake_disk_requests;

struct vm_spec {
	uint64_t memory; /* 8 MiB if 0 */
	uint64_t window;
	unsigned int cpus, disks, nets;
	bool read_only, debug_exit, rng, balloon, virtio_console;
	uint64_t disk_size;	  /* 1 MiB if 0 */
	const char *append, *placement;
	int kernel, initrd; /* descriptors, taken over; 0: none */
	unsigned int nmodules;
	int modules[VM_MAX_MODULES];
	int control, serial_file; /* 0: none */
	int disk_fd;		  /* instead of a memfd; 0: none */
};

/* The other ends, as the tests hold them. */
struct vm_ends {
	int disk[VM_MAX_DISKS], tap[VM_MAX_NETS];
};

/* vm_create() with files of its own: disks are memfds, taps datagram sockets.  Ends the process on
 * failure.  The backends run. */
struct vm *make_vm(const struct vm_spec *s, struct vm_ends *ends);
void destroy_vm(struct vm *vm, struct vm_ends *ends);
/* A memfd with these bytes. */
int memfd_with(const void *data, size_t len);

#endif
