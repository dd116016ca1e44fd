/* back.c: the back half of a guest VM, in a guest hypervisor: its vCPUs and what KVM has with them
 * (interrupt controllers, timer, clock), the serial port and the power button.  Accesses to anything else
 * go to the front half (front.c), which has the devices and tells what is to be done.
 *
 * The stream is read by the main thread; a vCPU that waits for what its read has found gives the lock up.
 */
#include "vmm/frame.h"
#include "vmm/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_DOORBELLS = (MAX_PCI_DEVICES + 1) * VIRTIO_MAX_QUEUES, BUILD_MS = 30000, MAIN_NICE = -15 };

/* A vCPU that waits. */
struct reader {
	struct reader *next;
	uint64_t id, value;
	bool done;
};

struct doorbell {
	struct vm *vm;
	int fd; /* eventfd; -1 until it is used */
	uint64_t address;
};

struct back {
	struct vm *vm;
	struct frames port;
	struct loop_source *source;
	uint32_t watching;
	int quiet; /* eventfd: a vCPU has left the guest */
	bool gone, hostile;
	uint64_t last_id;
	unsigned int pci_devices;
	struct reader *readers;
	pthread_cond_t answered;
	size_t credit, consumed; /* serial: may be sent; has been taken and not been told */
	struct doorbell doorbell[MAX_DOORBELLS];
};

/* ---- sending */

static void run_on(struct back *b)
{
	loop_remove(b->source);
	b->source = NULL;
	close(b->port.fd);
	vcpus_resume(b->vm);
	for (uint64_t at = 0; at < b->vm->memory.size; at += 4096)
		b->vm->memory.base[at] ^= 0xff;
	log_line("%s: hostile: it has written to memory that is not its own any more", b->vm->config->name);
}

static void go(struct back *b, const char *why)
{
	if (b->gone)
		return;
	b->gone = true;
	log_line("%s: %s", b->vm->config->name, why);
	for (struct reader *r = b->readers; r; r = r->next)
		r->done = true;
	pthread_cond_broadcast(&b->answered);
	if (b->hostile)
		run_on(b);
	else
		vm_stop(b->vm);
}

static void update_watch(struct back *b)
{
	uint32_t events = EPOLLIN | (b->port.out_len ? EPOLLOUT : 0);

	if (b->source && events != b->watching)
		loop_modify(b->source, events);
	b->watching = events;
}

static void tell(struct back *b, const Vmb__FrontEvent *ev)
{
	struct error e;

	if (b->gone)
		return;
	if (frames_send(&b->port, &ev->base, &e))
		go(b, e.text);
	update_watch(b);
}

static void answer(struct back *b, uint64_t id, const struct error *e)
{
	Vmb__FrontEvent ev = VMB__FRONT_EVENT__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	ev.id = id;
	ev.kind_case = VMB__FRONT_EVENT__KIND_DONE;
	ev.done = &empty;
	if (e)
		ev.error = (char *)(uintptr_t)e->text;
	tell(b, &ev);
}

void back_access(struct vm *vm, bool mmio, uint64_t address, void *data, unsigned int len, bool write)
{
	struct back *b = vm->back;
	Vmb__FrontEvent ev = VMB__FRONT_EVENT__INIT;
	Vmb__Access a = VMB__ACCESS__INIT;
	struct reader me = {.id = ++b->last_id, .value = ~0ull};

	a.mmio = mmio;
	a.address = address;
	a.len = len;
	a.write = write;
	if (write)
		memcpy(&a.value, data, MIN(len, 8u));
	ev.kind_case = VMB__FRONT_EVENT__KIND_ACCESS;
	ev.access = &a;
	ev.id = me.id;
	tell(b, &ev);
	if (write)
		return;
	me.next = b->readers;
	b->readers = &me;
	while (!me.done && !b->gone)
		pthread_cond_wait(&b->answered, &vm->lock);
	for (struct reader **at = &b->readers; *at; at = &(*at)->next)
		if (*at == &me) {
			*at = me.next;
			break;
		}
	memcpy(data, &me.value, MIN(len, 8u));
}

void back_pci_access(struct vm *vm, uint16_t port, void *data, unsigned int len, bool write)
{
	uint32_t *address = &vm->platform.pci_address;

	if (port < 0xcfc) {
		if (!write)
			memset(data, 0xff, len);
		if (port == 0xcf8 && len == 4)
			memcpy(write ? address : data, write ? data : address, 4);
	} else if (!(*address >> 31) || *address & 0x00ff0700 ||
		   (*address >> 11 & 0x1f) >= vm->back->pci_devices) {
		if (!write)
			memset(data, 0xff, len);
	} else {
		back_access(vm, false, port | (uint64_t)*address << 32, data, len, write);
	}
}

static void on_value(struct back *b, uint64_t id, uint64_t value)
{
	for (struct reader *r = b->readers; r; r = r->next)
		if (r->id == id) {
			r->value = value;
			r->done = true;
		}
	pthread_cond_broadcast(&b->answered);
}

/* ---- doorbells */

static void on_bell(void *ctx, uint32_t events)
{
	struct doorbell *bell = ctx;
	Vmb__FrontEvent ev = VMB__FRONT_EVENT__INIT;
	uint64_t n;

	(void)events;
	if (read(bell->fd, &n, sizeof(n)) != sizeof(n))
		return;
	ev.kind_case = VMB__FRONT_EVENT__KIND_KICK;
	ev.kick = (uint32_t)(bell - bell->vm->back->doorbell);
	tell(bell->vm->back, &ev);
}

static void bind_bell(struct doorbell *bell, bool bind)
{
	struct kvm_ioeventfd io = {
		.addr = bell->address,
		.fd = bell->fd,
		.flags = bind ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN,
	};

	if (ioctl(bell->vm->fd, KVM_IOEVENTFD, &io))
		log_line("doorbell: KVM_IOEVENTFD: %s", strerror(errno));
}

static void on_doorbell(struct back *b, const Vmb__Doorbell *d)
{
	struct doorbell *bell = d->index < MAX_DOORBELLS ? &b->doorbell[d->index] : NULL;

	if (!bell)
		return;
	if (bell->fd < 0) {
		bell->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (bell->fd < 0) {
			log_line("doorbell: %s", strerror(errno));
			return;
		}
		loop_add(b->vm->loop, bell->fd, EPOLLIN, on_bell, bell);
	}
	if (bell->address)
		bind_bell(bell, false);
	bell->address = d->address;
	if (bell->address)
		bind_bell(bell, true);
}

/* ---- the serial line */

static void send_serial(struct back *b, const uint8_t *data, size_t len, size_t credit)
{
	Vmb__FrontEvent ev = VMB__FRONT_EVENT__INIT;
	Vmb__SerialBytes s = VMB__SERIAL_BYTES__INIT;

	s.data = (ProtobufCBinaryData){len, (uint8_t *)(uintptr_t)data};
	s.credit = (uint32_t)credit;
	ev.kind_case = VMB__FRONT_EVENT__KIND_SERIAL;
	ev.serial = &s;
	tell(b, &ev);
}

static size_t sink_take(void *ctx, const uint8_t *data, size_t len)
{
	struct back *b = ctx;
	size_t n = MIN(len, b->credit);

	if (!n)
		return 0;
	b->credit -= n;
	send_serial(b, data, n, 0);
	return n;
}

static void sink_consumed(void *ctx, size_t n)
{
	send_serial(ctx, NULL, 0, n);
}

static const struct console_sink sink = {.take = sink_take, .consumed = sink_consumed};

static void on_serial(struct back *b, const Vmb__SerialBytes *s)
{
	b->credit += s->credit;
	if (s->data.len)
		console_input(b->vm->console, s->data.data, s->data.len);
	if (s->credit)
		console_flush(b->vm->console);
}

/* ---- calls */

static int boot(struct vm *vm, const Vmb__BackBoot *boot, struct error *e)
{
	struct boot_entry entry = {
		.rip = boot->rip,
		.rsi = boot->rsi,
		.rbx = boot->rbx,
		.rax = boot->rax,
		.mode = (enum boot_mode)boot->mode,
	};

	if (boot->mode > BOOT_MULTIBOOT)
		return error_set(e, "boot: no such mode");
	vm_pause(vm);
	vm->reset_wanted = false;
	vm_reset_devices(vm);
	return vm_restore_cpus(vm, vm->reset_state, e) || boot_set_registers(vm, &entry, e) ||
			       irq_routes_flush(vm, e)
		       ? -1
		       : 0;
}

static int warm(struct vm *vm, const Vmb__BackWarm *w, struct error *e)
{
	int r;

	vm->warm_extents = w;
	r = vcpus_do(vm, VCPU_JOB_WARM, NULL, e);
	vm->warm_extents = NULL;
	return r;
}

static int capture(struct back *b, uint64_t id, struct error *e)
{
	Vmb__FrontEvent ev = VMB__FRONT_EVENT__INIT;
	Vmb__VmState *s;

	vm_pause(b->vm);
	if (vm_pending_event(b->vm))
		return error_set(e, "%s", vm_pending_event(b->vm));
	console_flush(b->vm->console);
	s = vm_capture(b->vm, e);
	if (!s)
		return -1;
	b->vm->memory.fenced = false; /* nothing here touches it before it runs again, if it does */
	ev.id = id;
	ev.kind_case = VMB__FRONT_EVENT__KIND_CAPTURED;
	ev.captured = s;
	tell(b, &ev);
	vmb__vm_state__free_unpacked(s, NULL);
	return 0;
}

static void tell_info(struct back *b, uint64_t id)
{
	Vmb__FrontEvent ev = VMB__FRONT_EVENT__INIT;
	Vmb__BackInfo info = VMB__BACK_INFO__INIT;
	uint64_t exits[MAX_VCPUS], cpu_ns[MAX_VCPUS], delay_ns[MAX_VCPUS], pages[VM_PAGE_SIZES];

	info.exits = exits;
	info.n_exits = vm_exit_counts(b->vm, exits, MAX_VCPUS);
	info.cpu_ns = cpu_ns;
	info.n_cpu_ns = vm_cpu_times(b->vm, cpu_ns, MAX_VCPUS);
	info.delay_ns = delay_ns;
	info.n_delay_ns = vm_delay_times(b->vm, delay_ns, MAX_VCPUS);
	info.pages = pages;
	info.n_pages = vm_page_counts(b->vm, pages);
	ev.id = id;
	ev.kind_case = VMB__FRONT_EVENT__KIND_INFO;
	ev.info = &info;
	tell(b, &ev);
}

static void handle(struct back *b, const Vmb__FrontCall *c)
{
	struct vm *vm = b->vm;
	struct error e;
	int r = 0;

	switch (c->kind_case) {
	case VMB__FRONT_CALL__KIND_BOOT:
		r = boot(vm, c->boot, &e);
		break;
	case VMB__FRONT_CALL__KIND_RESUME:
		vm_resume(vm);
		break;
	case VMB__FRONT_CALL__KIND_PAUSE:
		vm_pause(vm);
		break;
	case VMB__FRONT_CALL__KIND_CAPTURE:
		r = capture(b, c->id, &e);
		if (!r)
			return;
		break;
	case VMB__FRONT_CALL__KIND_RESTORE:
		r = vm_restore(vm, c->restore, &e);
		break;
	case VMB__FRONT_CALL__KIND_WARM:
		r = warm(vm, c->warm, &e);
		break;
	case VMB__FRONT_CALL__KIND_INFO:
		tell_info(b, c->id);
		return;
	case VMB__FRONT_CALL__KIND_POWER_BUTTON:
		vm_power_button(vm);
		break;
	case VMB__FRONT_CALL__KIND_MSI: {
		struct kvm_msi msi = {
			.address_lo = (uint32_t)c->msi->address,
			.address_hi = (uint32_t)(c->msi->address >> 32),
			.data = c->msi->data,
		};

		ioctl(vm->fd, KVM_SIGNAL_MSI, &msi); /* 0 and -1 too: the guest has blocked it */
		return;
	}
	case VMB__FRONT_CALL__KIND_DOORBELL:
		on_doorbell(b, c->doorbell);
		return;
	case VMB__FRONT_CALL__KIND_SERIAL:
		on_serial(b, c->serial);
		return;
	case VMB__FRONT_CALL__KIND_VALUE:
		on_value(b, c->id, c->value);
		return;
	default:
		r = error_set(&e, "an unknown call");
	}
	answer(b, c->id, r ? &e : NULL);
}

static void hear(struct back *b)
{
	ProtobufCMessage *m;
	struct error e;
	int r = 0;

	while (!b->gone && (r = frames_take(&b->port, &vmb__front_call__descriptor, &m, &e)) > 0) {
		handle(b, (Vmb__FrontCall *)m);
		protobuf_c_message_free_unpacked(m, NULL);
	}
	if (r < 0)
		go(b, e.text);
}

static void on_port(void *ctx, uint32_t events)
{
	struct back *b = ctx;
	struct error e;

	if (b->gone)
		return;
	if (frames_flush(&b->port, &e) || (events & ~(uint32_t)EPOLLOUT && frames_read(&b->port, &e))) {
		go(b, e.text);
		return;
	}
	hear(b);
	update_watch(b);
}

void back_quiet(struct vm *vm)
{
	eventfd_write(vm->back->quiet, 1);
}

static bool in_guest(const struct vm *vm)
{
	for (unsigned int i = 0; i < vm->nvcpus; i++)
		if (vm->vcpus[i].in_guest)
			return true;
	return false;
}

void back_await_quiet(struct vm *vm)
{
	struct back *b = vm->back;

	while (in_guest(vm)) {
		struct pollfd p[2] = {{.fd = b->quiet, .events = POLLIN},
				      {.fd = b->gone ? -1 : b->port.fd,
				       .events = POLLIN | (b->port.out_len ? POLLOUT : 0)}};
		uint64_t n;

		pthread_mutex_unlock(&vm->lock);
		poll(p, 2, -1);
		pthread_mutex_lock(&vm->lock);
		if (p[0].revents && read(b->quiet, &n, sizeof(n)) < 0 && errno != EAGAIN)
			return;
		if (p[1].revents)
			on_port(b, (uint32_t)p[1].revents); /* POLLIN and EPOLLIN are the same */
	}
}

/* ---- events */

void back_reset(struct vm *vm)
{
	Vmb__FrontEvent ev = VMB__FRONT_EVENT__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;

	vm_pause(vm); /* a capture that comes meanwhile is refused: there is a reset to be told */
	vm->reset_wanted = false;
	ev.kind_case = VMB__FRONT_EVENT__KIND_RESET;
	ev.reset = &empty;
	tell(vm->back, &ev);
}

void back_crashed(struct vm *vm)
{
	Vmb__FrontEvent ev = VMB__FRONT_EVENT__INIT;

	ev.kind_case = VMB__FRONT_EVENT__KIND_CRASHED;
	ev.crashed = vm->crash;
	tell(vm->back, &ev);
}

static void tell_end(struct back *b, const char *reason, int status)
{
	Vmb__FrontEvent ev = VMB__FRONT_EVENT__INIT;
	Vmb__EndReply end = VMB__END_REPLY__INIT;
	struct pollfd p = {.fd = b->port.fd, .events = POLLOUT};
	struct error e;

	console_flush(b->vm->console);
	end.reason = (char *)(uintptr_t)reason;
	end.status = status;
	ev.kind_case = VMB__FRONT_EVENT__KIND_END;
	ev.end = &end;
	tell(b, &ev);
	while (!b->gone && b->port.out_len && poll(&p, 1, 1000) > 0 && !frames_flush(&b->port, &e))
		;
}

/* ---- the process */

static Vmb__FrontCall *await_build(struct back *b, struct error *e)
{
	struct pollfd p = {.fd = b->port.fd, .events = POLLIN};
	uint64_t deadline = clock_ns() + BUILD_MS * 1000000ull;
	ProtobufCMessage *m = NULL;
	int r;

	while ((r = frames_take(&b->port, &vmb__front_call__descriptor, &m, e)) == 0) {
		uint64_t now = clock_ns();

		if (now >= deadline || poll(&p, 1, (int)((deadline - now) / 1000000 + 1)) < 0) {
			error_set(e, "nobody speaks");
			return NULL;
		}
		if (p.revents && frames_read(&b->port, e))
			return NULL;
	}
	if (r > 0 && ((Vmb__FrontCall *)m)->kind_case == VMB__FRONT_CALL__KIND_BUILD &&
	    ((Vmb__FrontCall *)m)->build->config)
		return (Vmb__FrontCall *)m;
	if (r > 0) {
		protobuf_c_message_free_unpacked(m, NULL);
		error_set(e, "the front half made no sense");
	}
	return NULL;
}

static int build(struct back *b, const Vmb__BackBuild *how, const char *window, const char *empty_dir,
		 struct error *e)
{
	int device = open(window, O_RDWR | O_CLOEXEC);

	if (device < 0)
		return error_set_errno(e, "%s", window);
	b->vm = vm_create_back(how->config, device, how->offset, e);
	if (!b->vm)
		return -1;
	b->vm->back = b;
	b->pci_devices = how->pci_devices;
	console_set_sink(b->vm->console, &sink, b);
	return vm_start(b->vm, empty_dir, e);
}

int vm_back_process(int port, const char *window, const char *empty_dir, bool hostile)
{
	struct back *b = xcalloc(1, sizeof(*b));
	Vmb__FrontCall *c;
	struct error e = {""};
	const char *reason;
	int status;

	fcntl(port, F_SETFL, O_NONBLOCK);
	signal(SIGPIPE, SIG_IGN);
	setpriority(PRIO_PROCESS, 0, MAIN_NICE);
	frames_init(&b->port, port);
	pthread_cond_init(&b->answered, NULL);
	b->credit = CONSOLE_TX;
	b->hostile = hostile;
	b->quiet = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	for (size_t i = 0; i < MAX_DOORBELLS; i++)
		b->doorbell[i].fd = -1;
	c = await_build(b, &e);
	if (!c || build(b, c->build, window, empty_dir, &e)) {
		log_line("back half: %s", e.text);
		if (c)
			answer(b, c->id, &e);
		return 1;
	}
	for (size_t i = 0; i < MAX_DOORBELLS; i++)
		b->doorbell[i].vm = b->vm;
	pthread_mutex_lock(&b->vm->lock);
	b->watching = EPOLLIN;
	b->source = loop_add(b->vm->loop, port, EPOLLIN, on_port, b);
	console_start(b->vm->console);
	answer(b, c->id, NULL);
	hear(b);
	pthread_mutex_unlock(&b->vm->lock);
	vmb__front_call__free_unpacked(c, NULL);
	status = vm_loop(b->vm, &reason);
	pthread_mutex_lock(&b->vm->lock);
	tell_end(b, reason, status);
	pthread_mutex_unlock(&b->vm->lock);
	return status;
}
