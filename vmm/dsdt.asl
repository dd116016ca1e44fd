/* dsdt.asl: what a guest's ACPI is told: one PCI host bridge with a 32-bit window, a serial port,
 * S5 by PM1a_CNT (sleep type 5).  Addresses agree with vmm/internal.h. */
DefinitionBlock ("", "DSDT", 2, "VMBEAM", "VMBEAM", 1)
{
    Name (_S5, Package () { 5, 5, 0, 0 })

    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A03"))
            Name (_UID, 0)
            Name (_BBN, 0)
            Name (_CRS, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
                    0, 0, 0, 0, 1)
                IO (Decode16, 0x0cf8, 0x0cf8, 1, 8)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
                    0, 0xd0000000, 0xfebfffff, 0, 0x2ec00000)
            })
        }

        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x03f8, 0x03f8, 1, 8)
                IRQNoFlags () { 4 }
            })
        }
    }
}
