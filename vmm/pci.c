/* pci.c: PCI bus 0 by configuration mechanism 1, and where its BARs decode.
 *
 * Source: PCI Local Bus Specification 3.0, chapters 3.2.2.3.2 and 6.  One function a device, one
 * 32-bit memory BAR (BAR 0), MSI-X instead of interrupt pins.  Firmware's work is done here too:
 * BARs are assigned at reset; a guest may move them.
 */
#include "vmm/internal.h"

#include <linux/pci_regs.h>
#include <string.h>

enum { BAR_STRIDE = 0x10000, CONFIG_ENABLE = 0x80000000u };

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static void put16(uint8_t *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

static void put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

int pci_device_init(struct pci_device *d, struct vm *vm, const struct pci_device_ops *ops,
		    uint16_t vendor, uint16_t device, uint32_t class_rev, uint32_t bar_size,
		    struct error *e)
{
	if (vm->npci > MAX_PCI_DEVICES)
		return error_set(e, "more than %d PCI devices", MAX_PCI_DEVICES);
	d->vm = vm;
	d->ops = ops;
	d->slot = vm->npci++;
	d->bar_size = bar_size;
	vm->pci[d->slot] = d;
	put16(d->config + PCI_VENDOR_ID, vendor);
	put16(d->config + PCI_DEVICE_ID, device);
	put32(d->config + PCI_CLASS_REVISION, class_rev);
	put16(d->writable + PCI_COMMAND,
	      PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	put32(d->writable + PCI_CACHE_LINE_SIZE, 0xff);
	d->writable[PCI_INTERRUPT_LINE] = 0xff;
	if (bar_size)
		put32(d->writable + PCI_BASE_ADDRESS_0, ~(bar_size - 1));
	return 0;
}

/* Appends a capability of 2 + len bytes; returns its offset. */
unsigned int pci_add_capability(struct pci_device *d, uint8_t id, const void *body, size_t len)
{
	unsigned int at = 0x40, last = PCI_CAPABILITY_LIST;

	while (d->config[last]) {
		last = d->config[last];
		/* Where this one ends is where the next may begin: lengths are in caps_end. */
		last += PCI_CAP_LIST_NEXT;
	}
	if (d->caps_end)
		at = d->caps_end;
	d->config[last] = (uint8_t)at;
	d->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	d->config[at] = id;
	memcpy(d->config + at + 2, body, len);
	d->caps_end = (unsigned int)ALIGN_UP(at + 2 + len, 4);
	return at;
}

static void update_bar(struct pci_device *d)
{
	uint32_t addr = get32(d->config + PCI_BASE_ADDRESS_0) & ~0xfu;

	if (!d->bar_size)
		return;
	if (!(d->config[PCI_COMMAND] & PCI_COMMAND_MEMORY))
		addr = 0;
	/* Inside the window only: a BAR over RAM or the APICs decodes nowhere. */
	if (addr < PCI_BAR_BASE || addr > PCI_BAR_END - d->bar_size)
		addr = 0;
	if (addr == d->bar_addr)
		return;
	d->bar_addr = addr;
	d->ops->bar_moved(d);
}

void pci_device_reset(struct pci_device *d)
{
	put16(d->config + PCI_COMMAND, 0);
	if (d->bar_size)
		put32(d->config + PCI_BASE_ADDRESS_0, PCI_BAR_BASE + d->slot * BAR_STRIDE);
	msix_reset(d);
	update_bar(d);
}

static struct pci_device *addressed(struct vm *vm, unsigned int *off)
{
	uint32_t a = vm->platform.pci_address;
	unsigned int slot = a >> 11 & 0x1f;

	/* Bus 0, function 0. */
	if (!(a & CONFIG_ENABLE) || (a & 0x00ff0700) || slot >= vm->npci)
		return NULL;
	*off = a & 0xfc;
	return vm->pci[slot];
}

uint32_t pci_config_read(struct vm *vm, uint16_t port, unsigned int len)
{
	struct pci_device *d;
	unsigned int off = 0;
	uint32_t v = ~0u;

	if (port < 0xcfc) {
		if (port == 0xcf8 && len == 4)
			v = vm->platform.pci_address;
		return v;
	}
	d = addressed(vm, &off);
	off += port - 0xcfc;
	if (!d || off + len > 256 || (port & 3) + len > 4)
		return v;
	if (d->ops->config_access)
		d->ops->config_access(d, off, len, false);
	v = 0;
	memcpy(&v, d->config + off, len);
	return v;
}

void pci_config_write(struct vm *vm, uint16_t port, uint32_t value, unsigned int len)
{
	struct pci_device *d;
	unsigned int off = 0;

	if (port < 0xcfc) {
		if (port == 0xcf8 && len == 4)
			vm->platform.pci_address = value & ~3u;
		return;
	}
	d = addressed(vm, &off);
	off += port - 0xcfc;
	if (!d || off + len > 256 || (port & 3) + len > 4)
		return;
	for (unsigned int i = 0; i < len; i++) {
		uint8_t mask = d->writable[off + i], byte = (uint8_t)(value >> (8 * i));

		d->config[off + i] = (uint8_t)((d->config[off + i] & ~mask) | (byte & mask));
	}
	if (off < PCI_BASE_ADDRESS_1)
		update_bar(d);
	if (d->msix_cap && off < d->msix_cap + 4 && off + len > d->msix_cap)
		msix_control_changed(d);
	if (d->ops->config_access)
		d->ops->config_access(d, off, len, true);
}

bool pci_mmio(struct vm *vm, uint64_t addr, void *data, unsigned int len, bool write)
{
	for (unsigned int i = 0; i < vm->npci; i++) {
		struct pci_device *d = vm->pci[i];

		if (!d->bar_addr || addr < d->bar_addr || addr - d->bar_addr >= d->bar_size)
			continue;
		if (addr - d->bar_addr + len > d->bar_size)
			return false;
		if (write)
			d->ops->bar_write(d, (uint32_t)(addr - d->bar_addr), data, len);
		else
			d->ops->bar_read(d, (uint32_t)(addr - d->bar_addr), data, len);
		return true;
	}
	return false;
}

Vmb__PciState *pci_state_get(const struct pci_device *d)
{
	Vmb__PciState *s = xcalloc(1, sizeof(*s));

	vmb__pci_state__init(s);
	s->config.len = sizeof(d->config);
	s->config.data = xcalloc(1, sizeof(d->config));
	memcpy(s->config.data, d->config, sizeof(d->config));
	msix_state_get(d, s);
	return s;
}

/* Only what the guest may write is taken over: the rest is this program's own description. */
int pci_state_set(struct pci_device *d, const Vmb__PciState *s, struct error *e)
{
	if (s->config.len != sizeof(d->config))
		return error_set(e, "PCI slot %u: config space of %zu bytes", d->slot, s->config.len);
	for (unsigned int i = 0; i < sizeof(d->config); i++) {
		if ((d->config[i] ^ s->config.data[i]) & ~d->writable[i] && i != PCI_STATUS)
			return error_set(e, "PCI slot %u: another device (config byte 0x%x differs)",
					 d->slot, i);
		d->config[i] = (uint8_t)((d->config[i] & ~d->writable[i]) |
					 (s->config.data[i] & d->writable[i]));
	}
	update_bar(d);
	return msix_state_set(d, s, e);
}
