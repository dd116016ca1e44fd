/* virtio.c: the modern virtio PCI transport, one for all device types.
 *
 * Source: Virtual I/O Device (VIRTIO) 1.2, 2.1 (status), 4.1 (PCI).  BAR 0, 32 KiB:
 *   0x0000 common configuration   0x3000 notifications, 4 bytes a queue (ioeventfd)
 *   0x1000 ISR                    0x4000 MSI-X table
 *   0x2000 device configuration   0x5000 MSI-X pending bits
 * Vector 0..nqueues-1 and one more are offered; the driver says which serves what.
 */
#include "vmm/internal.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum {
	BAR_COMMON = 0x0000,
	BAR_ISR = 0x1000,
	BAR_DEVICE = 0x2000,
	BAR_NOTIFY = 0x3000,
	BAR_MSIX = 0x4000,
	BAR_PBA = 0x5000,
	BAR_SIZE = 0x8000,
	REGION = 0x1000,
	PCI_VENDOR_VIRTIO = 0x1af4,
	ISR_QUEUE = 1,
	ISR_CONFIG = 2,
};

static struct virtio_device *to_virtio(struct pci_device *p)
{
	return (struct virtio_device *)p; /* pci is the first member */
}

bool virtio_running(const struct virtio_device *d)
{
	return (d->status & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET)) ==
	       VIRTIO_CONFIG_S_DRIVER_OK;
}

static void interrupt(struct virtio_device *d, uint16_t vector, uint8_t isr)
{
	d->isr |= isr;
	if (vector != MSIX_NONE)
		msix_signal(&d->pci, vector);
}

void virtq_interrupt(struct virtq *q)
{
	interrupt(q->dev, q->vector, ISR_QUEUE);
}

void virtio_config_changed(struct virtio_device *d)
{
	d->config_generation++;
	if (d->status & VIRTIO_CONFIG_S_DRIVER_OK)
		interrupt(d, d->config_vector, ISR_CONFIG);
}

void virtio_fail(struct virtio_device *d, const char *why)
{
	if (d->status & VIRTIO_CONFIG_S_NEEDS_RESET || d->pci.vm->memory.fenced)
		return;
	log_line("%s: device %s: %s; it serves nothing until its driver resets it",
		 d->pci.vm->config->name, d->id, why);
	d->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	virtio_config_changed(d);
}

/* ---- doorbells */

static void on_kick(void *ctx, uint32_t events)
{
	struct virtq *q = ctx;
	uint64_t count;

	(void)events;
	if (read(q->kick, &count, sizeof(count)) != sizeof(count))
		return;
	/* While stopped the kick is forgotten: starting kicks every queue. */
	if (q->ready && virtio_running(q->dev) && !q->dev->backend_stopped)
		q->dev->ops->kicked(q->dev, q);
}

static void bind_kick(struct virtq *q, uint32_t addr, bool bind)
{
	struct kvm_ioeventfd io = {
		.addr = addr,
		.len = 0, /* any length: KVM need not decode the instruction where it can avoid it */
		.fd = q->kick,
		.flags = bind ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN,
	};

	if (q->dev->pci.vm->front)
		front_doorbell(q, bind ? addr : 0);
	else if (ioctl(q->dev->pci.vm->fd, KVM_IOEVENTFD, &io))
		log_line("%s: KVM_IOEVENTFD: %s", q->dev->id, strerror(errno));
}

static void bar_moved(struct pci_device *p)
{
	struct virtio_device *d = to_virtio(p);

	for (unsigned int i = 0; i < d->ops->nqueues; i++) {
		struct virtq *q = &d->queues[i];
		uint32_t addr = p->bar_addr ? p->bar_addr + BAR_NOTIFY + 4 * i : 0;

		if (q->kick_addr)
			bind_kick(q, q->kick_addr, false);
		q->kick_addr = addr;
		if (addr)
			bind_kick(q, addr, true);
	}
}

void virtq_serve_again(struct virtq *q)
{
	eventfd_write(q->kick, 1);
}

void virtio_kick_all(struct virtio_device *d)
{
	uint64_t one = 1;

	for (unsigned int i = 0; i < d->ops->nqueues; i++)
		if (d->queues[i].ready && write(d->queues[i].kick, &one, sizeof(one)) < 0)
			log_line("%s: kick: %s", d->id, strerror(errno));
}

/* ---- reset and status */

static void finish_reset(struct virtio_device *d)
{
	d->reset_pending = false;
	d->status = 0;
	d->driver_features = 0;
	d->device_feature_select = d->driver_feature_select = 0;
	d->queue_select = 0;
	d->config_vector = MSIX_NONE;
	d->isr = 0;
	for (unsigned int i = 0; i < d->ops->nqueues; i++) {
		struct virtq *q = &d->queues[i];

		q->size = q->max;
		q->ready = false;
		q->desc = q->avail = q->used = 0;
		q->last_avail = q->used_idx = q->signalled_used = 0;
		q->signalled_valid = false;
		q->vector = MSIX_NONE;
	}
}

/* A reset is done when nothing in flight can touch memory any more; until then the status does not
 * read as 0, for which the driver waits (4.1.4.3.2). */
void virtio_reset(struct virtio_device *d)
{
	if (d->ops->reset)
		d->ops->reset(d);
	d->status &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
	d->reset_pending = true;
	virtio_quiesced(d);
}

void virtio_quiesced(struct virtio_device *d)
{
	if (d->reset_pending && !(d->ops->inflight && d->ops->inflight(d)))
		finish_reset(d);
}

static void set_status(struct virtio_device *d, uint8_t v)
{
	uint8_t added = v & (uint8_t)~d->status;

	if (v == 0) {
		if (d->status)
			virtio_reset(d);
		return;
	}
	if (d->reset_pending)
		return;
	if (added & VIRTIO_CONFIG_S_FEATURES_OK &&
	    (d->driver_features & ~d->features || !virtio_has(d, VIRTIO_F_VERSION_1)))
		v &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
	d->status = v | (d->status & VIRTIO_CONFIG_S_NEEDS_RESET);
	if (added & VIRTIO_CONFIG_S_DRIVER_OK)
		d->driver_features &= d->features; /* from one that has not asked for FEATURES_OK */
	/* While stopped it is for whoever starts it again. */
	if (added & VIRTIO_CONFIG_S_DRIVER_OK && virtio_running(d) && !d->backend_stopped) {
		if (d->ops->start)
			d->ops->start(d);
		virtio_kick_all(d);
	}
}

/* From these on what the driver may use is fixed. */
enum { FEATURES_FIXED = VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK };

/* ---- common configuration */

static struct virtq *selected(struct virtio_device *d)
{
	return d->queue_select < d->ops->nqueues ? &d->queues[d->queue_select] : NULL;
}

static uint32_t common_read(struct virtio_device *d, uint32_t off)
{
	struct virtq *q = selected(d);

	switch (off) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		return d->device_feature_select;
	case VIRTIO_PCI_COMMON_DF:
		return d->device_feature_select < 2
			       ? (uint32_t)(d->features >> 32 * d->device_feature_select)
			       : 0;
	case VIRTIO_PCI_COMMON_GFSELECT:
		return d->driver_feature_select;
	case VIRTIO_PCI_COMMON_GF:
		return d->driver_feature_select < 2
			       ? (uint32_t)(d->driver_features >> 32 * d->driver_feature_select)
			       : 0;
	case VIRTIO_PCI_COMMON_MSIX:
		return d->config_vector;
	case VIRTIO_PCI_COMMON_NUMQ:
		return d->ops->nqueues;
	case VIRTIO_PCI_COMMON_STATUS:
		return d->status;
	case VIRTIO_PCI_COMMON_CFGGENERATION:
		return d->config_generation;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		return d->queue_select;
	}
	if (!q)
		return 0;
	switch (off) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		return q->size;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		return q->vector;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return q->ready;
	case VIRTIO_PCI_COMMON_Q_NOFF:
		return q->index;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
		return (uint32_t)q->desc;
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		return (uint32_t)(q->desc >> 32);
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
		return (uint32_t)q->avail;
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		return (uint32_t)(q->avail >> 32);
	case VIRTIO_PCI_COMMON_Q_USEDLO:
		return (uint32_t)q->used;
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		return (uint32_t)(q->used >> 32);
	}
	return 0;
}

static void set_half(uint64_t *v, uint32_t half, bool high)
{
	*v = high ? (*v & 0xffffffffu) | (uint64_t)half << 32 : (*v & ~0xffffffffull) | half;
}

static uint16_t valid_vector(const struct virtio_device *d, uint32_t v)
{
	return v < d->pci.nvectors ? (uint16_t)v : MSIX_NONE;
}

static bool queue_is_valid(const struct virtq *q)
{
	const struct memory *m = &q->dev->pci.vm->memory;

	return q->size && q->size <= q->max && !(q->size & (q->size - 1)) && !(q->desc & 15) &&
	       !(q->avail & 1) && !(q->used & 3) && memory_at(m, q->desc, 16ull * q->size) &&
	       memory_at(m, q->avail, 6 + 2ull * q->size) &&
	       memory_at(m, q->used, 6 + 8ull * q->size);
}

static void queue_write(struct virtio_device *d, struct virtq *q, uint32_t off, uint32_t v)
{
	if (off == VIRTIO_PCI_COMMON_Q_MSIX) {
		q->vector = valid_vector(d, v);
		return;
	}
	if (q->ready)
		return; /* the rest is fixed once the queue is enabled */
	switch (off) {
	case VIRTIO_PCI_COMMON_Q_SIZE:
		q->size = (uint16_t)v;
		break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		if (v != 1)
			break;
		if (queue_is_valid(q))
			q->ready = true;
		else
			virtio_fail(d, "a queue with wrong size or addresses");
		break;
	case VIRTIO_PCI_COMMON_Q_DESCLO:
	case VIRTIO_PCI_COMMON_Q_DESCHI:
		set_half(&q->desc, v, off == VIRTIO_PCI_COMMON_Q_DESCHI);
		break;
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
	case VIRTIO_PCI_COMMON_Q_AVAILHI:
		set_half(&q->avail, v, off == VIRTIO_PCI_COMMON_Q_AVAILHI);
		break;
	case VIRTIO_PCI_COMMON_Q_USEDLO:
	case VIRTIO_PCI_COMMON_Q_USEDHI:
		set_half(&q->used, v, off == VIRTIO_PCI_COMMON_Q_USEDHI);
		break;
	}
}

static void common_write(struct virtio_device *d, uint32_t off, uint32_t v)
{
	struct virtq *q = selected(d);

	switch (off) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		d->device_feature_select = v;
		break;
	case VIRTIO_PCI_COMMON_GFSELECT:
		d->driver_feature_select = v;
		break;
	case VIRTIO_PCI_COMMON_GF:
		if (d->driver_feature_select < 2 && !(d->status & FEATURES_FIXED))
			set_half(&d->driver_features, v, d->driver_feature_select);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		d->config_vector = valid_vector(d, v);
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		set_status(d, (uint8_t)v);
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		d->queue_select = (uint16_t)v;
		break;
	default:
		if (q)
			queue_write(d, q, off, v);
	}
}

/* ---- BAR 0 */

static void device_config(struct virtio_device *d, uint32_t off, void *data, unsigned int len,
			  bool write)
{
	if (off >= d->config_len || len > d->config_len - off) {
		if (!write)
			memset(data, 0, len);
		return;
	}
	if (!write) {
		memcpy(data, d->config + off, len);
	} else if (d->ops->config_write) {
		memcpy(d->config + off, data, len);
		d->ops->config_write(d, off, len);
	}
}

static void bar_read(struct pci_device *p, uint32_t off, void *data, unsigned int len)
{
	struct virtio_device *d = to_virtio(p);
	uint32_t in = off % REGION, v = 0;

	memset(data, 0, len);
	switch (off - in) {
	case BAR_COMMON:
		v = common_read(d, in);
		memcpy(data, &v, MIN(len, 4u));
		break;
	case BAR_ISR:
		memcpy(data, &d->isr, 1);
		d->isr = 0;
		break;
	case BAR_DEVICE:
		device_config(d, in, data, len, false);
		break;
	case BAR_MSIX:
		msix_read(p, in, data, len);
		break;
	case BAR_PBA:
		msix_pba_read(p, in, data, len);
		break;
	}
}

static void bar_write(struct pci_device *p, uint32_t off, const void *data, unsigned int len)
{
	struct virtio_device *d = to_virtio(p);
	uint32_t in = off % REGION, v = 0;
	uint8_t buf[8];

	memcpy(&v, data, MIN(len, 4u));
	switch (off - in) {
	case BAR_COMMON:
		common_write(d, in, v);
		break;
	case BAR_DEVICE:
		memcpy(buf, data, MIN(len, 8u));
		device_config(d, in, buf, len, true);
		break;
	case BAR_NOTIFY: /* normally an ioeventfd; here when the instruction was emulated */
		if (in / 4 < d->ops->nqueues)
			eventfd_write(d->queues[in / 4].kick, 1);
		break;
	case BAR_MSIX:
		msix_write(p, in, data, len);
		break;
	}
}

/* The window through configuration space (4.1.4.9): reading or writing its data is reading or
 * writing BAR 0 at the offset the driver has put beside it. */
static void config_access(struct pci_device *p, unsigned int off, unsigned int len, bool write)
{
	struct virtio_device *d = to_virtio(p);
	struct virtio_pci_cfg_cap *cap = (void *)(p->config + d->pci_cfg_cap);
	unsigned int data = d->pci_cfg_cap + offsetof(struct virtio_pci_cfg_cap, pci_cfg_data);
	uint32_t n = cap->cap.length, at = cap->cap.offset;

	if (off < data || off + len > data + 4)
		return;
	if (cap->cap.bar != 0 || (n != 1 && n != 2 && n != 4) || at > BAR_SIZE - n || at % n)
		return;
	if (write)
		bar_write(p, at, cap->pci_cfg_data, n);
	else
		bar_read(p, at, cap->pci_cfg_data, n);
}

static const struct pci_device_ops pci_ops = {
	.bar_read = bar_read,
	.bar_write = bar_write,
	.bar_moved = bar_moved,
	.config_access = config_access,
};

static void add_cap(struct virtio_device *d, uint8_t type, uint32_t off, uint32_t len)
{
	struct virtio_pci_notify_cap cap = {
		.cap =
			{
				.cap_len = type == VIRTIO_PCI_CAP_NOTIFY_CFG ? sizeof(cap)
									     : sizeof(cap.cap),
				.cfg_type = type,
				.offset = off,
				.length = len,
			},
		.notify_off_multiplier = 4,
	};

	pci_add_capability(&d->pci, PCI_CAP_ID_VNDR, (uint8_t *)&cap + 2, cap.cap.cap_len - 2u);
}

static void add_cfg_window(struct virtio_device *d)
{
	struct virtio_pci_cfg_cap cap = {
		.cap = {.cap_len = sizeof(cap), .cfg_type = VIRTIO_PCI_CAP_PCI_CFG}};
	unsigned int at;

	at = pci_add_capability(&d->pci, PCI_CAP_ID_VNDR, (uint8_t *)&cap + 2, sizeof(cap) - 2);
	d->pci_cfg_cap = at;
	memset(d->pci.writable + at + offsetof(struct virtio_pci_cap, bar), 0xff, 1);
	memset(d->pci.writable + at + offsetof(struct virtio_pci_cap, offset), 0xff, 12);
}

int virtio_init(struct virtio_device *d, struct vm *vm, const struct virtio_ops *ops,
		unsigned int number, struct error *e)
{
	d->ops = ops;
	d->features = ops->features | 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX |
		      1ull << VIRTIO_RING_F_INDIRECT_DESC;
	snprintf(d->id, sizeof(d->id), "%s%u", ops->name, number);
	if (pci_device_init(&d->pci, vm, &pci_ops, PCI_VENDOR_VIRTIO, 0x1040 + ops->type,
			    ops->class_rev | 1, BAR_SIZE, e))
		return -1;
	d->pci.config[PCI_SUBSYSTEM_VENDOR_ID] = PCI_VENDOR_VIRTIO & 0xff;
	d->pci.config[PCI_SUBSYSTEM_VENDOR_ID + 1] = PCI_VENDOR_VIRTIO >> 8;
	d->pci.config[PCI_SUBSYSTEM_ID] = 0x40;
	for (unsigned int i = 0; i < ops->nqueues; i++)
		d->queues[i].kick = -1;
	vm->virtio[vm->nvirtio++] = d;
	for (unsigned int i = 0; i < ops->nqueues; i++) {
		struct virtq *q = &d->queues[i];

		q->dev = d;
		q->index = i;
		q->max = VIRTQ_MAX_SIZE;
		q->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (q->kick < 0)
			return error_set_errno(e, "%s: eventfd", d->id);
		q->kick_source = loop_add(vm->loop, q->kick, EPOLLIN, on_kick, q);
	}
	add_cap(d, VIRTIO_PCI_CAP_COMMON_CFG, BAR_COMMON, REGION);
	add_cap(d, VIRTIO_PCI_CAP_ISR_CFG, BAR_ISR, REGION);
	add_cap(d, VIRTIO_PCI_CAP_DEVICE_CFG, BAR_DEVICE, REGION);
	add_cap(d, VIRTIO_PCI_CAP_NOTIFY_CFG, BAR_NOTIFY, REGION);
	add_cfg_window(d);
	finish_reset(d);
	return msix_init(&d->pci, ops->nqueues + 1, BAR_MSIX, BAR_PBA, e);
}

void virtio_destroy(struct virtio_device *d)
{
	for (unsigned int i = 0; i < d->ops->nqueues; i++) {
		loop_remove(d->queues[i].kick_source);
		close_fd(&d->queues[i].kick);
	}
	msix_destroy(&d->pci);
	if (d->ops->destroy)
		d->ops->destroy(d);
	free(d);
}

/* ---- backends around a capture */

void virtio_stop_backend(struct virtio_device *d)
{
	d->backend_stopped = true;
	if (d->ops->stop)
		d->ops->stop(d);
}

void virtio_start_backend(struct virtio_device *d)
{
	d->backend_stopped = false;
	if (!virtio_running(d))
		return;
	if (d->ops->start)
		d->ops->start(d);
	/* Kicks and interrupts may have been lost on the way; one too many does no harm. */
	virtio_kick_all(d);
	for (unsigned int i = 0; i < d->ops->nqueues; i++)
		if (d->queues[i].ready)
			virtq_interrupt(&d->queues[i]);
}

/* ---- state */

static Vmb__QueueState *queue_get(const struct virtq *q)
{
	Vmb__QueueState *s = xcalloc(1, sizeof(*s));

	vmb__queue_state__init(s);
	s->size = q->size;
	s->ready = q->ready;
	s->desc = q->desc;
	s->avail = q->avail;
	s->used = q->used;
	s->last_avail = q->last_avail;
	s->used_idx = q->used_idx;
	s->vector = q->vector;
	s->signalled_used = q->signalled_used;
	s->signalled_valid = q->signalled_valid;
	return s;
}

Vmb__DeviceState *virtio_state_get(struct virtio_device *d)
{
	Vmb__DeviceState *s = xcalloc(1, sizeof(*s));
	Vmb__VirtioState *v = xcalloc(1, sizeof(*v));

	vmb__device_state__init(s);
	vmb__virtio_state__init(v);
	s->id = xstrdup(d->id);
	s->pci = pci_state_get(&d->pci);
	s->virtio = v;
	v->status = d->status;
	v->driver_features = d->driver_features;
	v->device_feature_select = d->device_feature_select;
	v->driver_feature_select = d->driver_feature_select;
	v->queue_select = d->queue_select;
	v->config_vector = d->config_vector;
	v->isr = d->isr;
	v->config_generation = d->config_generation;
	v->queues = xcalloc(d->ops->nqueues, sizeof(*v->queues));
	for (unsigned int i = 0; i < d->ops->nqueues; i++)
		v->queues[v->n_queues++] = queue_get(&d->queues[i]);
	if (d->ops->save) {
		void *data;

		v->device.len = d->ops->save(d, &data);
		v->device.data = data;
	}
	return s;
}

static int queue_set(struct virtq *q, const Vmb__QueueState *s, struct error *e)
{
	q->size = (uint16_t)s->size;
	q->desc = s->desc;
	q->avail = s->avail;
	q->used = s->used;
	q->last_avail = (uint16_t)s->last_avail;
	q->used_idx = (uint16_t)s->used_idx;
	q->vector = valid_vector(q->dev, s->vector);
	q->signalled_used = (uint16_t)s->signalled_used;
	q->signalled_valid = s->signalled_valid;
	q->ready = s->ready && s->size <= q->max && queue_is_valid(q);
	if (q->ready != s->ready)
		return error_set(e, "%s: queue %u has a wrong size or addresses", q->dev->id, q->index);
	return 0;
}

int virtio_state_set(struct virtio_device *d, const Vmb__DeviceState *s, struct error *e)
{
	const Vmb__VirtioState *v = s->virtio;

	if (!v || !s->pci || v->n_queues != d->ops->nqueues)
		return error_set(e, "%s: incomplete state", d->id);
	if (v->status & FEATURES_FIXED && v->driver_features & ~d->features)
		return error_set(e, "%s: features 0x%llx are not known here", d->id,
				 (unsigned long long)(v->driver_features & ~d->features));
	if (pci_state_set(&d->pci, s->pci, e))
		return -1;
	d->status = (uint8_t)v->status;
	d->driver_features = v->driver_features;
	d->device_feature_select = v->device_feature_select;
	d->driver_feature_select = v->driver_feature_select;
	d->queue_select = (uint16_t)v->queue_select;
	d->config_vector = valid_vector(d, v->config_vector);
	d->isr = (uint8_t)v->isr;
	d->config_generation = (uint8_t)v->config_generation;
	for (unsigned int i = 0; i < d->ops->nqueues; i++)
		if (queue_set(&d->queues[i], v->queues[i], e))
			return -1;
	if (d->ops->load)
		return d->ops->load(d, v->device.data, v->device.len, e);
	return 0;
}
