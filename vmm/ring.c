/* ring.c: one io_uring for all disks of a VM.
 *
 * io_uring's operations do not pass through seccomp, so the ring is restricted before it is enabled:
 * vectored reads and writes, fsync and fallocate, on the registered files and on nothing else
 * (io_uring_register(2), IORING_REGISTER_RESTRICTIONS).  No buffers are registered: a registered
 * buffer stays pinned, and writable by the device, whatever is later done to the mapping.
 */
#include "vmm/internal.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

enum { RING_ENTRIES = 256 };

struct ring {
	struct io_uring uring;
	struct loop_source *source;
	bool dirty; /* something is queued that was not submitted */
};

static void complete(struct ring *r)
{
	struct io_uring_cqe *cqe;

	while (io_uring_peek_cqe(&r->uring, &cqe) == 0) {
		struct ring_request *q = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&r->uring, cqe);
		q->done(q, res);
	}
	ring_submit(r);
}

static void on_ready(void *ctx, uint32_t events)
{
	(void)events;
	complete(ctx);
}

static int restrict_ring(struct io_uring *u)
{
	static const uint8_t ops[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC,
				      IORING_OP_FALLOCATE};
	struct io_uring_restriction res[ARRAY_LEN(ops) + 2];
	unsigned int n = 0;

	memset(res, 0, sizeof(res));
	for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
		res[n].opcode = IORING_RESTRICTION_SQE_OP;
		res[n++].sqe_op = ops[i];
	}
	res[n].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
	res[n++].sqe_flags = IOSQE_FIXED_FILE;
	res[n].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
	res[n++].sqe_flags = IOSQE_FIXED_FILE;
	return io_uring_register_restrictions(u, res, n);
}

struct ring *ring_create(struct vm *vm, const int *files, unsigned int nfiles, struct error *e)
{
	struct ring *r = xcalloc(1, sizeof(*r));
	int ret;

	ret = io_uring_queue_init(RING_ENTRIES, &r->uring, IORING_SETUP_R_DISABLED);
	if (ret) {
		errno = -ret;
		error_set_errno(e, "io_uring_setup");
		free(r);
		return NULL;
	}
	if ((ret = io_uring_register_files(&r->uring, files, nfiles)) ||
	    (ret = restrict_ring(&r->uring)) || (ret = io_uring_enable_rings(&r->uring))) {
		errno = -ret;
		error_set_errno(e, "io_uring_register");
		io_uring_queue_exit(&r->uring);
		free(r);
		return NULL;
	}
	r->source = loop_add(vm->loop, r->uring.ring_fd, EPOLLIN, on_ready, r);
	return r;
}

void ring_destroy(struct ring *r)
{
	if (!r)
		return;
	loop_remove(r->source);
	io_uring_queue_exit(&r->uring);
	free(r);
}

static struct io_uring_sqe *next(struct ring *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->uring);

	if (!sqe) {
		ring_submit(r);
		sqe = io_uring_get_sqe(&r->uring);
	}
	return sqe;
}

static bool queue(struct ring *r, struct io_uring_sqe *sqe, struct ring_request *q)
{
	io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
	io_uring_sqe_set_data(sqe, q);
	r->dirty = true;
	return true;
}

bool ring_readv(struct ring *r, struct ring_request *q, unsigned int file, const struct iovec *iov,
		unsigned int n, uint64_t off)
{
	struct io_uring_sqe *sqe = next(r);

	if (!sqe)
		return false;
	io_uring_prep_readv(sqe, (int)file, iov, n, off);
	return queue(r, sqe, q);
}

bool ring_writev(struct ring *r, struct ring_request *q, unsigned int file,
		 const struct iovec *iov, unsigned int n, uint64_t off)
{
	struct io_uring_sqe *sqe = next(r);

	if (!sqe)
		return false;
	io_uring_prep_writev(sqe, (int)file, iov, n, off);
	return queue(r, sqe, q);
}

bool ring_fdatasync(struct ring *r, struct ring_request *q, unsigned int file)
{
	struct io_uring_sqe *sqe = next(r);

	if (!sqe)
		return false;
	io_uring_prep_fsync(sqe, (int)file, IORING_FSYNC_DATASYNC);
	return queue(r, sqe, q);
}

bool ring_fallocate(struct ring *r, struct ring_request *q, unsigned int file, int mode,
		    uint64_t off, uint64_t len)
{
	struct io_uring_sqe *sqe = next(r);

	if (!sqe)
		return false;
	io_uring_prep_fallocate(sqe, (int)file, mode, (off_t)off, (off_t)len);
	return queue(r, sqe, q);
}

void ring_submit(struct ring *r)
{
	if (!r->dirty)
		return;
	while (io_uring_submit(&r->uring) > 0 && io_uring_sq_ready(&r->uring))
		;
	/* EAGAIN, EBUSY: the rest again with the next completion */
	r->dirty = io_uring_sq_ready(&r->uring);
}

void ring_wait(struct ring *r, int timeout_ms)
{
	struct pollfd p = {.fd = r->uring.ring_fd, .events = POLLIN};

	ring_submit(r);
	if (poll(&p, 1, timeout_ms) > 0)
		complete(r);
}
