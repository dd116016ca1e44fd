/* msix.c: MSI-X tables, and interrupts into the guest by irqfd.
 *
 * Source: PCI Local Bus Specification 3.0, 6.8.2.  Each vector owns one GSI behind the IOAPIC's; its
 * eventfd is bound to that GSI once (KVM_IRQFD), and the routing table (KVM_SET_GSI_ROUTING) says
 * what message the GSI sends.  KVM takes the table as a whole, and slowly: it is handed over only
 * when an entry differs from what KVM has, which makes a restore after a provisional one free.
 */
#include "vmm/internal.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { ENTRY = 16 };

static uint16_t control(const struct pci_device *d)
{
	uint16_t v;

	memcpy(&v, d->config + d->msix_cap + PCI_MSIX_FLAGS, sizeof(v));
	return v;
}

static bool may_send(const struct pci_device *d, const struct msix_vector *v)
{
	return (control(d) & (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL)) ==
		       PCI_MSIX_FLAGS_ENABLE &&
	       !(v->ctrl & PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

int msix_init(struct pci_device *d, unsigned int nvectors, uint32_t table_off, uint32_t pba_off,
	      struct error *e)
{
	struct vm *vm = d->vm;
	uint8_t body[10];

	if (vm->next_gsi + nvectors > MAX_GSI_ROUTES)
		return error_set(e, "more than %d interrupt vectors", MAX_GSI_ROUTES);
	memcpy(body, (uint16_t[]){(uint16_t)(nvectors - 1)}, 2);
	memcpy(body + 2, &table_off, 4);
	memcpy(body + 6, &pba_off, 4);
	d->msix_cap = pci_add_capability(d, PCI_CAP_ID_MSIX, body, sizeof(body));
	d->writable[d->msix_cap + PCI_MSIX_FLAGS + 1] =
		(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL) >> 8;
	d->nvectors = nvectors;
	d->vectors = xcalloc(nvectors, sizeof(*d->vectors));
	for (unsigned int i = 0; i < nvectors; i++)
		d->vectors[i].irqfd = -1;
	d->gsi_base = vm->next_gsi;
	vm->next_gsi += nvectors;
	for (unsigned int i = 0; i < nvectors; i++) {
		struct kvm_irqfd irqfd = {.gsi = d->gsi_base + i};
		int fd;

		d->vectors[i].ctrl = PCI_MSIX_ENTRY_CTRL_MASKBIT;
		if (vm->front)
			continue;
		d->vectors[i].irqfd = fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		irqfd.fd = (uint32_t)fd;
		if (fd < 0 || ioctl(vm->fd, KVM_IRQFD, &irqfd))
			return error_set_errno(e, "KVM_IRQFD");
	}
	return 0;
}

void msix_reset(struct pci_device *d)
{
	if (!d->msix_cap)
		return;
	memset(d->config + d->msix_cap + PCI_MSIX_FLAGS + 1, 0, 1);
	d->config[d->msix_cap + PCI_MSIX_FLAGS + 1] = (uint8_t)((d->nvectors - 1) >> 8);
	for (unsigned int i = 0; i < d->nvectors; i++) {
		d->vectors[i].addr_lo = d->vectors[i].addr_hi = d->vectors[i].data = 0;
		d->vectors[i].ctrl = PCI_MSIX_ENTRY_CTRL_MASKBIT;
	}
	d->msix_pending = 0;
}

void msix_destroy(struct pci_device *d)
{
	for (unsigned int i = 0; i < d->nvectors; i++)
		close_fd(&d->vectors[i].irqfd);
	free(d->vectors);
	d->vectors = NULL;
	d->nvectors = 0;
}

/* Marks the routing table as old if this vector's message is not what KVM was told. */
static void check_route(struct pci_device *d, struct msix_vector *v)
{
	if (!may_send(d, v))
		return; /* not needed now; KVM may keep a stale one, nothing is sent by it */
	if (v->routed && v->routed_lo == v->addr_lo && v->routed_hi == v->addr_hi &&
	    v->routed_data == v->data)
		return;
	v->routed = true;
	v->routed_lo = v->addr_lo;
	v->routed_hi = v->addr_hi;
	v->routed_data = v->data;
	d->vm->routes_dirty = true;
}

static void add_irqchip_routes(struct kvm_irq_routing *t)
{
	for (uint32_t gsi = 0; gsi < 24; gsi++) {
		struct kvm_irq_routing_entry *en;

		if (gsi < 16 && gsi != 2) {
			en = &t->entries[t->nr++];
			en->gsi = gsi;
			en->type = KVM_IRQ_ROUTING_IRQCHIP;
			en->u.irqchip.irqchip =
				gsi < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
			en->u.irqchip.pin = gsi & 7;
		}
		en = &t->entries[t->nr++];
		en->gsi = gsi;
		en->type = KVM_IRQ_ROUTING_IRQCHIP;
		en->u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
		/* The PIT's line is GSI 0, wired to pin 2 (in KVM's own table it is pin 0). */
		en->u.irqchip.pin = gsi == 0 ? 2 : gsi;
	}
}

int irq_routes_flush(struct vm *vm, struct error *e)
{
	struct kvm_irq_routing *t;
	int r;

	if (!vm->routes_dirty || vm->front)
		return 0;
	t = xcalloc(1, sizeof(*t) + (48 + MAX_GSI_ROUTES) * sizeof(t->entries[0]));
	add_irqchip_routes(t);
	for (unsigned int s = 0; s < vm->npci; s++) {
		struct pci_device *d = vm->pci[s];

		for (unsigned int i = 0; i < d->nvectors; i++) {
			struct msix_vector *v = &d->vectors[i];
			struct kvm_irq_routing_entry *en = &t->entries[t->nr];

			if (!v->routed)
				continue;
			t->nr++;
			en->gsi = d->gsi_base + i;
			en->type = KVM_IRQ_ROUTING_MSI;
			en->u.msi.address_lo = v->routed_lo;
			en->u.msi.address_hi = v->routed_hi;
			en->u.msi.data = v->routed_data;
		}
	}
	r = ioctl(vm->fd, KVM_SET_GSI_ROUTING, t);
	if (r)
		error_set_errno(e, "KVM_SET_GSI_ROUTING");
	else
		vm->routes_dirty = false;
	free(t);
	return r;
}

static void send(struct pci_device *d, unsigned int i)
{
	uint64_t one = 1;

	d->msix_pending &= ~(1ull << i);
	if (d->vm->front)
		front_msi(d->vm, (uint64_t)d->vectors[i].addr_hi << 32 | d->vectors[i].addr_lo,
			  d->vectors[i].data);
	else if (write(d->vectors[i].irqfd, &one, sizeof(one)) != sizeof(one))
		log_line("interrupt eventfd: %s", strerror(errno));
}

void msix_signal(struct pci_device *d, unsigned int i)
{
	if (i >= d->nvectors)
		return;
	if (may_send(d, &d->vectors[i]))
		send(d, i);
	else
		d->msix_pending |= 1ull << i;
}

static void vector_changed(struct pci_device *d, unsigned int i)
{
	struct error e;

	check_route(d, &d->vectors[i]);
	if (irq_routes_flush(d->vm, &e)) {
		vm_crash(d->vm, "%s", e.text);
		return;
	}
	if (d->msix_pending >> i & 1 && may_send(d, &d->vectors[i]))
		send(d, i);
}

void msix_control_changed(struct pci_device *d)
{
	for (unsigned int i = 0; i < d->nvectors; i++)
		check_route(d, &d->vectors[i]);
	for (unsigned int i = 0; i < d->nvectors; i++)
		vector_changed(d, i);
}

static uint32_t *entry_word(struct pci_device *d, uint32_t off)
{
	struct msix_vector *v = &d->vectors[off / ENTRY];

	switch (off % ENTRY) {
	case 0:
		return &v->addr_lo;
	case 4:
		return &v->addr_hi;
	case 8:
		return &v->data;
	default:
		return &v->ctrl;
	}
}

void msix_read(struct pci_device *d, uint32_t off, void *data, unsigned int len)
{
	memset(data, 0, len);
	if (off % 4 || len % 4)
		return; /* the specification knows aligned accesses of 4 and 8 bytes only */
	for (unsigned int i = 0; i < len && (off + i) / ENTRY < d->nvectors; i += 4)
		memcpy((uint8_t *)data + i, entry_word(d, off + i), 4);
}

void msix_write(struct pci_device *d, uint32_t off, const void *data, unsigned int len)
{
	if (off % 4 || len % 4)
		return;
	for (unsigned int i = 0; i < len && (off + i) / ENTRY < d->nvectors; i += 4) {
		memcpy(entry_word(d, off + i), (const uint8_t *)data + i, 4);
		vector_changed(d, (off + i) / ENTRY);
	}
}

void msix_pba_read(struct pci_device *d, uint32_t off, void *data, unsigned int len)
{
	memset(data, 0, len);
	if (off < sizeof(d->msix_pending))
		memcpy(data, (uint8_t *)&d->msix_pending + off,
		       MIN(len, sizeof(d->msix_pending) - off));
}

void msix_state_get(const struct pci_device *d, Vmb__PciState *s)
{
	s->msix_pending = d->msix_pending;
	s->msix_table.len = d->nvectors * ENTRY;
	s->msix_table.data = xcalloc(d->nvectors, ENTRY);
	for (unsigned int i = 0; i < d->nvectors; i++)
		memcpy(s->msix_table.data + i * ENTRY, &d->vectors[i].addr_lo, ENTRY);
}

int msix_state_set(struct pci_device *d, const Vmb__PciState *s, struct error *e)
{
	if (s->msix_table.len != d->nvectors * ENTRY)
		return error_set(e, "PCI slot %u: MSI-X table of %zu bytes, not %u", d->slot,
				 s->msix_table.len, d->nvectors * ENTRY);
	for (unsigned int i = 0; i < d->nvectors; i++) {
		memcpy(&d->vectors[i].addr_lo, s->msix_table.data + i * ENTRY, ENTRY);
		check_route(d, &d->vectors[i]);
	}
	d->msix_pending = s->msix_pending;
	return 0;
}
