/* multiboot.c: boots multiboot1 images with modules: unikernels and test kernels.
 *
 * Source: "Multiboot Specification version 0.6.96".  The header lies in the first 8 KiB, 4-aligned;
 * the image is an ELF, or has its load addresses in the header (flag 16).  All of RAM below the gap
 * is theirs, page 0 included; the information structure and its strings lie where the Linux zero
 * page would, modules behind the image, page-aligned.
 */
#include "vmm/internal.h"

#include <string.h>

enum {
	SEARCH = 8192,
	MB_MAGIC = 0x1badb002,
	MB_LOADED = 0x2badb002,
	MB_HAS_ADDRESSES = 1 << 16,
	MB_REQUIRED_KNOWN = 0x3, /* page-aligned modules, memory information */
	INFO_MEMORY = 1 << 0,
	INFO_CMDLINE = 1 << 2,
	INFO_MODS = 1 << 3,
	INFO_MMAP = 1 << 6,
	INFO_LOADER = 1 << 9,
	INFO_ADDR = 0x7000,
	STRINGS_ADDR = 0x20000,
	STRINGS_SIZE = 0x10000,
};

struct mb_header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

struct mb_info {
	uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
	uint32_t syms[4], mmap_length, mmap_addr, drives_length, drives_addr, config_table;
	uint32_t boot_loader_name, apm_table;
};

struct mb_module {
	uint32_t start, end, string, reserved;
};

struct mb_mmap {
	uint32_t size;
	uint64_t addr, len;
	uint32_t type;
} __attribute__((packed));

struct mb_tables {
	struct mb_info info;
	struct mb_module modules[MAX_MODULES];
	struct mb_mmap map[BOOT_MAX_RANGES];
};

/* The header and its offset in the file; false if there is none. */
static bool find_header(int fd, struct mb_header *h, uint32_t *offset)
{
	uint8_t buf[SEARCH + sizeof(*h)];
	ssize_t n = pread_all(fd, buf, sizeof(buf), 0);

	memset(h, 0, sizeof(*h));
	for (uint32_t off = 0; off < SEARCH && (ssize_t)off + 12 <= n; off += 4) {
		memcpy(h, buf + off, MIN(sizeof(*h), (size_t)(n - (ssize_t)off)));
		if (h->magic == MB_MAGIC && h->magic + h->flags + h->checksum == 0) {
			*offset = off;
			return true;
		}
	}
	return false;
}

bool multiboot_find(int fd)
{
	struct mb_header h;
	uint32_t off;

	return find_header(fd, &h, &off);
}

/* The "a.out kludge": one piece, placed by the header's own fields. */
static int load_flat(struct vm *vm, const struct mb_header *h, uint32_t off, uint64_t *end,
		     struct error *e)
{
	const char *path = vm->config->kernel;
	uint64_t size = boot_file_size(vm->files.kernel), start, len, bss;
	void *p;

	if (h->load_addr > h->header_addr || h->header_addr - h->load_addr > off)
		return error_set(e, "%s: multiboot header with impossible addresses", path);
	start = off - (h->header_addr - h->load_addr);
	len = h->load_end_addr ? (uint64_t)h->load_end_addr - h->load_addr : size - start;
	if ((h->load_end_addr && h->load_end_addr < h->load_addr) || start > size)
		return error_set(e, "%s: multiboot header with impossible addresses", path);
	*end = h->load_addr + len;
	if (boot_read(vm, vm->files.kernel, start, h->load_addr, len, path, e))
		return -1;
	if (h->bss_end_addr > *end) {
		bss = h->bss_end_addr - *end;
		p = memory_at(&vm->memory, *end, bss);
		if (!p)
			return error_set(e, "%s: %llu bytes of bss do not fit the VM's memory", path,
					 (unsigned long long)bss);
		memset(p, 0, bss);
		*end += bss;
	}
	return 0;
}

static int add_string(struct vm *vm, uint32_t *next, const char *s, uint32_t *addr,
		      struct error *e)
{
	if (boot_write_string(vm, *next, s, STRINGS_ADDR + STRINGS_SIZE - *next, e))
		return -1;
	*addr = *next;
	*next += (uint32_t)strlen(s) + 1;
	return 0;
}

static int load_modules(struct vm *vm, struct mb_tables *t, uint64_t end, uint32_t *strings,
			struct error *e)
{
	end = MAX(end, MIB); /* what lies below is ours */
	for (size_t i = 0; i < vm->config->n_modules; i++) {
		const char *spec = vm->config->modules[i];
		uint64_t size = boot_file_size(vm->files.modules[i]);

		end = ALIGN_UP(end, 4096);
		if (end > UINT32_MAX || size > UINT32_MAX - end)
			return error_set(e, "%s: there is no room for it below 4 GiB", spec);
		if (boot_read(vm, vm->files.modules[i], 0, end, size, spec, e) ||
		    add_string(vm, strings, spec, &t->modules[i].string, e))
			return -1;
		t->modules[i].start = (uint32_t)end;
		t->modules[i].end = (uint32_t)(end + size);
		end += size;
	}
	return 0;
}

int multiboot_load(struct vm *vm, struct boot_entry *entry, struct error *e)
{
	struct mb_tables *t = memory_at(&vm->memory, INFO_ADDR, sizeof(*t));
	struct boot_range map[BOOT_MAX_RANGES];
	uint32_t strings = STRINGS_ADDR, off;
	uint64_t addr = 0, end = 0, rsdp;
	struct mb_header h;
	unsigned int n;

	if (!find_header(vm->files.kernel, &h, &off))
		return error_set(e, "%s: no multiboot header", vm->config->kernel);
	if (h.flags & 0xffff & ~(uint32_t)MB_REQUIRED_KNOWN)
		return error_set(e, "%s: asks for multiboot features 0x%x", vm->config->kernel,
				 h.flags & 0xffff);
	if (h.flags & MB_HAS_ADDRESSES) {
		addr = h.entry_addr;
		if (load_flat(vm, &h, off, &end, e))
			return -1;
	} else if (boot_load_elf(vm, &addr, &end, e)) {
		return -1;
	}
	if (acpi_write(vm, &rsdp, e))
		return -1;

	memset(t, 0, sizeof(*t));
	t->info.flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODS | INFO_MMAP | INFO_LOADER;
	t->info.mem_lower = 639;
	t->info.mem_upper = (uint32_t)((memory_low_size(&vm->memory) - MIB) / KIB);
	if (load_modules(vm, t, end, &strings, e) ||
	    add_string(vm, &strings, vm->config->append, &t->info.cmdline, e) ||
	    add_string(vm, &strings, "vmbeam", &t->info.boot_loader_name, e))
		return -1;
	t->info.mods_count = (uint32_t)vm->config->n_modules;
	t->info.mods_addr = INFO_ADDR + offsetof(struct mb_tables, modules);
	n = boot_memory_map(vm, map);
	t->info.mmap_addr = INFO_ADDR + offsetof(struct mb_tables, map);
	t->info.mmap_length = n * (uint32_t)sizeof(struct mb_mmap);
	for (unsigned int i = 0; i < n; i++)
		t->map[i] = (struct mb_mmap){sizeof(struct mb_mmap) - 4, map[i].start, map[i].size,
					     map[i].type};
	*entry = (struct boot_entry){
		.mode = BOOT_MULTIBOOT, .rip = addr, .rax = MB_LOADED, .rbx = INFO_ADDR};
	return 0;
}
