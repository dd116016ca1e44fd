# Handovers in a row of a guest with 2 vCPUs that writes its memory at full speed.
# HANDOVERS says how many (default 20; 200 in `make check-long`).
N=${HANDOVERS:-20}

start_beat h h.log "" --cpus 2 --memory 512M
i=0
while [ $i -lt "$N" ]; do
	vmbeam migrate h --to fresh --json >move.json || fail "handover $i: $(cat move.json)"
	json move.json downtime_ns >>downtimes
	json move.json total_ns >>totals
	i=$((i + 1))
done
vmbeam info h --json >info.json
[ "$(json info.json handovers)" = "$N" ] || fail "the VM says $(json info.json handovers) handovers"
check "power off" vmbeam stop h --timeout 30
check "memory, clock and serial" beatcheck --min ticks=20 --min passes=2 h.log >verdict
echo "= $N handovers: median downtime $(median <downtimes) ns, total $(median <totals) ns; guest: $(cat verdict)"
