# Test guests and the programs that judge them; included by tests/tests.mk.
#   beat    an initramfs that checks its memory, clocks, disk and network: tests/guests/beat.c
#   debian  a disk image with nginx and redis: tests/guests/debian/guest-init
# Kernel and modules are the lab's (nested/lab.mk).

G       := build/guests
GUEST_CFLAGS := -D_GNU_SOURCE -I. -O2 -g $(WARN)

# Paths below the modules' kernel/ folder, in the order in which they must be loaded.
MODULES_VIRTIO := drivers/virtio/virtio_ring drivers/virtio/virtio \
	drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci_legacy_dev \
	drivers/virtio/virtio_pci drivers/block/virtio_blk \
	net/core/failover drivers/net/net_failover drivers/net/virtio_net
MODULES_EXTRA  := drivers/virtio/virtio_balloon drivers/char/hw_random/virtio-rng \
	drivers/char/virtio_console
MODULES_BUTTON := drivers/input/evdev drivers/acpi/button
MODULES_EXT4   := crypto/crc32c_generic lib/crc16 fs/mbcache fs/jbd2/jbd2 fs/ext4/ext4

.PHONY: guests guest-beat guest-debian guest-tools check-guests
guests: guest-beat guest-debian guest-tools  ## build the test guests and their checkers
guest-beat: $(G)/beat.cpio $(G)/multiboot
guest-debian: $(G)/debian.img $(G)/debian-initrd.cpio
guest-tools: $(addprefix $(G)/, beatcheck beatpeer redisload httpload)
check-guests: guest-tools                 ## test the checkers
	$(Q)tests/guests/test_beatcheck.sh $(G)/beatcheck

$(G)/beatcheck $(G)/beatpeer: $(G)/%: tests/guests/%.c tests/guests/beat_line.h \
		tests/guests/beat_stream.h vmm/base.h
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$(Q)$(CC) $(GUEST_CFLAGS) -o $@ $<

$(G)/redisload $(G)/httpload: $(G)/%load: tests/guests/load.c tests/guests/load_%.c vmm/base.c \
		tests/guests/load.h vmm/base.h
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$(Q)$(CC) $(GUEST_CFLAGS) -o $@ $(filter %.c, $^)

BEAT_SRC := $(addprefix tests/guests/, beat.c beat_mem.c beat_clock.c beat_disk.c beat_net.c beat_jobs.c)
$(G)/beat: $(BEAT_SRC) tests/guests/beat.h tests/guests/beat_line.h tests/guests/beat_stream.h vmm/base.h
	@mkdir -p $(@D)
	@echo "  CC   $@"
	$(Q)$(CC) $(GUEST_CFLAGS) -static -s -pthread -o $@ $(BEAT_SRC)

$(G)/beat.cpio: $(G)/beat tests/guests/mkinitrd.sh tests/guests/guests.mk build/lab/vmlinux
	@echo "  CPIO $@"
	$(Q)tests/guests/mkinitrd.sh $@ build/lab/modules init=$(G)/beat \
		$(MODULES_BUTTON) $(MODULES_VIRTIO) $(MODULES_EXTRA)

$(G)/debian-initrd.cpio: tests/guests/debian/initrd tests/guests/mkinitrd.sh \
		tests/guests/guests.mk build/lab/vmlinux
	@mkdir -p $(@D)
	@echo "  CPIO $@"
	$(Q)tests/guests/mkinitrd.sh $@ build/lab/modules init=$< bin/busybox=/bin/busybox \
		$(MODULES_BUTTON) $(MODULES_VIRTIO) $(MODULES_EXT4)

$(G)/debian-root.tar: tests/guests/mkroot.sh
	@mkdir -p $(@D)
	@echo "  APT  $@"
	$(Q)tests/guests/mkroot.sh $@

$(G)/debian.img: $(G)/debian-root.tar tests/guests/mkdebian.sh $(wildcard tests/guests/debian/*)
	@echo "  IMG  $@"
	$(Q)tests/guests/mkdebian.sh $@ $<

$(G)/multiboot: tests/guests/multiboot.S
	@mkdir -p $(@D)
	@echo "  AS   $@"
	$(Q)$(CC) -m32 -c -o $@.o $< && ld -m elf_i386 -Ttext=0x100000 --build-id=none -z noseparate-code -o $@ $@.o
