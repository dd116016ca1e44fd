/* incoming.c: the destination of a handover, whose source lies: a guest may have got hold of it.
 *
 * Input: a byte (below), what comes on the link and the state's body as packets (fuzz.h), then the
 * IncomingRequest.  Descriptors are as the names in it say, unless the byte has one be another.
 */
#include "tests/fuzz/fuzz.h"
#include "tests/unit/guest.h"
#include "vmm/wire.h"
#include "zerocopy/zerocopy.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { UNSEALED = 1 << 0, FILE_CLIENT = 1 << 1, OTHER = 3 /* bits from here on: which */ };

static int make_ram(uint64_t size)
{
	int fd = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)(size % GIB)) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		abort();
	return fd;
}

static int make_named(const char *name, uint64_t memory)
{
	static const struct input none;

	if (!strcmp(name, "owner"))
		return owner_create(NULL);
	if (!strcmp(name, "ram"))
		return make_ram(memory);
	if (!strcmp(name, "control") || !strcmp(name, "console") || !strcmp(name, "hvc") ||
	    !strncmp(name, "tap", 3))
		return make_fd(FD_SOCKET_CLOSED, none);
	return make_fd(FD_MEMFD, none);
}

/* The source's end has closed behind one packet with a console client. */
static int make_link(struct input packet, bool file_client)
{
	static const struct input none;
	int pair[2], client = make_fd(file_client ? FD_MEMFD : FD_SOCKET_CLOSED, none);
	ProtobufCMessage *m;

	if (wire_pair(pair, NULL))
		abort();
	m = protobuf_c_message_unpack(&vmb__link__descriptor, NULL, packet.left, packet.at);
	if (m) {
		wire_send(pair[1], m, &client, 1, NULL);
		protobuf_c_message_free_unpacked(m, NULL);
	} else {
		send(pair[1], packet.at, packet.left, MSG_DONTWAIT);
	}
	close(client);
	close(pair[1]);
	return pair[0];
}

static void no_log(const char *name)
{
	(void)name;
}

static int start(struct vm *vm, struct error *e)
{
	return vm_start(vm, NULL, e);
}

static void serve(struct vm *vm, struct handover_source *source)
{
	struct control *control = control_start(vm, handover_source_request, source);

	handover_source_attach(source, vm, control);
	run_loop(vm);
	control_end(control, "stopped", 0);
}

void fuzz_one(const uint8_t *data, size_t len)
{
	static const struct input none;
	struct input in = {data, len}, link, body;
	unsigned int choice = (unsigned int)take(&in, 1), other = choice >> OTHER;
	struct handover_source *source;
	Vmb__IncomingRequest *r;
	struct wire_fds fds = {.count = 0};
	struct error e = {""};
	uint64_t memory;
	struct vm *vm;
	int driver;

	link = take_packet(&in);
	body = take_packet(&in);
	r = vmb__incoming_request__unpack(NULL, in.left, in.at);
	if (!r)
		return;
	r->warm = false; /* the fake KVM has no stub to run */
	memory = r->provisional && r->provisional->config ? r->provisional->config->memory : 0;
	fds.fd[fds.count++] = choice & UNSEALED ? make_fd(FD_MEMFD, none) : make_state(body);
	if (!r->recover) {
		fds.fd[fds.count++] = make_link(link, choice & FILE_CLIENT);
		fds.fd[fds.count++] = make_fd(FD_MEMFD, none); /* pidfd of one that is dead */
	}
	for (size_t i = 0; i < r->n_fd_names && fds.count < WIRE_MAX_FDS; i++)
		fds.fd[fds.count++] = i + 1 == other ? make_fd(FD_MEMFD, none)
						     : make_named(r->fd_names[i], memory);
	driver = make_fd(FD_SOCKET_CLOSED, none);
	source = handover_source_create(1);
	fake.nested_size = 4224;
	vm = handover_incoming(driver, r, &fds, source, no_log, start, &e);
	if (vm) {
		serve(vm, source);
		vm_destroy(vm);
	}
	close(driver);
	handover_source_destroy(source);
	wire_close_fds(&fds);
	vmb__incoming_request__free_unpacked(r, NULL);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t max, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t len, size_t max);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t max, unsigned int seed)
{
	struct input in = {data, len};
	size_t at;

	switch (seed % 8) {
	case 0:
		return LLVMFuzzerMutate(data, len, max);
	case 1:
		if (len)
			data[0] = (uint8_t)(seed >> 8);
		return len;
	case 2:
	case 3:
	case 4:
		take(&in, 1);
		take_packet(&in);
		if (in.left < 2)
			return len;
		return mutate_packet(&vmb__vm_state__descriptor, data, len, max, (size_t)(in.at - data), 0,
				     seed & ~0x38u);
	default:
		take(&in, 1);
		take_packet(&in);
		take_packet(&in);
		at = (size_t)(in.at - data);
		return at + mutate_message(&vmb__incoming_request__descriptor, data + at, in.left, max - at,
					   seed);
	}
}

/* A VM that moves as it should, and one that is recovered. */
void fuzz_seeds(void)
{
	static uint8_t seed[1 << 17];
	struct vm_ends ends;
	struct vm *vm;
	Vmb__IncomingRequest r = VMB__INCOMING_REQUEST__INIT;
	Vmb__Link captured = VMB__LINK__INIT;
	char names[VM_MAX_FILES][16], *name_ptrs[VM_MAX_FILES];
	int fds[VM_MAX_FILES];
	struct error e = {""};
	uint8_t *p;
	size_t n, at;

	fake.nested_size = 4224;
	vm = make_vm(&(struct vm_spec){.disks = 1, .nets = 1, .balloon = true, .virtio_console = true,
				       .control = wire_listen("/tmp/vmbeam-fuzz-seed", SOCK_SEQPACKET, &e)},
		     &ends);
	unlink("/tmp/vmbeam-fuzz-seed");
	vm->files.console = dup(vm->files.control);
	vm->files.hvc = dup(vm->files.control);
	vm->files.kernel = memfd_with("", 0);
	vm->files.exit_record = memfd_with("", 0);
	for (unsigned int i = 0; i < vm->nvirtio; i++)
		driver_start(vm->virtio[i], vm->virtio[i]->features, 64);
	captured.kind_case = VMB__LINK__KIND_CAPTURED;
	captured.captured = &(Vmb__Empty)VMB__EMPTY__INIT;
	r.n_fd_names = vm_files_list(&vm->files, fds, names);
	for (size_t i = 0; i < r.n_fd_names; i++)
		name_ptrs[i] = names[i];
	r.fd_names = name_ptrs;
	r.instance = 2;
	r.source = 1;
	r.provisional = vm_provisional(vm);
	for (unsigned int recover = 0; recover < 2; recover++) {
		Vmb__VmState *s;

		r.recover = recover;
		seed[0] = 0;
		n = pack_message(&captured.base, &p);
		at = 1 + put_packet(seed + 1, p, n);
		free(p);
		vm_lock(vm);
		s = vm_drain(vm, 1000000000, &e) ? NULL : vm_capture(vm, &e);
		vm_uncapture(vm, NULL);
		vm_unlock(vm);
		if (!s)
			abort();
		n = pack_message(&s->base, &p);
		at += put_packet(seed + at, p, n);
		free(p);
		vmb__vm_state__free_unpacked(s, NULL);
		n = pack_message(&r.base, &p);
		memcpy(seed + at, p, n);
		free(p);
		add_seed(seed, at + n);
	}
	vmb__vm_state__free_unpacked(r.provisional, NULL);
	destroy_vm(vm, &ends);
}
