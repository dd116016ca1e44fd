# Memory that is not shared, on one machine: `migrate --mode pre-copy`, and a handover that fails and falls back to it.
# The guest writes its memory meanwhile; all of it is verified, and what a failure leaves behind is looked for.
start_beat m m.log "beat.mem=300M beat.rate=50M" --memory 512M
moves=${COPIES:-2} i=0
while [ $i -lt "$moves" ]; do
	check "copy $i" vmbeam migrate m --to fresh --mode pre-copy --downtime-limit 1000 --json >move.json
	grep -q '"mode": "pre-copy"' move.json || fail "$(cat move.json)"
	json move.json downtime_ns >>downtimes
	json move.json bytes_sent >>bytes
	goes_on m.log
	i=$((i + 1))
done
# The reason is in the result; nobody has to do anything.
VMBEAM_FAULT=destination.built=fail vmbeam migrate m --to fresh --downtime-limit 1000 --json >move.json 2>move.err ||
	fail "no fallback: $(cat move.err)"
grep -q '"fallback_reason": "fault injected' move.json || fail "no reason: $(cat move.json)"
grep -q '"mode": "pre-copy"' move.json || fail "$(cat move.json)"
goes_on m.log
# Where it was said how it is to be moved, it is not moved otherwise.
VMBEAM_FAULT=destination.built=fail refuses "fault injected" vmbeam migrate m --to fresh --mode zero-copy
goes_on m.log

# Each of the three is killed while it copies.
for victim in copier destination driver; do
	vmbeam migrate m --to fresh --mode pre-copy --downtime-limit 40 >slow.out 2>&1 &
	slow=$!
	wait_for 30 grep -q "m: round" slow.out
	case $victim in
	copier) kill -9 "$(pgrep -f '[v]mbeam-migrate copy')" ;;
	destination) kill -9 "$(pgrep -n -x vmbeam-vmm)" ;;
	driver) kill -9 $slow ;;
	esac
	wait $slow && fail "$victim: it was moved: $(cat slow.out)"
	goes_on m.log
	wait_for 10 sh -c "! pgrep -f '[v]mbeam-migrate copy'"
	echo "= $victim killed: $(tail -n 1 slow.out)"
done
check "the next one" vmbeam migrate m --to fresh --mode pre-copy --downtime-limit 1000
check "and a shared one" vmbeam migrate m --to fresh --json >move.json
grep -q '"mode": "zero-copy"' move.json || fail "$(cat move.json)"
goes_on m.log
check "power off" vmbeam stop m --timeout 60
check "memory, clock, serial" beatcheck --min ticks=10 --min passes=1 m.log >verdict
echo "= $moves copies: downtime $(median <downtimes) ns, $(median <bytes) bytes; guest: $(cat verdict)"
