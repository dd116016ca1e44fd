/* memory.c: guest RAM as one memfd, and the only way to it.
 *
 * The memfd's size is sealed, so that no holder of the descriptor can shrink it under a mapping.
 * 2 MiB pages come from shmem THP (the advice must be given before anybody touches a page: the
 * first toucher decides) or, with hugetlb, from the pool.
 */
#include "vmm/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <numa.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum {
	SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL,
	/* Scratch memory is mapped at most so often, and is so much smaller than the window. */
	WINDOW_SCRATCHES = 1024,
};

uint64_t memory_sealed_size(int fd, struct error *e)
{
	off_t have = lseek(fd, 0, SEEK_END);
	int seals = fcntl(fd, F_GET_SEALS);

	if (have > 0 && seals >= 0 && (seals & SEALS) == SEALS)
		return (uint64_t)have;
	error_set(e, "memory: no memfd, an empty one, or its size is not sealed");
	return 0;
}

int memory_create(struct memory *m, uint64_t size, bool hugetlb, int fd, struct error *e)
{
	memset(m, 0, sizeof(*m));
	m->size = size;
	m->hugetlb = hugetlb;
	m->fd = fd;
	m->scratch = m->guard = -1;
	m->adopted = fd >= 0;
	if (fd >= 0) {
		uint64_t have = memory_sealed_size(fd, e);

		if (have && have != size)
			return error_set(e, "memory: the memfd has %llu bytes, not %llu",
					 (unsigned long long)have, (unsigned long long)size);
		return have ? 0 : -1;
	}
	m->fd = sealed_memfd("vmbeam-ram", size, hugetlb ? MFD_HUGETLB : 0, e);
	return m->fd < 0 ? -1 : 0;
}

/* One VM, one node: the one this process runs on, where the machine has several. */
static void bind_to_node(struct memory *m)
{
	int node;

	if (numa_available() < 0 || numa_num_configured_nodes() < 2)
		return;
	node = numa_node_of_cpu(sched_getcpu());
	if (node >= 0)
		numa_tonode_memory(m->base, m->size, node);
}

/* Address space that nobody can touch, aligned to 2 MiB; NULL if there is not so much. */
static uint8_t *reserve(uint64_t size, struct error *e)
{
	uint8_t *reserved, *aligned;
	size_t span = size + HUGE_PAGE;

	reserved = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (reserved == MAP_FAILED) {
		error_set_errno(e, "memory: cannot reserve %zu bytes of address space", span);
		return NULL;
	}
	aligned = (uint8_t *)ALIGN_UP((uintptr_t)reserved, HUGE_PAGE);
	if (aligned > reserved)
		munmap(reserved, (size_t)(aligned - reserved));
	munmap(aligned + size, (size_t)(reserved + span - (aligned + size)));
	return aligned;
}

static uint64_t scratch_size(uint64_t window)
{
	return ALIGN_UP(MAX(window / WINDOW_SCRATCHES, 1ull), HUGE_PAGE);
}

int memory_reserve_window(struct memory *m, uint64_t size, struct error *e)
{
	uint64_t end = m->size > LOW_RAM_END ? HIGH_RAM + m->size - LOW_RAM_END : 0;

	if (!size)
		return 0;
	m->window = reserve(size, e);
	if (!m->window)
		return -1;
	/* Made now, of bounded size: in the sandbox it could not be. */
	m->scratch = memfd_create("vmbeam-scratch", MFD_CLOEXEC);
	if (m->scratch < 0 ||
	    ftruncate(m->scratch, (off_t)scratch_size(size)))
		return error_set_errno(e, "window: scratch memory");
	m->window_size = size;
	m->window_gpa = ALIGN_UP(MAX(end, 1ull), WINDOW_STEP);
	return 0;
}

int memory_beam_out(struct memory *m, uint64_t offset, uint64_t size, struct error *e)
{
	if (mmap(m->window + offset, size, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		return error_set_errno(e, "window: cannot unmap %llu MiB", (unsigned long long)(size / MIB));
	return 0;
}

/* A mapping that has failed may have taken the reservation away, and the next allocation of this process would
 * be within the host VM's reach. */
static int give_back(struct memory *m, uint64_t offset, uint64_t size, struct error *e)
{
	struct error ignored;

	error_set_errno(e, "window: cannot map %llu MiB", (unsigned long long)(size / MIB));
	if (memory_beam_out(m, offset, size, &ignored))
		abort();
	return -1;
}

int memory_beam_in(struct memory *m, uint64_t offset, uint64_t size, int fd, struct error *e)
{
	if (mmap(m->window + offset, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return give_back(m, offset, size, e);
	madvise(m->window + offset, size, MADV_HUGEPAGE);
	madvise(m->window + offset, size, MADV_DONTDUMP);
	return 0;
}

int memory_beam_scratch(struct memory *m, uint64_t offset, uint64_t size, struct error *e)
{
	uint64_t piece = scratch_size(m->window_size);

	for (uint64_t end = offset + size; offset < end; offset += piece)
		if (memory_beam_in(m, offset, MIN(piece, end - offset), m->scratch, e))
			return -1;
	return 0;
}

int memory_adopt_window(struct memory *m, uint64_t size, int device, uint64_t offset, struct error *e)
{
	memset(m, 0, sizeof(*m));
	m->fd = m->scratch = m->guard = -1;
	m->size = size;
	m->adopted = true;
	m->base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, device, (off_t)offset);
	close(device);
	if (m->base == MAP_FAILED) {
		m->base = NULL;
		return error_set_errno(e, "memory: cannot map %llu MiB of the beam window",
				       (unsigned long long)(size / MIB));
	}
	return 0;
}

int memory_map(struct memory *m, struct error *e)
{
	uint8_t *aligned = reserve(m->size, e);

	if (!aligned)
		return -1;
	m->base = mmap(aligned, m->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, m->fd, 0);
	if (m->base == MAP_FAILED) {
		error_set_errno(e, "memory: cannot map %llu MiB%s",
				(unsigned long long)(m->size / MIB),
				m->hugetlb ? " of huge pages (see /proc/sys/vm/nr_hugepages)" : "");
		munmap(aligned, m->size);
		m->base = NULL;
		return -1;
	}
	/* Both are advice: without them all works, with smaller pages or larger cores. */
	if (!m->hugetlb)
		madvise(m->base, m->size, MADV_HUGEPAGE);
	madvise(m->base, m->size, MADV_DONTDUMP);
	if (!m->adopted) /* what exists stays where it is */
		bind_to_node(m);
	return 0;
}

void memory_destroy(struct memory *m)
{
	if (m->base)
		munmap(m->base, m->size);
	if (m->window)
		munmap(m->window, m->window_size);
	m->base = m->window = NULL;
	close_fd(&m->fd);
	close_fd(&m->scratch);
	close_fd(&m->guard);
}

uint64_t memory_low_size(const struct memory *m)
{
	return MIN(m->size, LOW_RAM_END);
}

void *memory_at(const struct memory *m, uint64_t gpa, uint64_t len)
{
	uint64_t low = memory_low_size(m);

	if (m->fenced)
		return NULL;
	if (gpa < low)
		return len <= low - gpa ? m->base + gpa : NULL;
	if (gpa >= HIGH_RAM && gpa - HIGH_RAM < m->size - low)
		return len <= m->size - low - (gpa - HIGH_RAM) ? m->base + low + (gpa - HIGH_RAM)
								: NULL;
	return NULL;
}

void memory_written(const struct memory *m, const void *at, size_t len)
{
	uint64_t first, last;

	if (!m->written || !len)
		return;
	first = (uint64_t)((const uint8_t *)at - m->base) / DIRTY_PAGE;
	last = (uint64_t)((const uint8_t *)at - m->base + len - 1) / DIRTY_PAGE;
	for (uint64_t p = first; p <= last; p++)
		m->written[p / 64] |= 1ull << p % 64;
}

int memory_guard(struct memory *m, struct error *e)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM};

	if (m->hugetlb)
		return error_set(e, "post-copy: not with --hugepages");
	m->guard = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (m->guard >= 0 && !ioctl(m->guard, UFFDIO_API, &api))
		return m->guard;
	error_set_errno(e, "post-copy: userfaultfd");
	close_fd(&m->guard);
	return -1;
}

void memory_forget_mappings(const struct memory *m)
{
	madvise(m->base, m->size, MADV_DONTNEED);
}

void memory_prefault(const struct memory *m)
{
	uint64_t start, end = 0;

	while (next_extent(m->fd, &start, &end))
		madvise(m->base + start, end - start, MADV_POPULATE_WRITE);
}
