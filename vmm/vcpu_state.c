/* vcpu_state.c: a vCPU's state into a message and back.
 *
 * Order of setting (Documentation/virt/kvm/api.rst says little; this order works for a vCPU with a
 * nested guest running too): MP, SREGS, NESTED_STATE, REGS, XSAVE, XCRS, DEBUGREGS, TSC offset, MSRS,
 * LAPIC, TSC deadline, VCPU_EVENTS.  SREGS goes before nested state for EFER.SVME, the TSC offset
 * before anything that arms a timer, the deadline after the LAPIC whose mode gives it meaning.
 */
#include "vmm/internal.h"

#include <asm/kvm_para.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define MSR_IA32_TSC          0x10
#define MSR_IA32_TSC_DEADLINE 0x6e0

/* MSRs that are not carried, and why. */
static const struct {
	uint32_t first, last;
	const char *reason;
} msr_skip[] = {
	{MSR_IA32_TSC, MSR_IA32_TSC, "carried as the TSC offset; writing it would disturb that"},
	{MSR_IA32_TSC_DEADLINE, MSR_IA32_TSC_DEADLINE, "set after the LAPIC, from its own field"},
	{0x11, 0x11, "KVM wall clock: read by the guest once; writing it makes KVM write guest memory"},
	{0x4b564d00, 0x4b564d00, "the same, by its newer number"},
	{0x345, 0x345, "PERF_CAPABILITIES: no performance counters are offered, KVM refuses it then"},
	{0x40000000, 0x400001ff, "Hyper-V: not offered by the CPU model"},
	{0xc0010015, 0xc0010015, "AMD HWCR: a host setting, read-only for most of its bits"},
	{0xc0000104, 0xc0000104, "AMD TSC_RATIO: KVM's own, not offered to guests"},
	{0x4b564d02, 0x4b564d02, "async page fault: not offered by the CPU model"},
	{0x4b564d06, 0x4b564d07, "async page fault: not offered by the CPU model"},
};

/* MSRs that KVM keeps without naming them in its list: the MTRRs (arch/x86/kvm/mtrr.c). */
static const struct {
	uint32_t first, last;
} msr_more[] = {{0x200, 0x20f}, {0x250, 0x250}, {0x258, 0x259}, {0x268, 0x26f}, {0x2ff, 0x2ff}};

enum { MSR_MORE_MAX = 32 };

static bool msr_is_skipped(uint32_t index)
{
	for (size_t i = 0; i < ARRAY_LEN(msr_skip); i++)
		if (index >= msr_skip[i].first && index <= msr_skip[i].last)
			return true;
	return false;
}

static int read_msr_list(struct vm *vm, struct error *e)
{
	struct kvm_msr_list probe = {.nmsrs = 0}, *list;

	if (ioctl(vm->kvm, KVM_GET_MSR_INDEX_LIST, &probe) && errno != E2BIG)
		return error_set_errno(e, "KVM_GET_MSR_INDEX_LIST");
	list = xcalloc(1, sizeof(*list) + probe.nmsrs * sizeof(list->indices[0]));
	list->nmsrs = probe.nmsrs;
	if (ioctl(vm->kvm, KVM_GET_MSR_INDEX_LIST, list)) {
		free(list);
		return error_set_errno(e, "KVM_GET_MSR_INDEX_LIST");
	}
	vm->caps.msrs = xcalloc(list->nmsrs + MSR_MORE_MAX, sizeof(uint32_t));
	for (uint32_t i = 0; i < list->nmsrs; i++)
		if (!msr_is_skipped(list->indices[i]))
			vm->caps.msrs[vm->caps.nmsrs++] = list->indices[i];
	for (size_t i = 0; i < ARRAY_LEN(msr_more); i++)
		for (uint32_t index = msr_more[i].first; index <= msr_more[i].last; index++)
			vm->caps.msrs[vm->caps.nmsrs++] = index;
	free(list);
	return 0;
}

int kvm_caps_read(struct vm *vm, struct error *e)
{
	int n;

	n = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	vm->caps.xsave_size = n > 0 ? n : (int)sizeof(struct kvm_xsave);
	n = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_NESTED_STATE);
	vm->caps.nested_size = n > 0 ? n : 0;
	vm->caps.xcrs = ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) > 0;
	return read_msr_list(vm, e);
}

static int get_blob(struct vcpu *v, unsigned long request, const char *name, size_t size,
		    ProtobufCBinaryData *out, struct error *e)
{
	out->data = xcalloc(1, size);
	out->len = size;
	if (ioctl(v->fd, request, out->data))
		return error_set_errno(e, "vCPU %u: %s", v->index, name);
	return 0;
}

#define GET(field, request, type)                                                                  \
	get_blob(v, request, #request, sizeof(struct type), &s->field, e)

/* KVM_GET_MSRS stops at the first MSR that cannot be read: such a one is left out, the rest read on. */
static int get_msrs(struct vcpu *v, Vmb__VcpuState *s, struct error *e)
{
	const struct kvm_caps *caps = &v->vm->caps;
	struct kvm_msrs *m = xcalloc(1, sizeof(*m) + (caps->nmsrs + 1) * sizeof(m->entries[0]));
	size_t done = 0;

	s->msrs = xcalloc(caps->nmsrs, sizeof(*s->msrs));
	while (done < caps->nmsrs) {
		size_t want = caps->nmsrs - done;
		int n;

		m->nmsrs = (uint32_t)want;
		for (size_t i = 0; i < want; i++)
			m->entries[i].index = caps->msrs[done + i];
		n = ioctl(v->fd, KVM_GET_MSRS, m);
		if (n < 0) {
			free(m);
			return error_set_errno(e, "vCPU %u: KVM_GET_MSRS", v->index);
		}
		for (int i = 0; i < n; i++) {
			Vmb__Msr *msr = xcalloc(1, sizeof(*msr));

			vmb__msr__init(msr);
			msr->index = m->entries[i].index;
			msr->value = m->entries[i].data;
			s->msrs[s->n_msrs++] = msr;
		}
		done += (size_t)n + ((size_t)n < want);
	}
	m->nmsrs = 1;
	m->entries[0].index = MSR_IA32_TSC_DEADLINE;
	if (ioctl(v->fd, KVM_GET_MSRS, m) == 1)
		s->tsc_deadline = m->entries[0].data;
	free(m);
	return 0;
}

static int tsc_offset(struct vcpu *v, unsigned long request, uint64_t *value, struct error *e)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)value,
	};

	if (ioctl(v->fd, request, &attr))
		return error_set_errno(e, "vCPU %u: TSC offset", v->index);
	return 0;
}

int vcpu_set_tsc_offset(struct vcpu *v, uint64_t offset, struct error *e)
{
	return tsc_offset(v, KVM_SET_DEVICE_ATTR, &offset, e);
}

static int get_nested(struct vcpu *v, Vmb__VcpuState *s, struct error *e)
{
	struct kvm_nested_state *n;

	if (!v->vm->caps.nested_size)
		return 0;
	n = xcalloc(1, (size_t)v->vm->caps.nested_size);
	n->size = (uint32_t)v->vm->caps.nested_size;
	if (ioctl(v->fd, KVM_GET_NESTED_STATE, n)) {
		free(n);
		return error_set_errno(e, "vCPU %u: KVM_GET_NESTED_STATE", v->index);
	}
	s->nested.data = (uint8_t *)n;
	s->nested.len = n->size;
	return 0;
}

Vmb__VcpuState *vcpu_state_get(struct vcpu *v, struct error *e)
{
	const struct kvm_caps *caps = &v->vm->caps;
	Vmb__VcpuState *s = xcalloc(1, sizeof(*s));

	vmb__vcpu_state__init(s);
	/* MP state first: KVM settles a pending INIT or SIPI when asked for it.  Then the events: KVM may
	 * put a pending exception's address into CR2 or DR6 for this. */
	if (GET(mp_state, KVM_GET_MP_STATE, kvm_mp_state) ||
	    GET(events, KVM_GET_VCPU_EVENTS, kvm_vcpu_events) || GET(regs, KVM_GET_REGS, kvm_regs) ||
	    GET(sregs, KVM_GET_SREGS, kvm_sregs) || get_nested(v, s, e) ||
	    GET(debugregs, KVM_GET_DEBUGREGS, kvm_debugregs) ||
	    GET(lapic, KVM_GET_LAPIC, kvm_lapic_state) ||
	    (caps->xcrs && GET(xcrs, KVM_GET_XCRS, kvm_xcrs)) ||
	    get_blob(v, caps->xsave_size > (int)sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE,
		     "KVM_GET_XSAVE", (size_t)caps->xsave_size, &s->xsave, e) ||
	    tsc_offset(v, KVM_GET_DEVICE_ATTR, &s->tsc_offset, e) || get_msrs(v, s, e)) {
		vmb__vcpu_state__free_unpacked(s, NULL);
		return NULL;
	}
	return s;
}

static size_t nested_size(const Vmb__VcpuState *s)
{
	struct kvm_nested_state hdr;

	memcpy(&hdr, s->nested.data, sizeof(hdr));
	return hdr.size;
}

int vcpu_state_validate(const struct vm *vm, const Vmb__VcpuState *s, struct error *e)
{
	const struct {
		const char *name;
		size_t have, want;
	} sizes[] = {
		{"mp_state", s->mp_state.len, sizeof(struct kvm_mp_state)},
		{"regs", s->regs.len, sizeof(struct kvm_regs)},
		{"sregs", s->sregs.len, sizeof(struct kvm_sregs)},
		{"debugregs", s->debugregs.len, sizeof(struct kvm_debugregs)},
		{"lapic", s->lapic.len, sizeof(struct kvm_lapic_state)},
		{"events", s->events.len, sizeof(struct kvm_vcpu_events)},
		{"xcrs", s->xcrs.len, s->xcrs.len ? sizeof(struct kvm_xcrs) : 0},
	};

	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		if (sizes[i].have != sizes[i].want)
			return error_set(e, "state: %s has %zu bytes, not %zu", sizes[i].name,
					 sizes[i].have, sizes[i].want);
	if (s->xsave.len < sizeof(struct kvm_xsave) || s->xsave.len > (size_t)vm->caps.xsave_size)
		return error_set(e, "state: xsave has %zu bytes; this machine takes %zu to %d",
				 s->xsave.len, sizeof(struct kvm_xsave), vm->caps.xsave_size);
	if (s->nested.len && (s->nested.len < sizeof(struct kvm_nested_state) ||
			      s->nested.len > (size_t)vm->caps.nested_size ||
			      nested_size(s) != s->nested.len))
		return error_set(e, "state: nested state of %zu bytes; this machine takes up to %d",
				 s->nested.len, vm->caps.nested_size);
	return 0;
}

static int set_blob(struct vcpu *v, unsigned long request, const char *name,
		    const ProtobufCBinaryData *b, struct error *e)
{
	if (ioctl(v->fd, request, b->data))
		return error_set_errno(e, "vCPU %u: %s", v->index, name);
	return 0;
}

/* The kernel reads as much as this machine's area is long, whatever the message holds. */
static int set_xsave(struct vcpu *v, const Vmb__VcpuState *s, struct error *e)
{
	void *area = xcalloc(1, (size_t)v->vm->caps.xsave_size);
	int r;

	memcpy(area, s->xsave.data, s->xsave.len);
	r = ioctl(v->fd, KVM_SET_XSAVE, area);
	if (r)
		error_set_errno(e, "vCPU %u: KVM_SET_XSAVE", v->index);
	free(area);
	return r;
}

#define SET(field, request) set_blob(v, request, #request, &s->field, e)

/* A KVM whose CPU has no XSAVE knows no XCR0; a guest that had it there would have been refused. */
static int set_xcrs(struct vcpu *v, const Vmb__VcpuState *s, struct error *e)
{
	return v->vm->caps.xcrs && s->xcrs.len ? SET(xcrs, KVM_SET_XCRS) : 0;
}

struct one_msr {
	struct kvm_msrs hdr;
	struct kvm_msr_entry entry;
};

/* Of one that does not exist here (MSR 0x3a where the CPU has no VMX), 0 is what the guest has. */
static bool msr_is(struct vcpu *v, const struct kvm_msr_entry *want)
{
	struct one_msr m = {.hdr.nmsrs = 1, .entry = {.index = want->index}};
	int n = ioctl(v->fd, KVM_GET_MSRS, &m);

	return n == 1 ? m.entry.data == want->data : n == 0 && want->data == 0;
}

static int set_msrs(struct vcpu *v, const Vmb__VcpuState *s, struct error *e)
{
	struct kvm_msrs *m = xcalloc(1, sizeof(*m) + (s->n_msrs + 1) * sizeof(m->entries[0]));
	int n;

	m->nmsrs = (uint32_t)s->n_msrs;
	for (size_t i = 0; i < s->n_msrs; i++) {
		m->entries[i].index = s->msrs[i]->index;
		m->entries[i].data = s->msrs[i]->value;
	}
	/* KVM stops at the first it refuses: no matter, if that has its value already. */
	while ((n = ioctl(v->fd, KVM_SET_MSRS, m)) != (int)m->nmsrs) {
		if (n < 0 || !msr_is(v, &m->entries[n])) {
			if (n < 0)
				error_set_errno(e, "vCPU %u: KVM_SET_MSRS", v->index);
			else
				error_set(e, "vCPU %u: KVM refuses MSR 0x%x = 0x%llx", v->index,
					  m->entries[n].index,
					  (unsigned long long)m->entries[n].data);
			free(m);
			return -1;
		}
		m->nmsrs -= (uint32_t)n + 1;
		memmove(m->entries, m->entries + n + 1, m->nmsrs * sizeof(m->entries[0]));
		if (!m->nmsrs)
			break;
	}
	free(m);
	return 0;
}

static int set_tsc_deadline(struct vcpu *v, uint64_t value, struct error *e)
{
	struct one_msr m = {.hdr.nmsrs = 1, .entry = {.index = MSR_IA32_TSC_DEADLINE, .data = value}};

	if (value && ioctl(v->fd, KVM_SET_MSRS, &m) != 1)
		return error_set(e, "vCPU %u: cannot set the TSC deadline", v->index);
	return 0;
}

int vcpu_state_set(struct vcpu *v, const Vmb__VcpuState *s, struct error *e)
{
	uint64_t offset = s->tsc_offset;

	if (SET(mp_state, KVM_SET_MP_STATE) || SET(sregs, KVM_SET_SREGS) ||
	    (s->nested.len && SET(nested, KVM_SET_NESTED_STATE)) || SET(regs, KVM_SET_REGS) ||
	    set_xsave(v, s, e) || set_xcrs(v, s, e) ||
	    SET(debugregs, KVM_SET_DEBUGREGS) || tsc_offset(v, KVM_SET_DEVICE_ATTR, &offset, e) ||
	    set_msrs(v, s, e) || SET(lapic, KVM_SET_LAPIC) ||
	    set_tsc_deadline(v, s->tsc_deadline, e) || SET(events, KVM_SET_VCPU_EVENTS))
		return -1;
	return 0;
}
