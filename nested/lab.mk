# lab.mk: the kernel that `vmbeam lab` and the test guests boot; included by the top Makefile.
#
# Debian's kernel is downloaded once, never installed.  What others may rely on, all in build/lab:
#   vmlinuz    the kernel package's bzImage      modules    its lib/modules/VERSION
#   vmlinux    the same kernel as an ELF file    initramfs  the lab's own initramfs

LAB := build/lab

# What the initramfs loads, dependencies first; all else comes from /lib/modules inside the lab.
LAB_MODULES := virtio_pci 9p 9pnet_virtio virtio_console overlay kvm-amd tun

.PHONY: lab-kernel
lab-kernel: $(LAB)/vmlinux $(LAB)/initramfs  ## fetch and unpack the lab's kernel (once; needs apt)

$(LAB)/kernel.stamp:
	@mkdir -p $(LAB)/download
	@echo "  GET  $(LAB)/kernel"
	$(Q)p=$$(apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: //p'); \
	[ -n "$$p" ] || { apt-get update -qq; \
		p=$$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: //p'); }; \
	cd $(LAB)/download && rm -f *.deb && \
	{ apt-get download -qq $$p 2>apt.log || { apt-get update -qq && \
		apt-get download -qq $$p 2>apt.log; } || { cat apt.log >&2; exit 1; }; }
	$(Q)rm -rf $(LAB)/kernel && dpkg -x $(LAB)/download/*.deb $(LAB)/kernel
	$(Q)v=$$(ls $(LAB)/kernel/lib/modules) && depmod -b $(LAB)/kernel $$v && \
	ln -sfn kernel/boot/vmlinuz-$$v $(LAB)/vmlinuz && \
	ln -sfn kernel/lib/modules/$$v $(LAB)/modules
	$(Q)rm -rf $(LAB)/download && touch $@

$(LAB)/vmlinux: $(LAB)/kernel.stamp nested/extract-vmlinux.sh
	@echo "  GEN  $@"
	$(Q)sh nested/extract-vmlinux.sh $(LAB)/vmlinuz >$@.tmp && mv $@.tmp $@

$(LAB)/initramfs: $(LAB)/kernel.stamp nested/lab-init.sh nested/lab.mk
	@echo "  GEN  $@"
	$(Q)rm -rf $@.d && mkdir -p $@.d/bin $@.d/modules $@.d/root $@.d/newroot \
		$@.d/dev $@.d/proc $@.d/sys
	$(Q)cp /bin/busybox $@.d/bin/ && install -m 755 nested/lab-init.sh $@.d/init
	$(Q)i=100; v=$$(readlink $(LAB)/modules); for m in $$(for m in $(LAB_MODULES); do \
		modprobe -d $(abspath $(LAB))/kernel -S $${v##*/} --show-depends $$m || echo $$m; done | \
		awk '!seen[$$2]++ { print $$2 }'); do \
		cp $$m $@.d/modules/$$i-$${m##*/} || exit 1; i=$$((i + 1)); done
	$(Q)(cd $@.d && find . | cpio -o -H newc --quiet) >$@.tmp && mv $@.tmp $@ && rm -rf $@.d
