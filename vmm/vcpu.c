/* vcpu.c: vCPU threads: KVM_RUN, the exits it returns, pausing, and jobs done on a vCPU's thread.
 *
 *            vm_resume                    kick (signal + immediate_exit)
 *   waiting ----------> in the guest ------------------------------------> waiting
 *      ^                                                                     |
 *      +------------------------------ job (capture, restore, warm) <--------+
 *
 * Pausing: immediate_exit makes the next KVM_RUN complete a pending port or memory access and
 * return EINTR; only then does the thread leave the guest state.
 */
#include "vmm/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define KICK_SIGNAL SIGRTMIN

enum { MAX_FAULTS = 1000 };

static void on_kick(int sig)
{
	(void)sig; /* only there to interrupt KVM_RUN */
}

static void port_access(struct vm *vm, uint16_t port, uint8_t *data, unsigned int len, bool out)
{
	uint32_t v = 0;

	if (vm->back && port >= 0xcf8 && port <= 0xcff) {
		back_pci_access(vm, port, data, len, out);
		return;
	}
	if (out)
		memcpy(&v, data, len);
	if (port >= 0x3f8 && port <= 0x3ff) {
		if (out)
			serial_write(vm->serial, port - 0x3f8, (uint8_t)v);
		else
			v = serial_read(vm->serial, port - 0x3f8);
	} else if (port >= 0xcf8 && port <= 0xcff) {
		if (out)
			pci_config_write(vm, port, v, len);
		else
			v = pci_config_read(vm, port, len);
	} else if (out) {
		platform_out(vm, port, v, len);
	} else {
		v = platform_in(vm, port, len);
	}
	if (!out)
		memcpy(data, &v, len);
}

static void handle_io(struct vcpu *v)
{
	struct kvm_run *r = v->run;
	uint8_t *data = (uint8_t *)r + r->io.data_offset;

	for (uint32_t i = 0; i < r->io.count; i++, data += r->io.size)
		port_access(v->vm, r->io.port, data, r->io.size, r->io.direction == KVM_EXIT_IO_OUT);
}

static void handle_mmio(struct vcpu *v)
{
	struct kvm_run *r = v->run;

	if (v->vm->back) {
		back_access(v->vm, true, r->mmio.phys_addr, r->mmio.data, r->mmio.len, r->mmio.is_write);
		return;
	}
	if (pci_mmio(v->vm, r->mmio.phys_addr, r->mmio.data, r->mmio.len, r->mmio.is_write))
		return;
	/* Nothing there: reads are all ones, as on a bus nobody answers on. */
	if (!r->mmio.is_write)
		memset(r->mmio.data, 0xff, sizeof(r->mmio.data));
}

/* Lock held. */
static void handle_exit(struct vcpu *v)
{
	struct vm *vm = v->vm;
	struct kvm_run *r = v->run;

	switch (r->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(v);
		break;
	case KVM_EXIT_MMIO:
		handle_mmio(v);
		break;
	case KVM_EXIT_SHUTDOWN: /* triple fault */
		platform_reset(vm);
		break;
	case KVM_EXIT_INTR:
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		if (r->system_event.type == KVM_SYSTEM_EVENT_RESET)
			platform_reset(vm);
		else
			vm_end(vm, VM_END_SHUTDOWN, 0);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		vm_crash(vm, "vCPU %u: the CPU refused to enter the guest (reason 0x%llx)", v->index,
			 (unsigned long long)r->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		vm_crash(vm, "vCPU %u: KVM internal error, suberror %u", v->index,
			 r->internal.suberror);
		break;
	default:
		vm_crash(vm, "vCPU %u: unexpected exit %u", v->index, r->exit_reason);
	}
}

static void run_guest(struct vcpu *v)
{
	struct vm *vm = v->vm;
	unsigned int faults = 0; /* in a row */

	for (;;) {
		int r = ioctl(v->fd, KVM_RUN, 0);

		__atomic_store_n(&v->exits, v->exits + 1, __ATOMIC_RELAXED);
		if (r < 0 && (errno == EINTR || errno == EAGAIN)) {
			if (__atomic_load_n(&v->run->immediate_exit, __ATOMIC_ACQUIRE))
				return;
			continue;
		}
		pthread_mutex_lock(&vm->lock);
		if (r < 0 && errno == EFAULT && faults++ < MAX_FAULTS && window_fault(vm)) {
			pthread_mutex_unlock(&vm->lock);
			continue;
		}
		if (r < 0) {
			vm_crash(vm, "vCPU %u: KVM_RUN: %s", v->index, strerror(errno));
			pthread_mutex_unlock(&vm->lock);
			return;
		}
		faults = 0;
		handle_exit(v);
		pthread_mutex_unlock(&vm->lock);
	}
}

static void do_job(struct vcpu *v)
{
	char name[32];
	int fd;

	switch (v->job) {
	case VCPU_JOB_CAPTURE:
		v->job_state = vcpu_state_get(v, &v->job_error);
		v->job_result = v->job_state ? 0 : -1;
		break;
	case VCPU_JOB_RESTORE:
		v->job_result = vcpu_state_set(v, v->job_state, &v->job_error);
		break;
	case VCPU_JOB_WARM:
		v->job_result = v->index == 0 ? vcpu_warm(v, &v->job_error) : 0;
		break;
	case VCPU_JOB_BEGIN:
		snprintf(name, sizeof(name), "vcpu%u", v->index);
		pthread_setname_np(pthread_self(), name);
		snprintf(name, sizeof(name), "%d/schedstat", gettid());
		fd = openat(v->vm->tasks, name, O_RDONLY | O_CLOEXEC);
		v->schedstat = MAX(fd, 0);
		break;
	case VCPU_JOB_NONE:
		break;
	}
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *v = arg;
	struct vm *vm = v->vm;

	if (vm->back) /* the thread that talks with the front half comes before */
		setpriority(PRIO_PROCESS, 0, 0);
	pthread_mutex_lock(&vm->lock);
	while (!vm->quit) {
		if (v->job != VCPU_JOB_NONE) {
			pthread_mutex_unlock(&vm->lock);
			do_job(v);
			pthread_mutex_lock(&vm->lock);
			v->job = VCPU_JOB_NONE;
			pthread_cond_broadcast(&vm->vcpus_quiet);
		} else if (vm->running) {
			if (!vm->first_run_ns)
				vm->first_run_ns = clock_ns();
			v->in_guest = true;
			pthread_mutex_unlock(&vm->lock);
			run_guest(v);
			pthread_mutex_lock(&vm->lock);
			v->in_guest = false;
			pthread_cond_broadcast(&vm->vcpus_quiet);
			if (vm->back)
				back_quiet(vm);
			/* A vCPU that cannot run on waits for the others to be stopped. */
			if (vm->running && !vm->quit)
				pthread_cond_wait(&vm->vcpus_wake, &vm->lock);
		} else {
			pthread_cond_wait(&vm->vcpus_wake, &vm->lock);
		}
	}
	pthread_mutex_unlock(&vm->lock);
	return NULL;
}

int vcpu_create(struct vm *vm, unsigned int index, struct error *e)
{
	struct vcpu *v = &vm->vcpus[index];
	int size = ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	v->vm = vm;
	v->index = index;
	v->fd = ioctl(vm->fd, KVM_CREATE_VCPU, index);
	if (v->fd < 0 || size <= 0)
		return error_set_errno(e, "vCPU %u: cannot create it", index);
	v->run_size = (size_t)size;
	v->run = mmap(NULL, v->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED) {
		v->run = NULL;
		return error_set_errno(e, "vCPU %u: mmap", index);
	}
	if (index == 0 && ioctl(v->fd, KVM_GET_TSC_KHZ, 0) > 0)
		vm->caps.tsc_khz = (uint32_t)ioctl(v->fd, KVM_GET_TSC_KHZ, 0);
	/* A host VM's counter is the machine's: so is then what a guest's is measured by at every placement. */
	if (vm->config->window && vcpu_set_tsc_offset(v, 0, e))
		return -1;
	return cpu_model_apply(vm->config->cpu_model, v, e);
}

int vcpu_start_thread(struct vcpu *v, struct error *e)
{
	struct sigaction sa = {.sa_handler = on_kick};
	pthread_attr_t attr;

	sigaction(KICK_SIGNAL, &sa, NULL);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 128 * KIB);
	errno = pthread_create(&v->thread, &attr, vcpu_thread, v);
	pthread_attr_destroy(&attr);
	if (errno)
		return error_set_errno(e, "vCPU %u: cannot create its thread", v->index);
	v->started = true;
	return 0;
}

static void kick(struct vcpu *v)
{
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELEASE);
	pthread_kill(v->thread, KICK_SIGNAL);
}

void vcpu_destroy(struct vcpu *v)
{
	if (v->started) {
		kick(v);
		pthread_join(v->thread, NULL);
	}
	if (v->run)
		munmap(v->run, v->run_size);
	if (v->fd > 0)
		close(v->fd);
	if (v->schedstat > 0)
		close(v->schedstat);
}

void vm_kick_all(struct vm *vm)
{
	for (unsigned int i = 0; i < vm->nvcpus; i++)
		if (vm->vcpus[i].in_guest)
			kick(&vm->vcpus[i]);
}

void vcpus_resume(struct vm *vm)
{
	if (vm->running)
		return;
	if (vm->front) {
		front_resume(vm);
		return;
	}
	for (unsigned int i = 0; i < vm->nvcpus; i++) {
		__atomic_store_n(&vm->vcpus[i].run->immediate_exit, 0, __ATOMIC_RELEASE);
		/* Tells the guest's watchdogs that it was stopped; EINVAL from one that does not use
		 * KVM's clock, or has not run yet. */
		ioctl(vm->vcpus[i].fd, KVM_KVMCLOCK_CTRL, 0);
	}
	vm->running = true;
	pthread_cond_broadcast(&vm->vcpus_wake);
}

static void wait_until_quiet(struct vm *vm)
{
	for (unsigned int i = 0; i < vm->nvcpus; i++)
		while (vm->vcpus[i].in_guest || vm->vcpus[i].job != VCPU_JOB_NONE)
			pthread_cond_wait(&vm->vcpus_quiet, &vm->lock);
}

void vm_pause(struct vm *vm)
{
	if (vm->front) {
		front_pause(vm);
		return;
	}
	vm->running = false;
	vm_kick_all(vm);
	if (vm->back)
		back_await_quiet(vm);
	wait_until_quiet(vm);
}

void vm_pause_for_capture(struct vm *vm)
{
	if (vm->front)
		vm->running = false;
	else
		vm_pause(vm);
}

int vcpus_do(struct vm *vm, enum vcpu_job job, Vmb__VcpuState **states, struct error *e)
{
	int result = 0;

	for (unsigned int i = 0; i < vm->nvcpus; i++) {
		struct vcpu *v = &vm->vcpus[i];

		v->job_state = states && job == VCPU_JOB_RESTORE ? states[i] : NULL;
		v->job = job;
		if (!v->started) { /* vm_create(): there are no threads yet */
			do_job(v);
			v->job = VCPU_JOB_NONE;
		}
	}
	pthread_cond_broadcast(&vm->vcpus_wake);
	wait_until_quiet(vm);
	for (unsigned int i = 0; i < vm->nvcpus; i++) {
		struct vcpu *v = &vm->vcpus[i];

		if (states && job == VCPU_JOB_CAPTURE)
			states[i] = v->job_state;
		v->job_state = NULL;
		if (v->job_result && !result) {
			result = -1;
			if (e)
				*e = v->job_error;
		}
	}
	return result;
}
