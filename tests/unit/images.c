/* images.c: tiny kernel images; the contract is in images.h. */
#include "tests/unit/images.h"

#include <string.h>

static void fill_code(uint8_t *code, size_t len)
{
	for (size_t i = 0; i < len; i++)
		code[i] = (uint8_t)(i * 7 + 1);
}

void make_bzimage(struct bzimage *b)
{
	memset(b, 0, sizeof(*b));
	b->hdr.setup_sects = 1;
	b->hdr.boot_flag = 0xaa55;
	b->hdr.header = 0x53726448;
	b->hdr.version = 0x020f;
	b->hdr.xloadflags = XLF_KERNEL_64;
	b->hdr.pref_address = IMAGE_LOAD;
	b->hdr.init_size = 0x10000;
	b->hdr.syssize = sizeof(b->code) / 16;
	b->hdr.cmdline_size = 255;
	b->hdr.initrd_addr_max = 0x7fffffff;
	fill_code(b->code, sizeof(b->code));
}

static void make_note(struct pvh_note *n, uint32_t type, uint64_t entry)
{
	*n = (struct pvh_note){.nh = {.n_namesz = 4, .n_descsz = 8, .n_type = type},
			       .name = "Xen",
			       .entry = entry};
}

void make_pvh64(struct pvh64 *p)
{
	memset(p, 0, sizeof(*p));
	memcpy(p->eh.e_ident, ELFMAG, SELFMAG);
	p->eh.e_ident[EI_CLASS] = ELFCLASS64;
	p->eh.e_ident[EI_DATA] = ELFDATA2LSB;
	p->eh.e_machine = EM_X86_64;
	p->eh.e_entry = 0xffffffff81000000;
	p->eh.e_phoff = offsetof(struct pvh64, ph);
	p->eh.e_phentsize = sizeof(p->ph[0]);
	p->eh.e_phnum = 2;
	p->ph[0] = (Elf64_Phdr){.p_type = PT_LOAD,
				.p_offset = offsetof(struct pvh64, code),
				.p_vaddr = 0xffffffff81000000,
				.p_paddr = IMAGE_LOAD,
				.p_filesz = IMAGE_CODE,
				.p_memsz = IMAGE_CODE + 3000};
	p->ph[1] = (Elf64_Phdr){.p_type = PT_NOTE,
				.p_offset = offsetof(struct pvh64, other),
				.p_filesz = 2 * sizeof(p->xen)};
	make_note(&p->other, 5, 0x1111);
	make_note(&p->xen, 18, IMAGE_LOAD + 0x20);
	fill_code(p->code, sizeof(p->code));
}

static void make_elf32(Elf32_Ehdr *eh, Elf32_Phdr *ph, uint32_t phoff, uint32_t code)
{
	memcpy(eh->e_ident, ELFMAG, SELFMAG);
	eh->e_ident[EI_CLASS] = ELFCLASS32;
	eh->e_ident[EI_DATA] = ELFDATA2LSB;
	eh->e_machine = EM_386;
	eh->e_entry = IMAGE_LOAD + 0x10;
	eh->e_phoff = phoff;
	eh->e_phentsize = sizeof(*ph);
	eh->e_phnum = 1;
	*ph = (Elf32_Phdr){.p_type = PT_LOAD,
			   .p_offset = code,
			   .p_paddr = IMAGE_LOAD,
			   .p_filesz = IMAGE_CODE,
			   .p_memsz = IMAGE_CODE + 3000};
}

void make_pvh32(struct pvh32 *p)
{
	memset(p, 0, sizeof(*p));
	make_elf32(&p->eh, p->ph, offsetof(struct pvh32, ph), offsetof(struct pvh32, code));
	p->eh.e_machine = EM_X86_64; /* as Linux' vmlinux in the x32 manner */
	p->eh.e_phnum = 2;
	p->ph[1] = (Elf32_Phdr){.p_type = PT_NOTE,
				.p_offset = offsetof(struct pvh32, xen),
				.p_filesz = sizeof(p->xen) - 4};
	make_note(&p->xen, 18, IMAGE_LOAD + 0x20);
	p->xen.nh.n_descsz = 4;
	fill_code(p->code, sizeof(p->code));
}

static void make_multiboot(struct multiboot_header *mb, uint32_t flags)
{
	mb->magic = 0x1badb002;
	mb->flags = flags;
	mb->checksum = -(mb->magic + mb->flags);
}

void make_flat(struct flat *f)
{
	memset(f, 0, sizeof(*f));
	make_multiboot(&f->mb, 0x10003);
	f->mb.header_addr = IMAGE_LOAD + offsetof(struct flat, mb);
	f->mb.load_addr = IMAGE_LOAD;
	f->mb.load_end_addr = IMAGE_LOAD + sizeof(*f);
	f->mb.bss_end_addr = IMAGE_LOAD + sizeof(*f) + 5000;
	f->mb.entry_addr = IMAGE_LOAD + offsetof(struct flat, code);
	fill_code(f->code, sizeof(f->code));
}

void make_mbelf(struct mbelf *m)
{
	memset(m, 0, sizeof(*m));
	make_elf32(&m->eh, &m->ph, offsetof(struct mbelf, ph), offsetof(struct mbelf, code));
	make_multiboot(&m->mb, 3);
	fill_code(m->code, sizeof(m->code));
}

size_t make_image(unsigned int i, uint8_t *out)
{
	switch (i) {
	case 0:
		make_bzimage((struct bzimage *)out);
		return sizeof(struct bzimage);
	case 1:
		make_pvh64((struct pvh64 *)out);
		return sizeof(struct pvh64);
	case 2:
		make_pvh32((struct pvh32 *)out);
		return sizeof(struct pvh32);
	case 3:
		make_flat((struct flat *)out);
		return sizeof(struct flat);
	case 4:
		make_mbelf((struct mbelf *)out);
		return sizeof(struct mbelf);
	}
	return 0;
}
