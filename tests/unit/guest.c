/* guest.c: a guest's drivers; the contract is in guest.h. */
#include "tests/unit/guest.h"

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void pci_select(struct vm *vm, unsigned int slot, unsigned int off)
{
	pci_config_write(vm, 0xcf8, 0x80000000u | slot << 11 | (off & 0xfc), 4);
}

uint32_t pci_read(struct vm *vm, unsigned int slot, unsigned int off, unsigned int len)
{
	pci_select(vm, slot, off);
	return pci_config_read(vm, (uint16_t)(0xcfc + (off & 3)), len);
}

void pci_write(struct vm *vm, unsigned int slot, unsigned int off, uint32_t v, unsigned int len)
{
	pci_select(vm, slot, off);
	pci_config_write(vm, (uint16_t)(0xcfc + (off & 3)), v, len);
}

uint64_t bar_get(struct virtio_device *d, uint32_t off, unsigned int len)
{
	uint64_t v = 0;

	if (!pci_mmio(d->pci.vm, d->pci.bar_addr + off, &v, len, false))
		abort();
	return v;
}

void bar_set(struct virtio_device *d, uint32_t off, uint64_t v, unsigned int len)
{
	if (!pci_mmio(d->pci.vm, d->pci.bar_addr + off, &v, len, true))
		abort();
}

uint32_t virtio_structure(struct virtio_device *d, uint8_t type, unsigned int *cap)
{
	struct vm *vm = d->pci.vm;
	unsigned int at = pci_read(vm, d->pci.slot, PCI_CAPABILITY_LIST, 1);

	for (; at; at = pci_read(vm, d->pci.slot, at + PCI_CAP_LIST_NEXT, 1))
		if (pci_read(vm, d->pci.slot, at, 1) == PCI_CAP_ID_VNDR &&
		    pci_read(vm, d->pci.slot, at + VIRTIO_PCI_CAP_CFG_TYPE, 1) == type) {
			if (cap)
				*cap = at;
			return pci_read(vm, d->pci.slot, at + VIRTIO_PCI_CAP_OFFSET, 4);
		}
	abort();
}

static uint32_t common(struct virtio_device *d)
{
	return virtio_structure(d, VIRTIO_PCI_CAP_COMMON_CFG, NULL);
}

void driver_prepare(struct virtio_device *d, uint64_t features)
{
	struct vm *vm = d->pci.vm;
	unsigned int slot = d->pci.slot, status = 0;
	uint32_t c;

	pci_write(vm, slot, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	c = common(d);
	bar_set(d, c + VIRTIO_PCI_COMMON_STATUS, 0, 1);
	bar_set(d, c + VIRTIO_PCI_COMMON_STATUS, status |= VIRTIO_CONFIG_S_ACKNOWLEDGE, 1);
	bar_set(d, c + VIRTIO_PCI_COMMON_STATUS, status |= VIRTIO_CONFIG_S_DRIVER, 1);
	for (uint32_t half = 0; half < 2; half++) {
		bar_set(d, c + VIRTIO_PCI_COMMON_GFSELECT, half, 4);
		bar_set(d, c + VIRTIO_PCI_COMMON_GF, (uint32_t)(features >> 32 * half), 4);
	}
	bar_set(d, c + VIRTIO_PCI_COMMON_STATUS, status |= VIRTIO_CONFIG_S_FEATURES_OK, 1);
	if (!(bar_get(d, c + VIRTIO_PCI_COMMON_STATUS, 1) & VIRTIO_CONFIG_S_FEATURES_OK))
		abort();
	/* MSI-X: all vectors to some message, on. */
	for (unsigned int i = 0; i < d->pci.nvectors; i++) {
		uint32_t table = pci_read(vm, slot, d->pci.msix_cap + PCI_MSIX_TABLE, 4);

		bar_set(d, table + 16 * i, 0xfee00000, 4);
		bar_set(d, table + 16 * i + 8, 0x40 + i, 4);
		bar_set(d, table + 16 * i + 12, 0, 4);
	}
	pci_write(vm, slot, d->pci.msix_cap + PCI_MSIX_FLAGS, PCI_MSIX_FLAGS_ENABLE, 2);
	bar_set(d, c + VIRTIO_PCI_COMMON_MSIX, d->ops->nqueues, 2);
}

void driver_queue(struct virtio_device *d, unsigned int q, uint16_t qsize)
{
	uint64_t base = GUEST_RINGS + q * GUEST_RING_SIZE;
	uint32_t c = common(d);

	memset(guest_memory(d->pci.vm, base), 0, GUEST_RING_SIZE);
	bar_set(d, c + VIRTIO_PCI_COMMON_Q_SELECT, q, 2);
	bar_set(d, c + VIRTIO_PCI_COMMON_Q_SIZE, qsize, 2);
	bar_set(d, c + VIRTIO_PCI_COMMON_Q_MSIX, q, 2);
	bar_set(d, c + VIRTIO_PCI_COMMON_Q_DESCLO, base, 4);
	bar_set(d, c + VIRTIO_PCI_COMMON_Q_AVAILLO, base + 0x4000, 4);
	bar_set(d, c + VIRTIO_PCI_COMMON_Q_USEDLO, base + 0x8000, 4);
	bar_set(d, c + VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
}

void driver_start(struct virtio_device *d, uint64_t features, uint16_t qsize)
{
	driver_prepare(d, features | 1ull << VIRTIO_F_VERSION_1);
	for (unsigned int i = 0; i < d->ops->nqueues; i++)
		driver_queue(d, i, qsize);
	bar_set(d, common(d) + VIRTIO_PCI_COMMON_STATUS, 15, 1);
	run_loop(d->pci.vm);
}

struct guest_queue guest_queue(struct virtio_device *d, unsigned int q)
{
	uint64_t base = GUEST_RINGS + q * GUEST_RING_SIZE;
	uint16_t size = d->queues[q].size;
	uint8_t *p = guest_memory(d->pci.vm, base);

	return (struct guest_queue){
		.desc = (void *)p,
		.avail = (void *)(p + 0x4000),
		.used = (void *)(p + 0x8000),
		.used_event = (void *)(p + 0x4000 + 4 + 2 * size),
		.avail_event = (void *)(p + 0x8000 + 4 + 8 * size),
		.size = size,
		.desc_gpa = base,
		.avail_gpa = base + 0x4000,
		.used_gpa = base + 0x8000,
	};
}

void guest_add(struct virtio_device *d, unsigned int q, uint16_t head)
{
	struct guest_queue g = guest_queue(d, q);

	g.avail->ring[g.avail->idx % g.size] = head;
	g.avail->idx++;
}

void run_loop(struct vm *vm)
{
	for (int i = 0; i < 8; i++)
		loop_once(vm->loop, 0);
}

void guest_kick(struct virtio_device *d, unsigned int q)
{
	uint32_t notify = virtio_structure(d, VIRTIO_PCI_CAP_NOTIFY_CFG, NULL);

	bar_set(d, notify + 4 * q, q, 2);
	run_loop(d->pci.vm);
}

void *guest_memory(struct vm *vm, uint64_t gpa)
{
	void *p = memory_at(&vm->memory, gpa, 1);

	if (!p)
		abort();
	return p;
}

bool took_interrupt(struct virtio_device *d, unsigned int vector)
{
	uint64_t n;

	return read(d->pci.vectors[vector].irqfd, &n, sizeof(n)) == sizeof(n);
}
