/* test_pci.c: configuration space, BARs, MSI-X and the virtio registers, as a guest sees and abuses
 * them.
 */
#include "tests/unit/unit.h"

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>

enum { BAR_SIZE = 0x8000, ISR = 0x1000, NOTIFY = 0x3000, TABLE = 0x4000, PBA = 0x5000 };

static struct vm *vm;
static struct vm_ends ends;
static struct virtio_device *disk, *net;

static const struct vm_spec two_devices = {.disks = 1, .nets = 1};

static void open_vm(void)
{
	vm = make_vm(&two_devices, &ends);
	disk = vm->virtio[0];
	net = vm->virtio[1];
}

static unsigned int slot_of(const struct virtio_device *d)
{
	return d->pci.slot;
}

static void enable_memory(struct virtio_device *d, bool on)
{
	pci_write(vm, slot_of(d), PCI_COMMAND, on ? PCI_COMMAND_MEMORY : 0, 2);
}

static bool has_doorbell(uint64_t addr)
{
	for (unsigned int i = 0; i < fake.ndoorbells; i++)
		if (fake.doorbell[i].addr == addr)
			return true;
	return false;
}

/* ---- configuration space */

UNIT(pci, answers_only_for_what_is_there)
{
	static const struct {
		uint32_t address;
		uint16_t port;
		unsigned int len;
		uint32_t value;
	} table[] = {
		{0x80000000, 0xcfc, 4, 0x12378086}, /* the host bridge */
		{0x80000000, 0xcfe, 2, 0x1237},
		{0x80000000, 0xcfd, 1, 0x80},
		{0x80000008, 0xcfc, 4, 0x06000000},
		{0x80000800, 0xcfc, 4, 0x10421af4}, /* the disk */
		{0x80001000, 0xcfc, 4, 0x10411af4}, /* the network */
		{0x80001800, 0xcfc, 4, 0xffffffff}, /* no such slot */
		{0x8000f800, 0xcfc, 4, 0xffffffff},
		{0x80000900, 0xcfc, 4, 0xffffffff}, /* no such function */
		{0x80010000, 0xcfc, 4, 0xffffffff}, /* no such bus */
		{0x00000000, 0xcfc, 4, 0xffffffff}, /* not enabled */
		{0x80000000, 0xcfd, 4, 0xffffffff}, /* across a word */
		{0x80000000, 0xcff, 2, 0xffffffff},
		{0x800000fc, 0xcfe, 4, 0xffffffff}, /* across the end */
		{0x80000800, 0xcf8, 4, 0x80000800},
		{0x80000800, 0xcf8, 1, 0xffffffff},
		{0x80000800, 0xcfb, 1, 0xffffffff},
	};

	open_vm();
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		pci_config_write(vm, 0xcf8, table[i].address, 4);
		cr_expect_eq(pci_config_read(vm, table[i].port, table[i].len), table[i].value,
			     "row %zu: %x", i, pci_config_read(vm, table[i].port, table[i].len));
		pci_config_write(vm, table[i].port, 0xffffffff, table[i].len);
	}
	destroy_vm(vm, &ends);
}

UNIT(pci, capabilities_form_a_list_of_known_parts)
{
	open_vm();
	for (unsigned int k = 0; k < vm->nvirtio; k++) {
		unsigned int slot = vm->virtio[k]->pci.slot, seen = 0, msix = 0;
		unsigned int at = pci_read(vm, slot, PCI_CAPABILITY_LIST, 1);
		bool taken[256] = {false};

		memset(taken, true, 0x40);
		cr_assert(pci_read(vm, slot, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST);
		while (at) {
			unsigned int id = pci_read(vm, slot, at, 1), len = 12;

			cr_assert(at % 4 == 0 && at >= 0x40, "capability at 0x%x", at);
			if (id == PCI_CAP_ID_VNDR) {
				unsigned int type = pci_read(vm, slot, at + 3, 1);
				uint32_t off = pci_read(vm, slot, at + 8, 4);
				uint32_t size = pci_read(vm, slot, at + 12, 4);

				len = pci_read(vm, slot, at + 2, 1);
				cr_assert_geq(len, type == VIRTIO_PCI_CAP_NOTIFY_CFG ||
								   type == VIRTIO_PCI_CAP_PCI_CFG
							   ? 20u
							   : 16u);
				cr_assert_not(seen >> type & 1, "type %u twice", type);
				seen |= 1u << type;
				cr_assert(off < BAR_SIZE && size <= BAR_SIZE - off);
			} else {
				cr_assert_eq(id, PCI_CAP_ID_MSIX);
				msix++;
				cr_assert_eq(pci_read(vm, slot, at + 2, 2) & PCI_MSIX_FLAGS_QSIZE,
					     vm->virtio[k]->ops->nqueues);
			}
			for (unsigned int i = at; i < at + len; i++) {
				cr_assert(i < 256 && !taken[i], "overlap at 0x%x", i);
				taken[i] = true;
			}
			at = pci_read(vm, slot, at + 1, 1);
		}
		cr_assert_eq(seen, 0x3eu, "types 1 to 5: %x", seen);
		cr_assert_eq(msix, 1u);
	}
	destroy_vm(vm, &ends);
}

UNIT(pci, a_guest_changes_only_what_it_may)
{
	uint64_t seed = 5;
	uint8_t before[256];

	open_vm();
	memcpy(before, net->pci.config, 256);
	for (int i = 0; i < 50000; i++) {
		unsigned int len = 1u << next_random(&seed) % 3, off = next_random(&seed) % 256 & ~(len - 1);

		pci_write(vm, slot_of(net), off, (uint32_t)next_random(&seed), len);
	}
	for (unsigned int i = 0; i < 256; i++)
		cr_assert_eq((net->pci.config[i] ^ before[i]) & ~net->pci.writable[i] &
				     (i >= net->pci_cfg_cap + 16 && i < net->pci_cfg_cap + 20 ? 0 : 0xff),
			     0, "byte 0x%x", i);
	/* What may be written at all. */
	for (unsigned int i = 0; i < 256; i++) {
		bool may = i == PCI_COMMAND || i == PCI_COMMAND + 1 || i == PCI_CACHE_LINE_SIZE ||
			   (i >= PCI_BASE_ADDRESS_0 && i < PCI_BASE_ADDRESS_1) ||
			   i == PCI_INTERRUPT_LINE || i == net->pci.msix_cap + 3 ||
			   i == net->pci_cfg_cap + 4 ||
			   (i >= net->pci_cfg_cap + 8 && i < net->pci_cfg_cap + 20);

		cr_assert(may || !net->pci.writable[i], "byte 0x%x", i);
	}
	destroy_vm(vm, &ends);
}

UNIT(pci, a_bar_tells_its_size_and_decodes_where_it_is_put)
{
	static const struct {
		uint32_t at;
		bool decodes;
	} table[] = {
		{0xd0100000, true}, {PCI_BAR_BASE, true},	       {PCI_BAR_END - BAR_SIZE, true},
		{0, false},	    {PCI_BAR_BASE - BAR_SIZE, false},  {PCI_BAR_END, false},
		{0x1000, false},    {PCI_BAR_END - BAR_SIZE / 2, true}, /* the low bits do not count */
		{0xfee00000, false}, {0xffff8000, false},
	};
	unsigned int slot;

	open_vm();
	slot = slot_of(disk);
	enable_memory(disk, true);
	pci_write(vm, slot, PCI_BASE_ADDRESS_0, 0xffffffff, 4);
	cr_assert_eq(pci_read(vm, slot, PCI_BASE_ADDRESS_0, 4), ~(BAR_SIZE - 1u));
	cr_assert_eq(fake.ndoorbells, 0u);
	for (unsigned int off = PCI_BASE_ADDRESS_1; off < PCI_CARDBUS_CIS; off += 4) {
		pci_write(vm, slot, off, 0xffffffff, 4);
		cr_assert_eq(pci_read(vm, slot, off, 4), 0u);
	}
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		uint32_t at = table[i].at & ~(BAR_SIZE - 1u), v;

		pci_write(vm, slot, PCI_BASE_ADDRESS_0, table[i].at, 4);
		cr_expect_eq(has_doorbell(at + NOTIFY), table[i].decodes, "%x", table[i].at);
		cr_expect_eq(fake.ndoorbells, table[i].decodes);
		cr_expect_eq(pci_mmio(vm, at, &v, 4, false), table[i].decodes, "%x", table[i].at);
		cr_expect_eq(pci_mmio(vm, at + BAR_SIZE - 4, &v, 4, false), table[i].decodes);
		cr_expect_not(pci_mmio(vm, at + BAR_SIZE - 3, &v, 4, false));
		cr_expect_not(pci_mmio(vm, (uint64_t)at + BAR_SIZE, &v, 1, false));
		cr_expect_not(pci_mmio(vm, at | 1ull << 32, &v, 4, false));
	}
	pci_write(vm, slot, PCI_BASE_ADDRESS_0, 0xd0100000, 4);
	enable_memory(disk, false);
	cr_assert_eq(fake.ndoorbells, 0u);
	cr_assert_not(pci_mmio(vm, 0xd0100000, &(uint32_t){0}, 4, false));
	cr_assert_eq(fake.mistakes, 0u);
	destroy_vm(vm, &ends);
}

UNIT(pci, doorbells_ring_after_any_moves_of_two_bars)
{
	uint64_t seed = 11;

	open_vm();
	for (int i = 0; i < 2000; i++) {
		struct virtio_device *d = next_random(&seed) % 2 ? disk : net;

		/* Few places: often both at one. */
		pci_write(vm, slot_of(d), PCI_BASE_ADDRESS_0,
			  0xd0000000 + (uint32_t)(next_random(&seed) % 3) * BAR_SIZE, 4);
		enable_memory(d, next_random(&seed) % 4);
		cr_assert_leq(fake.ndoorbells, 3u);
	}
	pci_write(vm, slot_of(disk), PCI_BASE_ADDRESS_0, 0xd0000000, 4);
	pci_write(vm, slot_of(net), PCI_BASE_ADDRESS_0, 0xd1000000, 4);
	driver_start(disk, 0, 16);
	driver_start(net, 0, 16);
	/* Whether KVM has them or not: a ring that was kicked is served. */
	guest_add(disk, 0, 0xffff);
	guest_kick(disk, 0);
	cr_assert(disk->status & VIRTIO_CONFIG_S_NEEDS_RESET);
	destroy_vm(vm, &ends);
}

/* ---- the window through configuration space */

static uint32_t window_read(uint8_t bar, uint32_t off, uint32_t len)
{
	unsigned int cap = net->pci_cfg_cap, slot = slot_of(net);

	pci_write(vm, slot, cap + 4, bar, 1);
	pci_write(vm, slot, cap + 8, off, 4);
	pci_write(vm, slot, cap + 12, len, 4);
	return pci_read(vm, slot, cap + 16, len == 1 || len == 2 ? len : 4);
}

UNIT(pci, the_window_reaches_the_bar_and_no_further)
{
	static const struct {
		uint32_t bar, off, len;
		bool good;
	} table[] = {
		{0, VIRTIO_PCI_COMMON_NUMQ, 2, true}, {0, VIRTIO_PCI_COMMON_Q_SIZE, 2, true},
		{0, 0x2000, 1, true},		      {0, 0x2000, 4, true},
		{1, VIRTIO_PCI_COMMON_NUMQ, 2, false}, {0, 0x2001, 2, false},
		{0, 0x2002, 4, false},		      {0, BAR_SIZE, 4, false},
		{0, BAR_SIZE - 2, 4, false},	      {0, 0xfffffffc, 4, false},
		{0, 0x2000, 0, false},		      {0, 0x2000, 3, false},
		{0, 0x2000, 8, false},		      {0, 0x2000, 0xffffffff, false},
	};

	open_vm();
	enable_memory(net, true);
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		uint32_t want = 0x5a5a5a5a, got, off = table[i].off;

		/* What is in the data field stays there if nothing is read. */
		pci_write(vm, slot_of(net), net->pci_cfg_cap + 12, 0, 4);
		pci_write(vm, slot_of(net), net->pci_cfg_cap + 16, want, 4);
		if (table[i].good)
			want = (uint32_t)bar_get(net, off, table[i].len);
		else if (table[i].len == 1 || table[i].len == 2)
			want &= (1u << 8 * table[i].len) - 1;
		got = window_read((uint8_t)table[i].bar, off, table[i].len);
		cr_expect_eq(got, want, "row %zu: %x, not %x", i, got, want);
	}
	/* And writes. */
	window_read(0, VIRTIO_PCI_COMMON_Q_SELECT, 2);
	pci_write(vm, slot_of(net), net->pci_cfg_cap + 16, 1, 2);
	cr_assert_eq(net->queue_select, 1);
	destroy_vm(vm, &ends);
}

/* ---- MSI-X */

static void set_entry(struct virtio_device *d, unsigned int v, uint32_t data, bool masked)
{
	bar_set(d, TABLE + 16 * v, 0xfee01000, 4);
	bar_set(d, TABLE + 16 * v + 4, 0, 4);
	bar_set(d, TABLE + 16 * v + 8, data, 4);
	bar_set(d, TABLE + 16 * v + 12, masked, 4);
}

static void set_control(struct virtio_device *d, uint16_t v)
{
	pci_write(vm, slot_of(d), d->pci.msix_cap + PCI_MSIX_FLAGS, v, 2);
}

/* The message that KVM sends for this vector; 0 if none. */
static uint32_t routed(struct virtio_device *d, unsigned int v)
{
	for (unsigned int i = 0; i < fake.nroutes; i++)
		if (fake.route[i].gsi == d->pci.gsi_base + v)
			return fake.route[i].u.msi.data;
	return 0;
}

UNIT(msix, a_message_goes_out_only_where_nothing_masks_it)
{
	static const struct {
		uint16_t control;
		bool masked, sends;
	} table[] = {
		{PCI_MSIX_FLAGS_ENABLE, false, true},
		{PCI_MSIX_FLAGS_ENABLE, true, false},
		{PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL, false, false},
		{PCI_MSIX_FLAGS_MASKALL, false, false},
		{0, false, false},
	};

	open_vm();
	enable_memory(net, true);
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		set_control(net, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
		set_entry(net, 1, 0x51, table[i].masked);
		set_control(net, table[i].control);
		msix_signal(&net->pci, 1);
		cr_expect_eq(took_interrupt(net, 1), table[i].sends, "row %zu", i);
		cr_expect_eq(bar_get(net, PBA, 8), table[i].sends ? 0 : 2, "row %zu", i);
		/* What is pending goes out once it may. */
		set_control(net, PCI_MSIX_FLAGS_ENABLE);
		set_entry(net, 1, 0x51, false);
		cr_expect_eq(took_interrupt(net, 1), !table[i].sends, "row %zu", i);
		cr_expect_eq(bar_get(net, PBA, 8), 0);
		cr_expect_eq(routed(net, 1), 0x51u);
	}
	msix_signal(&net->pci, 3); /* there are three: 0 to 2 */
	msix_signal(&net->pci, MSIX_NONE);
	cr_assert_eq(net->pci.msix_pending, 0u);
	destroy_vm(vm, &ends);
}

UNIT(msix, kvm_has_the_newest_message_before_one_is_sent_and_is_not_told_twice)
{
	unsigned int updates;

	open_vm();
	enable_memory(net, true);
	set_control(net, PCI_MSIX_FLAGS_ENABLE);
	for (uint32_t data = 0x40; data < 0x50; data++) {
		set_entry(net, 2, data, false);
		cr_assert_eq(routed(net, 2), data);
	}
	updates = fake.route_updates;
	set_entry(net, 2, 0x4f, false);
	for (int i = 0; i < 10; i++) { /* masking and unmasking is what drivers do all day */
		bar_set(net, TABLE + 2 * 16 + 12, 1, 4);
		bar_set(net, TABLE + 2 * 16 + 12, 0, 4);
	}
	cr_assert_eq(fake.route_updates, updates);
	/* The irqchip's own pins are in every table. */
	cr_assert_gt(fake.nroutes, 24u + 14u);
	destroy_vm(vm, &ends);
}

/* KVM's own table has the PIT on another pin: a guest without MSI-X needs ours as well. */
UNIT(msix, a_destination_whose_guest_uses_no_vector_has_the_irqchips_routes)
{
	struct error e;
	Vmb__VmState *p;

	open_vm();
	p = vm_provisional(vm);
	vm_lock(vm);
	cr_assert_eq(vm_load_provisional(vm, p, &e), 0, "%s", e.text);
	vm_unlock(vm);
	cr_assert_eq(fake.route_updates, 1);
	cr_assert_eq(fake.nroutes, 24u + 15u);
	vmb__vm_state__free_unpacked(p, NULL);
	destroy_vm(vm, &ends);
}

UNIT(msix, its_table_is_read_as_written_in_whole_words_only)
{
	open_vm();
	enable_memory(disk, true);
	bar_set(disk, TABLE, 0x1122334455667788, 8);
	cr_assert_eq(bar_get(disk, TABLE, 8), 0x1122334455667788u);
	cr_assert_eq(bar_get(disk, TABLE, 4), 0x55667788u);
	bar_set(disk, TABLE + 1, 0, 4);
	bar_set(disk, TABLE, 0, 2);
	bar_set(disk, TABLE + 2, 0, 1);
	cr_assert_eq(bar_get(disk, TABLE, 8), 0x1122334455667788u);
	cr_assert_eq(bar_get(disk, TABLE + 2, 2), 0u);
	/* Across the last entry's end, and beyond. */
	bar_set(disk, TABLE + 2 * 16 - 4, 0x1234567800000001, 8);
	cr_assert_eq(bar_get(disk, TABLE + 2 * 16 - 4, 8), 1u);
	bar_set(disk, TABLE + 0xff8, ~0ull, 8);
	cr_assert_eq(bar_get(disk, TABLE + 0xff8, 8), 0u);
	for (uint32_t off = 0; off < 16; off++)
		for (unsigned int len = 1; len <= 8; len *= 2)
			bar_get(disk, PBA + off, len);
	destroy_vm(vm, &ends);
}

/* ---- virtio's own registers */

static uint64_t common(uint32_t off, unsigned int len)
{
	return bar_get(net, off, len);
}

static void set_common(uint32_t off, uint64_t v, unsigned int len)
{
	bar_set(net, off, v, len);
}

static void write_features(uint64_t f)
{
	for (uint32_t i = 0; i < 2; i++) {
		set_common(VIRTIO_PCI_COMMON_GFSELECT, i, 4);
		set_common(VIRTIO_PCI_COMMON_GF, f >> 32 * i, 4);
	}
}

static uint64_t read_features(void)
{
	uint64_t f = 0;

	for (uint32_t i = 0; i < 2; i++) {
		set_common(VIRTIO_PCI_COMMON_DFSELECT, i, 4);
		f |= common(VIRTIO_PCI_COMMON_DF, 4) << 32 * i;
	}
	return f;
}

UNIT(virtio, agrees_on_features_that_both_have_and_then_for_good)
{
	uint64_t offered;
	const uint64_t v1 = 1ull << VIRTIO_F_VERSION_1;

	open_vm();
	enable_memory(net, true);
	offered = read_features();
	cr_assert_eq(offered, net->features);
	const struct {
		uint64_t features;
		bool good;
	} table[] = {{v1, true}, {offered, true}, {0, false}, {offered & ~v1, false},
		     {offered | 1ull << 62, false}, {v1 | 1ull << 4, false}, {~0ull, false}};

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		set_common(VIRTIO_PCI_COMMON_STATUS, 0, 1);
		set_common(VIRTIO_PCI_COMMON_STATUS, 3, 1);
		write_features(table[i].features);
		set_common(VIRTIO_PCI_COMMON_STATUS, 0xb, 1);
		cr_expect_eq(common(VIRTIO_PCI_COMMON_STATUS, 1), table[i].good ? 0xb : 3, "row %zu", i);
		if (table[i].good) {
			write_features(0);
			cr_expect_eq(net->driver_features, table[i].features, "changed afterwards");
		}
	}
	/* A driver that leaves the agreement out gets nothing by it. */
	set_common(VIRTIO_PCI_COMMON_STATUS, 0, 1);
	write_features(~0ull);
	set_common(VIRTIO_PCI_COMMON_STATUS, 7, 1);
	cr_assert_eq(net->driver_features & ~net->features, 0u, "%llx",
		     (unsigned long long)net->driver_features);
	destroy_vm(vm, &ends);
}

UNIT(virtio, a_reset_leaves_nothing)
{
	Vmb__DeviceState *fresh, *after;
	uint8_t a[2000], b[2000];
	size_t n;

	open_vm();
	enable_memory(net, true);
	fresh = virtio_state_get(net);
	driver_start(net, net->features, 64);
	msix_signal(&net->pci, 2);
	net->queues[0].last_avail = 7;
	set_common(VIRTIO_PCI_COMMON_STATUS, 0, 1);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_STATUS, 1), 0u);
	after = virtio_state_get(net);
	n = vmb__virtio_state__pack(fresh->virtio, a);
	cr_assert_eq(vmb__virtio_state__pack(after->virtio, b), n);
	cr_assert_arr_eq(a, b, n);
	vmb__device_state__free_unpacked(fresh, NULL);
	vmb__device_state__free_unpacked(after, NULL);
	destroy_vm(vm, &ends);
}

UNIT(virtio, queues_and_vectors_that_do_not_exist_are_none)
{
	open_vm();
	enable_memory(net, true);
	cr_assert_eq(common(VIRTIO_PCI_COMMON_NUMQ, 2), 2u);
	set_common(VIRTIO_PCI_COMMON_Q_SELECT, 2, 2);
	for (uint32_t off = VIRTIO_PCI_COMMON_Q_SIZE; off <= VIRTIO_PCI_COMMON_Q_USEDHI; off += 2) {
		set_common(off, 0xffff, 2);
		cr_assert_eq(common(off, 2), 0u, "offset %u", off);
	}
	set_common(VIRTIO_PCI_COMMON_Q_SELECT, 1, 2);
	for (uint32_t v = 0; v < 5; v++) {
		set_common(VIRTIO_PCI_COMMON_Q_MSIX, v, 2);
		cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_MSIX, 2), v < 3 ? v : 0xffffu);
		set_common(VIRTIO_PCI_COMMON_MSIX, v, 2);
		cr_assert_eq(common(VIRTIO_PCI_COMMON_MSIX, 2), v < 3 ? v : 0xffffu);
	}
	cr_assert_eq(common(VIRTIO_PCI_COMMON_Q_NOFF, 2), 1u);
	for (uint32_t i = 2; i < 5; i++) {
		set_common(VIRTIO_PCI_COMMON_DFSELECT, i, 4);
		cr_assert_eq(common(VIRTIO_PCI_COMMON_DF, 4), 0u);
	}
	destroy_vm(vm, &ends);
}

UNIT(virtio, reading_the_isr_clears_it)
{
	open_vm();
	driver_start(net, 0, 16);
	virtq_interrupt(&net->queues[0]);
	virtio_config_changed(net);
	cr_assert_eq(bar_get(net, ISR, 1), 3u);
	cr_assert_eq(bar_get(net, ISR, 1), 0u);
	destroy_vm(vm, &ends);
}

UNIT(virtio, every_read_gives_every_byte)
{
	open_vm();
	enable_memory(disk, true);
	for (uint32_t off = 0; off < BAR_SIZE; off++)
		for (unsigned int len = 1; len <= 8 && off + len <= BAR_SIZE; len *= 2) {
			uint64_t a = ~0ull, b = 0, mask = ~0ull >> (64 - 8 * len);

			cr_assert(pci_mmio(vm, disk->pci.bar_addr + off, &a, len, false));
			cr_assert(pci_mmio(vm, disk->pci.bar_addr + off, &b, len, false));
			cr_assert_eq(a & mask, b & mask, "%u bytes at 0x%x: %llx", len, off,
				     (unsigned long long)a);
			cr_assert_eq(b & ~mask, 0u, "more than was asked for");
		}
	destroy_vm(vm, &ends);
}

/* ---- whatever a guest does */

static void random_access_of(uint64_t *seed, struct virtio_device *d)
{
	static const unsigned int lens[] = {1, 2, 4, 8};
	uint64_t r = next_random(seed), v = next_random(seed);
	unsigned int len = lens[r >> 8 & 3];
	uint32_t off = (uint32_t)(r >> 16) & (BAR_SIZE - 1);
	static const uint16_t ports[] = {0x600, 0x602, 0x604, 0x64, 0xf4, 0x3f8, 0xcf8, 0x80};

	if (r & 0x80) /* often where registers are */
		off &= 0x703f;
	if (r & 0x40)
		v &= 0xffff; /* and values that make sense more often */
	if ((r & 0x30) == 0x30)
		v = GUEST_RINGS + (v & 0xf000);
	switch (r % 8) {
	case 0:
		pci_read(vm, slot_of(d), (unsigned int)(r >> 40) & 0xff & ~(MIN(len, 4u) - 1), MIN(len, 4u));
		break;
	case 1:
		pci_write(vm, slot_of(d), (unsigned int)(r >> 40) & 0xff & ~(MIN(len, 4u) - 1), (uint32_t)v,
			  MIN(len, 4u));
		break;
	case 2:
		enable_memory(d, true);
		pci_write(vm, slot_of(d), PCI_BASE_ADDRESS_0, 0xd0000000 + slot_of(d) * 0x10000, 4);
		break;
	case 3:
		platform_in(vm, ports[r >> 40 & 7], MIN(len, 4u));
		platform_out(vm, ports[r >> 40 & 7], (uint32_t)v, MIN(len, 4u));
		break;
	case 4:
		serial_write(vm->serial, r >> 40 & 7, (uint8_t)v);
		serial_read(vm->serial, r >> 48 & 7);
		break;
	default:
		if (d->pci.bar_addr)
			pci_mmio(vm, d->pci.bar_addr + off, &v, len, r & 1);
	}
}

/* A guest can break its own devices, and nothing else: it can always be moved. */
UNIT(virtio, a_guest_that_writes_nonsense_everywhere_can_still_be_moved)
{
	struct vm_ends ends_b;
	struct vm *b = make_vm(&two_devices, &ends_b);
	struct error e = {""};
	uint64_t seed = 2024;

	open_vm();
	for (unsigned int i = 0; i < 300000; i++) {
		struct virtio_device *d = next_random(&seed) % 2 ? disk : net;

		random_access_of(&seed, d);
		if (i % 64 == 0)
			loop_once(vm->loop, 0);
		if (i % 500 == 0) {
			Vmb__DeviceState *s = virtio_state_get(d), *t;
			uint8_t first[4000], second[4000];
			size_t n = vmb__device_state__pack(s, first);
			struct virtio_device *copy = b->virtio[d == net];

			cr_assert_eq(virtio_state_set(copy, s, &e), 0, "after %u: %s", i, e.text);
			t = virtio_state_get(copy);
			cr_assert_eq(vmb__device_state__pack(t, second), n);
			cr_assert_arr_eq(first, second, n);
			vmb__device_state__free_unpacked(s, NULL);
			vmb__device_state__free_unpacked(t, NULL);
		}
		cr_assert_not(vm->crash[0], "%s", vm->crash);
	}
	destroy_vm(vm, &ends);
	destroy_vm(b, &ends_b);
}

UNIT(platform, power_button_reset_and_exit_do_what_they_say)
{
	vm = make_vm(&(struct vm_spec){.debug_exit = true}, &ends);
	platform_power_button(vm);
	cr_assert_not(fake.irq_line[IRQ_SCI], "nobody has enabled it");
	platform_out(vm, PM1_EVT_PORT + 2, 1 << 8, 2);
	cr_assert(fake.irq_line[IRQ_SCI]);
	cr_assert_eq(platform_in(vm, PM1_EVT_PORT, 4), 0x01000100u);
	platform_out(vm, PM1_EVT_PORT, 1 << 8, 2); /* write one to clear */
	cr_assert_not(fake.irq_line[IRQ_SCI]);
	cr_assert_eq(platform_in(vm, PM1_CNT_PORT, 2), 1u);
	platform_out(vm, 0x64, 0xd1, 1);
	cr_assert_not(vm->reset_wanted);
	platform_out(vm, 0x64, 0xfe, 1);
	cr_assert(vm->reset_wanted);
	platform_out(vm, 0xf4, 5, 1); /* 32 bits or nothing */
	platform_out(vm, PM1_CNT_PORT, 1 << 13 | 1 << 10, 2); /* S1 */
	cr_assert_eq(vm->end, VM_END_NONE);
	platform_out(vm, 0xf4, 5, 4);
	cr_assert(vm->end == VM_END_DEBUG_EXIT && vm->end_status == 11);
	vm->end = VM_END_NONE;
	platform_out(vm, PM1_CNT_PORT, 1 << 13 | 5 << 10, 2);
	cr_assert_eq(vm->end, VM_END_SHUTDOWN);
	destroy_vm(vm, &ends);
}

UNIT(platform, a_reset_puts_everything_back)
{
	struct fake_vcpu *v;

	vm = make_vm(&two_devices, &ends); /* no kernel: the reset's last step must fail */
	v = &fake_machine(vm->fd)->vcpu[0];
	v->regs.rax = 0x1234;
	v->msr[1] = 99;
	driver_start(vm->virtio[0], 0, 16);
	serial_write(vm->serial, 1, 1);
	platform_out(vm, 0x64, 0xfe, 1);
	run_loop(vm);
	cr_assert(strstr(vm->crash, "reset"), "%s", vm->crash);
	cr_assert_eq(v->regs.rax, 0u);
	cr_assert_eq(v->msr[1], 0u);
	cr_assert_eq(vm->virtio[0]->status, 0);
	cr_assert_eq(serial_read(vm->serial, 1), 0);
	destroy_vm(vm, &ends);
}
