/* virtio_rng.c: the entropy device: the guest's buffers, filled by this machine's kernel.
 *
 * Source: Virtual I/O Device (VIRTIO) 1.2, chapter 5.4.  A guest that asks without end gets its
 * bytes, but not more than ROUND at once, so that it cannot keep the event loop from the other
 * devices. There is no state beside the queue's.
 */
#include "vmm/internal.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <string.h>
#include <sys/random.h>

enum {
	PER_BUFFER = 4096, /* bytes; the device may give less than the buffer holds */
	ROUND = 64 * 1024,
};

/* Returns how many bytes it wrote, at least 1 but for an error of the kernel's. */
static size_t fill(const struct virtq_chain *c)
{
	struct iovec iov[VIRTQ_MAX_IOV];
	unsigned int n = iov_slice(iov, VIRTQ_MAX_IOV, c->iov + c->nout, c->nin, 0, PER_BUFFER);
	size_t done = 0;

	for (unsigned int i = 0; i < n; i++) {
		ssize_t got = getrandom(iov[i].iov_base, iov[i].iov_len, GRND_NONBLOCK);

		if (got < 0) {
			log_line("getrandom: %s", strerror(errno));
			break;
		}
		done += (size_t)got;
		if ((size_t)got < iov[i].iov_len)
			break;
	}
	return done;
}

static void kicked(struct virtio_device *d, struct virtq *q)
{
	struct virtq_chain c;
	size_t given = 0;
	int got = 0;

	do {
		virtq_disable_kicks(q);
		while (given < ROUND && (got = virtq_pop(q, &c)) > 0) {
			if (!c.in_len) {
				virtio_fail(d, "a request without room for bytes");
				return;
			}
			virtq_push(q, c.head, (uint32_t)fill(&c));
			given += PER_BUFFER; /* a small buffer costs as much */
		}
		if (got < 0)
			return;
	} while (given < ROUND && virtq_enable_kicks(q));
	if (given)
		virtq_notify(q);
	if (given >= ROUND)
		virtq_serve_again(q);
}

static const struct virtio_ops ops = {
	.name = "rng",
	.type = VIRTIO_ID_RNG,
	.class_rev = 0x00ff0000,
	.nqueues = 1,
	.kicked = kicked,
};

int virtio_rng_create(struct vm *vm, struct error *e)
{
	return virtio_init(xcalloc(1, sizeof(struct virtio_device)), vm, &ops, 0, e);
}
