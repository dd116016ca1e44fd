/* images.h: tiny kernel images of each kind that boot.c loads, made by hand; also the seeds of the
 * fuzz target "boot".
 */
#ifndef TESTS_IMAGES_H
#define TESTS_IMAGES_H

#include <asm/bootparam.h>
#include <elf.h>
#include <stddef.h>
#include <stdint.h>

enum { IMAGE_LOAD = 0x200000, IMAGE_CODE = 1000 /* bytes */, IMAGE_MAX = 8192 };

/* A bzImage for the 64-bit protocol. */
struct bzimage {
	uint8_t before[0x1f1];
	struct setup_header hdr;
	uint8_t rest[1024 - 0x1f1 - sizeof(struct setup_header)];
	uint8_t code[1008]; /* syssize is in 16 bytes */
} __attribute__((packed));

/* An ELF with one segment and a PVH note; as 32-bit one the same with other headers. */
struct pvh64 {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[2];
	struct pvh_note {
		Elf64_Nhdr nh;
		char name[4];
		uint64_t entry;
	} __attribute__((packed)) other, xen;
	uint8_t pad[512]; /* boot_load() reads as much as a bzImage's header */
	uint8_t code[IMAGE_CODE];
} __attribute__((packed, aligned(8)));

struct pvh32 {
	Elf32_Ehdr eh;
	Elf32_Phdr ph[2];
	struct pvh_note xen;
	uint8_t pad[516];
	uint8_t code[IMAGE_CODE];
} __attribute__((packed, aligned(8)));

/* A multiboot image: flat, or (without addresses) within an ELF. */
struct multiboot_header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};
struct flat {
	uint8_t before[64];
	struct multiboot_header mb;
	uint8_t pad[512];
	uint8_t code[IMAGE_CODE];
} __attribute__((packed, aligned(8)));
struct mbelf {
	Elf32_Ehdr eh;
	Elf32_Phdr ph;
	struct multiboot_header mb;
	uint8_t pad[516];
	uint8_t code[IMAGE_CODE];
} __attribute__((packed, aligned(8)));

void make_bzimage(struct bzimage *b);
void make_pvh64(struct pvh64 *p);
void make_pvh32(struct pvh32 *p);
void make_flat(struct flat *f);
void make_mbelf(struct mbelf *m);

/* All of them: writes image number i and returns its length, 0 after the last. */
size_t make_image(unsigned int i, uint8_t *out);

#endif
