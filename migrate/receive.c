/* receive.c: pages from connections into memory; the contract is in precopy.h.
 *
 * A thread of its own makes the memory ahead of the pages that come.  In huge pages they are received straight into
 * it.  In pages of 4 KiB each would cost a page fault, or the first use of a page table entry: there a page goes through
 * a small buffer that stays in the cache, and from it by pwrite() to its place.  Writers of one file exclude each other,
 * so that what they would have to make themselves is made for them, many pages at once.
 */
#include "migrate/postcopy.h"
#include "migrate/precopy.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ALLOCATE_STEP = 32 * 1024 * 1024 };

struct receiver {
	int memory;
	uint8_t *base; /* its mapping; NULL: pages of 4 KiB */
	uint64_t size, pages;
	uint64_t *present; /* a word for each chunk: pages that have been written; each is one thread's in a round */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int n, arrived;
	uint32_t round; /* that all have come to the end of */
	struct conn *conns[PRECOPY_MAX_CONNECTIONS]; /* being served; NULL: not any more */
	unsigned int nconns; /* that there have been */
	_Atomic bool aborted, ended;
	struct precopy_extent *extents;
	size_t nextents;
	pthread_t allocator;
	bool has_allocator;
	struct faults *faults; /* post-copy is agreed; the caller's */
	struct error error; /* of the first that failed */
};

/* Called with the lock. */
static void give_up(struct receiver *r, const struct error *e)
{
	if (!r->aborted && e)
		r->error = *e;
	r->aborted = true;
	for (unsigned int i = 0; i < r->nconns; i++)
		if (r->conns[i])
			conn_cut(r->conns[i]);
	pthread_cond_broadcast(&r->changed);
}

static void fail(struct receiver *r, const struct error *e)
{
	pthread_mutex_lock(&r->lock);
	give_up(r, e);
	pthread_mutex_unlock(&r->lock);
}

static int make(struct receiver *r, uint64_t at, uint64_t size)
{
	if (!r->base)
		return fallocate(r->memory, 0, (off_t)at, (off_t)size);
	/* The advice must come before the first page. */
	madvise(r->base + at, size, MADV_HUGEPAGE);
	return madvise(r->base + at, size, MADV_POPULATE_WRITE);
}

/* What is lacking shows here, long before the VM is stopped. */
static void *allocate(void *ctx)
{
	struct receiver *r = ctx;
	struct error e;

	for (size_t i = 0; i < r->nextents; i++) {
		uint64_t at = r->extents[i].start, end = at + r->extents[i].size;

		for (; at < end && !r->ended && !r->aborted; at += ALLOCATE_STEP)
			if (make(r, at, MIN(end - at, (uint64_t)ALLOCATE_STEP)) && errno != EINTR) {
				error_set_errno(&e, "memory for the VM");
				fail(r, &e);
				return NULL;
			}
	}
	return NULL;
}

static bool has_huge_shmem;
static pthread_once_t looked = PTHREAD_ONCE_INIT;

static void look(void)
{
	char text[256];

	read_text("/sys/kernel/mm/transparent_hugepage/shmem_enabled", text, sizeof(text));
	has_huge_shmem = text[0] && !strstr(text, "[never]") && !strstr(text, "[deny]");
}

void receiver_look(void)
{
	pthread_once(&looked, look);
}

/* Where the kernel gives this kind of file no huge pages the mapping is of no use.  (hugetlb: blocks of their size.) */
static uint8_t *map_huge(int memory, uint64_t size)
{
	struct stat st;
	uint8_t *base;

	receiver_look();
	if (fstat(memory, &st) || (st.st_blksize <= STREAM_PAGE && !has_huge_shmem))
		return NULL;
	base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	return base == MAP_FAILED ? NULL : base;
}

struct receiver *receiver_create(int memory, uint64_t size, const struct precopy_extent *extents, size_t nextents,
				 unsigned int n, struct faults *faults)
{
	struct receiver *r = xcalloc(1, sizeof(*r));

	r->memory = memory;
	r->size = size;
	r->base = map_huge(memory, size);
	r->pages = size / STREAM_PAGE;
	r->present = xcalloc(r->pages / STREAM_CHUNK_PAGES + 1, sizeof(*r->present));
	r->n = n;
	r->faults = faults;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->changed, NULL);
	r->extents = xcalloc(MAX(nextents, (size_t)1), sizeof(*r->extents));
	for (size_t i = 0; i < nextents; i++)
		if (extents[i].start < size)
			r->extents[r->nextents++] = (struct precopy_extent){extents[i].start,
									    MIN(extents[i].size, size - extents[i].start)};
	r->has_allocator = !pthread_create(&r->allocator, NULL, allocate, r); /* without it all goes slower */
	return r;
}

void receiver_free(struct receiver *r)
{
	if (!r)
		return;
	r->ended = true;
	if (r->has_allocator)
		pthread_join(r->allocator, NULL);
	pthread_mutex_destroy(&r->lock);
	pthread_cond_destroy(&r->changed);
	if (r->base)
		munmap(r->base, r->size);
	free(r->present);
	free(r->extents);
	free(r);
}

void receiver_abort(struct receiver *r)
{
	fail(r, NULL);
}

/* Waits until all connections have come to the end of this round. */
static int end_round(struct receiver *r, uint32_t round, struct error *e)
{
	int result = 0;

	pthread_mutex_lock(&r->lock);
	if (round != r->round + 1) {
		result = error_set(e, "migration stream: round %u after round %u", round, r->round);
	} else if (++r->arrived == r->n) {
		r->arrived = 0;
		r->round++;
		pthread_cond_broadcast(&r->changed);
	}
	while (!result && r->round < round && !r->aborted)
		pthread_cond_wait(&r->changed, &r->lock);
	if (!result && r->round < round)
		result = error_set(e, "another connection of the migration has failed");
	pthread_mutex_unlock(&r->lock);
	return result;
}

static int read_data(struct conn *c, void *data, size_t len, struct error *e)
{
	int r = conn_read(c, data, len, e);

	return r > 0 ? error_set(e, "the other side has closed the connection") : r;
}

static int put(struct receiver *r, const uint8_t *data, uint64_t offset, size_t len, struct error *e)
{
	if (pwrite_all(r->memory, data, len, (off_t)offset) == (ssize_t)len)
		return 0;
	return error_set_errno(e, "memory of the VM");
}

static int take_zeros(struct receiver *r, uint64_t base, uint64_t pages, uint8_t *buf, struct error *e)
{
	unsigned int first, n;

	memset(buf, 0, pages ? STREAM_CHUNK : 0);
	while (stream_take_run(&pages, &first, &n)) {
		uint64_t at = base + (uint64_t)first * STREAM_PAGE;
		size_t len = (size_t)n * STREAM_PAGE;

		if (r->base)
			memset(r->base + at, 0, len);
		else if (put(r, buf, at, len, e))
			return -1;
	}
	return 0;
}

static int take_chunk(struct receiver *r, struct conn *c, const struct stream_record *rec, uint8_t *buf,
		      struct error *e)
{
	uint64_t base = (uint64_t)rec->number * STREAM_CHUNK, zero = rec->zero & r->present[rec->number], left = rec->data;
	size_t len = (size_t)stream_count(rec->data) * STREAM_PAGE;
	bool post_copy = r->faults && faults_are_armed(r->faults);
	const uint8_t *data = buf;
	unsigned int first, n;

	if (len && (!r->base || post_copy) && read_data(c, buf, len, e))
		return -1;
	if (post_copy)
		return faults_place(r->faults, rec, buf, e);
	while (stream_take_run(&left, &first, &n)) {
		uint64_t at = base + (uint64_t)first * STREAM_PAGE;

		len = (size_t)n * STREAM_PAGE;
		if (r->base ? read_data(c, r->base + at, len, e) : put(r, data, at, len, e))
			return -1;
		data += len;
	}
	r->present[rec->number] |= rec->data;
	return take_zeros(r, base, zero, buf, e); /* what was never written is a hole, and reads as zeros */
}

static int take_missing(struct receiver *r, const struct stream_record *rec, struct error *e)
{
	if (!r->faults || faults_are_armed(r->faults))
		return error_set(e, "migration stream: missing pages, which was not agreed");
	faults_add_missing(r->faults, rec);
	return 0;
}

static int take_round(struct receiver *r, struct conn *c, const struct stream_record *rec, struct error *e)
{
	return end_round(r, rec->number, e) || stream_write(c, rec, e) || conn_flush(c, e) ? -1 : 0;
}

static int take_records(struct receiver *r, struct conn *c, uint8_t *buf, struct error *e)
{
	struct stream_record rec = {0};
	int result;

	for (;;) {
		if (stream_read(c, r->pages, &rec, e))
			return -1;
		switch (rec.kind) {
		case STREAM_END:
			return 0;
		case STREAM_CHUNK_RECORD:
			result = take_chunk(r, c, &rec, buf, e);
			break;
		case STREAM_MISSING:
			result = take_missing(r, &rec, e);
			break;
		case STREAM_ROUND:
			result = take_round(r, c, &rec, e);
			break;
		default:
			result = error_set(e, "migration stream: an unexpected record");
		}
		if (result)
			return -1;
	}
}

int receiver_serve(struct receiver *r, struct conn *c, struct error *e)
{
	uint8_t *buf = xcalloc(1, STREAM_CHUNK);
	unsigned int index;
	bool refused;
	int result;

	pthread_mutex_lock(&r->lock);
	refused = r->aborted || r->nconns == r->n;
	index = r->nconns;
	if (!refused)
		r->conns[r->nconns++] = c;
	pthread_mutex_unlock(&r->lock);
	if (refused) {
		free(buf);
		return error_set(e, "the migration is given up, or has all its connections");
	}
	result = take_records(r, c, buf, e);
	free(buf);
	pthread_mutex_lock(&r->lock);
	r->conns[index] = NULL;
	if (result) {
		give_up(r, e);
		if (r->error.text[0])
			*e = r->error; /* why it was cut, if it was */
	}
	pthread_mutex_unlock(&r->lock);
	return result;
}
