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
{ stty raw -echo; cat; } </dev/hvc0 >/dev/hvc0 & # one open: the last close resets its modes
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

allocated() {
	vmbeam info d --json >info.json
	json info.json allocated_bytes
}
below() { [ "$(allocated)" -lt "$1" ]; }
given_is() {
	vmbeam info d --json >info.json
	[ "$(json info.json balloon_bytes)" = "$1" ]
}
MIB=1048576
# Reports of free pages come in 2 MiB and more (order 9); 20 is more than there is.
REPORTS=/sys/module/page_reporting/parameters/page_reporting_order

# The guest writes MiB of its memory and frees it again.
touch_and_free() {
	[ "$(guest "dd if=/dev/zero of=/tmp/f bs=1M count=$1 2>/dev/null; wc -c </tmp/f; rm /tmp/f")" = \
		$(($1 * MIB)) ] || fail "the guest cannot use $1 MiB"
}

balloon() {
	guest "echo 20 >$REPORTS"
	touch_and_free 170
	before=$(allocated)
	check "inflate" vmbeam balloon d 128M
	wait_for 120 given_is $((128 * MIB))
	after=$(allocated)
	echo "= balloon of 128 MiB: $((before / MIB)) MiB allocated before, $((after / MIB)) MiB after"
	[ $((before - after)) -ge $((128 * MIB * 9 / 10)) ] || fail "the balloon gave back too little"
	check "handover of an inflated balloon" vmbeam migrate d --to fresh
	given_is $((128 * MIB)) || fail "the balloon's size was lost: $(cat info.json)"
	[ "$(json info.json balloon_target_bytes)" = $((128 * MIB)) ] || fail "its target was lost"
	moved=$(allocated)
	[ $((moved - after)) -lt $((32 * MIB)) ] || fail "the handover filled the balloon: $moved"
	check "deflate" vmbeam balloon d 0
	wait_for 120 given_is 0
	touch_and_free 170
}

reports() {
	guest "echo 9 >$REPORTS"
	guest 'dd if=/dev/zero of=/tmp/f bs=1M count=120 2>/dev/null'
	before=$(allocated)
	guest 'rm /tmp/f'
	wait_for 60 below $((before - 100 * MIB))
	echo "= free page reports: $((before / MIB)) MiB allocated before, $(($(allocated) / MIB)) MiB after"
}

# What is typed comes back, on the connection that was there before the handovers.
hvc() {
	echo "$1" >&3
	wait_for 60 grep -q "^$1\$" hvc.out
}

# A stream of lines with a handover in the middle of it: each comes once, in order.
hvc_stream() {
	guest '(seq 100001 120000 >/dev/hvc0 &)'
	check "handover under hvc output" vmbeam migrate d --to fresh
	wait_for 120 grep -q '^120000$' hvc.out
	grep '^1[0-2][0-9]\{4\}$' hvc.out >lines || true
	seq 100001 120000 | cmp -s - lines || fail "lines of hvc were lost: $(wc -l <lines) of 20000"
}

check "start" vmbeam run d --kernel "$LAB/vmlinux" --initrd guest.cpio --memory 256M \
	--append "console=ttyS0 quiet panic=-1" --serial "$PWD/d.log" --virtio-console --detach
wait_for 60 grep -q '^guest ready' d.log
refuses "has only 256 MiB" vmbeam balloon d 256M
mkfifo hvc.in
vmbeam console d --hvc <hvc.in >hvc.out &
exec 3>hvc.in
rng
hvc before
(sleep 1 && echo 'echo "typed $((6 * 7))"' && sleep 5) | timeout 20 vmbeam console d >typed.out || true
grep -q '^typed 42' typed.out || fail "the serial console by its command: $(cat typed.out)"
hvc_stream
balloon
reports
check "handover" vmbeam migrate d --to fresh
hvc after
rng
check "inflate" vmbeam balloon d 64M
wait_for 120 given_is $((64 * MIB))
send 'reboot -f' # after a reset the devices must come up again, and the balloon fill
wait_for 60 sh -c 'test "$(grep -c "^guest ready" d.log)" = 2'
wait_for 120 given_is $((64 * MIB))
rng
hvc reset
