/* front_state.c: the state of a VM in two halves: captured and restored, its hypervisor warmed and fenced,
 * the VM held while there is no other half.  See front.c.
 */
#include "vmm/client.h"
#include "vmm/front.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <x86intrin.h>

enum { LOOK_MS = 2000, MAX_EXTENTS = 16384 };

/* ---- captured and restored */

/* What this half holds of the serial line comes before what the other has. */
static void join_serial(struct front *f, Vmb__SerialState *s)
{
	size_t first = MIN(f->tx_len, (size_t)FRONT_RELAY_SIZE), rest = MIN(s->tx.len, FRONT_RELAY_SIZE - first);
	uint8_t *tx = xcalloc(1, first + rest);

	memcpy(tx, f->tx, first);
	if (rest)
		memcpy(tx + first, s->tx.data, rest);
	free(s->tx.data);
	s->tx = (ProtobufCBinaryData){first + rest, tx};
}

/* What is this half's to say, whatever the other has put there. */
static void drop_devices(Vmb__VmState *s)
{
	for (size_t i = 0; i < s->n_devices; i++)
		vmb__device_state__free_unpacked(s->devices[i], NULL);
	free(s->devices);
	s->devices = NULL;
	s->n_devices = 0;
	for (size_t i = 0; i < s->n_lodgers; i++)
		vmb__lodger_state__free_unpacked(s->lodgers[i], NULL);
	free(s->lodgers);
	s->lodgers = NULL;
	s->n_lodgers = 0;
	if (s->config)
		vmb__vm_config__free_unpacked(s->config, NULL);
	s->config = NULL;
}

Vmb__VmState *front_look(struct vm *vm)
{
	Vmb__FrontCall c = VMB__FRONT_CALL__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	Vmb__FrontEvent *answer;
	Vmb__VmState *s = NULL;
	struct error e;

	if (vm->front->held)
		return (Vmb__VmState *)message_copy(&vm->front->held->base);
	c.kind_case = VMB__FRONT_CALL__KIND_CAPTURE;
	c.capture = &empty;
	answer = vm->front->gone ? NULL : front_ask(vm->front, &c, LOOK_MS, &e);
	if (answer && answer->kind_case == VMB__FRONT_EVENT__KIND_CAPTURED) {
		s = answer->captured;
		answer->kind_case = VMB__FRONT_EVENT__KIND__NOT_SET;
	}
	if (answer)
		vmb__front_event__free_unpacked(answer, NULL);
	front_hear_rest(vm->front);
	return s;
}

Vmb__VmState *front_capture(struct vm *vm, struct error *e)
{
	struct front *f = vm->front;
	Vmb__FrontCall c = VMB__FRONT_CALL__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	Vmb__FrontEvent *answer = NULL;
	Vmb__VmState *s = NULL;
	uint64_t now, gone, signals;

	if (f->held && f->lease >= 0) {
		error_set(e, "hypervisor %s has not let its memory go yet", vm->config->placement);
		return NULL;
	}
	if (f->held) {
		s = (Vmb__VmState *)message_copy(&f->held->base);
		drop_devices(s);
		return s;
	}
	c.kind_case = VMB__FRONT_CALL__KIND_CAPTURE;
	c.capture = &empty;
	f->resumed = false;
	vm->running = false;
	/* An interrupt raised meanwhile is not in what was captured; a second time it is.  More often than that
	 * no guest causes one that stands still. */
	for (int i = 0; i < 2; i++) {
		signals = f->signals;
		if (answer)
			vmb__front_event__free_unpacked(answer, NULL);
		answer = front_ask(f, &c, FRONT_CALL_MS, e);
		if (!answer || f->signals == signals)
			break;
	}
	if (!answer)
		return NULL;
	if (answer->kind_case == VMB__FRONT_EVENT__KIND_CAPTURED && answer->captured->serial &&
	    answer->captured->platform && answer->captured->n_vcpus == vm->config->cpus) {
		s = answer->captured;
		answer->kind_case = VMB__FRONT_EVENT__KIND__NOT_SET;
	} else {
		error_set(e, "in hypervisor %s: a state that makes no sense", vm->config->placement);
	}
	vmb__front_event__free_unpacked(answer, NULL);
	if (s && vm_pending_event(vm)) { /* told between the pause and this */
		error_set(e, "%s", vm_pending_event(vm));
		vmb__vm_state__free_unpacked(s, NULL);
		s = NULL;
	}
	if (!s)
		return NULL;
	drop_devices(s); /* and whatever it says of the configuration */
	join_serial(f, s->serial);
	now = clock_ns();
	gone = tsc_since(s->captured_tsc, s->tsc_khz);
	s->captured_ns = now - MIN(gone, now - 1);
	s->captured_tsc = 0;
	return s;
}

int front_restore(struct vm *vm, const Vmb__VmState *s, struct error *e)
{
	struct front *f = vm->front;
	Vmb__FrontCall c = VMB__FRONT_CALL__INIT;
	Vmb__VmState t = *s;
	Vmb__SerialState serial;

	if (!s->serial || !s->platform || s->serial->tx.len > FRONT_RELAY_SIZE ||
	    s->serial->waiting.len > CONSOLE_WAITING)
		return error_set(e, "state: incomplete");
	serial = *s->serial;
	f->tx_len = serial.tx.len;
	if (f->tx_len)
		memcpy(f->tx, serial.tx.data, f->tx_len);
	f->room = CONSOLE_WAITING - serial.waiting.len;
	serial.tx.len = 0;
	t.serial = &serial;
	t.n_devices = 0;
	t.config = NULL;
	t.clock_ns += clock_ns() - s->captured_ns;
	t.captured_tsc = __rdtsc();
	t.captured_ns = 0;
	c.kind_case = VMB__FRONT_CALL__KIND_RESTORE;
	c.restore = &t;
	return front_call(f, &c, e);
}

int front_warm(struct vm *vm, struct error *e)
{
	Vmb__FrontCall c = VMB__FRONT_CALL__INIT;
	Vmb__BackWarm warm = VMB__BACK_WARM__INIT;
	Vmb__Extent *x = xcalloc(MAX_EXTENTS, sizeof(*x)), **ptrs = xcalloc(MAX_EXTENTS, sizeof(*ptrs));
	uint64_t start, end = 0;
	int r;

	warm.extents = ptrs;
	warm.huge = vm->huge_pages;
	while (warm.n_extents < MAX_EXTENTS && next_extent(vm->memory.fd, &start, &end)) {
		Vmb__Extent *at = &x[warm.n_extents];

		vmb__extent__init(at);
		at->start = start;
		at->size = end - start;
		ptrs[warm.n_extents++] = at;
	}
	c.kind_case = VMB__FRONT_CALL__KIND_WARM;
	c.warm = &warm;
	r = front_call(vm->front, &c, e);
	free(x);
	free(ptrs);
	return r;
}

/* One that fails is the last: an answer that comes late must not be taken for that to the next.  The lease ends,
 * and its other end closes once the memory is out of reach, or has gone with the host VM. */
static int lease_request(struct front *f, Vmb__Request__KindCase kind, struct error *e)
{
	int timeout_ms = FRONT_LEASE_MS + (int)(f->vm->memory.size / GIB) * 1000;
	int r = vmm_simple_request(f->lease, kind, NULL, NULL, timeout_ms, e);

	if (r) {
		front_hang_up(f);
		shutdown(f->lease, SHUT_WR);
	}
	return r;
}

int front_fence(struct vm *vm, struct error *e)
{
	if (vm->front->held)
		return 0;
	if (vm->front->gone)
		return error_set(e, "its host VM has gone");
	if (lease_request(vm->front, VMB__REQUEST__KIND_FENCE, e))
		return -1;
	vm->front->fenced = true;
	return 0;
}

int front_unfence(struct vm *vm, struct error *e)
{
	struct front *f = vm->front;

	if (f->gone)
		return error_set(e, "its host VM has gone");
	if (f->fenced && lease_request(f, VMB__REQUEST__KIND_UNFENCE, e))
		return -1;
	f->fenced = false;
	return 0;
}

/* ---- leaving one hypervisor and going on in another */

bool vm_is_held(const struct vm *vm)
{
	return vm->front && vm->front->held;
}

void front_hold(struct vm *vm, const Vmb__VmState *captured)
{
	vm->front->held = (Vmb__VmState *)message_copy(&captured->base);
	log_line("%s: hypervisor %s has gone: it is held", vm->config->name, vm->config->placement);
}

int front_suspend(struct vm *vm, uint64_t drain_timeout_ns, struct error *e)
{
	struct front *f = vm->front;

	if (f->held)
		return 0;
	vm_pause(vm);
	if (vm_pending_event(vm))
		return error_set(e, "%s", vm_pending_event(vm));
	if (!vm_drain(vm, drain_timeout_ns, e))
		f->held = vm_capture(vm, e);
	if (!f->held) {
		vm_uncapture(vm, NULL);
		if (!vm->user_paused)
			vm_resume(vm);
		return -1;
	}
	/* Without an answer it is held all the same, and the lease says when the memory is out of reach. */
	if (!lease_request(f, VMB__REQUEST__KIND_FENCE, e))
		front_part(f);
	frames_free(&f->port);
	return 0;
}

int front_reattach(struct vm *vm, const char *placement, int lease, struct error *e)
{
	struct front *f = vm->front;
	char *old = vm->config->placement;

	if (!f->held || f->lease >= 0) {
		close(lease);
		return error_set(e, f->held ? "its hypervisor has not let its memory go yet"
					    : "it is not suspended");
	}
	front_begin(f);
	vm->config->placement = xstrdup(placement);
	if (front_join(f, lease, e))
		goto fail;
	for (unsigned int i = 0; i < vm->nvirtio; i++)
		for (unsigned int k = 0; k < vm->virtio[i]->ops->nqueues; k++)
			if (vm->virtio[i]->queues[k].kick_addr)
				front_doorbell(&vm->virtio[i]->queues[k], vm->virtio[i]->queues[k].kick_addr);
	if (front_restore(vm, f->held, e))
		goto fail;
	free(old);
	vmb__vm_state__free_unpacked(f->held, NULL);
	f->held = NULL;
	vm->handovers++;
	vm_uncapture(vm, NULL);
	if (!vm->user_paused)
		vm_resume(vm);
	return 0;
fail:
	front_part(f);
	frames_free(&f->port);
	free(vm->config->placement);
	vm->config->placement = old;
	return -1;
}
