/* front.c: the front half of a guest VM that runs in a guest hypervisor: a vmm process at L0 like any
 * other, with the VM's memory, devices, sockets and owner word, but without vCPUs.  Those are in the
 * back half (back.c), a process in the hypervisor, to which there is a stream.
 *
 * So a disk, a network and what the guest is told stay where they were when the vCPUs move, nothing in the
 * hypervisor ever reads or writes the guest's memory but the guest, and what is in flight is in flight here.
 *
 * The other half is not trusted.  When it breaks the rules, or does not answer, the lease is given up, which
 * takes the guest's memory out of its reach, and the VM has crashed.
 */
#include "vmm/client.h"
#include "vmm/front.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { OUT_MARK = 256 * 1024 /* bytes that wait to be sent */ };

/* ---- giving up */

void front_hang_up(struct front *f)
{
	f->gone = true;
	f->resumed = false;
	loop_remove(f->source);
	f->source = NULL;
	close_fd(&f->port.fd);
	f->port.out_len = 0;
}

void front_part(struct front *f)
{
	front_hang_up(f);
	loop_remove(f->lease_source);
	f->lease_source = NULL;
	close_fd(&f->lease);
}

static int give_up(struct front *f, struct error *e)
{
	if (f->gone)
		return -1;
	front_part(f);
	if (f->held) /* it is still all here */
		return -1;
	vm_crash(f->vm, "in hypervisor %s: %s", f->vm->config->placement, e->text);
	return -1;
}

/* ---- what the other half tells */

static void update_watch(struct front *f)
{
	/* Who does not read is not heard either. */
	uint32_t events = (f->port.out_len < OUT_MARK ? EPOLLIN : 0) | (f->port.out_len ? EPOLLOUT : 0);

	if (f->source && events != f->watching)
		loop_modify(f->source, events);
	f->watching = events;
}

static int tell(struct front *f, const Vmb__FrontCall *c)
{
	struct error e;

	if (f->gone)
		return -1;
	if (frames_send(&f->port, &c->base, &e))
		return give_up(f, &e);
	update_watch(f);
	return 0;
}

static void on_access(struct front *f, uint64_t id, const Vmb__Access *a)
{
	Vmb__FrontCall c = VMB__FRONT_CALL__INIT;
	unsigned int len = MIN(a->len, 8u);
	uint64_t v = a->value;

	f->vm->platform.pci_address = a->mmio ? 0 : (uint32_t)(a->address >> 32);
	if (a->mmio && !pci_mmio(f->vm, a->address, &v, len, a->write))
		v = ~0ull;
	else if (!a->mmio && a->write)
		pci_config_write(f->vm, (uint16_t)a->address, (uint32_t)v, MIN(len, 4u));
	else if (!a->mmio)
		v = pci_config_read(f->vm, (uint16_t)a->address, MIN(len, 4u));
	if (a->write)
		return;
	c.id = id;
	c.kind_case = VMB__FRONT_CALL__KIND_VALUE;
	c.value = v;
	tell(f, &c);
}

static void on_kick(struct front *f, uint32_t index)
{
	struct vm *vm = f->vm;

	for (unsigned int i = 0; i < vm->nvirtio; i++)
		if (vm->virtio[i]->pci.slot == index / VIRTIO_MAX_QUEUES &&
		    index % VIRTIO_MAX_QUEUES < vm->virtio[i]->ops->nqueues)
			eventfd_write(vm->virtio[i]->queues[index % VIRTIO_MAX_QUEUES].kick, 1);
}

static int on_serial(struct front *f, const Vmb__SerialBytes *s, struct error *e)
{
	if (s->data.len > f->credit || s->data.len > sizeof(f->tx) - f->tx_len ||
	    s->credit > CONSOLE_WAITING - f->room)
		return error_set(e, "more on the serial line than was agreed");
	if (s->data.len)
		memcpy(f->tx + f->tx_len, s->data.data, s->data.len);
	f->tx_len += s->data.len;
	f->credit -= s->data.len;
	f->room += s->credit;
	if (f->vm->console)
		console_wake(f->vm->console);
	return 0;
}

static void on_end(struct front *f, const Vmb__EndReply *end)
{
	front_part(f);
	if (!strcmp(end->reason, "debug-exit"))
		vm_end(f->vm, VM_END_DEBUG_EXIT, end->status & 0xff);
	else
		vm_end(f->vm, VM_END_SHUTDOWN, 0);
}

static void forget_told(struct front *f)
{
	if (f->told)
		vmb__back_info__free_unpacked(f->told, NULL);
	f->told = NULL;
}

static int on_info(struct front *f, Vmb__FrontEvent *ev, struct error *e)
{
	if (ev->info->n_exits != f->vm->config->cpus || ev->info->n_cpu_ns != f->vm->config->cpus ||
	    (ev->info->n_delay_ns && ev->info->n_delay_ns != f->vm->config->cpus) ||
	    (ev->info->n_pages && ev->info->n_pages != VM_PAGE_SIZES))
		return error_set(e, "counts that make no sense");
	forget_told(f);
	f->told = ev->info;
	ev->kind_case = VMB__FRONT_EVENT__KIND__NOT_SET;
	return 0;
}

static int handle(struct front *f, Vmb__FrontEvent *ev, struct error *e)
{
	switch (ev->kind_case) {
	case VMB__FRONT_EVENT__KIND_ACCESS:
		on_access(f, ev->id, ev->access);
		return 0;
	case VMB__FRONT_EVENT__KIND_KICK:
		on_kick(f, ev->kick);
		return 0;
	case VMB__FRONT_EVENT__KIND_SERIAL:
		return on_serial(f, ev->serial, e);
	case VMB__FRONT_EVENT__KIND_END:
		on_end(f, ev->end);
		return 0;
	case VMB__FRONT_EVENT__KIND_INFO:
		return on_info(f, ev, e);
	case VMB__FRONT_EVENT__KIND_CRASHED:
		return error_set(e, "%.150s", ev->crashed);
	case VMB__FRONT_EVENT__KIND_RESET:
		f->vm->reset_wanted = true;
		vm_wake(f->vm);
		return 0;
	default:
		return 0; /* a late answer */
	}
}

/* Handles what has come.  If the answer to `id` is among it, that is *answer, and the rest waits. */
static int hear(struct front *f, uint64_t id, Vmb__FrontEvent **answer, struct error *e)
{
	ProtobufCMessage *m;
	int r = 0;

	while (!f->gone && !(answer && *answer) &&
	       (r = frames_take(&f->port, &vmb__front_event__descriptor, &m, e)) > 0) {
		Vmb__FrontEvent *ev = (Vmb__FrontEvent *)m;

		if (answer && ev->id == id && ev->kind_case != VMB__FRONT_EVENT__KIND_ACCESS) {
			*answer = ev;
			return 0;
		}
		r = handle(f, ev, e);
		protobuf_c_message_free_unpacked(m, NULL);
		if (r < 0)
			break;
	}
	return r < 0 ? -1 : 0;
}

static void on_port(void *ctx, uint32_t events)
{
	struct front *f = ctx;
	struct error e;

	if (f->vm->end != VM_END_NONE)
		return; /* it has left: whatever the hypervisor says is said to nobody */
	if (frames_flush(&f->port, &e) || (events & ~(uint32_t)EPOLLOUT && frames_read(&f->port, &e)) ||
	    hear(f, 0, NULL, &e)) {
		/* What it said last, its end perhaps, was heard. */
		if (hear(f, 0, NULL, &e) || !f->gone)
			give_up(f, &e);
		return;
	}
	update_watch(f);
}

/* The host VM has ended, or has let the memory go. */
static void on_lease(void *ctx, uint32_t events)
{
	struct front *f = ctx;
	struct error e;

	(void)events;
	if (f->gone) {
		front_part(f);
		return;
	}
	error_set(&e, "its host VM has gone");
	give_up(f, &e);
}

/* ---- calls */

/* Waits for the answer to a call: done, or with a state.  What is late by FRONT_CALL_MS is given up; by less, its
 * answer is not waited for any more. */
static Vmb__FrontEvent *await(struct front *f, uint64_t id, int timeout_ms, struct error *e)
{
	uint64_t deadline = clock_ns() + (uint64_t)timeout_ms * 1000000;
	Vmb__FrontEvent *answer = NULL;

	while (!f->gone && !answer) {
		struct pollfd p = {.fd = f->port.fd, .events = POLLIN};
		uint64_t now = clock_ns();

		if (hear(f, id, &answer, e)) {
			give_up(f, e);
			return NULL;
		}
		if (answer || f->gone)
			break;
		if (f->port.out_len)
			p.events |= POLLOUT;
		if (now >= deadline)
			error_set(e, "it has not answered for %d s", timeout_ms / 1000);
		if (now >= deadline && timeout_ms < FRONT_CALL_MS) {
			update_watch(f);
			return NULL;
		}
		if (now >= deadline ||
		    (poll(&p, 1, (int)((deadline - now) / 1000000 + 1)) > 0 &&
		     ((p.revents & POLLOUT && frames_flush(&f->port, e)) ||
		      (p.revents & ~POLLOUT && frames_read(&f->port, e))))) {
			give_up(f, e);
			return NULL;
		}
	}
	update_watch(f);
	if (!answer)
		error_set(e, "%s", f->vm->crash[0] ? f->vm->crash : "the VM has ended");
	if (answer && answer->error[0]) {
		error_set(e, "in hypervisor %s: %.200s", f->vm->config->placement, answer->error);
		vmb__front_event__free_unpacked(answer, NULL);
		return NULL;
	}
	return answer;
}

Vmb__FrontEvent *front_ask(struct front *f, Vmb__FrontCall *c, int timeout_ms, struct error *e)
{
	c->id = ++f->last_id;
	if (tell(f, c)) {
		error_set(e, "%s", f->vm->crash[0] ? f->vm->crash : "its hypervisor has gone");
		return NULL;
	}
	return await(f, c->id, timeout_ms, e);
}

int front_call(struct front *f, Vmb__FrontCall *c, struct error *e)
{
	Vmb__FrontEvent *answer = front_ask(f, c, FRONT_CALL_MS, e);

	if (!answer)
		return -1;
	vmb__front_event__free_unpacked(answer, NULL);
	return 0;
}

void front_hear_rest(struct front *f)
{
	struct error e;

	if (!f->gone && hear(f, 0, NULL, &e))
		give_up(f, &e);
}

static int simple_call(struct front *f, Vmb__FrontCall__KindCase kind, struct error *e)
{
	Vmb__FrontCall c = VMB__FRONT_CALL__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	c.kind_case = kind;
	c.resume = &empty; /* every member of the union is a pointer to an empty message */
	return front_call(f, &c, e);
}

/* ---- building */

static int take_lease(struct front *f, int lease, struct error *e)
{
	struct vm *vm = f->vm;
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__BeamInRequest in = VMB__BEAM_IN_REQUEST__INIT;
	Vmb__Reply *reply = NULL;
	struct wire_fds fds;

	r.kind_case = VMB__REQUEST__KIND_BEAM_IN;
	r.beam_in = &in;
	in.guest = vm->config->name;
	f->lease = lease;
	if (f->lease < 0 ||
	    vmm_request(f->lease, &r, &vm->memory.fd, 1, &reply, &fds, FRONT_LEASE_MS, e)) {
		struct error why = *e;

		return error_set(e, "hypervisor %s: %.300s", vm->config->placement, why.text);
	}
	if (reply->kind_case == VMB__REPLY__KIND_BEAM_IN) {
		f->offset = reply->beam_in->offset;
		f->port.fd = wire_take_fd(&fds, 0);
	}
	vmb__reply__free_unpacked(reply, NULL);
	wire_close_fds(&fds);
	if (f->port.fd < 0)
		return error_set(e, "hypervisor %s: its process made no sense", vm->config->placement);
	return 0;
}

void front_begin(struct front *f)
{
	f->gone = f->fenced = false;
	f->lease = -1;
	frames_init(&f->port, -1);
	f->last_id = 0;
	f->credit = CONSOLE_TX;
	f->room = CONSOLE_WAITING;
	forget_told(f);
}

void front_prepare(struct vm *vm)
{
	struct front *f = xcalloc(1, sizeof(*f));

	vm->front = f;
	f->vm = vm;
	front_begin(f);
}

int front_join(struct front *f, int lease, struct error *e)
{
	struct vm *vm = f->vm;
	Vmb__FrontCall c = VMB__FRONT_CALL__INIT;
	Vmb__BackBuild build = VMB__BACK_BUILD__INIT;
	Vmb__VmConfig config = *vm->config;

	if (take_lease(f, lease, e))
		return -1;
	config.n_disks = config.n_nets = config.n_modules = 0;
	config.placement = (char *)(uintptr_t)protobuf_c_empty_string;
	build.config = &config;
	build.offset = f->offset;
	build.pci_devices = vm->npci;
	c.kind_case = VMB__FRONT_CALL__KIND_BUILD;
	c.build = &build;
	if (front_call(f, &c, e))
		return -1;
	f->watching = EPOLLIN;
	f->source = loop_add(vm->loop, f->port.fd, f->watching, on_port, f);
	f->lease_source = loop_add(vm->loop, f->lease, 0, on_lease, f); /* its end only */
	update_watch(f);
	return 0;
}

int front_create(struct vm *vm, struct error *e)
{
	return front_join(vm->front, vmm_connect(vm->config->placement, e), e);
}

void front_leave(struct vm *vm)
{
	if (vm->front && !vm->front->held)
		front_part(vm->front);
}

void front_destroy(struct vm *vm)
{
	struct front *f = vm->front;

	if (!f)
		return;
	front_part(f);
	frames_free(&f->port);
	if (f->held)
		vmb__vm_state__free_unpacked(f->held, NULL);
	forget_told(f);
	free(f);
	vm->front = NULL;
}

int front_boot(struct vm *vm, const struct boot_entry *entry, struct error *e)
{
	Vmb__FrontCall c = VMB__FRONT_CALL__INIT;
	Vmb__BackBoot boot = VMB__BACK_BOOT__INIT;

	boot.mode = entry->mode;
	boot.rip = entry->rip;
	boot.rsi = entry->rsi;
	boot.rbx = entry->rbx;
	boot.rax = entry->rax;
	c.kind_case = VMB__FRONT_CALL__KIND_BOOT;
	c.boot = &boot;
	return front_call(vm->front, &c, e);
}

/* ---- running */

void front_resume(struct vm *vm)
{
	struct front *f = vm->front;
	struct error e;

	if (simple_call(f, VMB__FRONT_CALL__KIND_RESUME, &e)) {
		give_up(f, &e);
		return;
	}
	f->resumed = true;
	vm->running = true;
	if (!vm->first_run_ns)
		vm->first_run_ns = clock_ns();
	front_hear_rest(f);
}

/* A VM whose vCPUs do not stop within FRONT_CALL_MS has crashed, and cannot reach its memory any more. */
void front_pause(struct vm *vm)
{
	struct front *f = vm->front;
	struct error e;

	vm->running = false;
	if (f->resumed && simple_call(f, VMB__FRONT_CALL__KIND_PAUSE, &e))
		give_up(f, &e);
	f->resumed = false;
}

void front_power_button(struct vm *vm)
{
	struct error e;

	if (simple_call(vm->front, VMB__FRONT_CALL__KIND_POWER_BUTTON, &e))
		log_line("%s: power button: %s", vm->config->name, e.text);
	front_hear_rest(vm->front);
}

/* What is now is asked for: whoever wants to see progress asks again. */
const Vmb__BackInfo *front_told(struct vm *vm)
{
	Vmb__FrontCall c = VMB__FRONT_CALL__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	c.kind_case = VMB__FRONT_CALL__KIND_INFO;
	c.info = &empty;
	tell(vm->front, &c);
	return vm->front->told;
}

void front_msi(struct vm *vm, uint64_t address, uint32_t data)
{
	Vmb__FrontCall c = VMB__FRONT_CALL__INIT;
	Vmb__Msi msi = VMB__MSI__INIT;

	msi.address = address;
	msi.data = data;
	vm->front->signals++;
	c.kind_case = VMB__FRONT_CALL__KIND_MSI;
	c.msi = &msi;
	tell(vm->front, &c);
}

void front_doorbell(struct virtq *q, uint64_t address)
{
	Vmb__FrontCall c = VMB__FRONT_CALL__INIT;
	Vmb__Doorbell bell = VMB__DOORBELL__INIT;

	bell.index = q->dev->pci.slot * VIRTIO_MAX_QUEUES + q->index; /* see on_kick() */
	bell.address = address;
	c.kind_case = VMB__FRONT_CALL__KIND_DOORBELL;
	c.doorbell = &bell;
	tell(q->dev->pci.vm->front, &c);
}

/* ---- the serial line, as the console sees it */

static const uint8_t *port_tx(void *port, size_t *len)
{
	struct front *f = port;

	*len = f->tx_len;
	return f->tx;
}

static void send_serial(struct front *f, const uint8_t *data, size_t len, uint32_t credit)
{
	Vmb__FrontCall c = VMB__FRONT_CALL__INIT;
	Vmb__SerialBytes s = VMB__SERIAL_BYTES__INIT;

	s.data = (ProtobufCBinaryData){len, (uint8_t *)(uintptr_t)data};
	s.credit = credit;
	c.kind_case = VMB__FRONT_CALL__KIND_SERIAL;
	c.serial = &s;
	tell(f, &c);
}

static void port_tx_taken(void *port, size_t len)
{
	struct front *f = port;
	size_t more;

	f->tx_len -= len;
	memmove(f->tx, f->tx + len, f->tx_len);
	/* Half of it at once, not each byte. */
	more = CONSOLE_TX - MIN((size_t)CONSOLE_TX, f->tx_len + f->credit);
	if (more < CONSOLE_TX / 2)
		return;
	f->credit += more;
	send_serial(f, NULL, 0, (uint32_t)more);
}

static size_t port_room(void *port)
{
	return ((struct front *)port)->room;
}

static size_t port_receive(void *port, const uint8_t *data, size_t len)
{
	struct front *f = port;
	size_t n = MIN(len, f->room);

	if (!n)
		return 0;
	f->room -= n;
	send_serial(f, data, n, 0);
	return n;
}

const struct console_port front_serial_port = {
	.tx = port_tx,
	.tx_taken = port_tx_taken,
	.room = port_room,
	.receive = port_receive,
};
