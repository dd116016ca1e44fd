/* front.c: a guest hypervisor that lies to the front half of a VM: whatever its back half says, the front
 * half ends as a VM does or says that it has crashed, and has left the window.
 *
 * Input: packets (fuzz.h), the back half's messages.  They wait in the stream before the front half does
 * anything: some are taken for answers.
 */
#include "tests/fuzz/fuzz.h"
#include "tests/unit/guest.h"
#include "vmm/frame.h"
#include "vmm/wire.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_PACKETS = 24 };

static int lease[2], port[2];

/* What the host VM's process answers, before it is asked. */
static int connect_to_host_vm(void)
{
	Vmb__Reply reply = VMB__REPLY__INIT;
	Vmb__BeamInReply in = VMB__BEAM_IN_REPLY__INIT;
	struct error e;

	if (wire_pair(lease, &e) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, port))
		abort();
	reply.kind_case = VMB__REPLY__KIND_BEAM_IN;
	reply.beam_in = &in;
	if (wire_send(lease[0], &reply.base, &port[1], 1, &e))
		abort();
	close(port[1]);
	return lease[1];
}

static void put_frame(struct input packet)
{
	uint32_t len = (uint32_t)packet.left;

	if (write(port[0], &len, sizeof(len)) != sizeof(len) ||
	    write(port[0], packet.at, packet.left) != (ssize_t)packet.left)
		abort();
}

static int connect_and_say(void)
{
	/* FrontEvent: id 1, done: what was asked first has been built. */
	static const uint8_t built[] = {8, 1, 0x1a, 0};
	int fd = connect_to_host_vm();

	put_frame((struct input){built, sizeof(built)});
	return fd;
}

static bool has_left(struct vm *vm)
{
	return vm->crash[0] || vm->end != VM_END_NONE;
}

void fuzz_one(const uint8_t *data, size_t len)
{
	struct input in = {data, len};
	struct vm_ends ends;
	Vmb__VmState *s = NULL;
	struct error e;
	struct vm *vm;

	fuzz_connect = connect_and_say;
	vm = make_vm(&(struct vm_spec){.memory = 4 * MIB, .disks = 1, .balloon = true, .virtio_console = true,
				       .placement = "hv"},
		     &ends);
	fuzz_connect = NULL;
	for (int i = 0; in.left && i < MAX_PACKETS; i++)
		put_frame(take_packet(&in));
	shutdown(port[0], SHUT_WR);
	vm_lock(vm);
	vm_resume(vm);
	vm_unlock(vm);
	if (!(len % 2))
		run_loop(vm);
	vm_lock(vm);
	vm_pause(vm);
	if (!has_left(vm) && !vm_drain(vm, 1000000, &e))
		s = vm_capture(vm, &e);
	if (s) { /* it is to be sent on */
		uint8_t *bytes = xcalloc(1, vmb__vm_state__get_packed_size(s));

		vmb__vm_state__pack(s, bytes);
		free(bytes);
		vmb__vm_state__free_unpacked(s, NULL);
	}
	vm_uncapture(vm, NULL);
	vm_unlock(vm);
	run_loop(vm);
	if (!has_left(vm)) /* its stream has ended */
		abort();
	destroy_vm(vm, &ends);
	close(port[0]);
	close(lease[0]);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t max, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t len, size_t max);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t max, unsigned int seed)
{
	if (seed % 8 == 0 || len < 4)
		return LLVMFuzzerMutate(data, len, max);
	return mutate_packet(&vmb__front_event__descriptor, data, len, max, 0, 0, seed);
}

static size_t put(uint8_t *at, const Vmb__FrontEvent *ev)
{
	uint8_t *p;
	size_t n = pack_message(&ev->base, &p), put = put_packet(at, p, n);

	free(p);
	return put;
}

void fuzz_seeds(void)
{
	Vmb__FrontEvent ev = VMB__FRONT_EVENT__INIT;
	Vmb__Empty empty = VMB__EMPTY__INIT;
	Vmb__Access access = VMB__ACCESS__INIT;
	Vmb__SerialBytes serial = VMB__SERIAL_BYTES__INIT;
	Vmb__EndReply end = VMB__END_REPLY__INIT;
	Vmb__BackInfo info = VMB__BACK_INFO__INIT;
	Vmb__VmState state = VMB__VM_STATE__INIT;
	Vmb__SerialState line = VMB__SERIAL_STATE__INIT;
	Vmb__PlatformState platform = VMB__PLATFORM_STATE__INIT;
	Vmb__VcpuState vcpu = VMB__VCPU_STATE__INIT, *vcpus[] = {&vcpu};
	Vmb__LodgerState lodger = VMB__LODGER_STATE__INIT, *lodgers[] = {&lodger};
	uint8_t bytes[4096];
	size_t len = 0;

	ev.kind_case = VMB__FRONT_EVENT__KIND_ACCESS;
	ev.access = &access;
	access.address = 0xcfc | 0x80000800ull << 32; /* the first device's configuration */
	access.len = 4;
	len += put(bytes + len, &ev);
	access.write = true;
	access.address = 0xcfc | 0x80000804ull << 32;
	access.value = 2; /* memory */
	len += put(bytes + len, &ev);
	access.mmio = true;
	access.address = PCI_BAR_BASE + 0x100000;
	len += put(bytes + len, &ev);
	ev.id = 2;
	ev.kind_case = VMB__FRONT_EVENT__KIND_DONE;
	ev.done = &empty;
	len += put(bytes + len, &ev); /* it has resumed */
	ev.id = 0;
	ev.kind_case = VMB__FRONT_EVENT__KIND_KICK;
	ev.kick = VIRTIO_MAX_QUEUES;
	len += put(bytes + len, &ev);
	ev.kind_case = VMB__FRONT_EVENT__KIND_SERIAL;
	ev.serial = &serial;
	serial.data = (ProtobufCBinaryData){5, (uint8_t *)(uintptr_t) "hello"};
	len += put(bytes + len, &ev);
	ev.id = 3;
	ev.kind_case = VMB__FRONT_EVENT__KIND_DONE;
	ev.done = &empty;
	len += put(bytes + len, &ev); /* it has paused */
	add_seed(bytes, len);
	ev.id = 4;
	ev.kind_case = VMB__FRONT_EVENT__KIND_CAPTURED;
	ev.captured = &state;
	state.version = STATE_VERSION;
	state.serial = &line;
	state.platform = &platform;
	state.vcpus = vcpus;
	state.n_vcpus = 1;
	state.lodgers = lodgers;
	state.n_lodgers = 1;
	len += put(bytes + len, &ev);
	add_seed(bytes, len);
	ev.id = 0;
	ev.kind_case = VMB__FRONT_EVENT__KIND_END;
	ev.end = &end;
	end.reason = (char *)(uintptr_t) "debug-exit";
	add_seed(bytes, put(bytes, &ev));
	ev.kind_case = VMB__FRONT_EVENT__KIND_CRASHED;
	ev.crashed = (char *)(uintptr_t) "why";
	add_seed(bytes, put(bytes, &ev));
	ev.kind_case = VMB__FRONT_EVENT__KIND_RESET;
	ev.reset = &empty;
	add_seed(bytes, put(bytes, &ev));
	ev.kind_case = VMB__FRONT_EVENT__KIND_INFO;
	ev.info = &info;
	add_seed(bytes, put(bytes, &ev));
}
