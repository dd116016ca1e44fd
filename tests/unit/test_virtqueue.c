/* test_virtqueue.c: guest memory and virtqueues whose contents are a hostile guest's. */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- memory_at() */

UNIT(memory, is_reached_only_where_there_is_ram)
{
	static const struct {
		uint64_t size, gpa, len;
		int64_t offset; /* -1: refused */
	} table[] = {
		/* 8 MiB, all of it low */
		{8 * MIB, 0, 1, 0},
		{8 * MIB, 0, 8 * MIB, 0},
		{8 * MIB, 0, 8 * MIB + 1, -1},
		{8 * MIB, 8 * MIB - 1, 1, 8 * MIB - 1},
		{8 * MIB, 8 * MIB - 1, 2, -1},
		{8 * MIB, 8 * MIB, 1, -1},
		{8 * MIB, 0, UINT64_MAX, -1},
		{8 * MIB, 1, UINT64_MAX, -1},
		{8 * MIB, UINT64_MAX, 1, -1},
		{8 * MIB, UINT64_MAX, UINT64_MAX, -1},
		{8 * MIB, UINT64_MAX - 4095, 4096, -1},
		{8 * MIB, 4 * GIB, 1, -1},
		{8 * MIB, 4 * GIB - 1, 2, -1},
		/* exactly as much as fits below the gap */
		{3 * GIB, 3 * GIB - 1, 1, 3 * (int64_t)GIB - 1},
		{3 * GIB, 3 * GIB - 1, 2, -1},
		{3 * GIB, 4 * GIB, 1, -1},
		/* and 1 GiB above it */
		{4 * GIB, 3 * GIB - 1, 1, 3 * (int64_t)GIB - 1},
		{4 * GIB, 3 * GIB - 1, 2, -1},
		{4 * GIB, 3 * GIB, 1, -1},
		{4 * GIB, 4 * GIB - 1, 1, -1},
		{4 * GIB, 4 * GIB - 1, 2, -1},
		{4 * GIB, 4 * GIB, 1, 3 * (int64_t)GIB},
		{4 * GIB, 4 * GIB, GIB, 3 * (int64_t)GIB},
		{4 * GIB, 4 * GIB, GIB + 1, -1},
		{4 * GIB, 5 * GIB - 1, 1, 4 * (int64_t)GIB - 1},
		{4 * GIB, 5 * GIB - 1, 2, -1},
		{4 * GIB, 5 * GIB, 1, -1},
		{4 * GIB, 0, 5 * GIB, -1},
		{4 * GIB, 0, 4 * GIB, -1},
		{4 * GIB, 5 * GIB - 1, UINT64_MAX, -1},
		{4 * GIB, 2 * GIB, UINT64_MAX - GIB, -1},
	};

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		struct memory m;
		uint8_t *p;

		cr_assert_eq(memory_create(&m, table[i].size, false, -1, NULL), 0);
		cr_assert_eq(memory_map(&m, NULL), 0);
		cr_assert_eq((uintptr_t)m.base % (2 * MIB), 0);
		p = memory_at(&m, table[i].gpa, table[i].len);
		cr_expect_eq(p ? p - m.base : -1, table[i].offset, "row %zu", i);
		m.fenced = true;
		cr_expect_null(memory_at(&m, 0, 1));
		memory_destroy(&m);
	}
}

UNIT(memory, is_adopted_only_with_its_size_sealed)
{
	static const struct {
		uint64_t size;
		int seals;
		bool good;
	} table[] = {
		{4 * MIB, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, true},
		{4 * MIB, F_SEAL_SHRINK | F_SEAL_GROW, false},
		{4 * MIB, F_SEAL_GROW | F_SEAL_SEAL, false},
		{4 * MIB, F_SEAL_SHRINK | F_SEAL_SEAL, false},
		{4 * MIB, 0, false},
		{2 * MIB, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, false},
		{6 * MIB, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, false},
	};
	struct memory m;

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		int fd = memfd_with("", 0);

		if (ftruncate(fd, (off_t)table[i].size) || fcntl(fd, F_ADD_SEALS, table[i].seals))
			abort();
		cr_expect_eq(memory_create(&m, 4 * MIB, false, fd, NULL), table[i].good ? 0 : -1,
			     "row %zu", i);
		close(fd);
	}
	cr_assert_eq(memory_create(&m, UINT64_MAX - 2 * MIB + 1, false, -1, NULL), -1);
	cr_assert_eq(m.fd, -1);
	memory_destroy(&m);
}

/* ---- a device that only looks at its ring */

static void ignore_kick(struct virtio_device *d, struct virtq *q)
{
	(void)d, (void)q;
}

static const struct virtio_ops toy_ops = {
	.name = "toy", .type = 63, .nqueues = 1, .kicked = ignore_kick};

static struct vm *vm;
static struct vm_ends ends;
static struct virtio_device *dev;
static struct virtq *vq;
static struct guest_queue ring;
static struct virtq_chain chain;

enum { SIZE = 256, INDIRECT = 0x300000 };
#define INDIRECT_FEATURE (1ull << VIRTIO_RING_F_INDIRECT_DESC)
#define EVENT_FEATURE    (1ull << VIRTIO_RING_F_EVENT_IDX)

static void open_toy(uint64_t memory, uint64_t features)
{
	struct error e;

	vm = make_vm(&(struct vm_spec){.memory = memory}, &ends);
	dev = xcalloc(1, sizeof(*dev));
	cr_assert_eq(virtio_init(dev, vm, &toy_ops, 0, &e), 0);
	pci_device_reset(&dev->pci);
	driver_start(dev, features, SIZE);
	vq = &dev->queues[0];
	ring = guest_queue(dev, 0);
}

static bool has_failed(void)
{
	return dev->status & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/* ---- chains, good and bad */

enum { N = VRING_DESC_F_NEXT, W = VRING_DESC_F_WRITE, I = VRING_DESC_F_INDIRECT, B = GUEST_BUFFERS };

struct chain_case {
	const char *what;
	struct vring_desc desc[5];	/* from 0 on */
	struct vring_desc indirect[4];	/* at INDIRECT */
	uint16_t head;
	int result;
	unsigned int nout, nin;
	uint64_t out_len, in_len;
};

static const struct chain_case chains[] = {
	{"one readable", {{B, 10, 0, 0}}, .result = 1, .nout = 1, .out_len = 10},
	{"readable and writable",
	 {{B, 16, N, 1}, {B + 16, 512, N | W, 2}, {B + 600, 1, W, 0}},
	 .result = 1,
	 .nout = 1,
	 .nin = 2,
	 .out_len = 16,
	 .in_len = 513},
	{"scattered indices",
	 {{0}, {B, 3, W, 0}, {0}, {B, 4, N, 1}},
	 .head = 3,
	 .result = 1,
	 .nout = 1,
	 .nin = 1,
	 .out_len = 4,
	 .in_len = 3},
	{"a part of no length",
	 {{B, 0, N, 1}, {B, 5, N, 2}, {B, 0, W, 0}},
	 .result = 1,
	 .nout = 1,
	 .out_len = 5},
	{"next that does not count", {{B, 10, 0, 0xffff}}, .result = 1, .nout = 1, .out_len = 10},
	{"indirect",
	 {{INDIRECT, 48, I, 0}},
	 {{B, 1, N, 2}, {B, 2, W, 0}, {B, 4, N, 1}},
	 .result = 1,
	 .nout = 2,
	 .nin = 1,
	 .out_len = 5,
	 .in_len = 2},
	{"indirect behind direct",
	 {{B, 1, N, 1}, {INDIRECT, 16, I, 0}},
	 {{B, 2, W, 0}},
	 .result = 1,
	 .nout = 1,
	 .nin = 1,
	 .out_len = 1,
	 .in_len = 2},
	{"an indirect that says it is writable",
	 {{INDIRECT, 16, I | W, 0}},
	 {{B, 2, 0, 0}},
	 .result = 1,
	 .nout = 1,
	 .out_len = 2},
	{"in high memory", {{4 * GIB, GIB, W, 0}}, .result = 1, .nin = 1, .in_len = GIB},
	{"to the last byte below the gap",
	 {{3 * GIB - 1, 1, 0, 0}},
	 .result = 1,
	 .nout = 1,
	 .out_len = 1},

	{"into the gap", {{3 * GIB - 1, 2, 0, 0}}, .result = -1},
	{"in the gap", {{3 * GIB, 1, 0, 0}}, .result = -1},
	{"across the gap", {{2 * GIB, 0x90000000, 0, 0}}, .result = -1},
	{"the end of the gap", {{4 * GIB - 1, 2, W, 0}}, .result = -1},
	{"beyond the end", {{5 * GIB - 1, 2, W, 0}}, .result = -1},
	{"far beyond", {{1ull << 63, 1, W, 0}}, .result = -1},
	{"round the address space", {{UINT64_MAX, 2, W, 0}}, .result = -1},
	{"longest", {{0, 0xffffffff, W, 0}}, .result = -1},
	{"no length, no memory", {{UINT64_MAX, 0, 0, 0}}, .result = -1},
	{"only the second is bad", {{B, 1, N, 1}, {3 * GIB, 1, W, 0}}, .result = -1},
	{"readable behind writable", {{B, 1, N | W, 1}, {B, 1, 0, 0}}, .result = -1},
	{"readable behind writable, indirect",
	 {{B, 1, N | W, 1}, {INDIRECT, 16, I, 0}},
	 {{B, 1, 0, 0}},
	 .result = -1},
	{"head out of range", {{B, 1, 0, 0}}, .head = SIZE, .result = -1},
	{"head far out of range", {{B, 1, 0, 0}}, .head = 0xffff, .result = -1},
	{"next out of range", {{B, 1, N, SIZE}}, .result = -1},
	{"next far out of range", {{B, 1, N, 0xffff}}, .result = -1},
	{"next of itself", {{B, 1, N, 0}}, .result = -1},
	{"next of itself, no length", {{B, 0, N, 0}}, .result = -1},
	{"a loop of three", {{B, 1, N, 1}, {B, 1, N, 2}, {B, 1, N, 1}}, .result = -1},
	{"indirect in indirect",
	 {{INDIRECT, 16, I, 0}},
	 {{INDIRECT, 16, I, 0}},
	 .result = -1},
	{"indirect and next", {{INDIRECT, 16, I | N, 1}, {B, 1, 0, 0}}, {{B, 1, 0, 0}}, .result = -1},
	{"indirect of no length", {{INDIRECT, 0, I, 0}}, .result = -1},
	{"indirect of half an entry", {{INDIRECT, 24, I, 0}}, {{B, 1, 0, 0}}, .result = -1},
	{"indirect too long", {{INDIRECT, 257 * 16, I, 0}}, {{B, 1, 0, 0}}, .result = -1},
	{"indirect far too long", {{INDIRECT, 0xfffffff0, I, 0}}, {{B, 1, 0, 0}}, .result = -1},
	{"indirect outside", {{3 * GIB, 16, I, 0}}, .result = -1},
	{"indirect into the gap", {{3 * GIB - 16, 32, I, 0}}, .result = -1},
	{"indirect round the address space", {{~15ull, 32, I, 0}}, .result = -1},
	{"indirect, next beyond the table", {{INDIRECT, 32, I, 0}}, {{B, 1, N, 2}}, .result = -1},
	{"indirect, a loop", {{INDIRECT, 32, I, 0}}, {{B, 1, N, 1}, {B, 1, N, 0}}, .result = -1},
};

static void check_chain(const struct chain_case *c)
{
	int r;

	memcpy(ring.desc, c->desc, sizeof(c->desc));
	memcpy(guest_memory(vm, INDIRECT), c->indirect, sizeof(c->indirect));
	guest_add(dev, 0, c->head);
	r = virtq_pop(vq, &chain);
	cr_expect_eq(r, c->result, "%s: %d", c->what, r);
	cr_expect_eq(has_failed(), c->result < 0, "%s", c->what);
	if (r == 1) {
		cr_expect(chain.head == c->head && chain.nout == c->nout && chain.nin == c->nin &&
				  chain.out_len == c->out_len && chain.in_len == c->in_len,
			  "%s: %u of %llu, %u of %llu", c->what, chain.nout,
			  (unsigned long long)chain.out_len, chain.nin, (unsigned long long)chain.in_len);
		return;
	}
	/* It serves nothing until its driver resets it, and everything then. */
	ring.desc[0] = (struct vring_desc){B, 10, 0, 0};
	guest_add(dev, 0, 0);
	guest_kick(dev, 0);
	cr_expect_eq(ring.used->idx, 0, "%s", c->what);
	driver_start(dev, INDIRECT_FEATURE, SIZE);
	cr_expect_not(has_failed());
}

UNIT(virtqueue, takes_good_chains_and_fails_on_bad_ones)
{
	open_toy(4 * GIB, INDIRECT_FEATURE);
	for (size_t i = 0; i < ARRAY_LEN(chains); i++)
		check_chain(&chains[i]);
	destroy_vm(vm, &ends);
}

UNIT(virtqueue, takes_no_indirect_chain_from_a_driver_that_has_not_asked)
{
	open_toy(0, 0);
	ring.desc[0] = (struct vring_desc){INDIRECT, 16, I, 0};
	*(struct vring_desc *)guest_memory(vm, INDIRECT) = (struct vring_desc){B, 1, 0, 0};
	guest_add(dev, 0, 0);
	cr_assert_eq(virtq_pop(vq, &chain), -1);
	cr_assert(has_failed());
	destroy_vm(vm, &ends);
}

UNIT(virtqueue, a_chain_may_be_as_long_as_the_queue_and_no_longer)
{
	struct vring_desc *table;

	open_toy(0, INDIRECT_FEATURE);
	for (uint16_t i = 0; i < SIZE; i++)
		ring.desc[i] = (struct vring_desc){B, 1, i < SIZE - 1 ? N : 0, (uint16_t)(i + 1)};
	guest_add(dev, 0, 0);
	cr_assert_eq(virtq_pop(vq, &chain), 1);
	cr_assert_eq(chain.nout, SIZE);
	/* The last of them leads to more. */
	table = guest_memory(vm, INDIRECT);
	table[0] = (struct vring_desc){B, 1, N, 1};
	table[1] = (struct vring_desc){B, 1, 0, 0};
	ring.desc[SIZE - 1] = (struct vring_desc){INDIRECT, 32, I, 0};
	guest_add(dev, 0, 0);
	cr_assert_eq(virtq_pop(vq, &chain), -1);
	cr_assert(has_failed());
	destroy_vm(vm, &ends);
}

UNIT(virtqueue, an_available_index_may_run_ahead_by_its_size_and_no_further)
{
	static const struct {
		uint16_t at, idx;
		int result;
	} table[] = {
		{0, 0, 0},	       {0, 1, 1},	   {0, SIZE, 1},	{0, SIZE + 1, -1},
		{0, 0x8000, -1},       {0, 0xffff, -1},	   {0xffff, 0xffff, 0}, {0xffff, 0, 1},
		{0xffff, SIZE - 1, 1}, {0xffff, SIZE, -1}, {5, 4, -1},		{0xff80, 0x80, 1},
		{0xff80, 0x81, -1},
	};

	open_toy(0, 0);
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		for (unsigned int k = 0; k < SIZE; k++)
			ring.avail->ring[k] = 0;
		ring.desc[0] = (struct vring_desc){B, 1, 0, 0};
		vq->last_avail = table[i].at;
		ring.avail->idx = table[i].idx;
		cr_expect_eq(virtq_pop(vq, &chain), table[i].result, "from %u to %u", table[i].at,
			     table[i].idx);
		cr_expect_eq(has_failed(), table[i].result < 0);
		driver_start(dev, 0, SIZE);
	}
	destroy_vm(vm, &ends);
}

UNIT(virtqueue, is_not_enabled_with_rings_that_make_no_sense)
{
	static const struct {
		uint64_t desc, avail, used;
		uint16_t size;
		bool good;
	} table[] = {
		{0x1000, 0x2000, 0x3000, 1, true},
		{0x1000, 0x2000, 0x3000, 256, true},
		{4 * GIB, 4 * GIB + 0x2000, 4 * GIB + 0x3000, 256, true},
		{3 * GIB - 4096, 0x2000, 0x3000, 256, true},
		{0x1000, 3 * GIB - 518, 0x3000, 256, true},
		{0x1000, 0x2000, 3 * GIB - 2056, 256, true},
		{0x1000, 0x2000, 0x3000, 0, false},
		{0x1000, 0x2000, 0x3000, 3, false},
		{0x1000, 0x2000, 0x3000, 255, false},
		{0x1000, 0x2000, 0x3000, 512, false},
		{0x1000, 0x2000, 0x3000, 0x8000, false},
		{0x1008, 0x2000, 0x3000, 256, false},
		{0x1000, 0x2001, 0x3000, 256, false},
		{0x1000, 0x2000, 0x3002, 256, false},
		{3 * GIB - 4080, 0x2000, 0x3000, 256, false},
		{0x1000, 3 * GIB - 516, 0x3000, 256, false},
		{0x1000, 0x2000, 3 * GIB - 2052, 256, false},
		{3 * GIB, 0x2000, 0x3000, 256, false},
		{0x1000, 5 * GIB, 0x3000, 256, false},
		{0x1000, 0x2000, ~3ull, 256, false},
		{~0xfull, 0x2000, 0x3000, 256, false},
	};
	uint32_t c;

	open_toy(4 * GIB, 0);
	c = virtio_structure(dev, VIRTIO_PCI_CAP_COMMON_CFG, NULL);
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const uint64_t addr[] = {table[i].desc, table[i].avail, table[i].used};

		driver_prepare(dev, 1ull << VIRTIO_F_VERSION_1);
		bar_set(dev, c + VIRTIO_PCI_COMMON_Q_SELECT, 0, 2);
		bar_set(dev, c + VIRTIO_PCI_COMMON_Q_SIZE, table[i].size, 2);
		for (unsigned int k = 0; k < 6; k++)
			bar_set(dev, c + VIRTIO_PCI_COMMON_Q_DESCLO + 4 * k,
				(uint32_t)(addr[k / 2] >> (k % 2 * 32)), 4);
		bar_set(dev, c + VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
		cr_expect_eq(bar_get(dev, c + VIRTIO_PCI_COMMON_Q_ENABLE, 2), table[i].good, "row %zu", i);
		cr_expect_eq(has_failed(), !table[i].good, "row %zu", i);
		/* Enabled, it cannot be changed. */
		bar_set(dev, c + VIRTIO_PCI_COMMON_Q_SIZE, 2, 2);
		bar_set(dev, c + VIRTIO_PCI_COMMON_Q_DESCHI, 0xff, 4);
		cr_expect_eq(vq->size == table[i].size && vq->desc == table[i].desc, table[i].good);
	}
	destroy_vm(vm, &ends);
}

/* ---- who wants to be told */

/* Whether an index in [from, to) is the event. */
static bool passed(uint16_t event, uint16_t from, uint16_t to)
{
	for (uint16_t i = from; i != to; i++)
		if (i == event)
			return true;
	return false;
}

UNIT(virtqueue, interrupts_when_the_event_index_is_passed_also_where_it_wraps)
{
	open_toy(0, EVENT_FEATURE);
	for (uint32_t from = 0xfff8; from <= 0x10008; from++)
		for (uint16_t steps = 0; steps < 8; steps++)
			for (uint32_t event = 0xfff0; event <= 0x10010; event++) {
				uint16_t old = (uint16_t)from, now = (uint16_t)(from + steps);

				vq->signalled_used = old;
				vq->signalled_valid = true;
				vq->used_idx = now;
				*ring.used_event = (uint16_t)event;
				virtq_notify(vq);
				cr_assert_eq(took_interrupt(dev, 0), passed((uint16_t)event, old, now),
					     "from %u by %u, event %u", from, steps, event);
			}
	vq->signalled_valid = false; /* after a start nobody knows: then always */
	virtq_notify(vq);
	cr_assert(took_interrupt(dev, 0));
	destroy_vm(vm, &ends);
}

UNIT(virtqueue, interrupts_by_flag_without_event_indices)
{
	open_toy(0, 0);
	virtq_push(vq, 0, 0);
	virtq_notify(vq);
	cr_assert(took_interrupt(dev, 0));
	ring.avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	virtq_push(vq, 0, 0);
	virtq_notify(vq);
	cr_assert_not(took_interrupt(dev, 0));
	virtq_disable_kicks(vq);
	cr_assert_eq(ring.used->flags, VRING_USED_F_NO_NOTIFY);
	cr_assert_not(virtq_enable_kicks(vq));
	cr_assert_eq(ring.used->flags, 0);
	guest_add(dev, 0, 0);
	cr_assert(virtq_enable_kicks(vq), "a chain added meanwhile was not seen");
	destroy_vm(vm, &ends);
}

UNIT(virtqueue, asks_for_a_kick_where_it_has_stopped_reading)
{
	open_toy(0, EVENT_FEATURE);
	vq->last_avail = 0xffff;
	ring.avail->idx = 0xffff;
	cr_assert_not(virtq_enable_kicks(vq));
	cr_assert_eq(*ring.avail_event, 0xffff);
	guest_add(dev, 0, 0);
	cr_assert(virtq_enable_kicks(vq));
	destroy_vm(vm, &ends);
}

UNIT(virtqueue, used_entries_appear_in_order_and_together)
{
	open_toy(0, 0);
	vq->used_idx = ring.used->idx = 0xfffe;
	for (unsigned int i = 0; i < 4; i++)
		virtq_fill(vq, i, (uint16_t)(10 + i), 100 + i);
	cr_assert_eq(ring.used->idx, 0xfffe);
	virtq_publish(vq, 4);
	cr_assert_eq(ring.used->idx, 2);
	for (uint16_t i = 0; i < 4; i++) {
		const struct vring_used_elem *u = &ring.used->ring[(uint16_t)(0xfffe + i) % SIZE];

		cr_assert(u->id == 10u + i && u->len == 100u + i);
	}
	/* Fenced memory is left alone, and that is no fault of the driver's. */
	vm->memory.fenced = true;
	virtq_push(vq, 7, 7);
	virtq_disable_kicks(vq);
	cr_assert_not(virtq_enable_kicks(vq));
	cr_assert_eq(virtq_pop(vq, &chain), -1);
	vm->memory.fenced = false;
	cr_assert_eq(ring.used->idx, 2);
	cr_assert_not(has_failed());
	destroy_vm(vm, &ends);
}

/* ---- scattered buffers */

UNIT(iov, reads_writes_and_cuts_like_one_buffer)
{
	uint64_t seed = 7;

	for (int round = 0; round < 20000; round++) {
		uint8_t flat[64], parts[64], out[80], want[80];
		struct iovec iov[8], cut[8];
		unsigned int n = (unsigned int)(next_random(&seed) % 8), k;
		size_t total = 0, off = next_random(&seed) % 70, len = next_random(&seed) % 70, take;

		for (unsigned int i = 0; i < n; i++) {
			iov[i] = (struct iovec){parts + total, next_random(&seed) % 9};
			total += iov[i].iov_len;
		}
		for (size_t i = 0; i < sizeof(flat); i++)
			flat[i] = parts[i] = (uint8_t)next_random(&seed);
		take = off < total ? MIN(len, total - off) : 0;
		cr_assert_eq(iov_read(iov, n, off, out, len), take);
		cr_assert_arr_eq(out, flat + (take ? off : 0), take);
		for (size_t i = 0; i < sizeof(want); i++)
			want[i] = (uint8_t)next_random(&seed);
		cr_assert_eq(iov_write(iov, n, off, want, len), take);
		if (take)
			memcpy(flat + off, want, take);
		cr_assert_arr_eq(parts, flat, sizeof(flat));
		k = iov_slice(cut, 8, iov, n, off, len);
		cr_assert_eq(iov_read(cut, k, 0, out, sizeof(out)), take);
		cr_assert_arr_eq(out, flat + (take ? off : 0), take);
		cr_assert_leq(iov_slice(cut, 2, iov, n, off, len), 2u);
	}
}
