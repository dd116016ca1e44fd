/* virtqueue.c: split virtqueues, the device's side.
 *
 * Source: Virtual I/O Device (VIRTIO) 1.2, chapter 2.7.  The rings and descriptors are the guest's
 * and may say anything, and change while they are read: each word is read once, each address goes
 * through memory_at(), and a ring that makes no sense puts the device into its failed state.
 */
#include "vmm/internal.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

static uint16_t load16(const void *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE);
}

static void store16(void *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)p, v, __ATOMIC_RELEASE);
}

static uint8_t *ring_at(struct virtq *q, uint64_t gpa, uint64_t len)
{
	uint8_t *p = memory_at(&q->dev->pci.vm->memory, gpa, len);

	if (!p)
		virtio_fail(q->dev, "a ring outside memory");
	return p;
}

/* flags, idx, ring[size], used_event */
static uint8_t *avail_ring(struct virtq *q)
{
	return ring_at(q, q->avail, 6 + 2ull * q->size);
}

/* flags, idx, ring[size] of {id, len}, avail_event */
static uint8_t *used_ring(struct virtq *q)
{
	return ring_at(q, q->used, 6 + 8ull * q->size);
}

static int add_descriptor(struct virtq *q, struct virtq_chain *c, const struct vring_desc *d)
{
	bool in = d->flags & VRING_DESC_F_WRITE;
	void *p = memory_at(&q->dev->pci.vm->memory, d->addr, d->len);

	if (!p)
		return virtio_fail(q->dev, "a descriptor outside memory"), -1;
	if (!in && c->nin)
		return virtio_fail(q->dev, "a readable descriptor behind a writable one"), -1;
	if (!d->len)
		return 0;
	if (c->nout + c->nin >= VIRTQ_MAX_IOV)
		return virtio_fail(q->dev, "a chain that is too long"), -1;
	c->iov[c->nout + c->nin] = (struct iovec){p, d->len};
	if (in) {
		c->nin++;
		c->in_len += d->len;
	} else {
		c->nout++;
		c->out_len += d->len;
	}
	return 0;
}

/* Walks a table of descriptors from `index` on. */
static int walk(struct virtq *q, struct virtq_chain *c, uint64_t table, unsigned int count,
		unsigned int index, bool indirect)
{
	const uint8_t *base = ring_at(q, table, 16ull * count);

	if (!base)
		return -1;
	for (unsigned int steps = 0; steps < count; steps++) {
		struct vring_desc d;

		if (index >= count)
			return virtio_fail(q->dev, "a descriptor index out of range"), -1;
		memcpy(&d, base + 16ull * index, sizeof(d));
		if (d.flags & VRING_DESC_F_INDIRECT) {
			if (indirect || d.flags & VRING_DESC_F_NEXT || !d.len || d.len % 16 ||
			    d.len / 16 > VIRTQ_MAX_IOV || !virtio_has(q->dev, VIRTIO_RING_F_INDIRECT_DESC))
				return virtio_fail(q->dev, "a wrong indirect descriptor"), -1;
			return walk(q, c, d.addr, d.len / 16, 0, true);
		}
		if (add_descriptor(q, c, &d))
			return -1;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return 0;
		index = d.next;
	}
	return virtio_fail(q->dev, "a chain that is a loop"), -1;
}

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
	uint8_t *avail;
	uint16_t idx;

	if (!q->ready || !(avail = avail_ring(q)))
		return -1;
	idx = load16(avail + 2);
	if (idx == q->last_avail)
		return 0;
	if ((uint16_t)(idx - q->last_avail) > q->size)
		return virtio_fail(q->dev, "an available index out of range"), -1;
	c->head = load16(avail + 4 + 2 * (q->last_avail % q->size));
	c->nout = c->nin = 0;
	c->out_len = c->in_len = 0;
	if (walk(q, c, q->desc, q->size, c->head, false))
		return -1;
	q->last_avail++;
	return 1;
}

void virtq_unpop(struct virtq *q)
{
	q->last_avail--;
}

/* Bytes of a chain: no driver's is longer, and a hostile one's must not keep us long. */
enum { MAX_MARKED = 64 << 20 };

/* The writable part of a chain that has come back.  The guest may have changed it meanwhile: then it has lost what the
 * device wrote, and that is all. */
static void mark_chain(struct virtq *q, uint64_t table, unsigned int count, unsigned int index, bool indirect)
{
	const struct memory *m = &q->dev->pci.vm->memory;
	const uint8_t *base = count <= 32768 ? memory_at(m, table, 16ull * count) : NULL;
	uint64_t left = MAX_MARKED;

	for (unsigned int steps = 0; base && index < count && steps < VIRTQ_MAX_IOV; steps++) {
		struct vring_desc d;
		void *at;

		memcpy(&d, base + 16ull * index, sizeof(d));
		if (d.flags & VRING_DESC_F_INDIRECT) {
			if (!indirect)
				mark_chain(q, d.addr, d.len / 16, 0, true);
			return;
		}
		at = d.flags & VRING_DESC_F_WRITE && d.len <= left ? memory_at(m, d.addr, d.len) : NULL;
		if (at) {
			memory_written(m, at, d.len);
			left -= d.len;
		}
		if (!(d.flags & VRING_DESC_F_NEXT))
			return;
		index = d.next;
	}
}

/* All that the device writes: rings are marked as a whole. */
static void mark_written(struct virtq *q, const uint8_t *used, uint16_t head)
{
	const struct memory *m = &q->dev->pci.vm->memory;

	if (!m->written)
		return;
	memory_written(m, used, 6 + 8ull * q->size);
	mark_chain(q, q->desc, q->size, head, false);
}

void virtq_fill(struct virtq *q, unsigned int n, uint16_t head, uint32_t written)
{
	uint8_t *used = used_ring(q), *entry;
	uint32_t id = head;

	if (!used)
		return;
	entry = used + 4 + 8 * ((uint16_t)(q->used_idx + n) % q->size);
	memcpy(entry, &id, 4);
	memcpy(entry + 4, &written, 4);
	mark_written(q, used, head);
}

void virtq_publish(struct virtq *q, unsigned int count)
{
	uint8_t *used = used_ring(q);

	if (!used)
		return;
	q->used_idx = (uint16_t)(q->used_idx + count);
	store16(used + 2, q->used_idx);
	memory_written(&q->dev->pci.vm->memory, used, 4);
}

void virtq_push(struct virtq *q, uint16_t head, uint32_t written)
{
	virtq_fill(q, 0, head, written);
	virtq_publish(q, 1);
}

static bool wants_interrupt(struct virtq *q)
{
	uint8_t *avail = avail_ring(q);
	uint16_t event, old = q->signalled_used;
	bool valid = q->signalled_valid;

	if (!avail)
		return false;
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* the used index is out before this is read */
	q->signalled_used = q->used_idx;
	q->signalled_valid = true;
	if (!virtio_has(q->dev, VIRTIO_RING_F_EVENT_IDX))
		return !(load16(avail) & VRING_AVAIL_F_NO_INTERRUPT);
	event = load16(avail + 4 + 2 * q->size);
	return !valid || vring_need_event(event, q->used_idx, old);
}

void virtq_notify(struct virtq *q)
{
	if (wants_interrupt(q))
		virtq_interrupt(q);
}

bool virtq_enable_kicks(struct virtq *q)
{
	uint8_t *used, *avail;

	/* One that is not enabled has no rings yet, whatever its addresses say. */
	if (!q->ready || !(used = used_ring(q)) || !(avail = avail_ring(q)))
		return false;
	if (virtio_has(q->dev, VIRTIO_RING_F_EVENT_IDX))
		store16(used + 4 + 8 * q->size, q->last_avail);
	else
		store16(used, 0);
	memory_written(&q->dev->pci.vm->memory, used, 6 + 8ull * q->size);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return load16(avail + 2) != q->last_avail;
}

void virtq_disable_kicks(struct virtq *q)
{
	uint8_t *used = q->ready ? used_ring(q) : NULL;

	/* With event indices an old avail_event silences the driver by itself. */
	if (used && !virtio_has(q->dev, VIRTIO_RING_F_EVENT_IDX))
		store16(used, VRING_USED_F_NO_NOTIFY);
	if (used)
		memory_written(&q->dev->pci.vm->memory, used, 2);
}

/* ---- scattered buffers */

unsigned int iov_slice(struct iovec *dst, unsigned int max, const struct iovec *iov,
		       unsigned int n, size_t off, size_t len)
{
	unsigned int used = 0;

	for (unsigned int i = 0; i < n && len && used < max; i++) {
		size_t take;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		take = MIN(len, iov[i].iov_len - off);
		dst[used++] = (struct iovec){(uint8_t *)iov[i].iov_base + off, take};
		len -= take;
		off = 0;
	}
	return used;
}

static size_t copy(const struct iovec *iov, unsigned int n, size_t off, uint8_t *in,
		   const uint8_t *out, size_t len)
{
	size_t done = 0;

	for (unsigned int i = 0; i < n && done < len; i++) {
		size_t take;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		take = MIN(len - done, iov[i].iov_len - off);
		if (in)
			memcpy(in + done, (uint8_t *)iov[i].iov_base + off, take);
		else
			memcpy((uint8_t *)iov[i].iov_base + off, out + done, take);
		done += take;
		off = 0;
	}
	return done;
}

size_t iov_read(const struct iovec *iov, unsigned int n, size_t off, void *buf, size_t len)
{
	return copy(iov, n, off, buf, NULL, len);
}

size_t iov_write(const struct iovec *iov, unsigned int n, size_t off, const void *buf, size_t len)
{
	return copy(iov, n, off, NULL, buf, len);
}
