# Test guests and the programs that judge them; included by tests/tests.mk.
# beat: tests/guests/beat.c.  debian: tests/guests/mkdebian.sh.

G       := build/guests
GUEST_CFLAGS := -D_GNU_SOURCE -I. -O2 -g $(WARN)

# The modules in the order in which they must be loaded; /modules/NAME.ko in the initramfs.
MODULES_BEAT := drivers/input/evdev drivers/acpi/button \
	drivers/virtio/virtio drivers/virtio/virtio_ring drivers/virtio/virtio_pci_modern_dev \
	drivers/virtio/virtio_pci_legacy_dev drivers/virtio/virtio_pci drivers/block/virtio_blk \
	net/core/failover drivers/net/net_failover drivers/net/virtio_net

.PHONY: guests guest-beat guest-tools check-guests
guests: guest-beat guest-tools            ## build the test guests and their checkers
guest-beat: $(G)/beat.cpio
guest-tools: $(G)/beatcheck
check-guests: guest-tools                 ## test the checkers
	$(Q)tests/guests/test_beatcheck.sh $(G)/beatcheck

$(G)/beatcheck: tests/guests/beatcheck.c tests/guests/beat_line.h
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$(Q)$(CC) $(GUEST_CFLAGS) -o $@ $<

BEAT_SRC := $(addprefix tests/guests/, beat.c beat_mem.c beat_clock.c)
$(G)/beat: $(BEAT_SRC) tests/guests/beat.h tests/guests/beat_line.h
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$(Q)$(CC) $(GUEST_CFLAGS) -static -s -pthread -o $@ $(BEAT_SRC)

$(G)/beat.cpio: $(G)/beat tests/guests/mkinitrd.sh | lab-kernel
	@echo "  CPIO $@"
	$(Q)tests/guests/mkinitrd.sh $@ $(G)/beat build/lab/modules $(MODULES_BEAT)
