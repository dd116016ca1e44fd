# The paper's baseline: a guest in a hypervisor that knows nothing of a window goes to another hypervisor of the same machine
# by encrypted pre-copy over the bridge between the two host VMs (bench/nest.mk).  Beside it, in turns, a guest of the same size
# whose memory is remapped.  ROUNDS (default 1) of both.
N=${ROUNDS:-1}
options="console=ttyS0 quiet panic=-1 beat.tick=1000 beat.mem=64M beat.rate=4M"

ip link add nest type bridge && ip addr add 10.8.0.254/24 dev nest && ip link set nest up || fail "no bridge"
for n in 1 2; do
	ip tuntap add "nest$n" mode tap && ip link set "nest$n" master nest up || fail "no tap"
	VMBEAM_HYPERVISOR_DIR=$LAB/../nest check "nest-$n" vmbeam hypervisor start "nest-$n" --memory 768M --window 1G \
		--net "tap=nest$n,mac=52:54:00:00:08:0$n" >/dev/null
done
refuses "networks of its own" vmbeam rejuvenate nest-1
for hv in hv-a hv-b; do
	check "$hv" vmbeam hypervisor start $hv --memory 512M --window 2G >/dev/null
done

# inside N COMMAND: what the shell of host VM N says to it; `done N` at the end, N its status.
inside() {
	printf '%s\necho "done $?"; exit\n' "$2" | socat -t 600 - "TCP:10.8.0.$1:99"
}
# did N COMMAND: and it must be 0.
did() {
	inside "$1" "$2" >inside.out 2>&1
	grep -q "^done 0$" inside.out || fail "nest-$1: $2: $(cat inside.out)"
}
for n in 1 2; do
	wait_for 30 socat -u OPEN:/dev/null "TCP:10.8.0.$n:99"
done
did 1 "vmbeam certs /certs 10.8.0.1 10.8.0.2 >/dev/null; tar c -C / certs | base64 >/tmp/certs; cat /tmp/certs"
certs=$(grep -v ^done inside.out)
did 2 "echo '$certs' | base64 -d | tar x -C /"
for n in 1 2; do
	did $n "vmbeam receive --listen 10.8.0.$n:7000 --tls /certs --allow / >/tmp/receive 2>&1 </dev/null & sleep 1; cat /tmp/receive"
done
did 1 "vmbeam run g --kernel /vmlinux --initrd /beat.cpio --memory 256M --append '$options' --serial /tmp/g.log --detach </dev/null"
start_beat direct direct.log "${options#*-1 }" --in hv-a --memory 256M
ticks() { inside "$1" "tail -n 1 /tmp/g.log" | grep -q "^tick [0-9]"; }
wait_for 120 ticks 1

# fetch N: what it has written to its serial line there, which may end within a line.
fetch() {
	did $1 "base64 /tmp/g.log && rm /tmp/g.log"
	grep -v "^done" inside.out | base64 -d >>g.log
}
at=1 other=2 to=hv-b
for _ in $(seq "$N"); do
	did $at "vmbeam migrate g --to tls://10.8.0.$other:7000 --tls /certs --downtime-limit 1000 --json </dev/null"
	grep -v ^done inside.out >nest.json
	json nest.json total_ns >>nest.totals
	json nest.json downtime_ns >>nest.downtimes
	json nest.json bytes_sent >>nest.bytes
	fetch $at
	check "move" vmbeam migrate direct --to $to --json >move.json
	json move.json total_ns >>move.totals
	json move.json downtime_ns >>move.downtimes
	x=$at at=$other other=$x
	[ $to = hv-b ] && to=hv-a || to=hv-b
	did $at "before=\$(wc -l </tmp/g.log); sleep 5; [ \$(wc -l </tmp/g.log) -gt \$before ]"
	echo "moved: $(tail -n 1 nest.totals) $(tail -n 1 move.totals)"
done
did $at "vmbeam stop g --timeout 100 >/dev/null 2>&1"
fetch $at
check "memory and clock" beatcheck --min ticks=20 g.log >verdict
check "power off" vmbeam stop direct --timeout 60
check "memory, clock and serial of the other" beatcheck --min ticks=20 direct.log >verdict2
nest=$(median <nest.totals) move=$(median <move.totals)
awk "BEGIN { printf \"= total: encrypted copy between host VMs %.0f ms, %.0f MB; nested move %.0f ms: %.0f times shorter; downtime %.0f and %.0f ms\\n\",
	$nest / 1e6, $(median <nest.bytes) / 1e6, $move / 1e6, $nest / $move, $(median <nest.downtimes) / 1e6, $(median <move.downtimes) / 1e6 }"
echo "= $(cat verdict)"
awk "BEGIN { exit !($nest >= 5 * $move) }" || fail "less than 5 times"
