# nest.mk: what the host VMs of `nest` boot: classic migration inside nested hypervisors, the baseline of the paper
# (Xen-Nest).  A guest hypervisor as any other, with a network driver, the migration program and a test guest beside the
# agent: in it `vmbeam run` and `vmbeam migrate --to tls://` know nothing of a window or of L0.  In build/nest:
#   vmlinuz initramfs    $VMBEAM_HYPERVISOR_DIR for `vmbeam hypervisor start NAME --net tap=T,mac=52:54:00:00:08:NN`

NEST := build/nest

.PHONY: nest-image
nest-image: $(NEST)/initramfs $(NEST)/vmlinuz

$(NEST)/vmlinuz: $(HYPERVISOR)/vmlinuz
	$(Q)mkdir -p $(@D) && cp $< $@

$(NEST)/initramfs: $(BIN)/vmbeam $(BIN)/vmbeam-migrate $(G)/beat.cpio $(LAB)/kernel.stamp bench/nest.mk bench/nest/start
	@echo "  GEN  $@"
	$(Q)rm -rf $@.d && mkdir -p $@.d/modules $@.d/bin && strip -o $@.d/init $(BIN)/vmbeam
	$(Q)cp -L --parents $$(ldd $(BIN)/vmbeam-migrate | grep -o '/lib[^ ]*') $@.d && \
	strip -o $@.d/vmbeam-migrate $(BIN)/vmbeam-migrate && cp /bin/busybox $@.d/bin && \
	cp bench/nest/start $@.d/start && ln -s /init $@.d/bin/vmbeam && ln -s busybox $@.d/bin/sh && \
	cp -L $(LAB)/vmlinux $(G)/beat.cpio $@.d
	$(Q)$(call pack-initramfs,$(HYPERVISOR_MODULES) virtio_net tun bridge)
