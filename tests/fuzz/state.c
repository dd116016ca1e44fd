/* state.c: the state memfd, and restoring what is in it.
 *
 * Input: a byte, then a whole file (odd) or a state alone, to which its header is made (even).
 */
#include "tests/fuzz/fuzz.h"
#include "tests/unit/guest.h"
#include "zerocopy/zerocopy.h"

#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <unistd.h>

static const struct vm_spec spec = {
	.cpus = 1, .disks = 1, .nets = 1, .rng = true, .balloon = true, .virtio_console = true};

static Vmb__VmState *read_input(struct input in, struct error *e)
{
	bool whole = take(&in, 1) & 1;
	int fd = whole ? memfd_with(in.at, in.left) : make_state(in);
	Vmb__VmState *s;

	if (whole && fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		abort();
	s = state_read(fd, e);
	close(fd);
	return s;
}

void fuzz_one(const uint8_t *data, size_t len)
{
	static struct vm *vm;
	static struct vm_ends ends;
	struct error e = {""};
	Vmb__VmState *s = read_input((struct input){data, len}, &e);

	if (!s) {
		if (!e.text[0])
			abort();
		return;
	}
	fake.nested_size = 4224;
	if (!vm)
		vm = make_vm(&spec, &ends);
	vm_lock(vm);
	vm_load_provisional(vm, s, &e);
	if (!vm_restore(vm, s, &e))
		vm_uncapture(vm, NULL);
	vm_unlock(vm);
	run_loop(vm);
	vmb__vm_state__free_unpacked(s, NULL);
	if (renew_vm(vm, &ends))
		return;
	destroy_vm(vm, &ends);
	vm = make_vm(&spec, &ends);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t max, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t len, size_t max);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t len, size_t max, unsigned int seed)
{
	if (!len || data[0] & 1)
		return LLVMFuzzerMutate(data, len, max);
	return 1 + mutate_message(&vmb__vm_state__descriptor, data + 1, len - 1, max - 1, seed);
}

static Vmb__VmState *capture(struct vm *vm)
{
	struct error e = {""};
	Vmb__VmState *s;

	vm_lock(vm);
	s = vm_drain(vm, 1000000000, &e) ? NULL : vm_capture(vm, &e);
	vm_unlock(vm);
	if (!s) {
		fprintf(stderr, "%s\n", e.text);
		abort();
	}
	return s;
}

/* A VM that has not run, one whose devices are at work, and both as whole files. */
void fuzz_seeds(void)
{
	static uint8_t seed[1 << 20];

	fake.nested_size = 4224;
	for (unsigned int busy = 0; busy < 2; busy++) {
		struct vm_ends ends;
		struct vm *vm = make_vm(&spec, &ends);
		Vmb__VmState *s;
		ssize_t n;
		int fd;

		for (unsigned int i = 0; busy && i < vm->nvirtio; i++)
			driver_start(vm->virtio[i], vm->virtio[i]->features, 256);
		for (unsigned int i = 0; busy && i < 100; i++)
			serial_write(vm->serial, 0, 'x');
		s = capture(vm);
		fd = state_create(NULL);
		n = state_write(fd, s, NULL);
		if (n < 0 || pread_all(fd, seed + 1, sizeof(seed) - 1, 0) != n)
			abort();
		seed[0] = 1;
		add_seed(seed, (size_t)n + 1);
		seed[0] = 0;
		vmb__vm_state__pack(s, seed + 1);
		add_seed(seed, vmb__vm_state__get_packed_size(s) + 1);
		vmb__vm_state__free_unpacked(s, NULL);
		close(fd);
		destroy_vm(vm, &ends);
	}
}
