/* test_cpuid.c: a CPU model goes where all of it is, and nowhere else. */
#include "tests/unit/unit.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum reg { EAX, EBX, ECX, EDX };

/* Registers in which a set bit promises the guest a feature (Intel SDM vol. 2A, AMD APM vol. 3, KVM's
 * cpuid.rst), and those that KVM emulates even where it does not list them. */
static const struct word {
	uint32_t function, index;
	enum reg reg;
	uint32_t emulated;
} words[] = {
	{1, 0, ECX, 1u << 21 | 1u << 24 | 1u << 27 | 1u << 31},
	{1, 0, EDX, 1u << 28},
	{7, 0, EBX, 0},
	{7, 0, ECX, 0},
	{7, 0, EDX, 0},
	{7, 1, EAX, 0},
	{7, 1, EDX, 0},
	{7, 2, EDX, 0},
	{0xd, 0, EAX, 0},
	{0xd, 1, EAX, 0},
	{0x40000001, 0, EAX, 0},
	{0x80000001, 0, ECX, 1u << 1},
	{0x80000001, 0, EDX, 0},
	{0x80000007, 0, EDX, 0},
	{0x80000008, 0, EBX, 0},
	{0x80000021, 0, EAX, 0},
};

static struct error e;
static int kvm;

static uint32_t *reg_of(struct kvm_cpuid_entry2 *en, enum reg r)
{
	return (uint32_t *[]){&en->eax, &en->ebx, &en->ecx, &en->edx}[r];
}

static struct kvm_cpuid_entry2 *machine_entry(uint32_t function, uint32_t index)
{
	for (unsigned int i = 0; i < fake.ncpuid; i++)
		if (fake.cpuid[i].function == function && fake.cpuid[i].index == index)
			return &fake.cpuid[i];
	cr_assert_lt(fake.ncpuid, FAKE_CPUID);
	fake.cpuid[fake.ncpuid] = (struct kvm_cpuid_entry2){.function = function, .index = index};
	if (function == 7 || function == 0xd || function == 4 || function == 0xb)
		fake.cpuid[fake.ncpuid].flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	return &fake.cpuid[fake.ncpuid++];
}

/* A machine with every other feature. */
static void make_machine(void)
{
	fake.ncpuid = 0;
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		*reg_of(machine_entry(words[i].function, words[i].index), words[i].reg) = 0x55555555;
	machine_entry(0x80000008, 0)->eax = 0x3030; /* 48 bits */
	machine_entry(0, 0)->eax = 0xd;
	machine_entry(0x40000000, 0)->eax = 0x40000001;
	kvm = open("/dev/kvm", O_RDWR);
}

/* That machine as a model, entry by entry. */
static Vmb__CpuModel *machine_model(void)
{
	Vmb__CpuModel *m = xcalloc(1, sizeof(*m));

	vmb__cpu_model__init(m);
	m->cpuid = xcalloc(fake.ncpuid, sizeof(*m->cpuid));
	for (unsigned int i = 0; i < fake.ncpuid; i++) {
		const struct kvm_cpuid_entry2 *en = &fake.cpuid[i];
		Vmb__CpuidEntry *out = xcalloc(1, sizeof(*out));

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
	return m;
}

static int check(const Vmb__CpuModel *m)
{
	e.text[0] = 0;
	return cpu_model_check(kvm, m, &e);
}

UNIT(cpu_model, with_one_feature_more_than_the_machine_is_refused)
{
	Vmb__CpuModel *m;

	make_machine();
	m = machine_model();
	cr_assert_eq(check(m), 0, "%s", e.text);
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		for (unsigned int bit = 0; bit < 32; bit++) {
			const struct word *w = &words[i];
			uint32_t *have = reg_of(machine_entry(w->function, w->index), w->reg), was = *have;
			bool needed = was >> bit & 1, emulated = w->emulated >> bit & 1;
			char leaf[32];

			/* The machine loses it. */
			*have &= ~(1u << bit);
			snprintf(leaf, sizeof(leaf), "%x.%x.", w->function, w->index);
			cr_expect_eq(check(m), needed && !emulated ? -1 : 0, "%s%d bit %u: '%s'", leaf,
				     w->reg, bit, e.text);
			cr_expect(!e.text[0] || strstr(e.text, leaf), "%s", e.text);
			/* The machine gains it. */
			*have = was | 1u << bit;
			cr_expect_eq(check(m), 0, "%s", e.text);
			*have = was;
		}
	vmb__cpu_model__free_unpacked(m, NULL);
	close(kvm);
}

UNIT(cpu_model, with_a_leaf_the_machine_lacks_or_more_address_bits_is_refused)
{
	Vmb__CpuModel *m;

	make_machine();
	m = machine_model();
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		struct kvm_cpuid_entry2 *en = machine_entry(words[i].function, words[i].index), was = *en;

		en->function = 0x12345678;
		cr_expect_eq(check(m), -1, "%x", words[i].function);
		*en = was;
	}
	machine_entry(0x80000008, 0)->eax = 0x302f;
	assert_error(check(m), &e, "48 physical address bits");
	machine_entry(0x80000008, 0)->eax = 0x3034;
	cr_assert_eq(check(m), 0, "%s", e.text);
	fake.fail = KVM_GET_SUPPORTED_CPUID;
	assert_error(check(m), &e, "KVM_GET_SUPPORTED_CPUID");
	vmb__cpu_model__free_unpacked(m, NULL);
	close(kvm);
}

UNIT(cpu_model, of_more_entries_than_kvm_takes_is_refused)
{
	Vmb__CpuidEntry entry = VMB__CPUID_ENTRY__INIT, *entries[257];
	Vmb__CpuModel m = VMB__CPU_MODEL__INIT;

	make_machine();
	for (size_t i = 0; i < ARRAY_LEN(entries); i++)
		entries[i] = &entry;
	m.cpuid = entries;
	m.n_cpuid = 256;
	cr_assert_eq(check(&m), 0, "%s", e.text);
	m.n_cpuid = 257;
	assert_error(check(&m), &e, "257");
	close(kvm);
}

static const Vmb__CpuidEntry *entry_of(const Vmb__CpuModel *m, uint32_t function)
{
	for (size_t i = 0; i < m->n_cpuid; i++)
		if (m->cpuid[i]->function == function)
			return m->cpuid[i];
	return NULL;
}

UNIT(cpu_model, that_is_the_default_fits_its_machine_and_hides_what_cannot_be_moved)
{
	Vmb__CpuModel *m = NULL;

	make_machine();
	for (unsigned int i = 0; i < fake.ncpuid; i++)
		if (fake.cpuid[i].function != 0 && fake.cpuid[i].function != 0x40000000)
			fake.cpuid[i].eax = fake.cpuid[i].ebx = fake.cpuid[i].ecx = fake.cpuid[i].edx = ~0u;
	machine_entry(0xa, 0)->eax = ~0u;	 /* performance counters */
	machine_entry(0x8000000a, 0)->eax = ~0u; /* SVM */
	machine_entry(0x40000002, 0)->eax = ~0u; /* another hypervisor's */
	cr_assert_eq(cpu_model_default(kvm, false, &m, &e), 0, "%s", e.text);
	cr_assert_eq(check(m), 0, "%s", e.text);
	cr_assert_null(entry_of(m, 0xa));
	cr_assert_null(entry_of(m, 0x8000000a));
	cr_assert_null(entry_of(m, 0x40000002));
	cr_assert_eq(entry_of(m, 1)->ecx & (1u << 5 | 1u << 3), 0u, "VMX, MONITOR");
	cr_assert_eq(entry_of(m, 0x80000001)->ecx & 1u << 2, 0u, "SVM");
	cr_assert_eq(entry_of(m, 0x80000007)->edx, 0u, "invariant TSC");
	cr_assert_eq(entry_of(m, 0x40000001)->eax & 1u << 4, 0u, "async page faults");
	vmb__cpu_model__free_unpacked(m, NULL);

	/* A host VM's has what its hypervisor needs beside it. */
	cr_assert_eq(cpu_model_default(kvm, true, &m, &e), 0, "%s", e.text);
	cr_assert_eq(check(m), 0, "%s", e.text);
	cr_assert_not_null(entry_of(m, 0x8000000a));
	cr_assert_null(entry_of(m, 0xa));
	cr_assert_eq(entry_of(m, 1)->ecx & (1u << 5 | 1u << 3), 1u << 5, "VMX, not MONITOR");
	cr_assert_eq(entry_of(m, 0x80000001)->ecx & 1u << 2, 1u << 2, "SVM");
	cr_assert_eq(entry_of(m, 0x80000007)->edx, 1u << 8, "invariant TSC");
	vmb__cpu_model__free_unpacked(m, NULL);
	close(kvm);
}

UNIT(cpu_model, of_a_hypervisor_needs_a_kvm_that_nests)
{
	Vmb__CpuModel *m;

	make_machine();
	cr_expect(machine_can_nest());
	machine_entry(1, 0)->ecx &= ~(1u << 5);
	cr_expect(machine_can_nest());
	machine_entry(0x80000001, 0)->ecx &= ~(1u << 2);
	cr_expect(!machine_can_nest());
	assert_error(cpu_model_default(kvm, true, &m, &e), &e, "neither SVM nor VMX");
	cr_assert_eq(cpu_model_default(kvm, false, &m, &e), 0, "%s", e.text);
	vmb__cpu_model__free_unpacked(m, NULL);
	close(kvm);
	fake.absent = true;
	cr_expect(!machine_can_nest());
}

UNIT(cpu_model, gives_each_vcpu_a_number_of_its_own)
{
	struct vm_ends ends;
	struct vm *vm;

	make_machine();
	machine_entry(0xb, 0);
	machine_entry(0xb, 1);
	machine_entry(4, 0);
	vm = make_vm(&(struct vm_spec){.cpus = FAKE_VCPUS}, &ends);
	for (unsigned int i = 0; i < FAKE_VCPUS; i++) {
		unsigned int seen = 0;

		for (unsigned int k = 0; k < fake.set_ncpuid[i]; k++) {
			const struct kvm_cpuid_entry2 *en = &fake.set_cpuid[i][k];

			if (en->function == 1) {
				cr_assert_eq(en->ebx >> 24, i);
				cr_assert_eq(en->ebx >> 16 & 0xff, FAKE_VCPUS);
				seen++;
			} else if (en->function == 0xb) {
				cr_assert_eq(en->edx, i);
				cr_assert_eq(en->ebx, en->index ? FAKE_VCPUS : 1u);
				seen++;
			}
		}
		cr_assert_eq(seen, 3u);
	}
	destroy_vm(vm, &ends);
	close(kvm);
}
