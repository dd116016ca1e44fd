/* lab-qemu.c: the emulator: finds QEMU, and makes a copy of it without three faults of its TCG that
 * break virtual machines under load.  They are in all versions up to 10.0 at least, and each is one
 * instruction, which is another one in the copy (a memfd):
 *
 * - Every FXRSTOR on any CPU clears HF2_IGNNE of *CPU 0* (cpu_clear_ignne), not atomically: while
 * CPU 0 runs VMRUN or #VMEXIT this brings back old flags, such as nested paging in the host or GIF
 *   where there is none.  The host's kernel dies with guest registers ("corrupted stack end").
 * - VMRUN that injects an interrupt leaves its vector in exception_index.  Is the CPU kicked at the
 *   wrong moment, the guest gets the interrupt once more, with interrupts off: it resets or hangs.
 * - VMRUN that wants an interrupt window sets VIRQ in interrupt_request without the lock and not
 *   atomically: an interrupt that another thread raises at that moment is lost, and if it was the
 * timer this CPU stands still until the next one, for seconds or for ever.
 *
 * Before: 13 of 18 runs of 45 s with a busy guest (2 vCPUs, disk, network) broke down; after: 0
 * of 7.
 */
#include "nested/lab-internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <unistd.h>

#define NOP 0x90

static const struct fault {
	unsigned at, len; /* of the faulty instruction in the pattern */
	bool lock; /* an OR of a flag of the second byte: done to that byte, locked; else left out */
	const char *pattern; /* hexadecimal; '.' is any digit */
} faults[] = {
	/* andl $~HF2_IGNNE_MASK, hflags2; add $8, %rsp; ret */
	{0, 10, false, "81 a. .. .. .. .. 7f ff ff ff 48 83 c4 08 c3"},
	/* mov vector, exception_index; movl $0, exception_is_int; movq $-1, exception_next_eip;
	 * testb qemu_loglevel; jne; mov $1, %edx (the call of do_interrupt_x86_hardirq) */
	{0, 6, false,
	 "89 .. .. .. .. .. c7 8. .. .. .. .. 00 00 00 00 48 c7 8. .. .. .. .. ff ff ff ff "
	 "f6 05 .. .. .. .. 02 0f 85 .. .. .. .. ba 01 00 00 00"},
	/* test; je; orl $CPU_INTERRUPT_VIRQ, interrupt_request; testb $V_GIF_ENABLED, ... */
	{4, 10, true, "85 .. 74 0a 81 8. .. .. .. .. 00 01 00 00 f6"},
};

struct pattern {
	unsigned char value[64], mask[64];
	size_t len;
};

static struct pattern parse(const char *text)
{
	struct pattern p = {.len = 0};

	for (; *text; p.len++, text += text[2] ? 3 : 2)
		for (int i = 0; i < 2; i++) {
			const char digit[] = {text[i], 0};
			int shift = i ? 0 : 4;

			if (text[i] == '.')
				continue;
			p.mask[p.len] |= (unsigned char)(0xf << shift);
			p.value[p.len] |= (unsigned char)(strtoul(digit, NULL, 16) << shift);
		}
	return p;
}

static bool matches(const struct pattern *p, const unsigned char *at)
{
	for (size_t i = 0; i < p->len; i++)
		if ((at[i] & p->mask[i]) != p->value[i])
			return false;
	return true;
}

/* The one place where the pattern is; NULL if there is none or more than one. */
static unsigned char *find(const struct pattern *p, unsigned char *image, size_t size)
{
	unsigned char *found = NULL, *at = image, *end = image + size - p->len;

	while (at <= end && (at = memchr(at, p->value[0], (size_t)(end - at) + 1))) {
		if (matches(p, at)) {
			if (found)
				return NULL;
			found = at;
		}
		at++;
	}
	return found;
}

/* orl $imm32, disp32(reg) with imm32 = flag << 8 becomes lock orb $flag, disp32+1(reg). */
static void lock_or(unsigned char *at, size_t len)
{
	unsigned char modrm = at[1], flag = at[7];
	uint32_t disp;

	memcpy(&disp, at + 2, 4);
	disp++;
	memset(at, NOP, len);
	at[0] = 0xf0;
	at[1] = 0x80;
	at[2] = modrm;
	memcpy(at + 3, &disp, 4);
	at[7] = flag;
}

static bool mend(unsigned char *image, size_t size)
{
	for (size_t i = 0; i < ARRAY_LEN(faults); i++) {
		struct pattern p = parse(faults[i].pattern);
		unsigned char *at = find(&p, image, size);

		if (!at)
			return false;
		at += faults[i].at;
		if (faults[i].lock)
			lock_or(at, faults[i].len);
		else
			memset(at, NOP, faults[i].len);
	}
	return true;
}

char *lab_qemu_find(void)
{
	char *path = xstrdup(getenv("PATH") ?: "/usr/bin:/bin"), *rest = path, *dir, *file = NULL;

	while ((dir = strsep(&rest, ":"))) {
		file = xasprintf("%s/%s", dir, LAB_QEMU);
		if (!access(file, X_OK))
			break;
		free(file);
		file = NULL;
	}
	free(path);
	return file;
}

int lab_qemu_mended(const char *path)
{
	int in = open(path, O_RDONLY | O_CLOEXEC), out = -1;
	unsigned char *image = MAP_FAILED;
	struct stat st = {.st_size = 0};

	if (in >= 0 && !fstat(in, &st) && st.st_size > 4096)
		image = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, in, 0);
	if (image != MAP_FAILED && mend(image, (size_t)st.st_size)) {
		out = memfd_create("lab-qemu", MFD_CLOEXEC);
		if (out >= 0 && write_all(out, image, (size_t)st.st_size) != st.st_size)
			close_fd(&out);
	}
	if (image != MAP_FAILED)
		munmap(image, (size_t)st.st_size);
	if (in >= 0)
		close(in);
	return out;
}
