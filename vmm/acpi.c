/* acpi.c: RSDP, XSDT, FADT, FACS, MADT and the DSDT, in the BIOS area where every guest looks.
 *
 * Source: ACPI Specification 6.4, chapter 5.  The platform is of the classic kind (SCI, PM1 block),
 * because every kernel knows it; there is no CMOS clock, no VGA and no keyboard controller, and the
 * FADT says so.
 */
#include "vmm/internal.h"

#include <stdlib.h>
#include <string.h>

#include "vmm/dsdt.h"

struct header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} __attribute__((packed));

struct gas {
	uint8_t space, width, offset, access;
	uint64_t address;
} __attribute__((packed));

struct fadt {
	struct header h;
	uint32_t facs, dsdt;
	uint8_t model, profile;
	uint16_t sci_int;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios, pstate;
	uint32_t pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base;
	uint8_t cst_cnt;
	uint16_t c2_lat, c3_lat, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
	uint16_t boot_arch;
	uint8_t reserved;
	uint32_t flags;
	struct gas reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor;
	uint64_t x_facs, x_dsdt;
	struct gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0, x_gpe1;
	struct gas sleep_control, sleep_status;
	uint64_t hypervisor;
} __attribute__((packed));

enum {
	FADT_WBINVD = 1 << 0,
	FADT_RESET_REG = 1 << 10,
	FADT_SLP_BUTTON = 1 << 5, /* no fixed sleep button */
	BOOT_NO_VGA = 1 << 2,
	BOOT_NO_CMOS = 1 << 5,
	LOCAL_APIC_ADDR = 0xfee00000,
	IO_APIC_ADDR = 0xfec00000,
};

struct builder {
	struct vm *vm;
	uint64_t next, end;
};

static void *take(struct builder *b, size_t len, uint64_t align, uint64_t *addr)
{
	uint64_t at = ALIGN_UP(b->next, align);
	void *p = at + len <= b->end ? memory_at(&b->vm->memory, at, len) : NULL;

	if (p) {
		memset(p, 0, len);
		b->next = at + len;
		*addr = at;
	}
	return p;
}

static uint8_t sum(const void *p, size_t len)
{
	const uint8_t *b = p;
	uint8_t s = 0;

	for (size_t i = 0; i < len; i++)
		s = (uint8_t)(s + b[i]);
	return s;
}

static void finish(struct header *h, const char *signature, uint8_t revision, size_t len)
{
	memcpy(h->signature, signature, 4);
	h->length = (uint32_t)len;
	h->revision = revision;
	memcpy(h->oem_id, "VMBEAM", 6);
	memcpy(h->oem_table_id, "VMBEAM  ", 8);
	h->oem_revision = 1;
	memcpy(h->creator_id, "VMBM", 4);
	h->creator_revision = 1;
	h->checksum = 0;
	h->checksum = (uint8_t)-sum(h, len);
}

static uint8_t *put(uint8_t *p, const void *data, size_t len)
{
	memcpy(p, data, len);
	return p + len;
}

/* Local APICs, the IOAPIC, the PIT's override to pin 2, the SCI as level, NMI on LINT1. */
static size_t fill_madt(const struct vm *vm, uint8_t *start)
{
	uint8_t *p = start + sizeof(struct header);
	uint32_t apic[2] = {LOCAL_APIC_ADDR, 1 /* PCAT_COMPAT: there are 8259s */};
	uint32_t io_apic[2] = {IO_APIC_ADDR, 0};

	p = put(p, apic, 8);
	for (unsigned int i = 0; i < vm->config->cpus; i++) {
		uint8_t lapic[8] = {0, 8, (uint8_t)i, (uint8_t)i, 1, 0, 0, 0};

		p = put(p, lapic, 8);
	}
	p = put(p, (uint8_t[]){1, 12, 0, 0}, 4);
	p = put(p, io_apic, 8);
	p = put(p, (uint8_t[]){2, 10, 0, 0, 2, 0, 0, 0, 0, 0}, 10);
	p = put(p, (uint8_t[]){2, 10, 0, IRQ_SCI, IRQ_SCI, 0, 0, 0, 0x0d, 0}, 10);
	p = put(p, (uint8_t[]){4, 6, 0xff, 0, 0, 1}, 6);
	return (size_t)(p - start);
}

static void fill_fadt(struct fadt *f, uint64_t facs, uint64_t dsdt)
{
	f->facs = (uint32_t)facs;
	f->dsdt = (uint32_t)dsdt;
	f->sci_int = IRQ_SCI;
	f->pm1a_evt = PM1_EVT_PORT;
	f->pm1_evt_len = 4;
	f->pm1a_cnt = PM1_CNT_PORT;
	f->pm1_cnt_len = 2;
	f->c2_lat = 0xffff;
	f->c3_lat = 0xffff;
	f->boot_arch = BOOT_NO_VGA | BOOT_NO_CMOS;
	f->flags = FADT_WBINVD | FADT_RESET_REG | FADT_SLP_BUTTON;
	f->reset_reg = (struct gas){1, 8, 0, 1, 0x64};
	f->reset_value = 0xfe;
	f->minor = 4;
	f->x_dsdt = dsdt;
	f->x_pm1a_evt = (struct gas){1, 32, 0, 2, PM1_EVT_PORT};
	f->x_pm1a_cnt = (struct gas){1, 16, 0, 2, PM1_CNT_PORT};
	finish(&f->h, "FACP", 6, sizeof(*f));
}

int acpi_write(struct vm *vm, uint64_t *rsdp_addr, struct error *e)
{
	struct builder b = {vm, ACPI_AREA, ACPI_AREA + ACPI_AREA_SIZE};
	uint64_t rsdp_at = 0, facs_at = 0, dsdt_at = 0, fadt_at = 0, madt_at = 0, xsdt_at = 0;
	uint8_t *rsdp, *facs, *dsdt, *madt, *xsdt;
	struct fadt *fadt;
	size_t madt_len;

	rsdp = take(&b, 36, 16, &rsdp_at);
	facs = take(&b, 64, 64, &facs_at);
	dsdt = take(&b, sizeof(dsdt_aml), 16, &dsdt_at);
	fadt = take(&b, sizeof(*fadt), 16, &fadt_at);
	madt = take(&b, 128 + 8 * (size_t)vm->config->cpus, 16, &madt_at);
	xsdt = take(&b, sizeof(struct header) + 16, 16, &xsdt_at);
	if (!rsdp || !facs || !dsdt || !fadt || !madt || !xsdt)
		return error_set(e, "ACPI tables do not fit");

	memcpy(facs, "FACS", 4);
	facs[4] = 64;
	facs[32] = 2;
	memcpy(dsdt, dsdt_aml, sizeof(dsdt_aml));
	fill_fadt(fadt, facs_at, dsdt_at);
	madt_len = fill_madt(vm, madt);
	finish((struct header *)madt, "APIC", 4, madt_len);
	memcpy(xsdt + sizeof(struct header), (uint64_t[]){fadt_at, madt_at}, 16);
	finish((struct header *)xsdt, "XSDT", 1, sizeof(struct header) + 16);

	memcpy(rsdp, "RSD PTR ", 8);
	memcpy(rsdp + 9, "VMBEAM", 6);
	rsdp[15] = 2;
	memcpy(rsdp + 20, (uint32_t[]){36}, 4);
	memcpy(rsdp + 24, &xsdt_at, 8);
	rsdp[8] = (uint8_t)-sum(rsdp, 20);
	rsdp[32] = (uint8_t)-sum(rsdp, 36);
	*rsdp_addr = rsdp_at;
	return 0;
}
