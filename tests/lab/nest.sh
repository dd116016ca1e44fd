# The paper's baseline: a guest in a hypervisor that knows nothing of a window goes to another hypervisor of the same machine
# by encrypted pre-copy over the bridge between the two host VMs (bench/nest.mk).  Beside it, in turns, a guest of the same size
# whose memory is remapped.  ROUNDS (default 1) of both.
N=${ROUNDS:-1}
options="console=ttyS0 quiet panic=-1 beat.tick=1000 beat.mem=64M beat.rate=4M"

. "$TOP/bench/nest/lib.sh"
nest_up 768M
refuses "networks of its own" vmbeam rejuvenate nest-1
for hv in hv-a hv-b; do
	check "$hv" vmbeam hypervisor start $hv --memory 512M --window 2G >/dev/null
done

did 1 "vmbeam run g --kernel /vmlinux --initrd /beat.cpio --memory 256M --append '$options' --serial /tmp/g.log --detach </dev/null"
start_beat direct direct.log "${options#*-1 }" --in hv-a --memory 256M
ticks() { inside "$1" "tail -n 1 /tmp/g.log" | grep -q "^tick [0-9]"; }
wait_for 120 ticks 1

at=1 other=2 to=hv-b
for _ in $(seq "$N"); do
	did $at "vmbeam migrate g --to tls://10.8.0.$other:7000 --tls /certs --downtime-limit 1000 --json </dev/null"
	grep -v ^done inside.out >nest.json
	json nest.json total_ns >>nest.totals
	json nest.json downtime_ns >>nest.downtimes
	json nest.json bytes_sent >>nest.bytes
	nest_fetch $at g
	check "move" vmbeam migrate direct --to $to --json >move.json
	json move.json total_ns >>move.totals
	json move.json downtime_ns >>move.downtimes
	x=$at at=$other other=$x
	[ $to = hv-b ] && to=hv-a || to=hv-b
	did $at "before=\$(wc -l </tmp/g.log); sleep 5; [ \$(wc -l </tmp/g.log) -gt \$before ]"
	echo "moved: $(tail -n 1 nest.totals) $(tail -n 1 move.totals)"
done
did $at "vmbeam stop g --timeout 100 >/dev/null 2>&1"
nest_fetch $at g
check "memory and clock" beatcheck --min ticks=20 g.log >verdict
check "power off" vmbeam stop direct --timeout 60
check "memory, clock and serial of the other" beatcheck --min ticks=20 direct.log >verdict2
nest=$(median <nest.totals) move=$(median <move.totals)
awk "BEGIN { printf \"= total: encrypted copy between host VMs %.0f ms, %.0f MB; nested move %.0f ms: %.0f times shorter; downtime %.0f and %.0f ms\\n\",
	$nest / 1e6, $(median <nest.bytes) / 1e6, $move / 1e6, $nest / $move, $(median <nest.downtimes) / 1e6, $(median <move.downtimes) / 1e6 }"
echo "= $(cat verdict)"
awk "BEGIN { exit !($nest >= 5 * $move) }" || fail "less than 5 times"
