/* control.c: clients of a VM's control socket, and the driver of a handover that it begins.
 *
 * Input: packets (fuzz.h), each with two bytes before it that say which client sends it and which
 * descriptors it brings; the first packet is none, but what comes on the link of a handover.
 */
#include "tests/fuzz/fuzz.h"
#include "tests/unit/guest.h"
#include "vmm/wire.h"
#include "zerocopy/zerocopy.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS = 3, MAX_PACKETS = 12 };

static struct vm *vm;
static struct vm_ends ends;
static char path[64];
static struct input on_link;

/* Whatever was asked, an answer is a message. */
static void hear(int sock)
{
	for (;;) {
		ProtobufCMessage *msg;
		struct error e = {""};
		int r = wire_recv(sock, &vmb__reply__descriptor, &msg, NULL, 0, &e);

		if (r < 0 && strstr(e.text, "is not a"))
			abort();
		if (r <= 0)
			return;
		protobuf_c_message_free_unpacked(msg, NULL);
	}
}

static void packet(int *clients, struct input *in)
{
	unsigned int to = (unsigned int)take(in, 1), choice = (unsigned int)take(in, 1);
	int *sock = &clients[to % CLIENTS], fds[4];
	struct input bytes = take_packet(in);
	size_t n = to / CLIENTS % ARRAY_LEN(fds);

	if (*sock < 0)
		return;
	for (size_t i = 0; i < n; i++, choice /= FD_KINDS)
		fds[i] = make_fd((enum fd_kind)(choice % FD_KINDS), on_link);
	send_packet(*sock, bytes, fds, n);
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
	run_loop(vm);
	hear(*sock);
	if (to & 0x80)
		close_fd(sock);
}

static void open_vm(void)
{
	struct error e;

	snprintf(path, sizeof(path), "/tmp/vmbeam-fuzz-%d", getpid());
	vm = make_vm(&(struct vm_spec){.memory = 4 * MIB, .disks = 1, .balloon = true,
				       .virtio_console = true,
				       .control = wire_listen(path, SOCK_SEQPACKET, &e)},
		     &ends);
}

static void remove_socket(void)
{
	unlink(path);
}

void fuzz_one(const uint8_t *data, size_t len)
{
	struct input in = {data, len};
	struct handover_source *source = handover_source_create(1);
	struct control *control;
	int clients[CLIENTS];
	struct error e = {""};

	if (!vm) {
		open_vm();
		atexit(remove_socket);
	}
	on_link = take_packet(&in);
	control = control_start(vm, handover_source_request, source);
	handover_source_attach(source, vm, control);
	for (int i = 0; i < CLIENTS; i++)
		clients[i] = wire_connect(path, &e);
	run_loop(vm);
	for (int i = 0; in.left && i < MAX_PACKETS; i++)
		packet(clients, &in);
	for (int i = 0; i < CLIENTS; i++)
		close_fd(&clients[i]);
	run_loop(vm);
	control_end(control, "stopped", 0);
	handover_source_destroy(source);
	vm_lock(vm);
	vm_pause(vm);
	vm->user_paused = false;
	vm_unlock(vm);
	if (renew_vm(vm, &ends))
		return;
	destroy_vm(vm, &ends);
	open_vm();
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t max, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t len, size_t max);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t max, unsigned int seed)
{
	struct input in = {data, len};

	if (seed % 8 == 0)
		return LLVMFuzzerMutate(data, len, max);
	if (seed % 8 == 1) /* what comes on the link */
		return mutate_packet(&vmb__link__descriptor, data, len, max, 0, 0, seed & ~0x38u);
	take_packet(&in);
	if (in.left < 4)
		return LLVMFuzzerMutate(data, len, max);
	return mutate_packet(&vmb__request__descriptor, data, len, max, (size_t)(in.at - data), 2, seed);
}

struct seed {
	uint8_t bytes[4096];
	size_t len;
};

static void put(struct seed *s, const ProtobufCMessage *m)
{
	uint8_t *p;
	size_t n = pack_message(m, &p);

	s->len += put_packet(s->bytes + s->len, p, n);
	free(p);
}

static void begin(struct seed *s)
{
	Vmb__Link link = VMB__LINK__INIT;
	Vmb__HandoverResult result = VMB__HANDOVER_RESULT__INIT;

	s->len = 0;
	link.kind_case = VMB__LINK__KIND_RESTORED;
	link.restored = &result;
	result.completed = s->bytes[0] & 1;
	put(s, &link.base);
}

static void request(struct seed *s, const Vmb__Request *r, unsigned int nfds, unsigned int kinds)
{
	s->bytes[s->len++] = (uint8_t)(CLIENTS * nfds);
	s->bytes[s->len++] = (uint8_t)kinds;
	put(s, &r->base);
}

/* Each request, and handovers that complete and that do not. */
void fuzz_seeds(void)
{
	static const Vmb__Request__KindCase kinds[] = {
		VMB__REQUEST__KIND_INFO, VMB__REQUEST__KIND_PAUSE, VMB__REQUEST__KIND_RESUME,
		VMB__REQUEST__KIND_WAIT, VMB__REQUEST__KIND_DUMP,  VMB__REQUEST__KIND_CONSOLE,
		VMB__REQUEST__KIND_HVC};
	Vmb__Request r = VMB__REQUEST__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	Vmb__StopRequest stop = VMB__STOP_REQUEST__INIT;
	Vmb__BalloonRequest balloon = VMB__BALLOON_REQUEST__INIT;
	Vmb__HandoverRequest handover = VMB__HANDOVER_REQUEST__INIT;
	Vmb__HandoverGo go = VMB__HANDOVER_GO__INIT;
	struct seed s = {.len = 0};

	begin(&s);
	r.info = &empty;
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		r.kind_case = kinds[i];
		request(&s, &r, kinds[i] == VMB__REQUEST__KIND_DUMP, FD_MEMFD);
	}
	add_seed(s.bytes, s.len);

	begin(&s);
	r.kind_case = VMB__REQUEST__KIND_BALLOON;
	r.balloon = &balloon;
	balloon.bytes = MIB;
	request(&s, &r, 0, 0);
	r.kind_case = VMB__REQUEST__KIND_STOP;
	r.stop = &stop;
	request(&s, &r, 0, 0);
	stop.force = true;
	request(&s, &r, 0, 0);
	add_seed(s.bytes, s.len);

	for (unsigned int completed = 0; completed < 2; completed++)
		for (unsigned int kind = 0; kind < FD_KINDS; kind++) {
			s.bytes[0] = (uint8_t)completed;
			begin(&s);
			r.kind_case = VMB__REQUEST__KIND_RESUME;
			r.info = &empty;
			request(&s, &r, 0, 0);
			r.kind_case = VMB__REQUEST__KIND_HANDOVER;
			r.handover = &handover;
			handover.state_version = STATE_VERSION;
			request(&s, &r, 2, FD_MEMFD + FD_KINDS * kind);
			r.kind_case = VMB__REQUEST__KIND_GO;
			r.go = &go;
			go.instance = 2;
			go.drain_timeout_ns = 1000000;
			request(&s, &r, 1, FD_MEMFD);
			add_seed(s.bytes, s.len);
		}
}
