# A disk that hangs during the drain: the handover gives up in time and says so, and the guest runs on
# where it was; when the disk answers again all is whole.
modprobe loop
truncate -s 64M disk.img
loop=$(losetup -f --show disk.img)
modprobe dm-mod
dmsetup create slow --table "0 131072 linear $loop 0"
dmsetup mknodes slow
start_beat g g.log "beat.disk=2 beat.mem=16M" --memory 128M --disk /dev/mapper/slow
sleep 2
# Suspended without a flush: what is submitted from now on waits.
dmsetup suspend --noflush --nolockfs slow
sleep 1
refuses "drain: disk0: requests still in flight" vmbeam migrate g --to fresh --timeout 2
in_state g running || fail "g: $(state_of g)"
ticks=$(grep -c '^tick' g.log)
wait_for 10 sh -c "[ \$(grep -c '^tick' g.log) -gt $ticks ]"
dmsetup resume slow
check "the move once the disk answers" vmbeam migrate g --to fresh
sleep 1
check "power off" vmbeam stop g --timeout 60
check "disk and memory" beatcheck --min diskw=1000000 g.log
dmsetup remove slow
losetup -d "$loop"
