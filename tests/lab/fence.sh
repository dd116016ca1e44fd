# A guest hypervisor that does not let go: it writes to the memory of a guest that has left it and lets the
# old vCPUs run.  Not one byte of the guest changes; the hypervisor's other guest keeps ticking, and it can be
# moved on.  Then the host VMs' processes are killed: the guest that runs in one has crashed, with its memory kept;
# the guest whose state was complete, but which could not go on where it was to go, is held, and goes on on the
# host when it is told to.
# 2 MiB pages at both levels.
echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled
check "hv-a" vmbeam hypervisor start hv-a --memory 1G --window 4G >hv-a.txt
check "hv-b" vmbeam hypervisor start hv-b --memory 1G --window 4G >hv-b.txt
check "hostile" vmbeam hypervisor hostile hv-a
start_beat_in hv-a g g.log "beat.tick=1000 beat.mem=64M" --memory 256M
start_beat_in hv-a other other.log "beat.tick=1000 beat.rate=1M" --memory 256M
check "pause" vmbeam pause g
check "move" vmbeam migrate g --to hv-b --json >move.json
[ "$(state_of g)" = paused ] || fail "g is $(state_of g)"
check "first dump" vmbeam dump g --out first
# Bytes of registers in a dump: p_filesz of its first program header.
notes() {
	od -An -tu8 -j96 -N8 "$1"
}
[ "$(notes first)" -gt 0 ] || fail "no registers in the dump"
faults() {
	[ "$(info_of hv-a window_faults)" -gt 0 ]
}
wait_for 20 faults
before=$(grep -c '^tick' other.log)
sleep 5
check "second dump" vmbeam dump g --out second
cmp first second || fail "the memory of a guest that has left was changed"
after=$(grep -c '^tick' other.log)
[ "$after" -gt "$before" ] || fail "the other guest does not tick"
check "resume" vmbeam resume g
ticks=$(grep -c '^tick' g.log)
sleep 4
[ "$(grep -c '^tick' g.log)" -gt "$ticks" ] || fail "the guest does not tick where it went"
vmbeam hypervisor list >list.txt
grep -q "hv-a *ready" list.txt || fail "hv-a does not answer: $(cat list.txt)"
faults=$(info_of hv-a window_faults)

stopped() {
	grep -q '^State:.*T' "/proc/$1/status"
}
source=$(info_of other pid)
VMBEAM_FAULT=source.sealed=hold vmbeam migrate other --to fresh 2>err &
move=$!
wait_for 20 stopped "$source"
kill -9 "$(info_of hv-a pid)"
kill -CONT "$source"
! wait $move || fail "it was moved into a hypervisor that is dead"
grep -q "it is held" err || fail "$(cat err)"
refuses "its hypervisor is gone" vmbeam resume other
ticks=$(grep -c '^tick' other.log)
check "to the host" vmbeam migrate other --to host --json >move2.json
more_ticks() {
	[ "$(grep -c '^tick' other.log)" -gt "$ticks" ]
}
wait_for 20 more_ticks

kill -9 "$(info_of hv-b pid)"
wait_for 20 in_state g crashed
check "its memory is kept" vmbeam dump g --out third
[ "$(notes third)" -eq 0 ] || fail "registers of a VM whose hypervisor has gone"
check "stop" vmbeam stop g
check "power off" vmbeam stop other --timeout 60
check "memory, clock and serial" beatcheck --min ticks=5 other.log >verdict
echo "= $faults faults; the other guest: $(cat verdict)"
