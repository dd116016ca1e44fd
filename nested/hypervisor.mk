# hypervisor.mk: what a guest hypervisor boots; included by the top Makefile.  In build/hypervisor:
#   vmlinuz    the kernel (Debian's, as the lab's)
#   initramfs  the vmbeam program as process 1 and the kernel modules it needs, nothing else

HYPERVISOR := build/hypervisor
HYPERVISOR_MODULES := virtio_pci virtio_console device_dax dax_hmem kvm-amd kvm-intel

.PHONY: hypervisor
hypervisor: $(HYPERVISOR)/initramfs $(HYPERVISOR)/vmlinuz  ## what a guest hypervisor boots

$(HYPERVISOR)/vmlinuz: $(LAB)/kernel.stamp
	$(Q)mkdir -p $(@D) && cp -L $(LAB)/vmlinuz $@

$(HYPERVISOR)/initramfs: $(BIN)/vmbeam $(LAB)/kernel.stamp nested/hypervisor.mk
	@echo "  GEN  $@"
	$(Q)rm -rf $@.d && mkdir -p $@.d/modules && strip -o $@.d/init $(BIN)/vmbeam
	$(Q)$(call pack-initramfs,$(HYPERVISOR_MODULES))
