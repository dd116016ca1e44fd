/* test_boot.c: kernel images of each kind, right and wrong, and the tables a guest finds. */
#include "tests/unit/images.h"
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <unistd.h>

enum { IMAGES = 5, ZERO_PAGE = 0x7000, PVH_INFO = 0x2000, MB_INFO = 0x7000 };

static uint8_t image[IMAGE_MAX] __attribute__((aligned(8)));
static size_t image_len;
static struct vm *vm;
static struct vm_ends ends;
static struct boot_entry entry;
static struct error e;

static void make(unsigned int i)
{
	image_len = make_image(i, image);
	cr_assert(image_len && image_len <= sizeof(image));
}

/* The VM, with the image as its kernel; images are then changed in the file. */
static void open_vm(uint64_t memory)
{
	vm = make_vm(&(struct vm_spec){.memory = memory, .append = "quiet", .kernel = memfd_with("", 0)},
		     &ends);
}

static int load(const void *data, size_t len)
{
	if (ftruncate(vm->files.kernel, 0) ||
	    pwrite_all(vm->files.kernel, data, len, 0) != (ssize_t)len)
		abort();
	e.text[0] = 0;
	return boot_load(vm, &entry, &e);
}

static void *at(uint64_t gpa)
{
	return guest_memory(vm, gpa);
}

static uint8_t sum(const void *p, size_t len)
{
	const uint8_t *b = p;
	uint8_t s = 0;

	while (len--)
		s = (uint8_t)(s + *b++);
	return s;
}

static uint32_t word(uint64_t gpa)
{
	uint32_t v;

	memcpy(&v, at(gpa), 4);
	return v;
}

static uint64_t quad(uint64_t gpa)
{
	return word(gpa) | (uint64_t)word(gpa + 4) << 32;
}

/* The MADT's address, by way of tables that are all right. */
static uint64_t check_acpi(uint64_t rsdp)
{
	uint64_t xsdt, madt = 0;
	uint32_t n;

	cr_assert(!memcmp(at(rsdp), "RSD PTR ", 8));
	cr_assert_eq(sum(at(rsdp), 20), 0);
	cr_assert_eq(sum(at(rsdp), 36), 0);
	xsdt = quad(rsdp + 24);
	cr_assert(!memcmp(at(xsdt), "XSDT", 4));
	n = (word(xsdt + 4) - 36) / 8;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t t = quad(xsdt + 36 + 8 * i), dsdt;

		cr_assert_eq(sum(at(t), word(t + 4)), 0, "%.4s", (char *)at(t));
		if (!memcmp(at(t), "APIC", 4))
			madt = t;
		if (memcmp(at(t), "FACP", 4))
			continue;
		dsdt = quad(t + 140);
		cr_assert(!memcmp(at(dsdt), "DSDT", 4));
		cr_assert_eq(sum(at(dsdt), word(dsdt + 4)), 0);
		cr_assert_eq(word(t + 40), dsdt);
		cr_assert(!memcmp(at(word(t + 36)), "FACS", 4));
	}
	cr_assert_eq(sum(at(xsdt), word(xsdt + 4)), 0);
	cr_assert(madt);
	return madt;
}

/* ---- good ones */

UNIT(boot, a_bzimage_finds_what_the_protocol_promises)
{
	struct bzimage *b = (struct bzimage *)image;
	struct boot_params *zp;
	struct fake_vcpu *v;
	uint32_t ramdisk;

	make(0);
	open_vm(32 * MIB);
	vm->files.initrd = memfd_with("initrd", 6);
	cr_assert_eq(load(image, image_len), 0, "%s", e.text);
	cr_assert(entry.mode == BOOT_LINUX64 && entry.rip == IMAGE_LOAD + 0x200 && entry.rsi == ZERO_PAGE);
	cr_assert_arr_eq((uint8_t *)at(IMAGE_LOAD), b->code, sizeof(b->code));
	zp = at(ZERO_PAGE);
	cr_assert_eq(zp->hdr.type_of_loader, 0xff);
	cr_assert_str_eq(at(zp->hdr.cmd_line_ptr), "quiet");
	ramdisk = zp->hdr.ramdisk_image;
	cr_assert(zp->hdr.ramdisk_size == 6 && ramdisk % 4096 == 0 && ramdisk >= IMAGE_LOAD + 0x10000);
	cr_assert(!memcmp(at(ramdisk), "initrd", 6));
	cr_assert_eq(zp->e820_entries, 3);
	for (int i = 1; i < 3; i++)
		cr_assert_eq(zp->e820_table[i].addr, zp->e820_table[i - 1].addr + zp->e820_table[i - 1].size);
	cr_assert_eq(zp->e820_table[2].addr + zp->e820_table[2].size, 32 * MIB);
	check_acpi(zp->acpi_rsdp_addr);
	cr_assert_eq(boot_set_registers(vm, &entry, &e), 0);
	v = &fake_machine(vm->fd)->vcpu[0];
	cr_assert(v->regs.rip == entry.rip && v->regs.rsi == ZERO_PAGE && v->regs.rflags == 2);
	cr_assert(v->sregs.cs.l && v->sregs.efer == 0x500 && v->sregs.cr0 == 0x80000011);
	/* The page tables map the code to itself. */
	cr_assert_eq(quad((quad((quad(v->sregs.cr3) & ~0xfffull)) & ~0xfffull) + 8), 0x200083);
	destroy_vm(vm, &ends);
}

UNIT(boot, an_elf_with_a_pvh_note_finds_what_the_protocol_promises)
{
	for (unsigned int i = 1; i <= 2; i++) {
		uint64_t map;

		make(i);
		open_vm(32 * MIB);
		vm->files.initrd = memfd_with("initrd", 6);
		memset(at(IMAGE_LOAD), 0xee, IMAGE_CODE + 3001);
		cr_assert_eq(load(image, image_len), 0, "%s", e.text);
		cr_assert(entry.mode == BOOT_PVH && entry.rip == IMAGE_LOAD + 0x20 && entry.rbx == PVH_INFO);
		cr_assert_arr_eq((uint8_t *)at(IMAGE_LOAD), image + image_len - IMAGE_CODE, IMAGE_CODE);
		for (int k = 0; k < 3000; k++)
			cr_assert_eq(*(uint8_t *)at(IMAGE_LOAD + IMAGE_CODE + (uint64_t)k), 0, "its bss");
		cr_assert_eq(*(uint8_t *)at(IMAGE_LOAD + IMAGE_CODE + 3000), 0xee);
		cr_assert(word(PVH_INFO) == 0x336ec578 && word(PVH_INFO + 12) == 1);
		cr_assert_str_eq(at(quad(PVH_INFO + 24)), "quiet");
		cr_assert(!memcmp(at(quad(quad(PVH_INFO + 16))), "initrd", 6));
		cr_assert_eq(quad(quad(PVH_INFO + 16) + 8), 6);
		check_acpi(quad(PVH_INFO + 32));
		map = quad(PVH_INFO + 40);
		cr_assert_eq(word(PVH_INFO + 48), 3);
		cr_assert_eq(quad(map + 48) + quad(map + 56), 32 * MIB);
		cr_assert_eq(boot_set_registers(vm, &entry, &e), 0);
		cr_assert_eq(fake_machine(vm->fd)->vcpu[0].sregs.cr0, 0x11u);
		destroy_vm(vm, &ends);
	}
}

UNIT(boot, a_multiboot_image_finds_its_modules_and_memory)
{
	for (unsigned int i = 3; i <= 4; i++) {
		uint32_t mods, end;

		make(i);
		vm = make_vm(&(struct vm_spec){.memory = 32 * MIB,
					       .append = "quiet",
					       .kernel = memfd_with("", 0),
					       .nmodules = 2,
					       .modules = {memfd_with("first", 5), memfd_with("second", 6)}},
			     &ends);
		memset(at(IMAGE_LOAD), 0xee, 10000);
		cr_assert_eq(load(image, image_len), 0, "%s", e.text);
		cr_assert(entry.mode == BOOT_MULTIBOOT && entry.rax == 0x2badb002 && entry.rbx == MB_INFO);
		cr_assert_eq(entry.rip, i == 3 ? IMAGE_LOAD + offsetof(struct flat, code) : IMAGE_LOAD + 0x10);
		end = i == 3 ? sizeof(struct flat) + 5000 : IMAGE_CODE + 3000;
		cr_assert_eq(*(uint8_t *)at(IMAGE_LOAD + end - 1), 0, "its bss");
		cr_assert_eq(word(MB_INFO) & 0x4d, 0x4d, "memory, command line, modules, map: %x",
			     word(MB_INFO));
		cr_assert_eq(word(MB_INFO + 8), 31 * 1024);
		cr_assert_str_eq(at(word(MB_INFO + 16)), "quiet");
		cr_assert_eq(word(MB_INFO + 20), 2);
		mods = word(MB_INFO + 24);
		for (uint32_t m = mods; m < mods + 32; m += 16) {
			cr_assert(word(m) % 4096 == 0 && word(m) >= IMAGE_LOAD + end);
			cr_assert(!memcmp(at(word(m)), m == mods ? "first" : "second", word(m + 4) - word(m)));
			cr_assert_str_eq(at(word(m + 8)), "module with arguments");
		}
		cr_assert_geq(word(mods + 16), word(mods + 4));
		cr_assert_eq(word(MB_INFO + 44), 3 * 24);
		destroy_vm(vm, &ends);
	}
}

UNIT(boot, memory_above_the_gap_is_told)
{
	struct boot_params *zp;

	make(0);
	open_vm(4 * GIB);
	cr_assert_eq(load(image, image_len), 0, "%s", e.text);
	zp = at(ZERO_PAGE);
	cr_assert_eq(zp->e820_entries, 4);
	cr_assert(zp->e820_table[2].addr + zp->e820_table[2].size == 3 * GIB);
	cr_assert(zp->e820_table[3].addr == 4 * GIB && zp->e820_table[3].size == GIB);
	destroy_vm(vm, &ends);
}

UNIT(boot, acpi_names_every_cpu)
{
	open_vm(8 * MIB);
	for (unsigned int n = 1; n <= MAX_VCPUS; n++) {
		unsigned int real = vm->config->cpus, found = 0;
		uint64_t rsdp = 0, madt, p;
		int r;

		vm->config->cpus = n;
		r = acpi_write(vm, &rsdp, &e);
		vm->config->cpus = real;
		cr_assert_eq(r, 0, "%u: %s", n, e.text);
		madt = check_acpi(rsdp);
		for (p = madt + 44; p < madt + word(madt + 4); p += *(uint8_t *)at(p + 1)) {
			cr_assert_gt(*(uint8_t *)at(p + 1), 1);
			if (*(uint8_t *)at(p) == 0)
				cr_assert_eq(*(uint8_t *)at(p + 3), found++);
		}
		cr_assert_eq(p, madt + word(madt + 4));
		cr_assert_eq(found, n);
	}
	destroy_vm(vm, &ends);
}

UNIT(boot, a_beam_window_is_told_as_soft_reserved_and_belongs_to_no_accessor)
{
	struct boot_range map[BOOT_MAX_RANGES];
	unsigned int n;

	fake.cpuid[fake.ncpuid++] = (struct kvm_cpuid_entry2){.function = 0x80000008, .eax = 40};
	fake.cpuid[fake.ncpuid++] = (struct kvm_cpuid_entry2){.function = 0x80000001, .ecx = 1 << 2}; /* SVM */
	vm = make_vm(&(struct vm_spec){.window = 3 * GIB}, &ends);
	n = boot_memory_map(vm, map);
	cr_assert_eq(map[n - 1].type, 0xefffffffu);
	cr_assert_eq(map[n - 1].size, 3 * GIB);
	cr_assert_eq(map[n - 1].start, 64 * GIB);
	cr_assert_null(memory_at(&vm->memory, 64 * GIB, 1));
	cr_assert_eq((uintptr_t)vm->memory.window % HUGE_PAGE, 0);
	destroy_vm(vm, &ends);
}

/* ---- bad ones */

UNIT(boot, an_image_cut_short_anywhere_is_refused)
{
	open_vm(32 * MIB);
	for (unsigned int i = 0; i < IMAGES; i++) {
		make(i);
		for (size_t len = 0; len < image_len; len++) {
			cr_assert_eq(load(image, len), -1, "image %u, %zu of %zu bytes", i, len, image_len);
			cr_assert(strstr(e.text, "kernel") && !strchr(e.text, '\n'), "%s", e.text);
		}
		cr_assert_eq(load(image, image_len), 0, "image %u: %s", i, e.text);
	}
	destroy_vm(vm, &ends);
}

UNIT(boot, what_is_no_image_is_refused)
{
	static const char text[1000] = "#!/bin/sh\n";
	int others[] = {open("/dev/null", O_RDONLY), open("/tmp", O_RDONLY | O_DIRECTORY), -1};

	open_vm(8 * MIB);
	assert_error(load("", 0), &e, "too short");
	assert_error(load(text, sizeof(text)), &e, "neither");
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		int kernel = vm->files.kernel;

		vm->files.kernel = others[i];
		assert_error(boot_load(vm, &entry, &e), &e, "kernel");
		vm->files.kernel = kernel;
		close_fd(&others[i]);
	}
	destroy_vm(vm, &ends);
}

UNIT(boot, a_load_by_a_thread_gives_what_a_load_gives)
{
	struct boot_entry direct;

	for (unsigned int i = 0; i < IMAGES; i++) {
		uint8_t *copy = malloc(8 * MIB);

		make(i);
		open_vm(8 * MIB);
		cr_assert_eq(load(image, image_len), 0, "%s", e.text);
		direct = entry;
		memcpy(copy, at(0), 8 * MIB);
		memset(at(0), 0, 8 * MIB);
		boot_load_start(vm);
		cr_assert_eq(boot_load(vm, &entry, &e), 0, "%s", e.text);
		cr_assert(!memcmp(&direct, &entry, sizeof(entry)));
		cr_assert(!memcmp(copy, at(0), 8 * MIB));
		cr_assert_null(vm->boot_load);
		boot_load_start(vm); /* and nobody waits for it */
		destroy_vm(vm, &ends);
		free(copy);
	}
	open_vm(8 * MIB);
	boot_load_start(vm);
	assert_error(boot_load(vm, &entry, &e), &e, "too short");
	destroy_vm(vm, &ends);
}

UNIT(boot, a_bzimage_with_a_wild_header_is_refused)
{
	struct bzimage *b = (struct bzimage *)image;
	static const struct {
		const char *field;
		size_t offset;
		uint64_t value;
		unsigned int len;
		const char *says; /* NULL: accepted */
	} table[] = {
#define FIELD(f, v, s) {#f, offsetof(struct bzimage, hdr.f), v, sizeof(b->hdr.f), s}
		FIELD(version, 0x020b, "64-bit"),
		FIELD(version, 0xffff, NULL),
		FIELD(xloadflags, 0, "64-bit"),
		FIELD(xloadflags, 0xfffe, "64-bit"),
		FIELD(setup_sects, 0, "truncated"), /* means 4 */
		FIELD(setup_sects, 255, "truncated"),
		FIELD(syssize, 64, "truncated"),
		FIELD(syssize, 0xffffffff, "truncated"),
		FIELD(pref_address, 0, "loaded at"),
		FIELD(pref_address, 0xfffff, "loaded at"),
		FIELD(pref_address, 0x100000, NULL),
		FIELD(pref_address, 32 * MIB - 0x10000, NULL),
		FIELD(pref_address, 32 * MIB - 0xffff, "needs"),
		FIELD(pref_address, 3 * GIB, "needs"),
		FIELD(pref_address, 4 * GIB, "loaded at"),
		FIELD(pref_address, UINT64_MAX, "loaded at"),
		FIELD(init_size, 31 * MIB, "needs"),
		FIELD(init_size, 0xffffffff, "needs"),
		FIELD(cmdline_size, 4, "command line"),
		FIELD(cmdline_size, 5, NULL),
		FIELD(cmdline_size, 0xffffffff, NULL),
		FIELD(boot_flag, 0x55aa, "neither"),
		FIELD(header, 0x53726449, "neither"),
	};

	open_vm(32 * MIB);
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		make(0);
		memcpy(image + table[i].offset, &table[i].value, table[i].len);
		cr_expect_eq(load(image, image_len), table[i].says ? -1 : 0, "%s = %llx: %s",
			     table[i].field, (unsigned long long)table[i].value, e.text);
		cr_expect(!table[i].says || strstr(e.text, table[i].says), "%s = %llx: %s",
			  table[i].field, (unsigned long long)table[i].value, e.text);
	}
	destroy_vm(vm, &ends);
}

UNIT(boot, an_initrd_that_does_not_fit_is_refused)
{
	static const struct {
		unsigned int image;
		uint64_t size, memory;
		uint32_t max; /* bzImage: initrd_addr_max */
		bool fits;
	} table[] = {
		{0, 6 * MIB - 0x10000, 8 * MIB, 0x7fffffff, true},
		{0, 6 * MIB - 0xffff, 8 * MIB, 0x7fffffff, false},
		{0, 8 * MIB, 8 * MIB, 0x7fffffff, false},
		{0, 9 * MIB, 8 * MIB, 0x7fffffff, false},
		{0, 1ull << 62, 8 * MIB, 0x7fffffff, false},
		{0, 4096, 8 * MIB, 0x210fff, true},
		{0, 4096, 8 * MIB, 0x210ffe, false},
		{0, 4096, 8 * MIB, 0, false},
		{0, 4096, 8 * MIB, 0xffffffff, true},
		{1, 5 * MIB, 8 * MIB, 0, true},
		{1, 6 * MIB, 8 * MIB, 0, false},
	};

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		make(table[i].image);
		if (table[i].image == 0)
			((struct bzimage *)image)->hdr.initrd_addr_max = table[i].max;
		open_vm(table[i].memory);
		vm->files.initrd = memfd_with("", 0);
		cr_assert_eq(ftruncate(vm->files.initrd, (off_t)table[i].size), 0);
		cr_expect_eq(load(image, image_len), table[i].fits ? 0 : -1, "row %zu: %s", i, e.text);
		destroy_vm(vm, &ends);
	}
}

/* The loader's own tables lie below 1 MiB: an initrd must not. */
UNIT(boot, an_initrd_is_never_put_under_the_loaders_tables)
{
	struct pvh64 *p = (struct pvh64 *)image;

	make(1);
	p->ph[0].p_paddr = 0x40000;
	open_vm(4 * MIB);
	vm->files.initrd = memfd_with("", 0);
	cr_assert_eq(ftruncate(vm->files.initrd, 3 * MIB + 4096), 0);
	cr_assert_eq(load(image, image_len), -1, "it lies at 0x%llx",
		     (unsigned long long)quad(quad(PVH_INFO + 16)));
	cr_assert_eq(ftruncate(vm->files.initrd, 3 * MIB), 0);
	cr_assert_eq(load(image, image_len), 0, "%s", e.text);
	destroy_vm(vm, &ends);
}

static const uint64_t wild[] = {
	0,	   1,	      4,	     0xffff,	 0x7fffffff,	 0x80000000,	 0xfffffffc,
	0xffffffff, 4 * GIB,  3 * GIB - 1,   3 * GIB,	 32 * MIB - 1,	 32 * MIB,	 1ull << 40,
	INT64_MAX,  1ull << 63, UINT64_MAX - 7, UINT64_MAX, UINT64_MAX - 999};

/* Every field of every header gets every wild value: what is accepted has been loaded where it says,
 * all else is refused with a line, and nothing crashes. */
UNIT(boot, an_image_with_any_field_gone_wild_is_loaded_or_refused)
{
	open_vm(32 * MIB);
	for (unsigned int i = 0; i < IMAGES; i++) {
		size_t headers;
		unsigned int refused = 0, tried = 0;

		make(i);
		headers = i == 0 ? 0x1f1 + sizeof(struct setup_header) : 300;
		for (size_t off = i == 0 ? 0x1f1 : 0; off < headers; off++)
			for (unsigned int len = 1; len <= 8; len *= 2) {
				if (off % len)
					continue;
				for (size_t k = 0; k < ARRAY_LEN(wild); k++) {
					make(i);
					memcpy(image + off, &wild[k], len);
					tried++;
					if (load(image, image_len)) {
						cr_assert(e.text[0]);
						refused++;
					}
				}
			}
		cr_assert(refused > tried / 100 && refused < tried, "image %u: %u of %u", i, refused, tried);
	}
	destroy_vm(vm, &ends);
}

UNIT(boot, an_elf_that_does_not_fit_is_refused)
{
	struct pvh64 *p = (struct pvh64 *)image;
	static const struct {
		uint64_t paddr, offset, filesz, memsz;
		bool good;
	} table[] = {
		{IMAGE_LOAD, 0, 100, 100, true},
		{32 * MIB - 4096, 0, 100, 4096, true},
		{32 * MIB - 4096, 0, 100, 4097, false},
		{32 * MIB, 0, 100, 100, false},
		{IMAGE_LOAD, 0, 101, 100, false},
		{IMAGE_LOAD, 0, 100, UINT64_MAX, false},
		{IMAGE_LOAD, 0, UINT64_MAX, UINT64_MAX, false},
		{UINT64_MAX, 0, 1, 1, false},
		{UINT64_MAX - 99, 0, 100, 100, false},
		{IMAGE_LOAD, UINT64_MAX, 1, 1, false},
		{IMAGE_LOAD, INT64_MAX, 1, 1, false},
		{IMAGE_LOAD, sizeof(*p), 1, 1, false},
		{IMAGE_LOAD, sizeof(*p) - 1, 1, 1, true},
		{IMAGE_LOAD, sizeof(*p), 0, 1, true},
	};

	open_vm(32 * MIB);
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		make(1);
		p->ph[0].p_paddr = table[i].paddr;
		p->ph[0].p_offset = table[i].offset;
		p->ph[0].p_filesz = table[i].filesz;
		p->ph[0].p_memsz = table[i].memsz;
		cr_expect_eq(load(image, image_len), table[i].good ? 0 : -1, "row %zu: %s", i, e.text);
	}
	destroy_vm(vm, &ends);
}

UNIT(boot, notes_of_wild_sizes_are_no_pvh_entry)
{
	struct pvh64 *p = (struct pvh64 *)image;

	open_vm(32 * MIB);
	for (size_t i = 0; i < ARRAY_LEN(wild); i++)
		for (int field = 0; field < 4; field++) {
			uint32_t v = (uint32_t)wild[i];

			make(1);
			if (field == 0)
				p->xen.nh.n_namesz = v;
			else if (field == 1)
				p->xen.nh.n_descsz = v;
			else if (field == 2)
				p->other.nh.n_descsz = v; /* the one that must be stepped over */
			else
				p->ph[1].p_filesz = wild[i];
			if ((field < 2 && v == 4) || v == (uint32_t)-8)
				continue;
			cr_expect_eq(load(image, image_len), -1, "%d = %llx", field,
				     (unsigned long long)wild[i]);
		}
	destroy_vm(vm, &ends);
}

UNIT(boot, a_multiboot_header_with_impossible_addresses_is_refused)
{
	struct flat *f = (struct flat *)image;
	const uint32_t header = IMAGE_LOAD + offsetof(struct flat, mb);
	const struct {
		const char *what;
		uint32_t header_addr, load_addr, load_end, bss_end;
		bool good;
	} table[] = {
		{"as made", header, IMAGE_LOAD, IMAGE_LOAD + sizeof(*f), 0, true},
		{"whole file", header, IMAGE_LOAD, 0, 0, true},
		{"from the header on", header, header, 0, 0, true},
		{"load behind header", header, header + 1, 0, 0, false},
		{"load before the file", header, IMAGE_LOAD - 1, 0, 0, false},
		{"load far before", 0xffffffff, 0, 0, 0, false},
		{"ends before it begins", header, IMAGE_LOAD, IMAGE_LOAD - 1, 0, false},
		{"ends behind the file", header, IMAGE_LOAD, IMAGE_LOAD + sizeof(*f) + 1, 0, false},
		{"ends at the end of the world", header, IMAGE_LOAD, 0xffffffff, 0, false},
		{"bss beyond memory", header, IMAGE_LOAD, 0, 32 * MIB + 1, false},
		{"bss to the end of memory", header, IMAGE_LOAD, 0, 32 * MIB, true},
		{"bss to the end of the world", header, IMAGE_LOAD, 0, 0xffffffff, false},
		{"loaded beyond memory", 0xfffff000 + 64, 0xfffff000, 0, 0, false},
		{"loaded in the gap", 0xd0000000 + 64, 0xd0000000, 0, 0, false},
	};

	open_vm(32 * MIB);
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		make(3);
		f->mb.header_addr = table[i].header_addr;
		f->mb.load_addr = table[i].load_addr;
		f->mb.load_end_addr = table[i].load_end;
		f->mb.bss_end_addr = table[i].bss_end;
		cr_expect_eq(load(image, image_len), table[i].good ? 0 : -1, "%s: %s", table[i].what,
			     e.text);
	}
	destroy_vm(vm, &ends);
}

UNIT(boot, a_multiboot_header_is_found_only_where_it_may_be)
{
	static uint8_t big[16384];
	struct flat *f = (struct flat *)image;
	static const struct {
		size_t offset;
		bool found;
	} table[] = {{0, true}, {4, true}, {8188, true}, {8192, false}, {2, false}, {12288, false}};

	open_vm(32 * MIB);
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		make(3);
		f->mb.load_addr = f->mb.header_addr;
		f->mb.load_end_addr = f->mb.bss_end_addr = 0;
		memset(big, 0, sizeof(big));
		memcpy(big + table[i].offset, &f->mb, sizeof(f->mb));
		cr_expect_eq(load(big, sizeof(big)), table[i].found ? 0 : -1, "at %zu: %s",
			     table[i].offset, e.text);
	}
	make(3);
	f->mb.flags |= 4; /* a video mode: required, and not known here */
	f->mb.checksum -= 4;
	assert_error(load(image, image_len), &e, "features");
	make(3);
	f->mb.checksum++;
	assert_error(load(image, image_len), &e, "neither");
	destroy_vm(vm, &ends);
}

/* Their addresses have 32 bits. */
UNIT(boot, modules_that_end_above_4_gib_are_refused)
{
	struct pvh64 *p = (struct pvh64 *)image;
	struct multiboot_header *mb = (struct multiboot_header *)p->pad;

	make(1);
	p->ph[0].p_paddr = 4 * GIB;
	p->eh.e_phnum = 1;
	mb->magic = 0x1badb002;
	mb->checksum = -mb->magic;
	vm = make_vm(&(struct vm_spec){.memory = 4 * GIB,
				       .kernel = memfd_with("", 0),
				       .nmodules = 1,
				       .modules = {memfd_with("module", 6)}},
		     &ends);
	cr_assert_eq(load(image, image_len), -1);
	destroy_vm(vm, &ends);
}
