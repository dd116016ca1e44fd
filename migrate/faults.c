/* faults.c: post-copy's receiving side; the contract is in postcopy.h.
 *
 * Three bitmaps say where a page is.  missing: it has not come.  claimed: somebody is putting it into the memfd, which
 * happens once: a page that came twice would undo what the VM has written since.  wanted: the VM's process waits for it.
 * A page is put into the memfd, its bit in `missing` is cleared, and then whoever waits for it is let go on; who comes to
 * wait sets `wanted`, and then looks at `missing`.  So one of the two sees the other.
 *
 * Pages that have come before are in the memfd, but not in the page tables of the VM's process: the first touch of each
 * 256 KiB of them is a fault, too (a minor one), which is answered with all that is there.
 */
#include "migrate/postcopy.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FAULTS_AT_ONCE = 64 };

struct faults {
	int uffd, memory;
	int done; /* eventfd: nothing is missing */
	uint64_t base, size, chunks;
	_Atomic uint64_t *missing; /* shared, in a memfd; each a word for a chunk */
	_Atomic uint64_t *claimed, *wanted;
	_Atomic uint64_t left; /* pages */
	_Atomic bool armed;
};

struct faults *faults_create(int uffd, uint64_t base, int memory, uint64_t size, int missing, struct error *e)
{
	struct faults *f = xcalloc(1, sizeof(*f));

	f->uffd = uffd;
	f->memory = memory;
	f->base = base;
	f->size = size;
	f->chunks = (size + STREAM_CHUNK - 1) / STREAM_CHUNK;
	f->claimed = xcalloc(f->chunks, sizeof(*f->claimed));
	f->wanted = xcalloc(f->chunks, sizeof(*f->wanted));
	f->done = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f->missing = mmap(NULL, f->chunks * sizeof(*f->missing), PROT_READ | PROT_WRITE, MAP_SHARED, missing, 0);
	if (f->done >= 0 && f->missing != MAP_FAILED)
		return f;
	error_set_errno(e, "post-copy");
	faults_free(f);
	return NULL;
}

void faults_free(struct faults *f)
{
	if (!f)
		return;
	if (f->missing != MAP_FAILED)
		munmap(f->missing, f->chunks * sizeof(*f->missing));
	close_fd(&f->done);
	free(f->claimed);
	free(f->wanted);
	free(f);
}

void faults_add_missing(struct faults *f, const struct stream_record *r)
{
	f->missing[r->number] |= r->data;
}

int faults_arm(struct faults *f, struct error *e)
{
	struct uffdio_register all = {
		.range = {f->base, f->size},
		.mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR,
	};

	for (uint64_t i = 0; i < f->chunks; i++)
		f->left += stream_count(f->missing[i]);
	if (ioctl(f->uffd, UFFDIO_REGISTER, &all))
		return error_set_errno(e, "userfaultfd");
	/* After a break: whoever waits has told one that is not there any more. */
	if (ioctl(f->uffd, UFFDIO_WAKE, &all.range))
		return error_set_errno(e, "userfaultfd");
	f->armed = true;
	return 0;
}

bool faults_are_armed(const struct faults *f)
{
	return f->armed;
}

/* ---- pages that are there */

static int wake(struct faults *f, uint64_t at)
{
	struct uffdio_range r = {f->base + at, STREAM_PAGE};

	return ioctl(f->uffd, UFFDIO_WAKE, &r);
}

/* Lets whoever waits for the page at `at` go on, and maps what is there behind it at once. */
static int resolve(struct faults *f, uint64_t at, uint64_t len, struct error *e)
{
	struct uffdio_continue c = {.range = {f->base + at, len}};
	struct uffdio_zeropage zero = {.range = {f->base + at, STREAM_PAGE}};

	while (ioctl(f->uffd, UFFDIO_CONTINUE, &c)) {
		if (c.mapped > 0) /* up to one that is mapped, or was never touched */
			return 0;
		if (errno == EAGAIN)
			continue;
		if (errno == EEXIST)
			return wake(f, at);
		/* Not in the memfd: it was never touched. */
		while (errno == EFAULT || errno == EAGAIN) {
			if (!ioctl(f->uffd, UFFDIO_ZEROPAGE, &zero))
				return 0;
			if (errno == EEXIST)
				return wake(f, at);
		}
		return errno == ESRCH || errno == ENOENT ? error_set(e, "the VM's process has ended")
							 : error_set_errno(e, "userfaultfd");
	}
	return 0;
}

static int put(struct faults *f, uint64_t base, uint64_t bits, const uint8_t *pages, struct error *e)
{
	unsigned int first, n;

	while (stream_take_run(&bits, &first, &n)) {
		size_t len = (size_t)n * STREAM_PAGE;

		if (pwrite_all(f->memory, pages, len, (off_t)(base + (uint64_t)first * STREAM_PAGE)) != (ssize_t)len)
			return error_set_errno(e, "memory of the VM");
		pages += len;
	}
	return 0;
}

int faults_place(struct faults *f, const struct stream_record *r, const uint8_t *pages, struct error *e)
{
	static const uint8_t zeros[STREAM_CHUNK];
	uint64_t bits = r->data | r->zero, base = (uint64_t)r->number * STREAM_CHUNK, wanted;
	unsigned int first, n;

	if (!f->armed || bits & ~f->missing[r->number] || atomic_fetch_or(&f->claimed[r->number], bits) & bits)
		return error_set(e, "migration stream: a page that was not missing");
	if (put(f, base, r->data, pages, e) || put(f, base, r->zero, zeros, e))
		return -1;
	atomic_fetch_and(&f->missing[r->number], ~bits);
	wanted = f->wanted[r->number] & bits;
	while (stream_take_run(&wanted, &first, &n))
		if (resolve(f, base + (uint64_t)first * STREAM_PAGE, (uint64_t)n * STREAM_PAGE, e))
			return -1;
	n = stream_count(bits);
	if (atomic_fetch_sub(&f->left, n) == n && eventfd_write(f->done, 1))
		return error_set_errno(e, "eventfd");
	return 0;
}

/* ---- who waits */

static int send_record(struct conn *c, enum stream_kind kind, uint64_t number, uint64_t data, struct error *e)
{
	const struct stream_record r = {kind, (uint32_t)number, data, 0};

	return stream_write(c, &r, e);
}

static int handle_fault(struct faults *f, uint64_t address, struct conn *urgent, struct error *e)
{
	uint64_t page = (address - f->base) / STREAM_PAGE, chunk = page / STREAM_CHUNK_PAGES;
	unsigned int first = page % STREAM_CHUNK_PAGES, n = 1;
	uint64_t bit = 1ull << first, missing;
	bool asked = atomic_fetch_or(&f->wanted[chunk], bit) & bit;

	missing = f->missing[chunk];
	if (missing & bit)
		return asked ? 0 : send_record(urgent, STREAM_WANTED, chunk, bit, e);
	while (first + n < STREAM_CHUNK_PAGES && !(missing >> (first + n) & 1) &&
	       (page + n) * STREAM_PAGE < f->size)
		n++;
	return resolve(f, page * STREAM_PAGE, (uint64_t)n * STREAM_PAGE, e);
}

static int handle_faults(struct faults *f, struct conn *urgent, struct error *e)
{
	struct uffd_msg m[FAULTS_AT_ONCE];
	ssize_t got = read(f->uffd, m, sizeof(m));

	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : error_set_errno(e, "userfaultfd");
	for (size_t i = 0; i < (size_t)got / sizeof(m[0]); i++) {
		uint64_t at = m[i].arg.pagefault.address;

		if (m[i].event == UFFD_EVENT_PAGEFAULT && at >= f->base && at - f->base < f->size &&
		    handle_fault(f, at, urgent, e))
			return -1;
	}
	return conn_flush(urgent, e);
}

static int take_urgent(struct faults *f, struct conn *urgent, uint8_t *buf, struct error *e)
{
	struct stream_record r = {0};

	if (stream_read(urgent, f->size / STREAM_PAGE, &r, e))
		return -1;
	if (r.kind != STREAM_CHUNK_RECORD)
		return error_set(e, "migration stream: an unexpected record");
	if (conn_read(urgent, buf, (size_t)stream_count(r.data) * STREAM_PAGE, e))
		return error_set(e, "the connection for urgent pages has ended");
	return faults_place(f, &r, buf, e);
}

static int tell_missing(struct faults *f, struct conn *urgent, struct error *e)
{
	for (uint64_t i = 0; i < f->chunks; i++)
		if (f->missing[i] && send_record(urgent, STREAM_MISSING, i, f->missing[i], e))
			return -1;
	return send_record(urgent, STREAM_ROUND, 0, 0, e) || conn_flush(urgent, e) ? -1 : 0;
}

static int serve(struct faults *f, struct conn *urgent, uint8_t *buf, struct error *e)
{
	while (f->left) {
		struct pollfd p[3] = {{.fd = f->uffd, .events = POLLIN},
				      {.fd = conn_fd(urgent), .events = POLLIN},
				      {.fd = f->done, .events = POLLIN}};
		bool input = conn_has_input(urgent);

		if (poll(p, 3, input ? 0 : -1) < 0 && errno != EINTR)
			return error_set_errno(e, "poll");
		if (p[0].revents && handle_faults(f, urgent, e))
			return -1;
		if ((input || p[1].revents) && take_urgent(f, urgent, buf, e))
			return -1;
	}
	return 0;
}

int faults_serve(struct faults *f, struct conn *urgent, bool tell, struct error *e)
{
	struct uffdio_range all = {f->base, f->size};
	uint8_t *buf = xcalloc(1, STREAM_CHUNK);
	int r = (tell && tell_missing(f, urgent, e)) || serve(f, urgent, buf, e) ? -1 : 0;

	free(buf);
	if (r)
		return -1;
	/* Nobody is asked any more, and who still waits goes on. */
	if (ioctl(f->uffd, UFFDIO_UNREGISTER, &all))
		return error_set_errno(e, "userfaultfd");
	return send_record(urgent, STREAM_END, 0, 0, e) || conn_flush(urgent, e) ? -1 : 0;
}
