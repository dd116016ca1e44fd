/* sandbox.c: what a vmm process gives up before its guest runs.
 *
 * Everything is open by then; what follows is done in this order: an empty root directory, an
 * unprivileged user (which takes the capabilities), the vCPUs' threads, no_new_privs, and a filter of
 * system calls for all threads at once (TSYNC).  A call outside the table ends the process: a guest that
 * gets that far has broken out of the device model.
 */
#include "vmm/internal.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/if_tun.h>
#include <seccomp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NOBODY = 65534 };

/* The sanitizers' own system calls are not in the table. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static const bool sanitized = true;
#else
static const bool sanitized = false;
#endif

static const struct {
	int nr;
	const char *reason;
} calls[] = {
	{SCMP_SYS(read), "eventfds, console clients"},
	{SCMP_SYS(write), "eventfds, serial file, state memfd, log, a frame that announces"},
	{SCMP_SYS(readv), "tap to guest"},
	{SCMP_SYS(writev), "guest to tap"},
	{SCMP_SYS(pread64), "kernel image at a reset"},
	{SCMP_SYS(pwrite64), "state memfd, dump"},
	{SCMP_SYS(eventfd2), "doorbells of a back half"},
	{SCMP_SYS(lseek), "extents of the RAM memfd"},
	{SCMP_SYS(close), "clients that left"},
	{SCMP_SYS(fstat), "size of images at a reset, of a state memfd"},
	{SCMP_SYS(newfstatat), "the same, as newer C libraries call it"},
	{SCMP_SYS(futex), "the lock and its conditions"},
	{SCMP_SYS(epoll_wait), "event loop"},
	{SCMP_SYS(epoll_pwait), "event loop, as newer C libraries call it"},
	{SCMP_SYS(epoll_ctl), "event loop"},
	{SCMP_SYS(poll), "bounded waits: drain, handover link"},
	{SCMP_SYS(ppoll), "the same, as newer C libraries call it"},
	{SCMP_SYS(io_uring_enter), "disks; the ring itself is restricted"},
	{SCMP_SYS(accept4), "control and console clients"},
	{SCMP_SYS(socketpair), "a console for a control client"},
	{SCMP_SYS(recvmsg), "control messages and their descriptors"},
	{SCMP_SYS(sendmsg), "control replies"},
	{SCMP_SYS(recvfrom), "console input"},
	{SCMP_SYS(sendto), "console output"},
	{SCMP_SYS(shutdown), "a lease that is not answered for"},
	{SCMP_SYS(setsockopt), "buffer size of a control client"},
	{SCMP_SYS(getsockopt), "who a control client is"},
	{SCMP_SYS(munmap), "malloc, state memfd"},
	{SCMP_SYS(mremap), "malloc"},
	{SCMP_SYS(brk), "malloc"},
	{SCMP_SYS(madvise), "malloc, prefault, balloon"},
	{SCMP_SYS(fallocate), "balloon: memory given back"},
	{SCMP_SYS(getrandom), "virtio-rng"},
	{SCMP_SYS(rt_sigreturn), "return from the kick signal"},
	{SCMP_SYS(rt_sigprocmask), "thread exit, abort"},
	{SCMP_SYS(clock_gettime), "where the vDSO cannot answer"},
	{SCMP_SYS(restart_syscall), "a wait interrupted by a stop signal"},
	{SCMP_SYS(sched_yield), "thread library"},
	{SCMP_SYS(getpid), "abort, pthread_kill"},
	{SCMP_SYS(gettid), "abort"},
	{SCMP_SYS(rseq), "thread exit"},
	{SCMP_SYS(exit), "thread exit"},
	{SCMP_SYS(exit_group), "the end"},
};

/* ioctl is allowed by request number only. */
static const uint32_t ioctls[] = {
	KVM_RUN,
	KVM_IRQ_LINE,
	KVM_IOEVENTFD,	     /* a guest moves a BAR */
	KVM_GET_STATS_FD,    /* page sizes, for `info` */
	KVM_SIGNAL_MSI,	     /* interrupts from a front half */
	KVM_SET_GSI_ROUTING, /* a guest programs an interrupt vector */
	/* capture and restore, and a reset: */
	KVM_GET_REGS,
	KVM_SET_REGS,
	KVM_GET_SREGS,
	KVM_SET_SREGS,
	KVM_GET_MSRS,
	KVM_SET_MSRS,
	KVM_GET_MP_STATE,
	KVM_SET_MP_STATE,
	KVM_GET_LAPIC,
	KVM_SET_LAPIC,
	KVM_GET_XSAVE,
	KVM_GET_XSAVE2,
	KVM_SET_XSAVE,
	KVM_GET_XCRS,
	KVM_SET_XCRS,
	KVM_GET_DEBUGREGS,
	KVM_SET_DEBUGREGS,
	KVM_GET_VCPU_EVENTS,
	KVM_SET_VCPU_EVENTS,
	KVM_GET_NESTED_STATE,
	KVM_SET_NESTED_STATE,
	KVM_GET_DEVICE_ATTR, /* TSC offset */
	KVM_SET_DEVICE_ATTR,
	KVM_GET_IRQCHIP,
	KVM_SET_IRQCHIP,
	KVM_GET_PIT2,
	KVM_SET_PIT2,
	KVM_GET_CLOCK,
	KVM_SET_CLOCK,
	KVM_KVMCLOCK_CTRL,
	/* copying the memory of a running VM: */
	KVM_SET_USER_MEMORY_REGION, /* the log on and off */
	KVM_GET_DIRTY_LOG,
	KVM_CLEAR_DIRTY_LOG,
	TUNSETOFFLOAD, /* what a network driver negotiates */
};

static const uint32_t fcntls[] = {F_ADD_SEALS, F_GET_SEALS, F_OFD_SETLK /* a disk that goes to another machine */};

int sandbox_filter_calls(void (*before)(void *ctx), void *ctx, struct error *e)
{
	scmp_filter_ctx f;
	int r;

	if (sanitized)
		return 0;
	f = seccomp_init(SCMP_ACT_KILL_PROCESS);
	r = f ? 0 : -ENOMEM;
	if (!r)
		r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
	/* KVM_RUN is the call made most: its ioctl rules are tried early. */
	if (!r)
		r = seccomp_syscall_priority(f, SCMP_SYS(ioctl), 255);
	for (size_t i = 0; i < ARRAY_LEN(ioctls) && !r; i++)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				     SCMP_A1_32(SCMP_CMP_EQ, ioctls[i]));
	for (size_t i = 0; i < ARRAY_LEN(calls) && !r; i++)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, calls[i].nr, 0);
	/* Seals, but no signals to others by F_SETOWN; memory, but never executable; signals, but only
	 * to this process. */
	for (size_t i = 0; i < ARRAY_LEN(fcntls) && !r; i++)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
				     SCMP_A1_32(SCMP_CMP_EQ, fcntls[i]));
	if (!r)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!r)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				     SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
	if (!r)
		r = seccomp_rule_add(f, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
				     SCMP_A0_32(SCMP_CMP_EQ, (uint32_t)getpid()));
	before(ctx);
	if (!r)
		r = seccomp_load(f);
	seccomp_release(f);
	errno = -r;
	return r ? error_set_errno(e, "sandbox: system call filter") : 0;
}

int sandbox_drop_privileges(const char *empty_dir, struct error *e)
{
	if (geteuid() == 0) {
		const struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};

		/* It counts the threads of all VMs together: they have one user. */
		setrlimit(RLIMIT_NPROC, &none);
		if (chroot(empty_dir) || chdir("/"))
			return error_set_errno(e, "sandbox: chroot to %s", empty_dir);
		capng_clear(CAPNG_SELECT_BOUNDS);
		if (capng_apply(CAPNG_SELECT_BOUNDS))
			return error_set(e, "sandbox: cannot drop the bounding set");
		if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
		    setresuid(NOBODY, NOBODY, NOBODY))
			return error_set_errno(e, "sandbox: cannot become an unprivileged user");
	}
	capng_get_caps_process();
	if (capng_have_capabilities(CAPNG_SELECT_CAPS) > CAPNG_NONE)
		return error_set(e, "sandbox: capabilities are left");
	return 0;
}
