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
#include "vmm/frame.h"
#include "vmm/internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <x86intrin.h>

enum {
	LEASE_MS = 20000,	/* and a second for each GiB: that much may have to be taken out before */
	CALL_MS = 30000,
	LOOK_MS = 2000,
	MAX_EXTENTS = 16384,
	OUT_MARK = 256 * 1024, /* bytes that wait to be sent */
	RELAY_SIZE = 4 * CONSOLE_TX, /* of what came with a state; it grows no more than CONSOLE_TX else */
};

struct front {
	struct vm *vm;
	int lease;
	struct frames port;
	struct loop_source *source, *lease_source;
	uint32_t watching;
	uint64_t offset, last_id;
	bool gone;	/* no other half any more */
	bool resumed;	/* it runs, as far as this half knows */
	bool fenced;
	uint64_t signals; /* interrupts sent */
	Vmb__VmState *held; /* of a suspended VM */
	Vmb__BackInfo *told; /* NULL until it has been */
	/* The serial line: what came and no client has had yet, and what may be sent each way. */
	uint8_t tx[RELAY_SIZE + CONSOLE_TX];
	size_t tx_len, credit, room;
};

/* ---- giving up */

/* Says no more to the other half. */
static void hang_up(struct front *f)
{
	f->gone = true;
	f->resumed = false;
	loop_remove(f->source);
	f->source = NULL;
	close_fd(&f->port.fd);
	f->port.out_len = 0;
}

static void part(struct front *f)
{
	hang_up(f);
	loop_remove(f->lease_source);
	f->lease_source = NULL;
	close_fd(&f->lease); /* takes the memory out of the window */
}

static int give_up(struct front *f, struct error *e)
{
	if (f->gone)
		return -1;
	part(f);
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
	part(f);
	if (!strcmp(end->reason, "debug-exit"))
		vm_end(f->vm, VM_END_DEBUG_EXIT, end->status & 0xff);
	else
		vm_end(f->vm, VM_END_SHUTDOWN, 0);
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
		if (f->told)
			vmb__back_info__free_unpacked(f->told, NULL);
		f->told = ev->info;
		ev->kind_case = VMB__FRONT_EVENT__KIND__NOT_SET;
		return 0;
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
		part(f);
		return;
	}
	error_set(&e, "its host VM has gone");
	give_up(f, &e);
}

/* ---- calls */

/* Waits for the answer to a call: done, or with a state.  What is late by CALL_MS is given up; by less, its
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
		if (now >= deadline && timeout_ms < CALL_MS) {
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

static Vmb__FrontEvent *ask(struct front *f, Vmb__FrontCall *c, int timeout_ms, struct error *e)
{
	c->id = ++f->last_id;
	if (tell(f, c)) {
		error_set(e, "%s", f->vm->crash[0] ? f->vm->crash : "its hypervisor has gone");
		return NULL;
	}
	return await(f, c->id, timeout_ms, e);
}

static int call(struct front *f, Vmb__FrontCall *c, struct error *e)
{
	Vmb__FrontEvent *answer = ask(f, c, CALL_MS, e);

	if (!answer)
		return -1;
	vmb__front_event__free_unpacked(answer, NULL);
	return 0;
}

/* What came together with an answer, while the guest runs: the loop sees only what comes later. */
static void hear_rest(struct front *f)
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
	return call(f, &c, e);
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
	    vmm_request(f->lease, &r, &vm->memory.fd, 1, &reply, &fds, LEASE_MS, e)) {
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

static void forget_told(struct front *f)
{
	if (f->told)
		vmb__back_info__free_unpacked(f->told, NULL);
	f->told = NULL;
}

/* As it is before there is another half. */
static void begin(struct front *f)
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
	begin(f);
}

/* Leases memory and a port, and has the other half built. */
static int join(struct front *f, int lease, struct error *e)
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
	if (call(f, &c, e))
		return -1;
	f->watching = EPOLLIN;
	f->source = loop_add(vm->loop, f->port.fd, f->watching, on_port, f);
	f->lease_source = loop_add(vm->loop, f->lease, 0, on_lease, f); /* its end only */
	update_watch(f);
	return 0;
}

int front_create(struct vm *vm, struct error *e)
{
	return join(vm->front, vmm_connect(vm->config->placement, e), e);
}

void front_leave(struct vm *vm)
{
	if (vm->front && !vm->front->held)
		part(vm->front);
}

void front_destroy(struct vm *vm)
{
	struct front *f = vm->front;

	if (!f)
		return;
	part(f);
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
	return call(vm->front, &c, e);
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
	hear_rest(f);
}

/* A VM whose vCPUs do not stop within CALL_MS has crashed, and cannot reach its memory any more. */
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
	hear_rest(vm->front);
}

/* What was told last; what is now is asked for: whoever wants to see progress asks again. */
size_t front_counts(struct vm *vm, uint64_t *exits, uint64_t *cpu_ns, size_t max, uint64_t *pages, size_t *npages)
{
	struct front *f = vm->front;
	Vmb__FrontCall c = VMB__FRONT_CALL__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	size_t n = f->told ? MIN(MIN(f->told->n_exits, f->told->n_cpu_ns), max) : 0;

	for (size_t i = 0; i < n; i++) {
		exits[i] = f->told->exits[i];
		cpu_ns[i] = f->told->cpu_ns[i];
	}
	*npages = f->told && f->told->n_pages == VM_PAGE_SIZES ? VM_PAGE_SIZES : 0;
	for (size_t i = 0; i < *npages; i++)
		pages[i] = f->told->pages[i];
	c.kind_case = VMB__FRONT_CALL__KIND_INFO;
	c.info = &empty;
	tell(f, &c);
	return n;
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

/* ---- handover */

/* What this half holds of the serial line comes before what the other has. */
static void join_serial(struct front *f, Vmb__SerialState *s)
{
	size_t first = MIN(f->tx_len, (size_t)RELAY_SIZE), rest = MIN(s->tx.len, RELAY_SIZE - first);
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
	answer = vm->front->gone ? NULL : ask(vm->front, &c, LOOK_MS, &e);
	if (answer && answer->kind_case == VMB__FRONT_EVENT__KIND_CAPTURED) {
		s = answer->captured;
		answer->kind_case = VMB__FRONT_EVENT__KIND__NOT_SET;
	}
	if (answer)
		vmb__front_event__free_unpacked(answer, NULL);
	hear_rest(vm->front);
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
		answer = ask(f, &c, CALL_MS, e);
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

	if (!s->serial || !s->platform || s->serial->tx.len > RELAY_SIZE ||
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
	return call(f, &c, e);
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
	while (warm.n_extents < MAX_EXTENTS && memory_next_extent(&vm->memory, &start, &end)) {
		Vmb__Extent *at = &x[warm.n_extents];

		vmb__extent__init(at);
		at->start = start;
		at->size = end - start;
		ptrs[warm.n_extents++] = at;
	}
	c.kind_case = VMB__FRONT_CALL__KIND_WARM;
	c.warm = &warm;
	r = call(vm->front, &c, e);
	free(x);
	free(ptrs);
	return r;
}

/* One that fails is the last: an answer that comes late must not be taken for that to the next.  The lease ends,
 * and its other end closes once the memory is out of reach, or has gone with the host VM. */
static int lease_request(struct front *f, Vmb__Request__KindCase kind, struct error *e)
{
	int timeout_ms = LEASE_MS + (int)(f->vm->memory.size / GIB) * 1000;
	int r = vmm_simple_request(f->lease, kind, NULL, NULL, timeout_ms, e);

	if (r) {
		hang_up(f);
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
		part(f);
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
	begin(f);
	vm->config->placement = xstrdup(placement);
	if (join(f, lease, e))
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
	part(f);
	frames_free(&f->port);
	free(vm->config->placement);
	vm->config->placement = old;
	return -1;
}
