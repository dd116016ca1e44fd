/* test_state.c: the state memfd, and a VM's state captured, carried and restored. */
#include "tests/unit/arena.h"
#include "tests/unit/unit.h"
#include "zerocopy/zerocopy.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALL_SEALS = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

/* As zerocopy/owner.c lays the file out. */
struct header {
	uint64_t magic;
	uint32_t version, checksum;
	uint64_t length;
};

static uint32_t fnv(const uint8_t *p, size_t len)
{
	uint32_t h = 2166136261u;

	while (len--)
		h = (h ^ *p++) * 16777619u;
	return h;
}

/* A sealed file of these bytes, read; whether it was accepted. */
static bool accepts(const uint8_t *file, size_t len, int seals)
{
	int fd = memfd_with(file, len);
	struct error e = {""};
	Vmb__VmState *s;

	cr_assert_eq(fcntl(fd, F_ADD_SEALS, seals), 0);
	s = state_read(fd, &e);
	close(fd);
	if (s)
		vmb__vm_state__free_unpacked(s, NULL);
	else
		cr_assert(e.text[0]);
	return s;
}

/* A small state's file. */
static size_t good_file(uint8_t *file, size_t max)
{
	Vmb__VmState s = VMB__VM_STATE__INIT;
	Vmb__SerialState serial = VMB__SERIAL_STATE__INIT;
	int fd = state_create(NULL);
	ssize_t n;

	s.version = STATE_VERSION;
	s.clock_ns = 0x1122334455667788;
	s.serial = &serial;
	serial.tx = (ProtobufCBinaryData){5, (uint8_t *)(uintptr_t) "hello"};
	n = state_write(fd, &s, NULL);
	cr_assert(n > (ssize_t)sizeof(struct header) && n < (ssize_t)max);
	cr_assert_eq(pread_all(fd, file, max, 0), n);
	close(fd);
	return (size_t)n;
}

UNIT(state_file, is_refused_when_cut_short_or_longer)
{
	uint8_t file[512] = {0};
	size_t len = good_file(file, sizeof(file));

	for (size_t i = 0; i < len + 20; i++)
		cr_assert_eq(accepts(file, i, ALL_SEALS), i == len, "%zu of %zu bytes", i, len);
}

UNIT(state_file, is_refused_with_any_bit_flipped)
{
	uint8_t file[512];
	size_t len = good_file(file, sizeof(file));

	for (size_t bit = 0; bit < 8 * len; bit++) {
		struct header h;
		bool older;

		file[bit / 8] ^= (uint8_t)(1 << bit % 8);
		memcpy(&h, file, sizeof(h));
		older = h.version + 1 == STATE_VERSION;
		cr_assert_eq(accepts(file, len, ALL_SEALS), older, "byte %zu, bit %zu", bit / 8, bit % 8);
		file[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	cr_assert(accepts(file, len, ALL_SEALS));
}

UNIT(state_file, of_this_version_and_the_one_before_is_accepted_and_no_other)
{
	static const int64_t versions[] = {-2, -1, 0, 1, 2, 100, 0x7fffffff, 0xfffffffe - STATE_VERSION};
	uint8_t file[512];
	size_t len = good_file(file, sizeof(file));

	for (size_t i = 0; i < ARRAY_LEN(versions); i++) {
		struct header h;

		memcpy(&h, file, sizeof(h));
		h.version = (uint32_t)(STATE_VERSION + versions[i]);
		memcpy(file, &h, sizeof(h));
		cr_assert_eq(accepts(file, len, ALL_SEALS), versions[i] == 0 || versions[i] == -1,
			     "version %u", h.version);
		h.version = STATE_VERSION;
		memcpy(file, &h, sizeof(h));
	}
}

UNIT(state_file, is_refused_unsealed)
{
	uint8_t file[512];
	size_t len = good_file(file, sizeof(file));
	int null = open("/dev/null", O_RDWR);

	for (int lacking = 1; lacking < 16; lacking <<= 1) /* F_SEAL_SEAL is 1, WRITE 8 */
		cr_assert_not(accepts(file, len, ALL_SEALS & ~lacking), "without seal %d", lacking);
	cr_assert_null(state_read(null, &(struct error){""}));
	cr_assert_null(state_read(-1, &(struct error){""}));
	close(null);
}

UNIT(state_file, that_is_no_message_is_refused_though_its_checksum_is_right)
{
	uint8_t file[512];
	size_t len = good_file(file, sizeof(file));
	struct header h;

	memcpy(&h, file, sizeof(h));
	file[len - 1] ^= 0x80; /* the last length or value goes on beyond the end */
	memset(file + sizeof(h), 0xff, 4);
	h.checksum = fnv(file + sizeof(h), len - sizeof(h));
	memcpy(file, &h, sizeof(h));
	cr_assert_not(accepts(file, len, ALL_SEALS));
}

UNIT(state_file, is_not_written_where_it_could_still_be_changed)
{
	Vmb__VmState s = VMB__VM_STATE__INIT;
	struct error e = {""};
	int fd = state_create(&e);
	void *p;

	/* A peer has it mapped. */
	cr_assert_eq(ftruncate(fd, 4096), 0);
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	cr_assert_neq(p, MAP_FAILED);
	assert_error(state_write(fd, &s, &e), &e, "state memfd");
	cr_assert_not(state_is_sealed(fd));
	munmap(p, 4096);
	close(fd);
	/* It is sealed already. */
	fd = state_create(&e);
	cr_assert_gt(state_write(fd, &s, &e), 0);
	cr_assert(state_is_sealed(fd));
	assert_error(state_write(fd, &s, &e), &e, "state memfd");
	close(fd);
}

/* ---- a whole VM */

static const struct vm_spec spec = {.cpus = 2, .disks = 1, .nets = 1, .append = "quiet"};

static size_t packed(const Vmb__VmState *s, uint8_t **out)
{
	size_t len = vmb__vm_state__get_packed_size(s);

	*out = xcalloc(1, len);
	vmb__vm_state__pack(s, *out);
	return len;
}

/* A VM in the middle of things: queues in use, bytes in the serial port, pending interrupts. */
static struct vm *busy_vm(struct vm_ends *ends)
{
	struct vm *vm = make_vm(&spec, ends);
	struct virtio_device *net = vm->virtio[1];

	driver_start(vm->virtio[0], 1ull << VIRTIO_RING_F_EVENT_IDX, 256);
	driver_start(net, 0, 64);
	net->queues[0].last_avail = net->queues[0].used_idx = 0xfffe;
	net->queues[0].signalled_used = 0xfffd;
	net->queues[0].signalled_valid = true;
	pci_write(vm, net->pci.slot, net->pci.msix_cap + 2, 0xc000, 2); /* mask all */
	msix_signal(&net->pci, 1);
	for (const char *p = "output"; *p; p++)
		serial_write(vm->serial, 0, (uint8_t)*p);
	serial_write(vm->serial, 1, 3);
	serial_receive(vm->serial, (const uint8_t *)"input", 5);
	vm->platform = (struct platform){0x100, 0x101, 0x1c00, 0x80000844};
	vm->user_paused = true;
	vm->handovers = 41;
	fake_machine_fill(fake_machine(vm->fd), 1);
	return vm;
}

static Vmb__VmState *capture(struct vm *vm)
{
	struct error e = {""};
	Vmb__VmState *s;

	vm_lock(vm);
	cr_assert_eq(vm_drain(vm, 1000000000, &e), 0, "%s", e.text);
	s = vm_capture(vm, &e);
	vm_unlock(vm);
	cr_assert(s, "%s", e.text);
	return s;
}

static void assert_same_cpus(const struct fake_machine *a, const struct fake_machine *b)
{
	for (int i = 0; i < 3; i++)
		cr_assert_arr_eq(a->chip[i].chip.dummy, b->chip[i].chip.dummy, sizeof(a->chip[i].chip));
	cr_assert_arr_eq((const char *)&a->pit2, (const char *)&b->pit2, sizeof(a->pit2));
	for (unsigned int i = 0; i < spec.cpus; i++) {
		const struct fake_vcpu *x = &a->vcpu[i], *y = &b->vcpu[i];

		for (size_t k = 0; k < offsetof(struct fake_vcpu, xsave); k++)
			cr_assert_eq(((const char *)x)[k], ((const char *)y)[k], "vCPU %u, byte %zu", i, k);
		cr_assert_arr_eq(x->xsave, y->xsave, (size_t)fake.xsave_size);
		cr_assert_arr_eq(x->nested, y->nested, (size_t)fake.nested_size);
		cr_assert_eq(x->mp_state.mp_state, y->mp_state.mp_state);
		cr_assert_eq(x->tsc_offset, y->tsc_offset);
		cr_assert_eq(x->tsc_deadline, y->tsc_deadline);
		cr_assert_eq(x->mtrr, y->mtrr);
		/* [0] is the TSC, [6] has its own field, [10] is the wall clock, not carried */
		for (unsigned int k = 1; k < 10; k++)
			if (k != 6)
				cr_assert_eq(x->msr[k], y->msr[k], "MSR %u", k);
		cr_assert_eq(y->msr[0], 0, "the TSC was written");
	}
}

static void move_whole_vm(void)
{
	struct vm_ends ends_a, ends_b;
	struct vm *a = busy_vm(&ends_a), *b = make_vm(&spec, &ends_b);
	struct error e = {""};
	Vmb__VmState *s = capture(a), *read, *again;
	uint8_t *first, *second;
	size_t len = packed(s, &first);
	int fd = state_create(&e);
	uint64_t clock = fake_machine(a->fd)->clock;

	cr_assert_eq(state_write(fd, s, &e), (ssize_t)(len + sizeof(struct header)));
	read = state_read(fd, &e);
	cr_assert(read, "%s", e.text);
	cr_assert_eq(packed(read, &second), len);
	cr_assert_arr_eq(first, second, len);
	free(second);

	vm_lock(b);
	cr_assert_eq(vm_restore(b, read, &e), 0, "%s", e.text);
	vm_unlock(b);
	assert_same_cpus(fake_machine(a->fd), fake_machine(b->fd));
	cr_assert_geq(fake_machine(b->fd)->clock, clock);
	cr_assert_lt(fake_machine(b->fd)->clock, clock + 60000000000u);
	cr_assert(b->user_paused);

	/* And on: what the copy says of itself is the same, but for time and count. */
	again = capture(b);
	cr_assert_eq(again->handovers, 42);
	again->handovers = s->handovers;
	again->clock_ns = s->clock_ns;
	again->captured_ns = s->captured_ns;
	again->captured_tsc = s->captured_tsc;
	cr_assert_eq(packed(again, &second), len);
	cr_assert_arr_eq(first, second, len);
	free(first);
	free(second);
	vmb__vm_state__free_unpacked(s, NULL);
	vmb__vm_state__free_unpacked(read, NULL);
	vmb__vm_state__free_unpacked(again, NULL);
	close(fd);
	destroy_vm(a, &ends_a);
	destroy_vm(b, &ends_b);
}

UNIT(state, of_a_whole_vm_moves_byte_by_byte)
{
	static const int xsave[] = {4096, 11 << 10, FAKE_XSAVE_MAX}, nested[] = {0, 128 + 4096, 8192};

	for (size_t i = 0; i < ARRAY_LEN(xsave); i++) {
		fake.xsave_size = xsave[i];
		fake.nested_size = nested[i];
		move_whole_vm();
	}
}

UNIT(state, a_captured_vm_touches_no_memory_until_it_is_uncaptured)
{
	struct vm_ends ends;
	struct vm *vm = busy_vm(&ends);
	Vmb__VmState *s = capture(vm);

	cr_assert_null(memory_at(&vm->memory, 0, 1));
	eventfd_write(vm->virtio[0]->queues[0].kick, 1);
	run_loop(vm);
	cr_assert_eq(vm->virtio[0]->status & 0x40, 0, "the device failed for being fenced");
	vm_uncapture(vm, NULL);
	cr_assert(memory_at(&vm->memory, 0, 1));
	vmb__vm_state__free_unpacked(s, NULL);
	destroy_vm(vm, &ends);
}

UNIT(state, a_hung_disk_ends_the_drain_and_the_vm_runs_on)
{
	struct vm_ends ends;
	struct vm *vm = busy_vm(&ends);
	struct guest_queue q = guest_queue(vm->virtio[0], 0);
	struct error e = {""};

	fake_disk = DISK_HANGS;
	q.desc[0] = (struct vring_desc){GUEST_BUFFERS, 16, VRING_DESC_F_NEXT, 1};
	q.desc[1] = (struct vring_desc){GUEST_BUFFERS + 4096, 513, VRING_DESC_F_WRITE, 0};
	guest_add(vm->virtio[0], 0, 0);
	guest_kick(vm->virtio[0], 0);
	vm_lock(vm);
	assert_error(vm_drain(vm, 20000000, &e), &e, "disk0");
	vm_unlock(vm);
	cr_assert_eq(q.used->idx, 0);
	fake_disk = DISK_WORKS;
	guest_kick(vm->virtio[0], 0);
	cr_assert_eq(q.used->idx, 1, "its request is lost");
	destroy_vm(vm, &ends);
}

/* ---- states that are wrong in one place */

static Vmb__VmState *spoilt; /* what the line below spoils */
static Vmb__QueueState *queue(void)
{
	return spoilt->devices[0]->virtio->queues[0];
}

#define LINES                                                                                      \
	SPOIL(spoilt->version = 0, "version")                                                      \
	SPOIL(spoilt->version = STATE_VERSION + 1, "version")                                      \
	SPOIL(spoilt->n_vcpus--, "vCPUs")                                                          \
	SPOIL(spoilt->n_vcpus = 0, "vCPUs")                                                        \
	SPOIL(spoilt->pic_master.len--, "interrupt controller")                                    \
	SPOIL(spoilt->pic_slave.len = 0, "interrupt controller")                                   \
	SPOIL(spoilt->ioapic.len++, "interrupt controller")                                        \
	SPOIL(spoilt->pit2.len--, "incomplete")                                                    \
	SPOIL(spoilt->serial = NULL, "incomplete")                                                 \
	SPOIL(spoilt->platform = NULL, "incomplete")                                               \
	SPOIL(spoilt->vcpus[1]->mp_state.len = 0, "mp_state")                                      \
	SPOIL(spoilt->vcpus[1]->regs.len--, "regs")                                                \
	SPOIL(spoilt->vcpus[1]->sregs.len++, "sregs")                                              \
	SPOIL(spoilt->vcpus[0]->debugregs.len--, "debugregs")                                      \
	SPOIL(spoilt->vcpus[0]->lapic.len--, "lapic")                                              \
	SPOIL(spoilt->vcpus[0]->events.len--, "events")                                            \
	SPOIL(spoilt->vcpus[0]->xcrs.len--, "xcrs")                                                \
	SPOIL(spoilt->vcpus[0]->xsave.len = 4095, "xsave")                                         \
	SPOIL(spoilt->vcpus[0]->xsave.len++, "xsave")                                              \
	SPOIL(spoilt->vcpus[0]->nested.len--, "nested")                                            \
	SPOIL(spoilt->vcpus[0]->nested.len = 1, "nested")                                          \
	SPOIL(*(uint32_t *)(spoilt->vcpus[0]->nested.data + 4) = 1 << 30, "nested")                \
	SPOIL(spoilt->vcpus[0]->msrs[3]->index = 0xdead, "MSR 0xdead")                             \
	SPOIL(spoilt->n_devices--, "devices")                                                      \
	SPOIL(spoilt->devices[0] = spoilt->devices[1], "device net0")                              \
	SPOIL(spoilt->devices[0]->virtio = NULL, "incomplete")                                     \
	SPOIL(spoilt->devices[1]->pci = NULL, "incomplete")                                        \
	SPOIL(spoilt->devices[1]->virtio->n_queues--, "incomplete")                                \
	SPOIL(spoilt->devices[1]->virtio->driver_features |= 1ull << 50, "features")               \
	SPOIL(spoilt->devices[1]->pci->config.len--, "config space")                               \
	SPOIL(spoilt->devices[1]->pci->config.data[0] ^= 1, "another device")                      \
	SPOIL(spoilt->devices[1]->pci->config.data[255] ^= 1, "another device")                    \
	SPOIL(spoilt->devices[1]->pci->msix_table.len -= 16, "MSI-X")                              \
	SPOIL(queue()->size = 0, "queue 0")                                                        \
	SPOIL(queue()->size = 255, "queue 0")                                                      \
	SPOIL(queue()->size = 512, "queue 0")                                                      \
	SPOIL(queue()->size = 0x10000 + 256, "queue 0")                                            \
	SPOIL(queue()->desc += 8, "queue 0")                                                       \
	SPOIL(queue()->desc = 8 * MIB - 4095, "queue 0")                                           \
	SPOIL(queue()->desc = ~0xfull, "queue 0")                                                  \
	SPOIL(queue()->avail = 8 * MIB - 517, "queue 0")                                           \
	SPOIL(queue()->avail |= 1, "queue 0")                                                      \
	SPOIL(queue()->used = 8 * MIB, "queue 0")                                                  \
	SPOIL(queue()->used |= 2, "queue 0")                                                       \
	SPOIL(spoilt->serial->rx.len = 257, "serial")                                              \
	SPOIL(spoilt->serial->tx.len = (64 << 10) + 1, "serial")

UNIT(state, that_is_wrong_in_one_place_is_refused)
{
	static struct arena arena;
	struct vm_ends ends_a, ends_b;
	struct vm *a, *b;
	struct error e = {""};
	Vmb__VmState *s;
	uint8_t *bytes;
	size_t len;
	unsigned int n = 0;

	fake.nested_size = 4224;
	a = busy_vm(&ends_a);
	b = make_vm(&spec, &ends_b);
	s = capture(a);
	len = packed(s, &bytes);
	vmb__vm_state__free_unpacked(s, NULL);
#define SPOIL(line, part)                                                                          \
	arena_init(&arena);                                                                        \
	spoilt = vmb__vm_state__unpack(&arena.allocator, len, bytes);                              \
	line;                                                                                      \
	vm_lock(b);                                                                                \
	e.text[0] = 0;                                                                             \
	cr_expect(vm_restore(b, spoilt, &e) && strstr(e.text, part), "%s: '%s'", #line, e.text);   \
	vm_unlock(b);                                                                              \
	arena_clear(&arena);                                                                       \
	n++;
	LINES
	cr_assert_gt(n, 40);
	/* Nothing of it stuck: the right one is taken. */
	s = vmb__vm_state__unpack(NULL, len, bytes);
	vm_lock(b);
	cr_assert_eq(vm_restore(b, s, &e), 0, "%s", e.text);
	vm_unlock(b);
	assert_same_cpus(fake_machine(a->fd), fake_machine(b->fd));
	vmb__vm_state__free_unpacked(s, NULL);
	free(bytes);
	destroy_vm(a, &ends_a);
	destroy_vm(b, &ends_b);
}

UNIT(restore, a_counter_of_another_rate_is_refused_before_anything_stops)
{
	struct vm_spec bare = {.disks = 0, .rng = true};
	struct vm_ends ends;
	struct vm *vm = make_vm(&bare, &ends);
	struct error e;
	Vmb__VmState *p;

	vm_lock(vm);
	p = vm_provisional(vm);
	cr_assert_gt(p->tsc_khz, 0u);
	cr_expect_eq(vm_load_provisional(vm, p, &e), 0, "%s", e.text);
	p->tsc_khz += p->tsc_khz / 5000; /* 200 ppm */
	cr_expect_eq(vm_load_provisional(vm, p, &e), 0, "%s", e.text);
	p->tsc_khz += p->tsc_khz / 5000;
	cr_expect_eq(vm_load_provisional(vm, p, &e), -1);
	cr_expect(strstr(e.text, "time stamp counter"), "%s", e.text);
	vm_unlock(vm);
	vmb__vm_state__free_unpacked(p, NULL);
	destroy_vm(vm, &ends);
}
