/* dump.c: RAM and registers of a stopped VM as an ELF core file.
 *
 * Layout: ELF64 core, one PT_NOTE with an NT_PRSTATUS per vCPU (elf.h; gdb shows each as a thread,
 * crash(8) takes them as the CPUs), then one PT_LOAD per RAM range by physical address.  Memory that
 * was never touched becomes a hole in the file.
 */
#include "vmm/internal.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/procfs.h>
#include <unistd.h>

struct note {
	Elf64_Nhdr hdr;
	char name[8]; /* "CORE", padded */
	uint8_t prstatus[sizeof(struct elf_prstatus)]; /* bytes: it follows 4-aligned */
};

static void fill_registers(const struct kvm_regs *r, const struct kvm_sregs *s,
			   elf_gregset_t *greg)
{
	/* struct user_regs_struct of sys/user.h, by position */
	struct user_regs_struct u = {
		.r15 = r->r15,	     .r14 = r->r14,	    .r13 = r->r13,
		.r12 = r->r12,	     .rbp = r->rbp,	    .rbx = r->rbx,
		.r11 = r->r11,	     .r10 = r->r10,	    .r9 = r->r9,
		.r8 = r->r8,	     .rax = r->rax,	    .rcx = r->rcx,
		.rdx = r->rdx,	     .rsi = r->rsi,	    .rdi = r->rdi,
		.orig_rax = ~0ull,   .rip = r->rip,	    .cs = s->cs.selector,
		.eflags = r->rflags, .rsp = r->rsp,	    .ss = s->ss.selector,
		.fs_base = s->fs.base, .gs_base = s->gs.base, .ds = s->ds.selector,
		.es = s->es.selector, .fs = s->fs.selector,  .gs = s->gs.selector,
	};

	memcpy(greg, &u, MIN(sizeof(*greg), sizeof(u)));
}

static void fill_note(struct note *n, unsigned int vcpu, const struct kvm_regs *regs, const struct kvm_sregs *sregs)
{
	struct elf_prstatus st;

	memset(n, 0, sizeof(*n));
	n->hdr = (Elf64_Nhdr){.n_namesz = 5, .n_descsz = sizeof(n->prstatus), .n_type = NT_PRSTATUS};
	memcpy(n->name, "CORE", 5);
	memset(&st, 0, sizeof(st));
	st.pr_pid = (int)vcpu + 1;
	fill_registers(regs, sregs, &st.pr_reg);
	memcpy(n->prstatus, &st, sizeof(st));
}

/* Returns how many; one whose hypervisor has gone has its memory, but no registers any more. */
static unsigned int fill_notes_of_front(struct vm *vm, struct note *notes)
{
	Vmb__VmState *s = front_look(vm);
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	unsigned int n = 0;

	for (; s && n < s->n_vcpus && n < vm->config->cpus; n++) {
		const Vmb__VcpuState *v = s->vcpus[n];

		if (v->regs.len != sizeof(regs) || v->sregs.len != sizeof(sregs))
			break;
		memcpy(&regs, v->regs.data, sizeof(regs));
		memcpy(&sregs, v->sregs.data, sizeof(sregs));
		fill_note(&notes[n], n, &regs, &sregs);
	}
	if (s)
		vmb__vm_state__free_unpacked(s, NULL);
	return n;
}

static int fill_notes(struct vm *vm, struct note *notes, struct error *e)
{
	for (unsigned int i = 0; i < vm->nvcpus; i++) {
		struct kvm_regs regs;
		struct kvm_sregs sregs;

		if (ioctl(vm->vcpus[i].fd, KVM_GET_REGS, &regs) || ioctl(vm->vcpus[i].fd, KVM_GET_SREGS, &sregs))
			return error_set_errno(e, "vCPU %u: registers", i);
		fill_note(&notes[i], i, &regs, &sregs);
	}
	return (int)vm->nvcpus;
}

/* Copies what exists of one range; the rest stays a hole. */
static int write_range(struct vm *vm, int fd, uint64_t ram_off, uint64_t size, uint64_t file_off,
		       struct error *e)
{
	uint64_t end = ram_off + size, start, at = ram_off;

	while (at < end && next_extent(vm->memory.fd, &start, &at) && start < end)
		if (pwrite_all(fd, vm->memory.base + start, MIN(at, end) - start,
			       (off_t)(file_off + (start - ram_off))) < 0)
			return error_set_errno(e, "cannot write");
	return 0;
}

int vm_dump(struct vm *vm, int fd, struct error *e)
{
	uint64_t low = memory_low_size(&vm->memory), high = vm->memory.size - low, off;
	size_t notes_len;
	Elf64_Phdr ph[3] = {{0}};
	Elf64_Ehdr eh = {
		.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_CORE,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_phoff = sizeof(eh),
		.e_ehsize = sizeof(eh),
		.e_phentsize = sizeof(ph[0]),
		.e_phnum = high ? 3 : 2,
	};
	struct note *notes;
	int r = 0, n;

	if (vm->running)
		return error_set(e, "it is running; pause it first");
	notes = xcalloc(vm->config->cpus, sizeof(*notes));
	n = vm->front ? (int)fill_notes_of_front(vm, notes) : fill_notes(vm, notes, e);
	if (n < 0) {
		free(notes);
		return -1;
	}
	notes_len = (size_t)n * sizeof(*notes);
	off = ALIGN_UP(sizeof(eh) + sizeof(ph) + notes_len, 4096);
	ph[0] = (Elf64_Phdr){.p_type = PT_NOTE,
			     .p_offset = sizeof(eh) + sizeof(ph),
			     .p_filesz = notes_len,
			     .p_align = 4};
	ph[1] = (Elf64_Phdr){.p_type = PT_LOAD,
			     .p_flags = PF_R | PF_W | PF_X,
			     .p_offset = off,
			     .p_filesz = low,
			     .p_memsz = low,
			     .p_align = 4096};
	ph[2] = (Elf64_Phdr){.p_type = PT_LOAD,
			     .p_flags = PF_R | PF_W | PF_X,
			     .p_offset = off + low,
			     .p_vaddr = HIGH_RAM,
			     .p_paddr = HIGH_RAM,
			     .p_filesz = high,
			     .p_memsz = high,
			     .p_align = 4096};
	if ((pwrite_all(fd, &eh, sizeof(eh), 0) < 0 ||
		   pwrite_all(fd, ph, sizeof(ph), sizeof(eh)) < 0 ||
		   pwrite_all(fd, notes, notes_len, sizeof(eh) + sizeof(ph)) < 0))
		r = error_set_errno(e, "cannot write");
	free(notes);
	/* The last byte gives the file its length where memory ends in a hole. */
	if (!r && pwrite_all(fd, "", 1, (off_t)(off + low + high - 1)) < 0)
		r = error_set_errno(e, "cannot write");
	if (r || write_range(vm, fd, 0, low, off, e))
		return -1;
	return high ? write_range(vm, fd, low, high, off + low, e) : 0;
}
