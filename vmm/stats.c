/* stats.c: what KVM counts of a VM: Documentation/virt/kvm/api.rst, KVM_GET_STATS_FD.
 * The file is opened for each reading: nobody reads often.
 */
#include "vmm/internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { MAX_STATS = 256, MAX_NAME = 256 };

static int find_pages(int fd, uint64_t *pages)
{
	static const char *const names[VM_PAGE_SIZES] = {"pages_4k", "pages_2m", "pages_1g"};
	struct kvm_stats_header h;
	struct {
		struct kvm_stats_desc d;
		char name[MAX_NAME];
	} s;
	int found = 0;

	if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.name_size > MAX_NAME || h.num_desc > MAX_STATS)
		return -1;
	for (uint32_t i = 0; i < h.num_desc; i++) {
		size_t size = sizeof(s.d) + h.name_size;

		if (pread(fd, &s, size, (off_t)(h.desc_offset + i * size)) != (ssize_t)size)
			return -1;
		for (int k = 0; k < VM_PAGE_SIZES; k++)
			if (!strncmp(s.name, names[k], h.name_size) && s.d.size == 1 &&
			    pread(fd, &pages[k], 8, (off_t)h.data_offset + s.d.offset) == 8)
				found++;
	}
	return found == VM_PAGE_SIZES ? 0 : -1;
}

size_t vm_page_counts(const struct vm *vm, uint64_t pages[VM_PAGE_SIZES])
{
	int fd = ioctl(vm->fd, KVM_GET_STATS_FD, NULL), r;

	if (fd < 0)
		return 0;
	r = find_pages(fd, pages);
	close(fd);
	return r ? 0 : VM_PAGE_SIZES;
}
