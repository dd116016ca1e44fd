/* dirty.c: which pages of the guest's memory have been written, while somebody copies it.
 *
 * Source: Documentation/virt/kvm/api.rst, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_GET_DIRTY_LOG and
 * KVM_CLEAR_DIRTY_LOG.  KVM's log knows what vCPUs write; what devices write is marked as they go (memory_written()).
 * With manual protection nothing is write-protected when logging begins, nor by reading the log, but piece by piece when
 * it is cleared, so that the guest's faults are not all at once and the lock of its MMU is never held for long.
 */
#include "vmm/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	CLEAR_PAGES = 64 * 1024, /* 256 MiB at once */
	SLICE_MS = 10,		 /* that a throttled VM runs */
};

struct dirty {
	uint64_t *shared; /* with whoever copies */
	uint64_t *log;	  /* of one slot, as KVM gave it */
	size_t words;
	unsigned int throttle; /* percent of the time in which the vCPUs are held */
	bool held;
};

static int read_slot(struct vm *vm, uint32_t slot, uint64_t first, uint64_t size, bool keep, struct error *e)
{
	struct dirty *d = vm->dirty;
	uint64_t pages = size / DIRTY_PAGE, words = (pages + 63) / 64;
	struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = d->log};

	if (ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log))
		return error_set_errno(e, "KVM_GET_DIRTY_LOG");
	for (uint64_t at = 0; at < pages; at += CLEAR_PAGES) {
		struct kvm_clear_dirty_log clear = {
			.slot = slot,
			.num_pages = (uint32_t)MIN(pages - at, (uint64_t)CLEAR_PAGES),
			.first_page = at,
			.dirty_bitmap = d->log + at / 64,
		};

		if (ioctl(vm->fd, KVM_CLEAR_DIRTY_LOG, &clear))
			return error_set_errno(e, "KVM_CLEAR_DIRTY_LOG");
	}
	for (uint64_t i = 0; i < words && keep; i++)
		d->shared[first / DIRTY_PAGE / 64 + i] |= d->log[i];
	return 0;
}

static int read_log(struct vm *vm, bool keep, struct error *e)
{
	uint64_t low = memory_low_size(&vm->memory), high = vm->memory.size - low;

	if (read_slot(vm, SLOT_LOW_RAM, 0, low, keep, e))
		return -1;
	return high ? read_slot(vm, SLOT_HIGH_RAM, low, high, keep, e) : 0;
}

int vm_track_writes(struct vm *vm, int bitmap, struct error *e)
{
	struct memory *m = &vm->memory;
	struct dirty *d;
	uint64_t size;

	if (vm->dirty || vm->front || m->window_size) {
		close(bitmap);
		return error_set(e, "%s", vm->dirty ? "its memory is being copied already"
				      : vm->front   ? "it is in a guest hypervisor"
						    : "it runs a guest hypervisor, whose guests are not its own");
	}
	d = xcalloc(1, sizeof(*d));
	d->words = (m->size / DIRTY_PAGE + 63) / 64;
	size = memory_sealed_size(bitmap, e);
	d->shared = size >= d->words * 8 ? mmap(NULL, d->words * 8, PROT_READ | PROT_WRITE, MAP_SHARED, bitmap, 0)
					 : MAP_FAILED;
	close(bitmap);
	if (d->shared == MAP_FAILED) {
		free(d);
		return error_set(e, "the bitmap of written pages is too small, or none");
	}
	d->log = xcalloc(d->words, 8);
	vm->dirty = d;
	m->written = xcalloc(d->words, 8);
	/* It begins with all pages marked, which says nothing. */
	if (!vm_log_writes(vm, true, e) && !read_log(vm, false, e))
		return 0;
	vm_untrack_writes(vm);
	return -1;
}

int vm_collect_writes(struct vm *vm, struct error *e)
{
	struct dirty *d = vm->dirty;

	if (!d)
		return error_set(e, "its memory is not being copied");
	for (size_t i = 0; i < d->words; i++)
		d->shared[i] |= vm->memory.written[i];
	memset(vm->memory.written, 0, d->words * 8);
	return read_log(vm, true, e);
}

/* (If it is to run at all; once it has been captured, the owner word is asked.) */
static void let_go(struct vm *vm)
{
	vm->dirty->held = false;
	if (!vm->quit && !vm->memory.fenced && !vm->user_paused && !vm_pending_event(vm))
		vm_resume(vm);
}

static void on_slice(void *ctx)
{
	struct vm *vm = ctx;
	struct dirty *d = vm->dirty;
	uint64_t ms = SLICE_MS;

	if (d->held) {
		let_go(vm);
	} else if (vm->running) {
		vm_pause(vm);
		d->held = true;
		ms = (uint64_t)SLICE_MS * d->throttle / (100 - d->throttle);
	}
	loop_set_timer(vm->loop, clock_ns() + ms * 1000000, on_slice, vm);
}

void vm_throttle(struct vm *vm, unsigned int percent)
{
	vm->dirty->throttle = percent;
	if (vm->dirty->held)
		let_go(vm);
	loop_set_timer(vm->loop, percent ? clock_ns() + SLICE_MS * 1000000ull : 0, on_slice, vm);
}

bool vm_is_held_back(const struct vm *vm)
{
	return vm->dirty && vm->dirty->held;
}

bool vm_is_tracked(const struct vm *vm)
{
	return vm->dirty;
}

void vm_untrack_writes(struct vm *vm)
{
	struct dirty *d = vm->dirty;
	struct error e;

	if (!d)
		return;
	if (d->throttle)
		vm_throttle(vm, 0);
	if (vm_log_writes(vm, false, &e))
		log_line("%s: %s", vm->config->name, e.text);
	munmap(d->shared, d->words * 8);
	free(d->log);
	free(d);
	vm->dirty = NULL;
	free(vm->memory.written);
	vm->memory.written = NULL;
}
