/* virtio_balloon.c: memory that the guest gives back: asked for (the balloon) or offered (free page
 * reporting).
 *
 * Source: Virtual I/O Device (VIRTIO) 1.2, chapter 5.5.  Given back is a hole punched into the RAM
 * memfd (fallocate(2)); a guest that touches the page again finds zeroes in a new one.  Therefore a
 * deflated balloon needs nothing done: the guest may use those pages before it says so.
 *
 * A hole breaks the 2 MiB page it is punched into.  The free page reports of Linux come in 2 MiB
 * and more; an inflated balloon comes page by page, of which neighbours in the list are joined
 * here.
 *
 * Holes and handovers: a page that the destination has read ahead while it warmed up is merely
 * allocated again.  After the capture memory_at() refuses, and with it all that is done here.
 */
#include "vmm/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum {
	PAGE = 1 << VIRTIO_BALLOON_PFN_SHIFT,
	MAX_PAGES = 4096, /* in one request; Linux sends 256 */
	ROUND = 16,       /* requests before other devices get their turn */
};

/* Queues are counted without those whose feature is not offered (statistics, hints), as Linux and
 * QEMU do it. */
enum { INFLATE, DEFLATE, REPORT, QUEUES };

struct balloon {
	struct virtio_device virtio; /* first */
	uint32_t target, actual;     /* pages; the configuration space shows both */
	bool complained;
	uint32_t pages[MAX_PAGES];
};

static struct balloon *to_balloon(struct virtio_device *d)
{
	return (struct balloon *)d;
}

static void update_config(struct balloon *b)
{
	struct virtio_balloon_config *cfg = (void *)b->virtio.config;

	cfg->num_pages = b->target;
	cfg->actual = b->actual;
}

/* `at` is from memory_at(): all of it is RAM. */
static void punch(struct balloon *b, const uint8_t *at, uint64_t len)
{
	const struct memory *m = &b->virtio.pci.vm->memory;

	if (!fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at - m->base,
		       (off_t)len) ||
	    b->complained)
		return;
	/* It costs memory, nothing else. */
	log_line("%s: fallocate: %s", b->virtio.id, strerror(errno));
	b->complained = true;
}

/* Drivers list pages in the order in which they got them, which goes up or down for long stretches:
 * those are punched in one piece.  (No qsort(): glibc's asks for the size of memory, for which the
 * sandbox has no call.) */
static int inflate(struct balloon *b, const struct virtq_chain *c)
{
	const struct memory *m = &b->virtio.pci.vm->memory;
	size_t n = c->out_len / sizeof(b->pages[0]);

	if (c->out_len > sizeof(b->pages) || c->out_len % sizeof(b->pages[0])) {
		virtio_fail(&b->virtio, "a list of pages of impossible length");
		return -1;
	}
	iov_read(c->iov, c->nout, 0, b->pages, c->out_len);
	for (size_t i = 0; i < n;) {
		uint64_t first = b->pages[i++], end = first + 1;
		const uint8_t *at;

		for (; i < n && (b->pages[i] == end || b->pages[i] + 1ull == first); i++) {
			first = MIN(first, b->pages[i]);
			end = MAX(end, b->pages[i] + 1ull);
		}
		at = memory_at(m, first * PAGE, (end - first) * PAGE);
		if (!at) {
			virtio_fail(&b->virtio, "a page outside memory");
			return -1;
		}
		punch(b, at, (end - first) * PAGE);
	}
	return 0;
}

/* The buffers are the free pages themselves; what is not a whole page of ours stays. */
static void report(struct balloon *b, const struct virtq_chain *c)
{
	for (unsigned int i = c->nout; i < c->nout + c->nin; i++) {
		uint8_t *start = c->iov[i].iov_base, *end = start + c->iov[i].iov_len;

		start = (uint8_t *)ALIGN_UP((uintptr_t)start, (uintptr_t)PAGE);
		end = (uint8_t *)ALIGN_DOWN((uintptr_t)end, (uintptr_t)PAGE);
		if (start < end)
			punch(b, start, (uint64_t)(end - start));
	}
}

static void kicked(struct virtio_device *d, struct virtq *q)
{
	struct balloon *b = to_balloon(d);
	struct virtq_chain c;
	unsigned int served = 0;
	int got = 0;

	do {
		virtq_disable_kicks(q);
		while (served < ROUND && (got = virtq_pop(q, &c)) > 0) {
			if (q->index == INFLATE && inflate(b, &c))
				return;
			if (q->index == REPORT)
				report(b, &c);
			virtq_push(q, c.head, 0);
			served++;
		}
		if (got < 0)
			return;
	} while (served < ROUND && virtq_enable_kicks(q));
	if (served)
		virtq_notify(q);
	if (served >= ROUND)
		virtq_serve_again(q);
}

/* The driver writes what it has given; the target is not its to change. */
static void config_write(struct virtio_device *d, uint32_t off, unsigned int len)
{
	struct balloon *b = to_balloon(d);

	(void)off, (void)len;
	b->actual = ((struct virtio_balloon_config *)(void *)d->config)->actual;
	update_config(b);
}

/* A new driver begins with an empty balloon, and fills it as the target says. */
static void reset(struct virtio_device *d)
{
	to_balloon(d)->actual = 0;
	update_config(to_balloon(d));
}

static size_t save(struct virtio_device *d, void **data)
{
	struct balloon *b = to_balloon(d);
	Vmb__BalloonState s = VMB__BALLOON_STATE__INIT;

	s.target = b->target;
	s.actual = b->actual;
	*data = xcalloc(1, vmb__balloon_state__get_packed_size(&s));
	return vmb__balloon_state__pack(&s, *data);
}

static int load(struct virtio_device *d, const void *data, size_t len, struct error *e)
{
	struct balloon *b = to_balloon(d);
	Vmb__BalloonState *s = vmb__balloon_state__unpack(NULL, len, data);

	if (!s)
		return error_set(e, "%s: a state that makes no sense", d->id);
	b->target = s->target;
	b->actual = s->actual;
	update_config(b);
	vmb__balloon_state__free_unpacked(s, NULL);
	return 0;
}

static const struct virtio_ops ops = {
	.name = "balloon",
	.type = VIRTIO_ID_BALLOON,
	.class_rev = 0x00ff0000,
	.nqueues = QUEUES,
	.features = 1ull << VIRTIO_BALLOON_F_DEFLATE_ON_OOM | 1ull << VIRTIO_BALLOON_F_REPORTING,
	.kicked = kicked,
	.config_write = config_write,
	.reset = reset,
	.save = save,
	.load = load,
};

int virtio_balloon_create(struct vm *vm, struct error *e)
{
	struct balloon *b = xcalloc(1, sizeof(*b));

	if (virtio_init(&b->virtio, vm, &ops, 0, e))
		return -1;
	b->virtio.config_len = offsetof(struct virtio_balloon_config, free_page_hint_cmd_id);
	vm->balloon = &b->virtio;
	return 0;
}

void balloon_read(const struct vm *vm, uint64_t *target, uint64_t *actual)
{
	const struct balloon *b = (const struct balloon *)vm->balloon;

	*target = b ? (uint64_t)b->target * PAGE : 0;
	*actual = b ? (uint64_t)b->actual * PAGE : 0;
}

int balloon_set_target(struct vm *vm, uint64_t bytes, struct error *e)
{
	struct balloon *b = (struct balloon *)vm->balloon;

	if (!b)
		return error_set(e, "it was started without a balloon");
	if (bytes >= vm->memory.size)
		return error_set(e, "it has only %llu MiB to give",
				 (unsigned long long)(vm->memory.size / MIB));
	b->target = (uint32_t)(bytes / PAGE);
	update_config(b);
	virtio_config_changed(&b->virtio);
	return 0;
}
