# The small virtio devices, from inside a guest of their own, before and after handovers.

MODULES="drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_modern_dev
	drivers/virtio/virtio_pci_legacy_dev drivers/virtio/virtio_pci drivers/virtio/virtio_balloon
	drivers/char/hw_random/virtio-rng drivers/char/virtio_console"

# A guest that runs each line it reads on the serial port.
cat >init <<'EOF'
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs -o size=95% tmpfs /tmp
while read -r m; do insmod "/modules/$m.ko"; done </modules/order
stty -echo </dev/ttyS0
echo "guest ready"
while read -r line; do eval "$line"; done </dev/ttyS0
EOF
check "initramfs" "$TOP/tests/guests/mkinitrd.sh" guest.cpio "$LAB/modules" init=init \
	bin/busybox=/bin/busybox $MODULES

# guest COMMAND: runs it there and prints what it printed.
send() {
	printf '%s\n' "$*" | socat -u - UNIX-CONNECT:/run/vmbeam/d/console
}
guest() {
	n=$(grep -c '^end ' d.log) || true
	send "echo begin $n; $*; echo end $n"
	wait_for 120 grep -q "^end $n\b" d.log
	tr -d '\r' <d.log | sed -n "/^begin $n\$/,/^end $n\$/p" | sed '1d;$d'
}

rng() {
	[ "$(guest 'cat /sys/class/misc/hw_random/rng_current')" = virtio_rng.0 ] || fail "no virtio-rng"
	guest 'dd if=/dev/hwrng bs=64 count=1 2>/dev/null | od -An -tx1' >bytes1
	guest 'dd if=/dev/hwrng bs=64 count=1 2>/dev/null | od -An -tx1' >bytes2
	[ "$(wc -w <bytes1)" = 64 ] || fail "not 64 random bytes: $(cat bytes1)"
	! cmp -s bytes1 bytes2 || fail "the same random bytes twice"
	[ "$(sort -u bytes1 bytes2 | wc -l)" -gt 1 ] || fail "random bytes are all the same"
	[ "$(guest 'dd if=/dev/hwrng bs=4096 count=64 2>/dev/null | wc -c')" = 262144 ] ||
		fail "not all the random bytes that were asked for"
}

check "start" vmbeam run d --kernel "$LAB/vmlinux" --initrd guest.cpio --memory 512M \
	--append "console=ttyS0 quiet panic=-1" --serial "$PWD/d.log" --detach
wait_for 60 grep -q '^guest ready' d.log
rng
check "handover" vmbeam migrate d --to fresh
rng
send 'reboot -f' # after a reset the devices must come up again
wait_for 60 sh -c 'test "$(grep -c "^guest ready" d.log)" = 2'
rng
