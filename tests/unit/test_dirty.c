/* test_dirty.c: what is noted as written while a VM's memory is copied. */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SIZE = 16, DATA = GUEST_BUFFERS + 0x3000 };

static struct vm *vm;
static struct vm_ends ends;
static uint64_t *bitmap;

static int bitmap_of(uint64_t bytes, bool sealed)
{
	int fd = memfd_create("bitmap", MFD_ALLOW_SEALING);

	cr_assert(fd >= 0 && !ftruncate(fd, (off_t)bytes));
	if (sealed)
		cr_assert_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
	return fd;
}

static uint64_t bytes(void)
{
	return vm->memory.size / 4096 / 8;
}

static int track(void)
{
	int fd = bitmap_of(bytes(), true);
	struct error e;

	bitmap = mmap(NULL, bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	cr_assert(bitmap != MAP_FAILED);
	return vm_track_writes(vm, fd, &e);
}

static void open_vm(void)
{
	struct vm_spec s = {.disks = 0, .rng = true};

	vm = make_vm(&s, &ends);
}

static void close_all(void)
{
	if (bitmap)
		munmap(bitmap, bytes());
	bitmap = NULL;
	destroy_vm(vm, &ends);
}

static bool is_noted(uint64_t gpa)
{
	return bitmap[gpa / 4096 / 64] >> (gpa / 4096 % 64) & 1;
}

static unsigned int noted(void)
{
	unsigned int n = 0;

	for (uint64_t i = 0; i < bytes() / 8; i++)
		n += (unsigned int)__builtin_popcountll(bitmap[i]);
	return n;
}

UNIT(dirty, what_vcpus_write_is_taken_from_the_log_once)
{
	struct error e;

	open_vm();
	cr_assert_eq(track(), 0);
	cr_assert_eq(vm_collect_writes(vm, &e), 0);
	cr_expect_eq(noted(), 0, "that all is marked when the log begins says nothing");
	fake_machine(vm->fd)->written[0][3] = 5;
	cr_assert_eq(vm_collect_writes(vm, &e), 0);
	cr_expect_eq(bitmap[3], 5);
	bitmap[3] = 0;
	cr_assert_eq(vm_collect_writes(vm, &e), 0);
	cr_expect_eq(noted(), 0);
	vm_untrack_writes(vm);
	cr_expect_eq(fake_machine(vm->fd)->logged[0], 0);
	close_all();
}

UNIT(dirty, what_a_device_writes_is_noted_with_its_rings)
{
	struct virtio_device *d;
	struct guest_queue q;
	struct error e;

	open_vm();
	d = vm->virtio[0];
	driver_start(d, 0, SIZE);
	q = guest_queue(d, 0);
	cr_assert_eq(track(), 0);
	q.desc[2] = (struct vring_desc){.addr = DATA, .len = 8192, .flags = VRING_DESC_F_WRITE};
	guest_add(d, 0, 2);
	guest_kick(d, 0);
	cr_assert_eq(q.used->idx, 1);
	cr_assert_eq(vm_collect_writes(vm, &e), 0);
	cr_expect(is_noted(DATA) && is_noted(DATA + 4096) && !is_noted(DATA + 8192) && !is_noted(DATA - 4096));
	cr_expect(is_noted(q.used_gpa));
	cr_expect(!is_noted(q.avail_gpa) || q.avail_gpa / 4096 == q.used_gpa / 4096);
	close_all();
}

UNIT(dirty, a_bitmap_that_is_none_is_refused)
{
	struct error e;

	open_vm();
	cr_expect_eq(vm_track_writes(vm, bitmap_of(bytes() - 8, true), &e), -1);
	cr_expect_eq(vm_track_writes(vm, bitmap_of(bytes(), false), &e), -1);
	cr_expect(!vm_is_tracked(vm));
	cr_expect_eq(vm_collect_writes(vm, &e), -1);
	cr_assert_eq(track(), 0);
	cr_expect_eq(vm_track_writes(vm, bitmap_of(bytes(), true), &e), -1, "by two at once");
	close_all();
}

/* ---- slowing it down */

/* Of so many steps of the loop, in how many did it run? */
static unsigned int running_of(unsigned int steps)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < steps; i++) {
		vm_lock(vm);
		n += vm->running;
		cr_expect_eq(vm_run_state(vm), VMB__RUN_STATE__RUN_STATE_RUNNING, "whoever asks hears nothing of it");
		vm_unlock(vm);
		loop_once(vm->loop, 5);
	}
	return n;
}

UNIT(dirty, a_throttled_vm_runs_a_part_of_the_time_and_then_all_of_it)
{
	unsigned int n;

	open_vm();
	cr_assert_eq(track(), 0);
	vm_lock(vm);
	vm_resume(vm);
	vm_throttle(vm, 75); /* 10 ms of 40 */
	vm_unlock(vm);
	n = running_of(200);
	cr_expect(n > 10 && n < 150, "%u of 200", n);
	vm_lock(vm);
	vm_throttle(vm, 0);
	cr_expect(vm->running && !vm_is_held_back(vm));
	vm_throttle(vm, 99);
	vm_unlock(vm);
	for (int i = 0; i < 100 && !vm_is_held_back(vm); i++)
		loop_once(vm->loop, 5);
	cr_expect(vm_is_held_back(vm));
	vm_lock(vm);
	vm_untrack_writes(vm); /* whoever copied has gone */
	cr_expect(vm->running);
	vm_pause(vm);
	vm_unlock(vm);
	close_all();
}

UNIT(dirty, a_throttled_vm_that_a_user_pauses_stays_paused)
{
	open_vm();
	cr_assert_eq(track(), 0);
	vm_lock(vm);
	vm_resume(vm);
	vm_throttle(vm, 50);
	vm_set_user_paused(vm, true);
	vm_pause(vm);
	vm_unlock(vm);
	for (int i = 0; i < 30; i++) {
		loop_once(vm->loop, 5);
		cr_expect(!vm->running);
	}
	vm_lock(vm);
	vm_untrack_writes(vm);
	cr_expect(!vm->running);
	vm_unlock(vm);
	close_all();
}

UNIT(dirty, memory_that_arrives_is_guarded_but_for_huge_pages)
{
	struct error e = {""};
	uint64_t base;
	int fd;

	open_vm();
	vm_lock(vm);
	fd = vm_guard_memory(vm, &base, &e);
	cr_expect_geq(fd, 0, "%s", e.text);
	cr_expect_eq(base, (uintptr_t)vm->memory.base);
	vm_set_arriving(vm, true);
	cr_expect(vm_is_arriving(vm));
	vm_set_arriving(vm, false);
	cr_expect(!vm_is_arriving(vm));
	close_fd(&vm->memory.guard);
	vm->memory.hugetlb = true;
	cr_expect_eq(vm_guard_memory(vm, &base, &e), -1);
	vm->memory.hugetlb = false;
	vm_unlock(vm);
	close_all();
}
