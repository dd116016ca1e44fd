/* boot.c: loads a kernel and sets the first vCPU's registers.  Called by vm_boot() and at a reset.
 *
 * Three kinds of image, told apart by their headers:
 *  - Linux bzImage, 64-bit protocol (Documentation/arch/x86/boot.rst, "64-bit BOOT PROTOCOL");
 *  - ELF with a PVH note (XEN_ELFNOTE_PHYS32_ENTRY; Xen's docs/misc/pvh.pandoc): 32-bit entry;
 *  - multiboot1 (multiboot.c).
 * Image bytes go from the file straight into guest memory.  Everything in them is checked: an image
 * is data, and a truncated or made-up one gets one clear line.
 *
 * Low memory:  0x1000 GDT, 0x2000 start_info and its tables, 0x7000 zero page, 0x9000.. page tables,
 *              0x20000 command line, 0xe0000 ACPI.
 */
#include "vmm/internal.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	GDT_ADDR = 0x1000,
	PVH_ADDR = 0x2000,
	ZERO_PAGE_ADDR = 0x7000,
	PAGE_TABLE_ADDR = 0x9000, /* PML4, PDPT, 4 page directories */
	CMDLINE_ADDR = 0x20000,
	CMDLINE_MAX = 0x10000,
	EBDA_START = 0x9fc00,
	KERNEL_MIN_ADDR = 0x100000,
	XEN_NOTE_PHYS32_ENTRY = 18,
	MAX_PROGRAM_HEADERS = 64,
	MAX_NOTES = 64 * 1024,
	E820_RAM = 1,
	E820_RESERVED = 2,
};

/* Linux, arch/x86/include/asm/e820/types.h: for a driver (dax_hmem), not for the page allocator. */
#define E820_SOFT_RESERVED 0xefffffffu

/* Xen public/arch-x86/hvm/start_info.h */
struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};
struct hvm_module {
	uint64_t paddr, size, cmdline_paddr, reserved;
};
struct hvm_memmap {
	uint64_t addr, size;
	uint32_t type, reserved;
};

unsigned int boot_memory_map(const struct vm *vm, struct boot_range map[BOOT_MAX_RANGES])
{
	const struct memory *m = &vm->memory;
	uint64_t low = memory_low_size(m);
	unsigned int n = 0;

	map[n++] = (struct boot_range){0, EBDA_START, E820_RAM};
	map[n++] = (struct boot_range){EBDA_START, KERNEL_MIN_ADDR - EBDA_START, E820_RESERVED};
	map[n++] = (struct boot_range){KERNEL_MIN_ADDR, low - KERNEL_MIN_ADDR, E820_RAM};
	if (m->size > low)
		map[n++] = (struct boot_range){HIGH_RAM, m->size - low, E820_RAM};
	if (m->window_size)
		map[n++] = (struct boot_range){m->window_gpa, m->window_size, E820_SOFT_RESERVED};
	return n;
}

int boot_read(struct vm *vm, int fd, uint64_t off, uint64_t gpa, uint64_t len, const char *what,
	      struct error *e)
{
	void *p = memory_at(&vm->memory, gpa, len);
	ssize_t n;

	if (!p)
		return error_set(e, "%s: %llu bytes do not fit the VM's memory at 0x%llx", what,
				 (unsigned long long)len, (unsigned long long)gpa);
	n = pread_all(fd, p, len, (off_t)off);
	if (n < 0)
		return error_set_errno(e, "%s: cannot read it", what);
	if ((uint64_t)n < len)
		return error_set(e, "%s: the file ends after %lld of %llu bytes", what,
				 (long long)off + (long long)n, (unsigned long long)(off + len));
	return 0;
}

uint64_t boot_file_size(int fd)
{
	struct stat st;

	return fstat(fd, &st) || st.st_size < 0 ? 0 : (uint64_t)st.st_size;
}

/* The initrd goes as high as the kernel allows, page-aligned; not below 1 MiB, where our tables are. */
static int load_initrd(struct vm *vm, uint64_t kernel_end, uint64_t max, uint64_t *addr,
		       uint64_t *size, struct error *e)
{
	uint64_t top = MIN(memory_low_size(&vm->memory), max + 1);
	uint64_t bottom = MAX(kernel_end, (uint64_t)KERNEL_MIN_ADDR);

	*addr = *size = 0;
	if (vm->files.initrd < 0)
		return 0;
	*size = boot_file_size(vm->files.initrd);
	if (*size > top || ALIGN_DOWN(top - *size, 4096) < bottom)
		return error_set(e, "%s: %llu MiB do not fit the VM's memory beside the kernel",
				 vm->config->initrd, (unsigned long long)(*size / MIB));
	*addr = ALIGN_DOWN(top - *size, 4096);
	return boot_read(vm, vm->files.initrd, 0, *addr, *size, vm->config->initrd, e);
}

int boot_write_string(struct vm *vm, uint64_t gpa, const char *s, size_t max, struct error *e)
{
	size_t len = strlen(s) + 1;
	void *p = memory_at(&vm->memory, gpa, len);

	if (!p || len > max)
		return error_set(e, "command line: %zu bytes, at most %zu", len, max);
	memcpy(p, s, len);
	return 0;
}

/* ---- bzImage */

static int load_bzimage(struct vm *vm, const struct setup_header *hdr, struct boot_entry *entry,
			struct error *e)
{
	const char *path = vm->config->kernel;
	uint64_t setup_len = ((hdr->setup_sects ? hdr->setup_sects : 4) + 1) * 512ull;
	uint64_t file_len = boot_file_size(vm->files.kernel);
	uint64_t load = hdr->pref_address, payload, rsdp = 0;
	struct boot_range map[BOOT_MAX_RANGES];
	uint64_t initrd = 0, initrd_size = 0;
	struct boot_params *zp;

	if (hdr->version < 0x020c || !(hdr->xloadflags & XLF_KERNEL_64))
		return error_set(e, "%s: a bzImage without the 64-bit boot protocol", path);
	/* syssize is the length of what must follow: a shorter file was truncated. */
	payload = (uint64_t)hdr->syssize * 16;
	if (file_len < setup_len || file_len - setup_len < payload)
		return error_set(e, "%s: truncated: %llu bytes, its header says %llu", path,
				 (unsigned long long)file_len,
				 (unsigned long long)(setup_len + payload));
	if (load < KERNEL_MIN_ADDR || load > LOW_RAM_END)
		return error_set(e, "%s: wants to be loaded at 0x%llx", path,
				 (unsigned long long)load);
	if (!memory_at(&vm->memory, load, MAX(hdr->init_size, payload)))
		return error_set(e, "%s: needs %llu MiB of memory", path,
				 (unsigned long long)((load + hdr->init_size) / MIB + 1));
	if (boot_read(vm, vm->files.kernel, setup_len, load, payload, path, e) ||
	    load_initrd(vm, load + MAX(hdr->init_size, payload), hdr->initrd_addr_max, &initrd,
			&initrd_size, e) ||
	    boot_write_string(vm, CMDLINE_ADDR, vm->config->append,
			      MIN((size_t)hdr->cmdline_size + 1, (size_t)CMDLINE_MAX), e) ||
	    acpi_write(vm, &rsdp, e))
		return -1;

	zp = memory_at(&vm->memory, ZERO_PAGE_ADDR, sizeof(*zp));
	memset(zp, 0, sizeof(*zp));
	zp->hdr = *hdr;
	zp->hdr.type_of_loader = 0xff;
	zp->hdr.ramdisk_image = (uint32_t)initrd;
	zp->hdr.ramdisk_size = (uint32_t)initrd_size;
	zp->hdr.cmd_line_ptr = CMDLINE_ADDR;
	zp->acpi_rsdp_addr = rsdp;
	zp->e820_entries = (uint8_t)boot_memory_map(vm, map);
	for (unsigned int i = 0; i < zp->e820_entries; i++) {
		zp->e820_table[i].addr = map[i].start;
		zp->e820_table[i].size = map[i].size;
		zp->e820_table[i].type = map[i].type;
	}
	*entry = (struct boot_entry){
		.mode = BOOT_LINUX64, .rip = load + 0x200, .rsi = ZERO_PAGE_ADDR};
	return 0;
}

/* ---- ELF */

static int read_elf_header(int fd, Elf64_Ehdr *eh)
{
	return pread_all(fd, eh, sizeof(*eh), 0) == (ssize_t)sizeof(*eh) &&
			       !memcmp(eh->e_ident, ELFMAG, SELFMAG)
		       ? 0
		       : -1;
}

/* Program headers of either class, as 64-bit ones; free with free(). */
static Elf64_Phdr *read_program_headers(int fd, const Elf64_Ehdr *eh, unsigned int *count)
{
	bool is32 = eh->e_ident[EI_CLASS] == ELFCLASS32;
	Elf32_Ehdr eh32;
	Elf64_Phdr *ph;
	uint64_t off;
	unsigned int size, n;

	memcpy(&eh32, eh, sizeof(eh32));
	off = is32 ? eh32.e_phoff : eh->e_phoff;
	size = is32 ? eh32.e_phentsize : eh->e_phentsize;
	n = is32 ? eh32.e_phnum : eh->e_phnum;
	if (n == 0 || n > MAX_PROGRAM_HEADERS || off > INT64_MAX ||
	    size != (is32 ? sizeof(Elf32_Phdr) : sizeof(Elf64_Phdr)))
		return NULL;
	ph = xcalloc(n, sizeof(*ph));
	for (unsigned int i = 0; i < n; i++) {
		Elf32_Phdr p32;

		if (pread_all(fd, is32 ? (void *)&p32 : (void *)&ph[i], size,
			      (off_t)(off + i * size)) != (ssize_t)size) {
			free(ph);
			return NULL;
		}
		if (is32)
			ph[i] = (Elf64_Phdr){.p_type = p32.p_type,
					     .p_offset = p32.p_offset,
					     .p_paddr = p32.p_paddr,
					     .p_filesz = p32.p_filesz,
					     .p_memsz = p32.p_memsz};
	}
	*count = n;
	return ph;
}

/* Loads one segment and clears what the file does not fill. */
static int load_segment(struct vm *vm, const Elf64_Phdr *ph, uint64_t *end, struct error *e)
{
	const char *path = vm->config->kernel;
	uint8_t *p = memory_at(&vm->memory, ph->p_paddr, ph->p_memsz);

	if (!p || ph->p_filesz > ph->p_memsz || ph->p_offset > INT64_MAX)
		return error_set(e, "%s: a segment at 0x%llx of %llu bytes does not fit the VM's memory",
				 path, (unsigned long long)ph->p_paddr,
				 (unsigned long long)ph->p_memsz);
	if (boot_read(vm, vm->files.kernel, ph->p_offset, ph->p_paddr, ph->p_filesz, path, e))
		return -1;
	memset(p + ph->p_filesz, 0, ph->p_memsz - ph->p_filesz);
	*end = MAX(*end, ph->p_paddr + ph->p_memsz);
	return 0;
}

int boot_load_elf(struct vm *vm, uint64_t *entry, uint64_t *end, struct error *e)
{
	Elf64_Phdr *ph;
	Elf64_Ehdr eh;
	Elf32_Ehdr eh32;
	unsigned int n = 0;
	int r = 0;

	if (read_elf_header(vm->files.kernel, &eh) ||
	    !(ph = read_program_headers(vm->files.kernel, &eh, &n)))
		return error_set(e, "%s: not a usable ELF image", vm->config->kernel);
	memcpy(&eh32, &eh, sizeof(eh32));
	*entry = eh.e_ident[EI_CLASS] == ELFCLASS32 ? eh32.e_entry : eh.e_entry;
	*end = 0;
	for (unsigned int i = 0; i < n && !r; i++)
		if (ph[i].p_type == PT_LOAD && ph[i].p_memsz)
			r = load_segment(vm, &ph[i], end, e);
	free(ph);
	return r;
}

/* The PVH entry point from the image's notes; 0 if there is none. */
static uint64_t find_pvh_entry(struct vm *vm)
{
	unsigned int n = 0;
	uint64_t entry = 0;
	Elf64_Ehdr eh;
	Elf64_Phdr *ph;

	if (read_elf_header(vm->files.kernel, &eh) || eh.e_machine != EM_X86_64 ||
	    !(ph = read_program_headers(vm->files.kernel, &eh, &n)))
		return 0;
	for (unsigned int i = 0; i < n && !entry; i++) {
		size_t size = ph[i].p_filesz;
		uint8_t *notes;

		if (ph[i].p_type != PT_NOTE || size > MAX_NOTES || ph[i].p_offset > INT64_MAX)
			continue;
		notes = xcalloc(1, size);
		if (pread_all(vm->files.kernel, notes, size, (off_t)ph[i].p_offset) != (ssize_t)size)
			size = 0;
		for (size_t off = 0; off + sizeof(Elf64_Nhdr) <= size;) {
			Elf64_Nhdr nh;
			size_t name = off + sizeof(nh), desc;

			memcpy(&nh, notes + off, sizeof(nh));
			if (nh.n_namesz > size || nh.n_descsz > size)
				break;
			desc = name + ALIGN_UP(nh.n_namesz, 4);
			off = desc + ALIGN_UP(nh.n_descsz, 4);
			if (desc + nh.n_descsz > size)
				break;
			if (nh.n_type == XEN_NOTE_PHYS32_ENTRY && nh.n_namesz == 4 &&
			    !memcmp(notes + name, "Xen", 4) && nh.n_descsz <= 8 && nh.n_descsz >= 4)
				memcpy(&entry, notes + desc, nh.n_descsz);
		}
		free(notes);
	}
	free(ph);
	return entry;
}

static int load_pvh(struct vm *vm, uint64_t pvh_entry, struct boot_entry *entry, struct error *e)
{
	struct {
		struct hvm_start_info info;
		struct hvm_module module;
		struct hvm_memmap map[BOOT_MAX_RANGES];
	} *pvh = memory_at(&vm->memory, PVH_ADDR, sizeof(*pvh));
	struct boot_range map[BOOT_MAX_RANGES];
	uint64_t end = 0, initrd = 0, initrd_size = 0, rsdp = 0, elf_entry;

	if (boot_load_elf(vm, &elf_entry, &end, e) ||
	    load_initrd(vm, end, LOW_RAM_END - 1, &initrd, &initrd_size, e) ||
	    boot_write_string(vm, CMDLINE_ADDR, vm->config->append, CMDLINE_MAX, e) ||
	    acpi_write(vm, &rsdp, e))
		return -1;
	memset(pvh, 0, sizeof(*pvh));
	pvh->info.magic = 0x336ec578;
	pvh->info.version = 1;
	pvh->info.cmdline_paddr = CMDLINE_ADDR;
	pvh->info.rsdp_paddr = rsdp;
	if (initrd_size) {
		pvh->info.nr_modules = 1;
		pvh->info.modlist_paddr = PVH_ADDR + ((uint8_t *)&pvh->module - (uint8_t *)pvh);
		pvh->module.paddr = initrd;
		pvh->module.size = initrd_size;
	}
	pvh->info.memmap_paddr = PVH_ADDR + ((uint8_t *)pvh->map - (uint8_t *)pvh);
	pvh->info.memmap_entries = boot_memory_map(vm, map);
	for (unsigned int i = 0; i < pvh->info.memmap_entries; i++)
		pvh->map[i] = (struct hvm_memmap){map[i].start, map[i].size, map[i].type, 0};
	*entry = (struct boot_entry){.mode = BOOT_PVH, .rip = pvh_entry, .rbx = PVH_ADDR};
	return 0;
}

static int load(struct vm *vm, struct boot_entry *entry, struct error *e)
{
	struct {
		uint8_t before[0x1f1];
		struct setup_header hdr;
	} __attribute__((packed)) head;
	struct setup_header hdr;
	uint64_t pvh;

	if (pread_all(vm->files.kernel, &head, sizeof(head), 0) != (ssize_t)sizeof(head))
		return error_set(e, "%s: too short to be a kernel", vm->config->kernel);
	memcpy(&hdr, &head.hdr, sizeof(hdr));
	if (hdr.header == 0x53726448 && hdr.boot_flag == 0xaa55) /* "HdrS" */
		return load_bzimage(vm, &hdr, entry, e);
	if ((pvh = find_pvh_entry(vm)))
		return load_pvh(vm, pvh, entry, e);
	if (multiboot_find(vm->files.kernel))
		return multiboot_load(vm, entry, e);
	return error_set(e, "%s: neither a bzImage, nor an ELF with a PVH note, nor multiboot",
			 vm->config->kernel);
}

struct boot_load {
	struct vm *vm;
	pthread_t thread;
	struct boot_entry entry;
	struct error error;
	int result;
};

static void *load_thread(void *arg)
{
	struct boot_load *l = arg;

	l->result = load(l->vm, &l->entry, &l->error);
	return NULL;
}

void boot_load_start(struct vm *vm)
{
	struct boot_load *l = xcalloc(1, sizeof(*l));

	l->vm = vm;
	if (pthread_create(&l->thread, NULL, load_thread, l))
		free(l); /* boot_load() does without */
	else
		vm->boot_load = l;
}

void boot_load_cancel(struct vm *vm)
{
	if (vm->boot_load)
		pthread_join(vm->boot_load->thread, NULL);
	free(vm->boot_load);
	vm->boot_load = NULL;
}

int boot_load(struct vm *vm, struct boot_entry *entry, struct error *e)
{
	struct boot_load *l = vm->boot_load;
	int result;

	if (!l)
		return load(vm, entry, e);
	pthread_join(l->thread, NULL);
	*entry = l->entry;
	result = l->result;
	if (result)
		*e = l->error;
	free(l);
	vm->boot_load = NULL;
	return result;
}

/* ---- registers */

static struct kvm_segment segment(uint16_t selector, uint8_t type, bool code64, bool code32)
{
	return (struct kvm_segment){
		.base = 0,
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.db = code32,
		.s = 1,
		.l = code64,
		.g = 1,
	};
}

/* Flat segments in a GDT of our own, as both protocols ask: code 0x10, data 0x18, TSS 0x20. */
static void set_segments(struct vm *vm, struct kvm_sregs *s, bool is64)
{
	uint64_t *gdt = memory_at(&vm->memory, GDT_ADDR, 5 * sizeof(*gdt));
	struct kvm_segment code = segment(0x10, 11, is64, !is64);
	struct kvm_segment data = segment(0x18, 3, false, true);

	gdt[0] = gdt[1] = 0;
	gdt[2] = is64 ? 0x00af9b000000ffffull : 0x00cf9b000000ffffull;
	gdt[3] = 0x00cf93000000ffffull;
	gdt[4] = 0x00008b0000000067ull;
	s->cs = code;
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->tr = (struct kvm_segment){.limit = 0x67, .selector = 0x20, .type = 11, .present = 1};
	s->gdt.base = GDT_ADDR;
	s->gdt.limit = 5 * 8 - 1;
}

/* Identity map of the first 4 GiB by 2 MiB pages. */
static void write_page_tables(struct vm *vm)
{
	uint64_t *pt = memory_at(&vm->memory, PAGE_TABLE_ADDR, 6 * 4096);

	memset(pt, 0, 6 * 4096);
	pt[0] = (PAGE_TABLE_ADDR + 0x1000) | 3;
	for (unsigned int i = 0; i < 4; i++) {
		pt[512 + i] = (PAGE_TABLE_ADDR + 0x2000 + i * 0x1000) | 3;
		for (unsigned int k = 0; k < 512; k++)
			pt[1024 + i * 512 + k] = (i * GIB + k * HUGE_PAGE) | 0x83;
	}
}

int boot_set_registers(struct vm *vm, const struct boot_entry *entry, struct error *e)
{
	int fd = vm->vcpus[0].fd;
	struct kvm_regs regs = {
		.rip = entry->rip,
		.rsi = entry->rsi,
		.rbx = entry->rbx,
		.rax = entry->rax,
		.rflags = 2,
	};
	struct kvm_sregs s;

	if (ioctl(fd, KVM_GET_SREGS, &s))
		return error_set_errno(e, "KVM_GET_SREGS");
	set_segments(vm, &s, entry->mode == BOOT_LINUX64);
	s.cr0 = 0x11; /* PE, ET */
	if (entry->mode == BOOT_LINUX64) {
		write_page_tables(vm);
		s.cr3 = PAGE_TABLE_ADDR;
		s.cr4 = 0x20;	     /* PAE */
		s.cr0 = 0x80000011u; /* and paging */
		s.efer = 0x500;	     /* LME, LMA */
	}
	if (ioctl(fd, KVM_SET_SREGS, &s) || ioctl(fd, KVM_SET_REGS, &regs))
		return error_set_errno(e, "cannot set the first vCPU's registers");
	return 0;
}
