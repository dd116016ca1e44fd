# lab.mk: the kernel that `vmbeam lab` and the test guests boot; included by the top Makefile.
#
# Debian's kernel package is downloaded once and unpacked, never installed.  What others may rely
# on, all in build/lab:
#   vmlinuz    the package's bzImage             modules    its lib/modules/VERSION
#   vmlinux    the same kernel as an ELF file    initramfs  the lab's own initramfs

LAB := build/lab

# What the initramfs loads; all else comes from /lib/modules inside the lab.
LAB_MODULES := virtio_pci 9p 9pnet_virtio virtio_console overlay kvm-amd tun virtio_net

.PHONY: lab-kernel
lab-kernel: $(LAB)/vmlinux $(LAB)/initramfs  ## fetch and unpack the lab's kernel (once; needs apt)

# The package lists may be missing or older than the mirror: then they are fetched, once.
$(LAB)/kernel.stamp:
	@echo "  GET  $(LAB)/kernel"
	$(Q)rm -rf $(LAB)/download $(LAB)/kernel && mkdir -p $(LAB)/download
	$(Q)cd $(LAB)/download && get() { \
		p=$$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: //p'); \
		[ -n "$$p" ] && apt-get download -qq $$p; \
	} && { get || { apt-get update -qq && get; } } >log 2>&1 || { cat log >&2; exit 1; }
	$(Q)dpkg -x $(LAB)/download/*.deb $(LAB)/kernel
	$(Q)v=$$(ls $(LAB)/kernel/lib/modules) && depmod -b $(LAB)/kernel $$v && \
	ln -sfn kernel/boot/vmlinuz-$$v $(LAB)/vmlinuz && \
	ln -sfn kernel/lib/modules/$$v $(LAB)/modules
	$(Q)rm -rf $(LAB)/download && touch $@

$(LAB)/vmlinux: $(LAB)/kernel.stamp nested/extract-vmlinux.sh
	@echo "  GEN  $@"
	$(Q)sh nested/extract-vmlinux.sh $(LAB)/vmlinuz >$@.tmp && mv $@.tmp $@

# Into $@, from the folder $@.d: what is there, and these modules and those that they need, numbered in
# the order in which they load.
define pack-initramfs
v=$$(readlink $(LAB)/modules) && list=$$(modprobe -d $(abspath $(LAB)/kernel) -S $${v##*/} -aD $(1)) && i=100 && \
for m in $$(echo "$$list" | awk '!seen[$$2]++ { print $$2 }'); do \
	cp $$m $@.d/modules/$$i-$${m##*/} || exit 1; i=$$((i + 1)); done && \
(cd $@.d && find . | cpio -o -H newc --quiet) >$@.tmp && mv $@.tmp $@ && rm -rf $@.d
endef

$(LAB)/initramfs: $(LAB)/kernel.stamp nested/lab-init.sh nested/lab.mk
	@echo "  GEN  $@"
	$(Q)rm -rf $@.d && cd $(LAB) && mkdir -p $(addprefix initramfs.d/,bin dev modules newroot proc \
		root sys)
	$(Q)cp /bin/busybox $@.d/bin && install -m 755 nested/lab-init.sh $@.d/init
	$(Q)$(call pack-initramfs,$(LAB_MODULES))

.PHONY: check-lab-self
check-lab-self: $(BIN)/vmbeam lab-kernel  ## test `vmbeam lab` itself (a minute)
	$(Q)sh nested/lab-test.sh $(BIN)/vmbeam
