/* boot.c: a kernel image that anybody may have made, with an initrd, modules and a command line.
 *
 * Input: one byte each of initrd, modules and command line, then the image.  One VM for all inputs:
 * loading reads nothing from guest memory.
 */
#include "tests/fuzz/fuzz.h"
#include "tests/unit/images.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct vm *vm;
static int initrd_file;

static void set_length(int fd, unsigned int choice)
{
	static const uint32_t lengths[] = {0, 1, 4095, 4096, 5000, 1 << 20, 2 << 20, 5 << 20};

	if (ftruncate(fd, lengths[choice % ARRAY_LEN(lengths)]))
		abort();
}

static void open_vm(void)
{
	struct vm_spec s = {
		.memory = 4 * MIB, .kernel = memfd_with("", 0), .nmodules = VM_MAX_MODULES};
	static struct vm_ends ends;

	for (size_t i = 0; i < VM_MAX_MODULES; i++)
		s.modules[i] = memfd_with("", 0);
	vm = make_vm(&s, &ends);
	initrd_file = memfd_with("initrd", 6);
}

void fuzz_one(const uint8_t *data, size_t len)
{
	static char line[70000];
	struct input in = {data, len};
	unsigned int initrd, modules;
	struct boot_entry entry;
	struct error e = {""};
	int r;

	if (!vm)
		open_vm();
	initrd = (unsigned int)take(&in, 1);
	modules = (unsigned int)take(&in, 1);
	memset(line, 'x', sizeof(line));
	line[(take(&in, 1) * 300) % sizeof(line)] = 0;
	vm->config->append = line;
	vm->files.initrd = initrd & 1 ? initrd_file : -1;
	set_length(initrd_file, initrd >> 1);
	vm->config->n_modules = modules % (VM_MAX_MODULES + 1);
	for (size_t i = 0; i < vm->config->n_modules; i++)
		set_length(vm->files.modules[i], modules / 8 + (unsigned int)i);
	if (ftruncate(vm->files.kernel, 0) ||
	    pwrite_all(vm->files.kernel, in.at, in.left, 0) != (ssize_t)in.left)
		abort();
	r = boot_load(vm, &entry, &e);
	if (r ? !e.text[0] : boot_set_registers(vm, &entry, &e))
		abort();
	vm->config->n_modules = VM_MAX_MODULES;
}

void fuzz_seeds(void)
{
	static const uint8_t options[][3] = {{0, 0, 0}, {3, 0, 1}, {9, 18, 2}, {15, 80, 230}};
	static uint8_t seed[3 + IMAGE_MAX] __attribute__((aligned(8)));
	static uint8_t image[IMAGE_MAX] __attribute__((aligned(8)));
	size_t n;

	for (unsigned int i = 0; (n = make_image(i, image)); i++)
		for (size_t k = 0; k < ARRAY_LEN(options); k++) {
			memcpy(seed, options[k], 3);
			memcpy(seed + 3, image, n);
			add_seed(seed, 3 + n);
		}
}
