/* window.c: the beam window of a host VM: whose memory is in it, and where.
 *
 * A guest's memory is there for as long as its lease lasts, a connection to this process: when that
 * closes, however its holder ended, the memory is taken out.  KVM's MMU notifier then removes every
 * translation of it, nested guests' included; nothing in the host VM is asked.
 *
 * Fence: the host VM stands still (its vCPUs leave KVM_RUN; no device of it can reach the window) until
 * the memory is out.  Whoever asked is answered as soon as it stands still: what the taking out costs, and
 * that grows with the memory, is paid while the guest is restored elsewhere.  A fence that is lifted puts
 * the memory back.  What touches the place meanwhile and afterwards finds scratch memory.
 */
#include "vmm/internal.h"
#include "vmm/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { FAULTS_LOGGED = 8 };

struct extent {
	struct extent *next; /* by offset */
	struct vm *vm;
	uint64_t offset, size; /* bytes */
	char guest[64];
	int ram, lease; /* -1: still to come, of one that another process had */
	unsigned int port;
	struct loop_source *source;
	bool out; /* fenced: the memory is not there */
};

struct window {
	struct extent *first;
	uint64_t faults, frozen_ns;
};

static struct window *window_of(struct vm *vm)
{
	if (!vm->window)
		vm->window = xcalloc(1, sizeof(*vm->window));
	return vm->window;
}

/* ---- leases */

static void free_extent(struct extent *x)
{
	loop_remove(x->source);
	close_fd(&x->lease);
	close_fd(&x->ram);
	free(x);
}

static void take_out(struct extent *x)
{
	struct error e;

	if (x->out)
		return;
	if (memory_beam_out(&x->vm->memory, x->offset, x->size, &e)) {
		/* Never may it run on with memory that is another's now. */
		log_line("%s: %s", x->vm->config->name, e.text);
		abort();
	}
	x->out = true;
}

static void end_lease(struct extent *x)
{
	struct extent **at = &x->vm->window->first;

	while (*at != x)
		at = &(*at)->next;
	*at = x->next;
	take_out(x);
	free_extent(x);
}

static void fence(struct extent *x)
{
	struct vm *vm = x->vm;
	uint64_t start = clock_ns();

	vm_pause(vm);
	control_reply_ready(x->lease, NULL, 0);
	take_out(x);
	if (!vm->user_paused)
		vm_resume(vm);
	vm->window->frozen_ns += clock_ns() - start;
}

static void unfence(struct extent *x)
{
	struct error e;

	if (x->out && memory_beam_in(&x->vm->memory, x->offset, x->size, x->ram, &e)) {
		control_reply_error(x->lease, "%s", e.text);
		return;
	}
	x->out = false;
	control_reply_ready(x->lease, NULL, 0);
}

static void on_lease(void *ctx, uint32_t events)
{
	struct extent *x = ctx;
	ProtobufCMessage *msg;
	struct error e;
	int r;

	(void)events;
	if (x->vm->end != VM_END_NONE)
		return; /* it has moved: what is asked is asked of the other process */
	r = wire_recv(x->lease, &vmb__request__descriptor, &msg, NULL, 0, &e);
	if (r <= 0) {
		end_lease(x);
		return;
	}
	switch (((Vmb__Request *)msg)->kind_case) {
	case VMB__REQUEST__KIND_FENCE:
		fence(x);
		break;
	case VMB__REQUEST__KIND_UNFENCE:
		unfence(x);
		break;
	default:
		control_reply_error(x->lease, "unknown request");
	}
	protobuf_c_message_free_unpacked(msg, NULL);
}

/* Where the extent goes: the first gap that is large enough; NULL without one. */
static struct extent **find_gap(struct vm *vm, struct extent *x)
{
	struct extent **at = &window_of(vm)->first;
	uint64_t start = 0;

	while (*at && (*at)->offset - start < x->size) {
		start = (*at)->offset + (*at)->size;
		at = &(*at)->next;
	}
	x->offset = start;
	return vm->memory.window_size - start >= x->size ? at : NULL;
}

static int lodge(struct vm *vm, struct extent *x, struct error *e)
{
	struct extent **at;

	if (!vm->memory.window_size)
		return error_set(e, "it is no guest hypervisor: it has no beam window");
	x->size = memory_sealed_size(x->ram, e);
	if (!x->size)
		return -1;
	if (x->size % HUGE_PAGE)
		return error_set(e, "window: memory of %llu bytes", (unsigned long long)x->size);
	at = find_gap(vm, x);
	if (!at)
		return error_set(e, "window: no gap of %llu MiB is left in its %llu MiB",
				 (unsigned long long)(x->size / MIB),
				 (unsigned long long)(vm->memory.window_size / MIB));
	if (memory_beam_in(&vm->memory, x->offset, x->size, x->ram, e))
		return -1;
	x->next = *at;
	*at = x;
	return 0;
}

void window_beam_in(struct vm *vm, int fd, const Vmb__BeamInRequest *r, struct wire_fds *fds)
{
	struct extent *x = xcalloc(1, sizeof(*x));
	Vmb__Reply reply = VMB__REPLY__INIT;
	Vmb__BeamInReply in = VMB__BEAM_IN_REPLY__INIT;
	struct error e;
	int port;

	x->vm = vm;
	x->lease = fd;
	x->ram = wire_take_fd(fds, 0);
	snprintf(x->guest, sizeof(x->guest), "%s", r->guest);
	if (x->ram < 0 || lodge(vm, x, &e)) {
		control_reply_error(fd, "%s", x->ram < 0 ? "no memory came with the request" : e.text);
		free_extent(x);
		return;
	}
	x->source = loop_add(vm->loop, fd, EPOLLIN, on_lease, x);
	port = virtio_ports_connect(vm, &x->port, &e);
	if (port < 0) {
		control_reply_error(fd, "%s", e.text);
		end_lease(x);
		return;
	}
	in.offset = x->offset;
	reply.kind_case = VMB__REPLY__KIND_BEAM_IN;
	reply.beam_in = &in;
	wire_send(fd, &reply.base, &port, 1, NULL);
	close(port);
}

size_t vm_guests(const struct vm *vm, char **names, size_t max)
{
	size_t n = 0;

	for (struct extent *x = vm->window ? vm->window->first : NULL; x && n < max; x = x->next)
		names[n++] = x->guest;
	return n;
}

bool vm_guest_is_leaving(const struct vm *vm)
{
	for (const struct extent *x = vm->window ? vm->window->first : NULL; x; x = x->next)
		if (x->out)
			return true;
	return false;
}

uint64_t window_frozen_ns(const struct vm *vm)
{
	return vm->window ? vm->window->frozen_ns : 0;
}

uint64_t window_faults(const struct vm *vm)
{
	return vm->window ? vm->window->faults : 0;
}

bool window_fault(struct vm *vm)
{
	struct window *w = window_of(vm);
	uint64_t start = 0;
	struct error e = {""};
	int r = 0;

	if (!vm->memory.window_size)
		return false;
	/* Of two vCPUs that came together the second finds all done; one that comes for ever spins in
	 * its own time. */
	if (w->faults++ < FAULTS_LOGGED)
		log_line("%s: it touched its beam window where no guest's memory is; scratch memory is there now",
			 vm->config->name);
	for (struct extent *x = w->first; x && !r; x = x->next) {
		if (x->out)
			continue;
		if (x->offset > start)
			r = memory_beam_scratch(&vm->memory, start, x->offset - start, &e);
		start = x->offset + x->size;
	}
	if (!r && start < vm->memory.window_size)
		r = memory_beam_scratch(&vm->memory, start, vm->memory.window_size - start, &e);
	if (r)
		log_line("%s: %s", vm->config->name, e.text);
	return !r;
}

/* ---- handover of the host VM */

static size_t count(const struct vm *vm)
{
	size_t n = 0;

	for (const struct extent *x = vm->window ? vm->window->first : NULL; x; x = x->next)
		n++;
	return n;
}

void window_state_get(const struct vm *vm, Vmb__VmState *s)
{
	s->lodgers = xcalloc(count(vm), sizeof(*s->lodgers));
	for (const struct extent *x = vm->window ? vm->window->first : NULL; x; x = x->next) {
		Vmb__LodgerState *l = xcalloc(1, sizeof(*l));

		vmb__lodger_state__init(l);
		l->guest = xstrdup(x->guest);
		l->offset = x->offset;
		l->port = x->port;
		s->lodgers[s->n_lodgers++] = l;
	}
}

size_t window_files(const struct vm *vm, int *fds, size_t max)
{
	size_t n = 0;

	for (const struct extent *x = vm->window ? vm->window->first : NULL; x && n + 3 <= max; x = x->next) {
		int port = virtio_ports_client(vm, x->port);

		fds[n++] = x->ram;
		fds[n++] = x->lease;
		fds[n++] = port >= 0 ? port : x->ram; /* one that has closed: no socket */
	}
	return n;
}

int window_state_set(struct vm *vm, const Vmb__VmState *s, struct error *e)
{
	struct extent **at = &window_of(vm)->first;

	if (s->n_lodgers > HOST_PORTS || *at)
		return error_set(e, "state: %zu guests in the window", s->n_lodgers);
	for (size_t i = 0; i < s->n_lodgers; i++) {
		struct extent *x = xcalloc(1, sizeof(*x));

		x->vm = vm;
		x->offset = s->lodgers[i]->offset;
		x->port = s->lodgers[i]->port;
		x->ram = x->lease = -1;
		snprintf(x->guest, sizeof(x->guest), "%s", s->lodgers[i]->guest);
		*at = x;
		at = &x->next;
	}
	return 0;
}

size_t window_files_expected(const struct vm *vm)
{
	return 3 * count(vm);
}

int window_inherit(struct vm *vm, struct wire_fds *fds, size_t first, struct error *e)
{
	uint64_t end = 0;

	for (struct extent *x = vm->window ? vm->window->first : NULL; x; x = x->next) {
		int port;

		x->ram = wire_take_fd(fds, first);
		x->lease = wire_take_fd(fds, first + 1);
		port = wire_take_fd(fds, first + 2);
		first += 3;
		x->size = memory_sealed_size(x->ram, e);
		if (!is_socket(x->lease) ||
		    (is_socket(port) && virtio_ports_inherit(vm, x->port, port))) {
			close_fd(&port);
			return error_set(e, "window: a connection that makes no sense");
		}
		if (!is_socket(port))
			close_fd(&port);
		if (!x->size || x->size % HUGE_PAGE || x->offset % HUGE_PAGE || x->offset < end ||
		    x->size > vm->memory.window_size || x->offset > vm->memory.window_size - x->size)
			return error_set(e, "window: a guest's memory that makes no sense");
		end = x->offset + x->size;
		if (memory_beam_in(&vm->memory, x->offset, x->size, x->ram, e))
			return -1;
		x->source = loop_add(vm->loop, x->lease, EPOLLIN, on_lease, x);
	}
	return 0;
}

void window_destroy(struct vm *vm)
{
	while (vm->window && vm->window->first) {
		struct extent *x = vm->window->first;

		vm->window->first = x->next;
		free_extent(x);
	}
	free(vm->window);
	vm->window = NULL;
}
