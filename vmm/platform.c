/* platform.c: the ports of a small PC beside PCI and the serial port: reset, power, debug exit.
 *
 * ACPI Specification 6.4, 4.8.3 (PM1 event and control blocks); the keyboard controller exists only
 * as far as its reset command (0xfe to port 0x64), which every kernel knows.
 */
#include "vmm/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
	PORT_KBD = 0x64,
	KBD_RESET = 0xfe,
	PORT_DEBUG_EXIT = 0xf4,
	PM1_PWRBTN = 1 << 8,
	PM1_SCI_EN = 1 << 0,
	PM1_SLP_EN = 1 << 13,
	PM1_S5 = 5, /* SLP_TYP, as in dsdt.asl */
};

void irq_line(struct vm *vm, unsigned int irq, bool level)
{
	struct kvm_irq_level l = {.irq = irq, .level = level};

	if (ioctl(vm->fd, KVM_IRQ_LINE, &l))
		log_line("KVM_IRQ_LINE: %s", strerror(errno));
}

static void update_sci(struct vm *vm)
{
	const struct platform *p = &vm->platform;

	irq_line(vm, IRQ_SCI, p->pm1_status & p->pm1_enable & PM1_PWRBTN);
}

void platform_power_button(struct vm *vm)
{
	vm->platform.pm1_status |= PM1_PWRBTN;
	update_sci(vm);
}

void platform_reset(struct vm *vm)
{
	vm->reset_wanted = true;
	vm_wake(vm);
	/* No vCPU goes on in what is no longer there: they leave the guest now. */
	vm_kick_all(vm);
}

uint32_t platform_in(struct vm *vm, uint16_t port, unsigned int len)
{
	const struct platform *p = &vm->platform;

	switch (port) {
	case PORT_KBD:
		return 0; /* input buffer empty: the reset command may come */
	case PM1_EVT_PORT:
		return len == 4 ? p->pm1_status | (uint32_t)p->pm1_enable << 16 : p->pm1_status;
	case PM1_EVT_PORT + 2:
		return p->pm1_enable;
	case PM1_CNT_PORT:
		return p->pm1_control | PM1_SCI_EN;
	}
	return ~0u;
}

static void debug_exit(struct vm *vm, uint32_t code)
{
	if (vm->config->debug_exit)
		vm_end(vm, VM_END_DEBUG_EXIT, (int)(code << 1 | 1) & 0xff);
}

void platform_out(struct vm *vm, uint16_t port, uint32_t v, unsigned int len)
{
	struct platform *p = &vm->platform;

	switch (port) {
	case PORT_KBD:
		if ((v & 0xff) == KBD_RESET)
			platform_reset(vm);
		break;
	case PORT_DEBUG_EXIT:
		if (len == 4)
			debug_exit(vm, v);
		break;
	case PM1_EVT_PORT: /* write one to clear */
		p->pm1_status &= (uint16_t)~v;
		if (len == 4)
			p->pm1_enable = (uint16_t)(v >> 16);
		update_sci(vm);
		break;
	case PM1_EVT_PORT + 2:
		p->pm1_enable = (uint16_t)v;
		update_sci(vm);
		break;
	case PM1_CNT_PORT:
		p->pm1_control = (uint16_t)(v & ~(uint32_t)PM1_SLP_EN);
		if (v & PM1_SLP_EN && (v >> 10 & 7) == PM1_S5)
			vm_end(vm, VM_END_SHUTDOWN, 0);
		break;
	}
}

Vmb__PlatformState *platform_state_get(const struct vm *vm)
{
	Vmb__PlatformState *s = xcalloc(1, sizeof(*s));

	vmb__platform_state__init(s);
	s->pm1_status = vm->platform.pm1_status;
	s->pm1_enable = vm->platform.pm1_enable;
	s->pm1_control = vm->platform.pm1_control;
	s->pci_address = vm->platform.pci_address;
	return s;
}

void platform_state_set(struct vm *vm, const Vmb__PlatformState *s)
{
	vm->platform.pm1_status = (uint16_t)s->pm1_status;
	vm->platform.pm1_enable = (uint16_t)s->pm1_enable;
	vm->platform.pm1_control = (uint16_t)s->pm1_control;
	vm->platform.pci_address = s->pci_address;
}
