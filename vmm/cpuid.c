/* cpuid.c: the CPU model: what a guest is told about its CPU.
 *
 * The default model holds only what this machine's KVM and a KVM nested in it both support, so that
 * a guest may be moved between any two placements.  It is fixed when the VM is created, is part of
 * its state, and is checked against KVM_GET_SUPPORTED_CPUID wherever the VM is to go.
 *
 * Feature bits: Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E; KVM's own leaves:
 * Documentation/virt/kvm/x86/cpuid.rst.
 */
#include "vmm/internal.h"

#include <asm/kvm_para.h>
#include <cpuid.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <errno.h>

enum { MAX_ENTRIES = 256 };
enum reg { EAX, EBX, ECX, EDX };
#define BIT(n) (1u << (n))

/* Registers that hold feature bits: a model's bits must be a subset of the machine's. */
static const struct feature_word {
	uint32_t function, index;
	enum reg reg;
	uint32_t hide;     /* never offered */
	uint32_t hide_tcg; /* not offered where the machine itself is emulated by QEMU's TCG */
} words[] = {
	/* MONITOR, VMX, PDCM; under TCG (which does not intercept XSETBV, so that KVM believes in
	 * a wrong XCR0) all that needs XSAVE: FMA, XSAVE, OSXSAVE, AVX, F16C */
	{1, 0, ECX, BIT(3) | BIT(5) | BIT(15), BIT(12) | BIT(26) | BIT(27) | BIT(28) | BIT(29)},
	{1, 0, EDX, BIT(21) | BIT(22) | BIT(29), 0}, /* DS, ACPI, TM */
	/* SGX, HLE, RTM, MPX, PT; AVX2 and all of AVX512 */
	{7, 0, EBX, BIT(2) | BIT(4) | BIT(11) | BIT(14) | BIT(25),
	 BIT(5) | BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)},
	/* PKU, OSPKE, SHSTK (their XSAVE state is not offered), WAITPKG, LA57, SGX_LC, PKS; AVX512,
	 * VAES, VPCLMUL */
	{7, 0, ECX, BIT(3) | BIT(4) | BIT(5) | BIT(7) | BIT(16) | BIT(30) | BIT(31),
	 BIT(1) | BIT(6) | BIT(9) | BIT(10) | BIT(11) | BIT(12) | BIT(14)},
	/* IBT; AMX needs a permission KVM grants per process; AVX512 */
	{7, 0, EDX, BIT(20) | BIT(22) | BIT(24) | BIT(25), BIT(2) | BIT(3) | BIT(8) | BIT(23)},
	{7, 1, EAX, BIT(21), BIT(4) | BIT(5) | BIT(23)}, /* AMX_FP16; AVX-VNNI, AVX512-BF16, IFMA */
	{7, 1, EDX, 0, 0},
	{7, 2, EDX, 0, 0},
	{0xd, 0, EAX, 0, 0},		/* XCR0 */
	{0xd, 1, EAX, BIT(4), ~0u},	/* XFD */
	{0x40000001, 0, EAX, 0, 0},	/* KVM's own */
	/* SVM, SKINIT, OSVW, IBS, WDT, LWP, TOPOEXT, performance counters; XOP, FMA4 */
	{0x80000001, 0, ECX,
	 BIT(2) | BIT(9) | BIT(10) | BIT(12) | BIT(13) | BIT(15) | BIT(22) | BIT(23) | BIT(24) | BIT(28),
	 BIT(11) | BIT(16)},
	{0x80000001, 0, EDX, 0, 0},
	{0x80000007, 0, EDX, ~0u, 0}, /* invariant TSC among them: for host VMs only */
	{0x80000008, 0, EBX, 0, 0},
	{0x8000000a, 0, EDX, 0, 0}, /* SVM's; for host VMs only */
	{0x80000021, 0, EAX, 0, 0},
};

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *c, uint32_t function,
					   uint32_t index)
{
	for (uint32_t i = 0; i < c->nent; i++)
		if (c->entries[i].function == function &&
		    (c->entries[i].index == index ||
		     !(c->entries[i].flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX)))
			return &c->entries[i];
	return NULL;
}

static uint32_t *reg_of(struct kvm_cpuid_entry2 *e, enum reg r)
{
	switch (r) {
	case EAX:
		return &e->eax;
	case EBX:
		return &e->ebx;
	case ECX:
		return &e->ecx;
	default:
		return &e->edx;
	}
}

static bool on_tcg(void)
{
	uint32_t a, b, c, d;
	char sig[13] = "";

	__cpuid(1, a, b, c, d);
	if (!(c & BIT(31)))
		return false;
	__cpuid(0x40000000, a, b, c, d);
	memcpy(sig, &b, 4);
	memcpy(sig + 4, &c, 4);
	memcpy(sig + 8, &d, 4);
	return !strcmp(sig, "TCGTCGTCGTCG");
}

static struct kvm_cpuid2 *supported(int kvm_fd, struct error *e)
{
	struct kvm_cpuid2 *c;

	c = xcalloc(1, sizeof(*c) + MAX_ENTRIES * sizeof(c->entries[0]));
	c->nent = MAX_ENTRIES;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, c)) {
		error_set_errno(e, "KVM_GET_SUPPORTED_CPUID");
		free(c);
		return NULL;
	}
	return c;
}

static bool has(const struct kvm_cpuid2 *c, uint32_t function, uint32_t ecx)
{
	const struct kvm_cpuid_entry2 *en = find(c, function, 0);

	return en && (en->ecx & ecx);
}

static bool nests(const struct kvm_cpuid2 *c)
{
	return has(c, 1, BIT(5)) || has(c, 0x80000001, BIT(2)); /* VMX, SVM */
}

bool machine_can_nest(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	struct kvm_cpuid2 *c = kvm < 0 ? NULL : supported(kvm, NULL);
	bool yes = c && nests(c);

	free(c);
	close_fd(&kvm);
	return yes;
}

/* Leaves that are left out whole: performance counters, SGX, PT, AMX, SVM (but for host VMs), SEV, topology that
 * is not ours, hypervisor leaves other than KVM's first two. */
static bool leaf_is_hidden(const struct kvm_cpuid_entry2 *en, bool nesting, bool tcg)
{
	switch (en->function) {
	case 0xa:
	case 0xf:
	case 0x10:
	case 0x12:
	case 0x14:
	case 0x1d:
	case 0x1e:
	case 0x1f:
	case 0x8000001d:
	case 0x8000001e:
	case 0x8000001f:
	case 0x80000022:
		return true;
	case 0x8000000a: /* SVM */
		return !nesting;
	case 0xd:
		return tcg || en->index > 7; /* PKRU and AMX states */
	default:
		return en->function > 0x40000001 && en->function < 0x80000000;
	}
}

/* Bits of the words above that only a host VM is offered: VMX, SVM and the invariant TSC. */
static uint32_t for_host_vms(const struct feature_word *w)
{
	if (w->function == 1 && w->reg == ECX)
		return BIT(5);
	if (w->function == 0x80000001 && w->reg == ECX)
		return BIT(2);
	return w->function == 0x80000007 ? BIT(8) : 0;
}

static void filter(struct kvm_cpuid_entry2 *en, bool nesting, bool tcg)
{
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (words[i].function == en->function && words[i].index == en->index) {
			uint32_t hide = words[i].hide & ~(nesting ? for_host_vms(&words[i]) : 0);

			*reg_of(en, words[i].reg) &= ~(hide | (tcg ? words[i].hide_tcg : 0));
		}
	switch (en->function) {
	case 1:
		/* Hypervisor present, x2APIC and TSC deadline are KVM's own work. */
		en->ecx |= BIT(31) | BIT(21) | BIT(24);
		break;
	case 6:
		en->eax = BIT(2); /* ARAT: the LAPIC timer never stops */
		en->ebx = en->ecx = en->edx = 0;
		break;
	case 0xd:
		if (en->index == 0)
			en->eax &= 0xe7; /* x87, SSE, AVX, AVX512 */
		break;
	case 0x40000001:
		/* The clock, steal time, and an end of interrupt that is no exit; not async page faults, whose tokens cannot be moved. */
		en->eax &= BIT(KVM_FEATURE_CLOCKSOURCE) | BIT(KVM_FEATURE_NOP_IO_DELAY) |
			   BIT(KVM_FEATURE_CLOCKSOURCE2) | BIT(KVM_FEATURE_STEAL_TIME) |
			   BIT(KVM_FEATURE_PV_EOI) |
			   BIT(KVM_FEATURE_CLOCKSOURCE_STABLE_BIT);
		break;
	case 0x40000000:
		en->eax = 0x40000001;
		break;
	}
}

int cpu_model_default(int kvm_fd, bool nesting, Vmb__CpuModel **model, struct error *e)
{
	struct kvm_cpuid2 *c = supported(kvm_fd, e);
	bool tcg = on_tcg();
	Vmb__CpuModel *m;

	if (!c)
		return -1;
	if (nesting && !nests(c)) {
		free(c);
		return error_set(e, "this machine's KVM runs no hypervisors: it offers neither SVM nor VMX ('nested' of kvm_amd or kvm_intel)");
	}
	m = xcalloc(1, sizeof(*m));
	vmb__cpu_model__init(m);
	m->cpuid = xcalloc(c->nent, sizeof(*m->cpuid));
	for (uint32_t i = 0; i < c->nent; i++) {
		struct kvm_cpuid_entry2 *en = &c->entries[i];
		Vmb__CpuidEntry *out;

		if (leaf_is_hidden(en, nesting, tcg))
			continue;
		filter(en, nesting, tcg);
		out = xcalloc(1, sizeof(*out));
		vmb__cpuid_entry__init(out);
		out->function = en->function;
		out->index = en->index;
		out->flags = en->flags;
		out->eax = en->eax;
		out->ebx = en->ebx;
		out->ecx = en->ecx;
		out->edx = en->edx;
		m->cpuid[m->n_cpuid++] = out;
	}
	free(c);
	*model = m;
	return 0;
}

static void unpack(const Vmb__CpuidEntry *in, struct kvm_cpuid_entry2 *out)
{
	memset(out, 0, sizeof(*out));
	out->function = in->function;
	out->index = in->index;
	out->flags = in->flags;
	out->eax = in->eax;
	out->ebx = in->ebx;
	out->ecx = in->ecx;
	out->edx = in->edx;
}

/* Bits that KVM emulates whether or not it reports them, and those that set_topology() writes. */
static uint32_t always_there(const struct feature_word *w)
{
	if (w->function == 1)
		return w->reg == ECX ? BIT(31) | BIT(21) | BIT(24) | BIT(27) : BIT(28);
	return w->function == 0x80000001 && w->reg == ECX ? BIT(1) : 0;
}

uint64_t cpu_model_address_end(const Vmb__CpuModel *model)
{
	for (size_t i = 0; i < model->n_cpuid; i++)
		if (model->cpuid[i]->function == 0x80000008)
			return 1ull << MIN(model->cpuid[i]->eax & 0xff, 52u);
	return 1ull << 36; /* what a CPU without that leaf has */
}

int cpu_model_check(int kvm_fd, const Vmb__CpuModel *model, struct error *e)
{
	struct kvm_cpuid2 *host = supported(kvm_fd, e);
	int result = 0;

	if (!host)
		return -1;
	if (model->n_cpuid > MAX_ENTRIES)
		result = error_set(e, "CPU model: %zu CPUID entries, at most %d", model->n_cpuid,
				   MAX_ENTRIES);
	for (size_t i = 0; i < model->n_cpuid && !result; i++) {
		struct kvm_cpuid_entry2 want, have = {0};
		const struct kvm_cpuid_entry2 *h;

		unpack(model->cpuid[i], &want);
		h = find(host, want.function, want.index);
		if (h)
			have = *h;
		for (size_t k = 0; k < ARRAY_LEN(words) && !result; k++) {
			const struct feature_word *w = &words[k];
			uint32_t missing;

			if (w->function != want.function || w->index != want.index)
				continue;
			missing = *reg_of(&want, w->reg) & ~*reg_of(&have, w->reg) & ~always_there(w);
			if (missing)
				result = error_set(e,
						   "CPU model: this machine lacks CPUID %x.%x.%s bits %08x",
						   w->function, w->index,
						   (const char *[]){"eax", "ebx", "ecx", "edx"}[w->reg],
						   missing);
		}
		if (!result && want.function == 0x80000008 && (want.eax & 0xff) > (have.eax & 0xff))
			result = error_set(e, "CPU model: %u physical address bits, this machine has %u",
					   want.eax & 0xff, have.eax & 0xff);
	}
	free(host);
	return result;
}

/* What differs between vCPUs: APIC ids, and the topology (one thread a core, one socket). */
static void set_topology(struct kvm_cpuid_entry2 *en, unsigned int id, unsigned int count)
{
	unsigned int bits = 0;

	while ((1u << bits) < count)
		bits++;
	switch (en->function) {
	case 1:
		en->ebx = (en->ebx & 0xffff) | (count << 16) | (id << 24);
		en->edx = (en->edx & ~BIT(28)) | (count > 1 ? BIT(28) : 0);
		break;
	case 4:
		en->eax = (en->eax & 0x3fff) | ((count - 1) << 26);
		if (((en->eax >> 5) & 7) == 3) /* the last level is shared by all */
			en->eax |= (count - 1) << 14;
		break;
	case 0xb:
		en->ecx = en->index;
		if (en->index == 0) {
			en->eax = 0;
			en->ebx = 1;
			en->ecx |= 1 << 8;
		} else if (en->index == 1) {
			en->eax = bits;
			en->ebx = count;
			en->ecx |= 2 << 8;
		} else {
			en->eax = en->ebx = 0;
		}
		en->edx = id;
		break;
	case 0x80000001:
		en->ecx = (en->ecx & ~BIT(1)) | (count > 1 ? BIT(1) : 0); /* CMP_LEGACY */
		break;
	case 0x80000008:
		en->ecx = (bits << 12) | (count - 1);
		break;
	}
}

int cpu_model_apply(const Vmb__CpuModel *model, struct vcpu *v, struct error *e)
{
	struct kvm_cpuid2 *c;
	int r = 0;

	c = xcalloc(1, sizeof(*c) + MAX_ENTRIES * sizeof(c->entries[0]));
	c->nent = (uint32_t)MIN(model->n_cpuid, (size_t)MAX_ENTRIES);
	for (uint32_t i = 0; i < c->nent; i++) {
		unpack(model->cpuid[i], &c->entries[i]);
		set_topology(&c->entries[i], v->index, v->vm->nvcpus);
	}
	if (ioctl(v->fd, KVM_SET_CPUID2, c))
		r = error_set_errno(e, "vCPU %u: KVM_SET_CPUID2", v->index);
	free(c);
	return r;
}
