# Between two machines: two network namespaces joined by a cable, each with VMs of its own.  A guest that writes memory
# and disk, all verified, goes to and fro (MIGRATIONS, default 4); then everything that can break does, at every
# step: each time exactly one copy runs or can be made to, and the next migration succeeds.
N=${MIGRATIONS:-4} T=$PWD

ip netns add here && ip netns add there && ip link add cable netns here type veth peer name cable netns there ||
	fail "no network namespaces"
ip -n here addr add 10.7.0.1/24 dev cable && ip -n there addr add 10.7.0.2/24 dev cable
for ns in here there; do
	ip -n $ns link set lo up && ip -n $ns link set cable up
	mkdir $ns
done
# on MACHINE COMMAND...
on() {
	ns=$1
	shift
	ip netns exec "$ns" env VMBEAM_RUNTIME_DIR="$T/$ns" "$@"
}
address() { [ "$1" = here ] && echo 10.7.0.1 || echo 10.7.0.2; }
# receive MACHINE [option...]
receive() {
	ns=$1
	shift
	on "$ns" vmbeam receive --listen "$(address "$ns"):7000" --tls certs --allow "$T" --allow "$LAB" --allow "$GUESTS" "$@" \
		>>"receive.$ns" 2>&1 &
	wait_for 10 grep -q "receiving at" "receive.$ns"
}
# move FROM TO: in move.json.
move() {
	on "$1" vmbeam migrate m --to "tls://$(address "$2"):7000" --tls certs --downtime-limit 1000 --json >move.json 2>move.err
}
runs_on() { on "$1" vmbeam info m --json 2>/dev/null | grep -q '"state": "running"'; }
absent_on() { on "$1" vmbeam info m 2>&1 | grep -q "no such VM"; }
ticks_on() {
	before=$(grep -c ^tick m.log)
	wait_for 20 sh -c "[ \$(grep -c ^tick m.log) -gt $((before + 2)) ]"
}
# only_on MACHINE OTHER
only_on() {
	wait_for 20 runs_on "$1"
	wait_for 20 absent_on "$2"
	ticks_on "$1"
}

check "certs" vmbeam certs certs 10.7.0.1 10.7.0.2 >/dev/null
check "other certs" vmbeam certs others 10.7.0.1 10.7.0.2 >/dev/null
truncate -s 16M disk.img
receive here
receive there
check "start m" on here vmbeam run m --kernel "$LAB/vmlinux" --initrd "$GUESTS/beat.cpio" --append \
	"console=ttyS0 quiet panic=-1 beat.mem=64M beat.rate=20M beat.disk=1" --memory 256M --disk "$T/disk.img" \
	--serial "$T/m.log" --detach
wait_for 60 grep -q '^tick 1 ' m.log

at=here other=there i=0
swap() { x=$at at=$other other=$x; }
while [ $i -lt "$N" ]; do
	move $at $other || fail "move to $other: $(cat move.err)"
	swap
	only_on $at $other
	json move.json downtime_ns >>downtimes
	json move.json total_ns >>totals
	json move.json bytes_sent >>bytes
	i=$((i + 1))
done

# victim PART MACHINE: vmbeam-migrate's process there.
victim() {
	for p in $(pgrep -f "vmbeam-migrate $1"); do
		[ "$(ip netns identify "$p")" != "$2" ] || echo "$p"
	done
}
# refused TEXT: the guest runs on, and the line says why.
refused() {
	move $at $other && fail "it was moved, but: $1"
	grep -q -- "$1" move.err || fail "'$(cat move.err)' does not say '$1'"
	[ "$(wc -l <move.err)" = 1 ] || fail "more than one line: $(cat move.err)"
	only_on $at $other
}
# Who has no certificate of this CA, or goes to a name that is not in it.
mv certs good && cp -r others certs
refused "certificate"
rm -r certs && mv good certs
status=0
on $at vmbeam migrate m --to tls://localhost.invalid:7000 --tls certs >/dev/null 2>move.err || status=$?
[ $status = 1 ] || fail "a name that does not exist: $status"
on $at vmbeam migrate m --to "tcp://$(address $other):7000" --insecure >/dev/null 2>move.err && fail "moved in clear"
# Noise, of every kind: the receiver stays.
# (Its end may see a reset, or none: the receiver's word counts.)
head -c 300000 /dev/urandom | { on $at socat -u - "TCP:$(address $other):7000" 2>/dev/null || :; }
wait_for 10 grep -q "refused: TLS handshake" receive.$other
check "a connection that says nothing" on $at socat -u OPEN:/dev/null "TCP:$(address $other):7000"
[ -n "$(victim receive $other)" ] || fail "the receiver has gone"
only_on $at $other

# fault POINT=ACTION TEXT: at the sender.
fault() {
	VMBEAM_FAULT=$1 move $at $other && fail "$1: it was moved"
	grep -q -- "$2" move.err || fail "$1: '$(cat move.err)' does not say '$2'"
}
for point in sender.copied sender.restored; do
	for action in fail kill; do
		fault $point=$action "it runs on at the source"
		only_on $at $other
	done
done
# The one moment at which nobody can know: it is said, nothing runs twice, and a user decides.
fault sender.committed=kill "may run on the other machine"
wait_for 20 absent_on $other
runs_on $at && fail "it runs, and might run there"
refuses "may run on another machine" on $at vmbeam migrate m --to fresh
check "resume" on $at vmbeam resume m
only_on $at $other
# Committed, started there, and the sender dies before it has told: the source must not run.
fault sender.started=kill "may run on the other machine"
wait_for 20 runs_on $other
refuses "it runs at" on $at vmbeam resume m --force
check "stop the copy that is none" on $at vmbeam stop m --force
swap
only_on $at $other

# While it is being copied, slowly: the receiver, its parent, the sender, the driver are killed, the cable is cut.
slowly() {
	on $at vmbeam migrate m --to "tls://$(address $other):7000" --tls certs --bandwidth 4M >slow.out 2>&1 &
	slow=$!
	wait_for 20 grep -q "m: round 1" slow.out
}
for what in receiver sender driver cable; do
	slowly
	case $what in
	receiver) kill -9 $(victim receive $other) ;;
	sender) kill -9 $(victim send $at) ;;
	driver) kill -TERM $(pgrep -f "^vmbeam migrate m") ;;
	cable) ip -n $at link set cable down ;;
	esac
	wait $slow && fail "$what: it was moved: $(cat slow.out)"
	ip -n $at link set cable up
	only_on $at $other
	echo "= $what: $(tail -n 1 slow.out)"
	[ $what != receiver ] || { sleep 1 && receive $other; }
done
# Twice at once, and cancelled.
slowly
refuses "being moved" on $at vmbeam migrate m --to fresh
check "cancel" on $at vmbeam migrate m --cancel
wait $slow && fail "it was not cancelled"
only_on $at $other

move $at $other || fail "the last one: $(cat move.err)"
swap
only_on $at $other
check "power off" on $at vmbeam stop m --timeout 60
check "memory, disk, clock, serial" beatcheck --min ticks=20 --min passes=1 --min diskw=1000 m.log >verdict
kill $(pgrep -f "vmbeam receive") 2>/dev/null
echo "= $N migrations: total $(median <totals) ns, downtime $(median <downtimes) ns, $(median <bytes) bytes; guest: $(cat verdict)"
