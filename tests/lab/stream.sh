# Handovers of a guest that writes memory and disk and has a network stream running, all verified:
# memory by the guest, the disk by reading back, the stream at both ends.
# HANDOVERS says how many (default 10; more in `make check-long`).
N=${HANDOVERS:-10}

make_tap tap0 10.9.0.1/24
modprobe loop
truncate -s 64M disk.img
loop=$(losetup -f --show disk.img)
start_beat s s.log "beat.disk=2 beat.net=10.9.0.2/24 beat.mem=64M" --cpus 2 --memory 256M --disk "$loop" --net tap=tap0
wait_for 30 ping -c 1 -W 1 10.9.0.2
beatpeer 10.9.0.2 >peer.json 2>peer.err &
peer=$!
sleep 2
i=0
while [ $i -lt "$N" ]; do
	vmbeam migrate s --to fresh --json >move.json || fail "handover $i: $(cat move.json)"
	json move.json downtime_ns >>downtimes
	sleep 0.5
	i=$((i + 1))
done
kill -TERM $peer
wait $peer || fail "the network stream: $(cat peer.json peer.err)"
check "power off" vmbeam stop s --timeout 60
grep "BEAT" s.log || true
check "memory, disk, network, clock, serial" beatcheck --min ticks=20 --min passes=2 \
	--min diskw=1000000 --min nettx=100000 --min netrx=100000 s.log >verdict
losetup -d "$loop"
echo "= $N handovers: median downtime $(median <downtimes) ns; guest: $(cat verdict); peer: $(tr -d '\n' <peer.json)"
