/* state.c: a VM's whole state into a message and back, and stopping what could change it meanwhile.
 *
 * Order of a restore: vCPUs (vcpu_state.c has their order), then PICs, IOAPIC, PIT, devices, interrupt
 * routes, and the clock last, so that the time it took is not lost.
 * Clock: Documentation/virt/kvm/api.rst, KVM_SET_CLOCK: the guest's clock goes on by what
 * CLOCK_MONOTONIC, the same in every process of a machine, has gone on since the capture.
 */
#include "vmm/internal.h"
#include "vmm/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#define TSC_TOLERANCE_PPM 250 /* as KVM's own */

uint64_t tsc_since(uint64_t tsc, uint32_t khz)
{
	int64_t ticks = (int64_t)(__rdtsc() - tsc);

	return ticks > 0 && khz ? (uint64_t)((__uint128_t)ticks * 1000000 / khz) : 0;
}

static int get_chip(struct vm *vm, uint32_t id, ProtobufCBinaryData *out, struct error *e)
{
	struct kvm_irqchip *chip = xcalloc(1, sizeof(*chip));

	chip->chip_id = id;
	out->data = (uint8_t *)chip;
	out->len = sizeof(*chip);
	if (ioctl(vm->fd, KVM_GET_IRQCHIP, chip))
		return error_set_errno(e, "KVM_GET_IRQCHIP");
	return 0;
}

static int set_chip(struct vm *vm, uint32_t id, const ProtobufCBinaryData *in, struct error *e)
{
	struct kvm_irqchip chip;

	memcpy(&chip, in->data, sizeof(chip));
	chip.chip_id = id;
	if (ioctl(vm->fd, KVM_SET_IRQCHIP, &chip))
		return error_set_errno(e, "KVM_SET_IRQCHIP");
	return 0;
}

Vmb__VmState *vm_capture_cpus(struct vm *vm, struct error *e)
{
	Vmb__VmState *s = xcalloc(1, sizeof(*s));
	int r;

	vmb__vm_state__init(s);
	s->version = STATE_VERSION;
	s->vcpus = xcalloc(vm->nvcpus, sizeof(*s->vcpus));
	r = vcpus_do(vm, VCPU_JOB_CAPTURE, s->vcpus, e);
	/* If one has failed, the others' states are there all the same. */
	for (unsigned int i = 0; i < vm->nvcpus; i++)
		if (s->vcpus[i])
			s->vcpus[s->n_vcpus++] = s->vcpus[i];
	s->pit2.len = sizeof(struct kvm_pit_state2);
	s->pit2.data = xcalloc(1, s->pit2.len);
	if (!r && ioctl(vm->fd, KVM_GET_PIT2, s->pit2.data))
		r = error_set_errno(e, "KVM_GET_PIT2");
	if (r || get_chip(vm, KVM_IRQCHIP_PIC_MASTER, &s->pic_master, e) ||
	    get_chip(vm, KVM_IRQCHIP_PIC_SLAVE, &s->pic_slave, e) ||
	    get_chip(vm, KVM_IRQCHIP_IOAPIC, &s->ioapic, e)) {
		vmb__vm_state__free_unpacked(s, NULL);
		return NULL;
	}
	return s;
}

int vm_restore_cpus(struct vm *vm, const Vmb__VmState *s, struct error *e)
{
	if (vcpus_do(vm, VCPU_JOB_RESTORE, s->vcpus, e) ||
	    set_chip(vm, KVM_IRQCHIP_PIC_MASTER, &s->pic_master, e) ||
	    set_chip(vm, KVM_IRQCHIP_PIC_SLAVE, &s->pic_slave, e) ||
	    set_chip(vm, KVM_IRQCHIP_IOAPIC, &s->ioapic, e))
		return -1;
	if (ioctl(vm->fd, KVM_SET_PIT2, s->pit2.data))
		return error_set_errno(e, "KVM_SET_PIT2");
	return 0;
}

static void add_devices(struct vm *vm, Vmb__VmState *s)
{
	s->devices = xcalloc(vm->nvirtio, sizeof(*s->devices));
	for (unsigned int i = 0; i < vm->nvirtio; i++)
		s->devices[s->n_devices++] = virtio_state_get(vm->virtio[i]);
}

Vmb__VmState *vm_provisional(struct vm *vm)
{
	Vmb__VmState *s = xcalloc(1, sizeof(*s));

	vmb__vm_state__init(s);
	s->version = STATE_VERSION;
	s->config = (Vmb__VmConfig *)message_copy(&vm->config->base);
	s->tsc_khz = vm->caps.tsc_khz;
	add_devices(vm, s);
	return s;
}

static int load_devices(struct vm *vm, const Vmb__VmState *s, struct error *e)
{
	if (s->version == 0 || s->version > STATE_VERSION || s->version + 1 < STATE_VERSION)
		return error_set(e, "state version %u; this program reads %d", s->version,
				 STATE_VERSION);
	if (s->n_devices != vm->nvirtio)
		return error_set(e, "state of %zu devices, the VM has %u", s->n_devices, vm->nvirtio);
	for (unsigned int i = 0; i < vm->nvirtio; i++) {
		if (strcmp(s->devices[i]->id, vm->virtio[i]->id))
			return error_set(e, "state of device %s, the VM has %s", s->devices[i]->id,
					 vm->virtio[i]->id);
		if (virtio_state_set(vm->virtio[i], s->devices[i], e))
			return -1;
	}
	return irq_routes_flush(vm, e);
}

/* A guest has measured its counter once and for all; KVM corrects nothing within this. */
static int check_tsc(const struct vm *vm, const Vmb__VmState *s, struct error *e)
{
	uint64_t there = s->tsc_khz, here = vm->caps.tsc_khz, apart = there > here ? there - here : here - there;

	if (!there || !here || vm->front || apart * 1000000 <= there * TSC_TOLERANCE_PPM)
		return 0;
	return error_set(e, "its time stamp counter runs at %llu kHz, this machine's at %llu kHz", (unsigned long long)there,
			 (unsigned long long)here);
}

int vm_load_provisional(struct vm *vm, const Vmb__VmState *s, struct error *e)
{
	return check_tsc(vm, s, e) || load_devices(vm, s, e) || (!vm->front && warm_prepare(vm, e)) ? -1 : 0;
}

/* ---- stopping */

static void start_backends(struct vm *vm)
{
	vm->backends_stopped = false;
	for (unsigned int i = 0; i < vm->nvirtio; i++)
		virtio_start_backend(vm->virtio[i]);
	console_start(vm->console);
}

static const struct virtio_device *busy_device(const struct vm *vm)
{
	for (unsigned int i = 0; i < vm->nvirtio; i++) {
		struct virtio_device *d = vm->virtio[i];

		if (d->ops->inflight && d->ops->inflight(d))
			return d;
	}
	return NULL;
}

int vm_drain(struct vm *vm, uint64_t timeout_ns, struct error *e)
{
	uint64_t deadline = clock_ns() + timeout_ns;
	const struct virtio_device *busy;

	vm->backends_stopped = true;
	for (unsigned int i = 0; i < vm->nvirtio; i++)
		virtio_stop_backend(vm->virtio[i]);
	console_stop(vm->console);
	while ((busy = busy_device(vm))) {
		uint64_t now = clock_ns();

		if (vm->front) /* this may last, and nobody listens to it meanwhile */
			front_pause(vm);

		if (now >= deadline) {
			error_set(e, "%s: requests still in flight after %llu ms", busy->id,
				  (unsigned long long)(timeout_ns / 1000000));
			start_backends(vm);
			return -1;
		}
		ring_wait(vm->ring, (int)((deadline - now) / 1000000 + 1));
	}
	return 0;
}

int vm_fence(struct vm *vm, struct error *e)
{
	return vm->front ? front_fence(vm, e) : 0;
}

void vm_uncapture(struct vm *vm, const Vmb__VmState *captured)
{
	struct error e;

	if (vm_is_held(vm))
		return;
	if (vm->front && !vm->crash[0] && front_unfence(vm, &e)) {
		if (captured) {
			front_hold(vm, captured);
			return;
		}
		vm_crash(vm, "in hypervisor %s: %s", vm->config->placement, e.text);
	}
	vm->memory.fenced = false;
	if (vm->backends_stopped)
		start_backends(vm);
}

void vm_announce(struct vm *vm)
{
	for (size_t i = 0; i < vm->nvirtio; i++)
		if (vm->virtio[i]->ops->announce && virtio_running(vm->virtio[i]))
			vm->virtio[i]->ops->announce(vm->virtio[i]);
}

void vm_resume(struct vm *vm)
{
	if (vm->crash[0] || vm->end != VM_END_NONE || vm_is_held(vm))
		return;
	if (vm->may_run && !vm->may_run(vm->may_run_ctx)) {
		log_line("%s: does not run here: another process has it", vm->config->name);
		return;
	}
	if (vm->backends_stopped)
		start_backends(vm);
	vcpus_resume(vm);
}

void vm_set_may_run(struct vm *vm, bool (*may_run)(void *ctx), void *ctx)
{
	vm->may_run = may_run;
	vm->may_run_ctx = ctx;
}

/* ---- capture and restore */

static void finish_capture(struct vm *vm, Vmb__VmState *s)
{
	s->version = STATE_VERSION;
	s->config = (Vmb__VmConfig *)message_copy(&vm->config->base);
	s->paused = vm->user_paused;
	s->handovers = vm->handovers;
	if (s->serial->sent)
		vmb__console_sent__free_unpacked(s->serial->sent, NULL);
	s->serial->sent = console_sent(vm->console);
	window_state_get(vm, s);
	add_devices(vm, s);
	vm->memory.fenced = true;
}

Vmb__VmState *vm_capture(struct vm *vm, struct error *e)
{
	struct kvm_clock_data clock = {0};
	Vmb__VmState *s;
	const uint8_t *data;
	uint64_t now, tsc;

	if (vm->front) {
		s = front_capture(vm, e);
		if (s)
			finish_capture(vm, s);
		return s;
	}
	if (ioctl(vm->fd, KVM_GET_CLOCK, &clock)) {
		error_set_errno(e, "KVM_GET_CLOCK");
		return NULL;
	}
	now = clock_ns();
	tsc = __rdtsc();
	s = vm_capture_cpus(vm, e);
	if (!s)
		return NULL;
	s->clock_ns = clock.clock;
	/* The other half is in another kernel, to which `now` says nothing. */
	s->captured_ns = vm->back ? 0 : now;
	s->captured_tsc = tsc;
	s->tsc_khz = vm->caps.tsc_khz;
	s->serial = serial_state_get(vm->serial);
	data = console_waiting(vm->console, &s->serial->waiting.len);
	s->serial->waiting.data = xcalloc(1, s->serial->waiting.len);
	memcpy(s->serial->waiting.data, data, s->serial->waiting.len);
	s->platform = platform_state_get(vm);
	finish_capture(vm, s);
	return s;
}

int vm_state_validate(const struct vm *vm, const Vmb__VmState *s, struct error *e)
{
	const ProtobufCBinaryData *chips[] = {&s->pic_master, &s->pic_slave, &s->ioapic};

	if (s->n_vcpus != vm->nvcpus)
		return error_set(e, "state of %zu vCPUs, the VM has %u", s->n_vcpus, vm->nvcpus);
	for (size_t i = 0; i < ARRAY_LEN(chips); i++)
		if (chips[i]->len != sizeof(struct kvm_irqchip))
			return error_set(e, "state: an interrupt controller of %zu bytes", chips[i]->len);
	if (s->pit2.len != sizeof(struct kvm_pit_state2) || !s->serial || !s->platform)
		return error_set(e, "state: incomplete");
	for (size_t i = 0; i < s->n_vcpus; i++)
		if (vcpu_state_validate(vm, s->vcpus[i], e))
			return -1;
	return 0;
}

static int set_clock(struct vm *vm, const Vmb__VmState *s, struct error *e)
{
	uint64_t gone = s->captured_ns ? clock_ns() - s->captured_ns
				       : tsc_since(s->captured_tsc, vm->caps.tsc_khz);
	struct kvm_clock_data clock = {.clock = s->clock_ns + gone};

	if (ioctl(vm->fd, KVM_SET_CLOCK, &clock))
		return error_set_errno(e, "KVM_SET_CLOCK");
	return 0;
}

static int restore_front(struct vm *vm, const Vmb__VmState *s, struct error *e)
{
	if (load_devices(vm, s, e) || front_restore(vm, s, e))
		return -1;
	console_inherit(vm->console, s->serial->sent);
	vm->user_paused = s->paused;
	vm->handovers = s->handovers + 1;
	return 0;
}

int vm_restore(struct vm *vm, const Vmb__VmState *s, struct error *e)
{
	if (vm->front)
		return restore_front(vm, s, e);
	if (load_devices(vm, s, e) || vm_state_validate(vm, s, e) || vm_restore_cpus(vm, s, e) ||
	    serial_state_set(vm->serial, s->serial, e) || (s->n_lodgers && window_state_set(vm, s, e)))
		return -1;
	platform_state_set(vm, s->platform);
	console_inherit(vm->console, s->serial->sent);
	console_input(vm->console, s->serial->waiting.data, s->serial->waiting.len);
	serial_update_irq(vm->serial);
	vm->user_paused = s->paused;
	vm->handovers = s->handovers + 1;
	return set_clock(vm, s, e);
}

int vm_warm(struct vm *vm, struct error *e)
{
	if (vm->front)
		return front_warm(vm, e);
	pthread_mutex_unlock(&vm->lock);
	memory_prefault(&vm->memory);
	pthread_mutex_lock(&vm->lock);
	return vcpus_do(vm, VCPU_JOB_WARM, NULL, e);
}
