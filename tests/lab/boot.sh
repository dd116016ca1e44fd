# Boots the kernel in each format, SMP, with ends by shutdown, reset and power button.

run_beat() {
	name=$1 kernel=$2
	shift 2
	vmbeam run "$name" --kernel "$kernel" --initrd "$GUESTS/beat.cpio" "$@" >"$name.log" 2>"$name.err" </dev/null
}

# ELF by PVH, 2 vCPUs, ACPI shutdown
run_beat pvh "$LAB/vmlinux" --cpus 2 --append "console=ttyS0 quiet panic=-1 beat.end=10" ||
	fail "PVH: status $? $(cat pvh.err)"
check "PVH" beatcheck --min ticks=10 --min passes=1 pvh.log
grep -q "beat ready cpus=2" pvh.log || fail "PVH: not 2 CPUs"

# bzImage by the 64-bit protocol
run_beat bz "$LAB/vmlinuz" --append "console=ttyS0 quiet panic=-1 beat.end=5" ||
	fail "bzImage: status $? $(cat bz.err)"
check "bzImage" beatcheck --min ticks=5 bz.log

# memory on both sides of the gap below 4 GiB
run_beat big "$LAB/vmlinux" --memory 4G --append "console=ttyS0 quiet panic=-1 beat.end=10 beat.mem=64M" ||
	fail "4 GiB: status $? $(cat big.err)"
check "4 GiB" beatcheck --min ticks=10 big.log

# 4 vCPUs; the power button
start_beat four four.log "beat.rate=1M" --cpus 4
check "stop" vmbeam stop four --timeout 30
grep -q "BEAT POWEROFF" four.log || fail "the power button was not seen"
grep -q "beat ready cpus=4" four.log || fail "not 4 CPUs"

# reset: the guest reboots itself, and comes up again
start_beat again again.log "beat.reboot=5"
wait_for 60 sh -c 'test "$(grep -c "beat ready" again.log)" -ge 2'
check "force stop" vmbeam stop again --force

# 16 vCPUs, once: moved, then reset
start_beat many many.log "beat.rate=idle beat.mem=16M beat.reboot=20" --cpus 16
grep -q "beat ready cpus=16" many.log || fail "not 16 CPUs: $(head -n 3 many.log)"
check "handover with 16 vCPUs" vmbeam migrate many --to fresh
wait_for 120 sh -c 'test "$(grep -c "beat ready cpus=16" many.log)" -ge 2'
check "force stop" vmbeam stop many --force
