/* warm.c: fills a destination's nested page tables before its guest runs.
 *
 * A stub in pages of its own, outside RAM, reads one byte of each page that exists, of as many ranges as its table
 * holds; KVM maps the page as it is read.  It runs on vCPU 0 before that vCPU's real state is set: every register it
 * touches is overwritten by the restore.  It needs 1 GiB pages of the CPU, so that one page of tables
 * reaches 512 GiB.  Its slot stays: taking a slot away makes KVM drop every translation.
 */
#include "vmm/internal.h"

#include <cpuid.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	STUB_GPA = 0xfed10000,
	STUB_TABLE = 3 * 4096,
	STUB_PAGES = 4, /* code, PML4, PDPT, table */
	STUB_PORT = PM1_CNT_PORT + 2,
	MAX_EXTENTS = 65536,
};

/* 0: mov rdi,[rsi]; mov rcx,[rsi+8]; add rsi,16; 1: mov al,[rdi]; add rdi,rdx; dec rcx; jnz 1b; dec ebx; jnz 0b;
 * mov dx,port; out dx,al */
static const uint8_t stub[] = {
	0x48, 0x8b, 0x3e, 0x48, 0x8b, 0x4e, 0x08, 0x48, 0x83, 0xc6, 0x10, 0x8a, 0x07, 0x48, 0x01, 0xd7,
	0x48, 0xff, 0xc9, 0x75, 0xf6, 0xff, 0xcb, 0x75, 0xe7, 0x66, 0xba, STUB_PORT & 0xff, STUB_PORT >> 8, 0xee,
};

/* What the stub's table holds. */
struct range {
	uint64_t gpa, count;
};

struct warming {
	struct vcpu *v;
	uint64_t step; /* between two bytes that are read: a page's size */
	struct range *table;
	uint64_t used;
};

static bool has_gigabyte_pages(void)
{
	uint32_t a, b, c, d;

	return __get_cpuid(0x80000001, &a, &b, &c, &d) && d >> 26 & 1;
}

int warm_prepare(struct vm *vm, struct error *e)
{
	struct kvm_userspace_memory_region r = {
		.slot = SLOT_WARM_STUB,
		.guest_phys_addr = STUB_GPA,
		.memory_size = STUB_PAGES * 4096,
	};
	uint8_t *p;
	uint64_t *pml4, *pdpt;

	if (vm->warm_stub || !has_gigabyte_pages())
		return 0; /* without them only this process's own tables are warmed */
	p = mmap(NULL, STUB_PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return error_set_errno(e, "warm: mmap");
	memcpy(p, stub, sizeof(stub));
	pml4 = (uint64_t *)(p + 4096);
	pdpt = (uint64_t *)(p + 8192);
	pml4[0] = (STUB_GPA + 8192) | 0x63; /* present, writable, accessed, dirty */
	for (uint64_t i = 0; i < 512; i++)
		pdpt[i] = i << 30 | 0xe3;
	r.userspace_addr = (uintptr_t)p;
	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &r)) {
		munmap(p, STUB_PAGES * 4096);
		return error_set_errno(e, "warm: KVM_SET_USER_MEMORY_REGION");
	}
	vm->warm_stub = p;
	return 0;
}

static int set_mode(struct vcpu *v, struct error *e)
{
	struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct kvm_segment code = {
		.limit = ~0u, .selector = 0x10, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {
		.limit = ~0u, .selector = 0x18, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
	struct kvm_sregs s;

	if (ioctl(v->fd, KVM_GET_SREGS, &s))
		return error_set_errno(e, "warm: KVM_GET_SREGS");
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.cr0 = 0x80000011u;
	s.cr3 = STUB_GPA + 4096;
	s.cr4 = 0x20;
	s.efer = 0x500;
	if (ioctl(v->fd, KVM_SET_SREGS, &s) || ioctl(v->fd, KVM_SET_MP_STATE, &mp))
		return error_set_errno(e, "warm: cannot set the stub's mode");
	return 0;
}

/* Reads what the table holds. */
static int run_stub(struct warming *w, struct error *e)
{
	struct vcpu *v = w->v;
	struct kvm_regs regs = {.rip = STUB_GPA, .rsi = STUB_GPA + STUB_TABLE, .rdx = w->step, .rbx = w->used, .rflags = 2};

	if (!w->used)
		return 0;
	w->used = 0;
	if (ioctl(v->fd, KVM_SET_REGS, &regs))
		return error_set_errno(e, "warm: KVM_SET_REGS");
	v->run->immediate_exit = 0;
	do {
		if (ioctl(v->fd, KVM_RUN, 0) && errno != EINTR && errno != EAGAIN)
			return error_set_errno(e, "warm: KVM_RUN");
	} while (v->run->exit_reason == KVM_EXIT_INTR);
	if (v->run->exit_reason != KVM_EXIT_IO || v->run->io.port != STUB_PORT)
		return error_set(e, "warm: the stub left with exit %u", v->run->exit_reason);
	/* The port access must be completed before the vCPU's state may be set. */
	v->run->immediate_exit = 1;
	ioctl(v->fd, KVM_RUN, 0);
	return 0;
}

static int warm_range(struct warming *w, uint64_t gpa, uint64_t size, struct error *e)
{
	w->table[w->used++] = (struct range){.gpa = gpa, .count = (size + w->step - 1) / w->step};
	return w->used < 4096 / sizeof(struct range) ? 0 : run_stub(w, e);
}

/* One extent of the memfd, which the gap below 4 GiB may cut in two. */
static int warm_extent(struct warming *w, uint64_t start, uint64_t end, struct error *e)
{
	uint64_t low = memory_low_size(&w->v->vm->memory);

	start = ALIGN_DOWN(start, w->step);
	if (start < low && warm_range(w, start, MIN(end, low) - start, e))
		return -1;
	start = MAX(start, low);
	return start < end ? warm_range(w, HIGH_RAM + (start - low), end - start, e) : 0;
}

bool warm_huge_pages(bool hugetlb)
{
	char text[128];
	const char *now;

	if (hugetlb)
		return true;
	read_text("/sys/kernel/mm/transparent_hugepage/shmem_enabled", text, sizeof(text));
	now = strchr(text, '[');
	return now && strncmp(now, "[never]", 7) && strncmp(now, "[deny]", 6);
}

void warm_destroy(struct vm *vm)
{
	munmap(vm->warm_stub, STUB_PAGES * 4096);
	vm->warm_stub = NULL;
}

int vcpu_warm(struct vcpu *v, struct error *e)
{
	/* (A back half cannot ask its memory.) */
	const Vmb__BackWarm *told = v->vm->warm_extents;
	bool huge = told ? told->huge : v->vm->huge_pages;
	struct warming w = {.v = v, .step = huge ? HUGE_PAGE : 4096};
	uint64_t size = v->vm->memory.size, start, end = 0;

	if (!v->vm->warm_stub)
		return 0;
	w.table = (struct range *)((char *)v->vm->warm_stub + STUB_TABLE);
	if (set_mode(v, e))
		return -1;
	for (size_t i = 0; told && i < told->n_extents; i++) {
		const Vmb__Extent *x = told->extents[i];

		if (x->size && x->start < size && x->size <= size - x->start && warm_extent(&w, x->start, x->start + x->size, e))
			return -1;
	}
	for (unsigned int i = 0; !told && i < MAX_EXTENTS && next_extent(v->vm->memory.fd, &start, &end); i++)
		if (warm_extent(&w, start, end, e))
			return -1;
	return run_stub(&w, e);
}
