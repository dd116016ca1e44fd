# Between two machines.  A guest that writes memory and disk, all verified, goes to and fro (MIGRATIONS, default 1), and as
# often by post-copy; then to a hypervisor there.  Strangers, noise, failures and deaths at each step of the switch-over:
# exactly one copy runs or can be made to, and the next migration succeeds.
# machines: 2
N=${MIGRATIONS:-1}

. "$TOP/tests/lab/machines.sh"
check "other certs" vmbeam certs others "$(address here)" "$(address there)" >/dev/null
check "start m" on here vmbeam run m --kernel "$LAB/vmlinux" --initrd "$GUESTS/beat.cpio" --append \
	"console=ttyS0 quiet panic=-1 beat.mem=32M beat.rate=10M beat.disk=1" --memory 128M --disk "$T/disk.img" \
	--serial "$T/m.log" --detach
wait_for 60 grep -q '^tick 1 ' m.log

i=0
while [ $i -lt "$N" ]; do
	move $at $other || fail "move to $other: $(cat move.err)"
	swap
	only_on $at $other
	json move.json downtime_ns >>downtimes
	json move.json total_ns >>totals
	json move.json bytes_sent >>bytes
	i=$((i + 1))
done

# Post-copy: it is started before its memory is there.  What it has from before the move is verified.
i=0
while [ $i -lt "$N" ]; do
	move $at $other --mode post-copy || fail "post-copy to $other: $(cat move.err)"
	grep -q '"mode": "post-copy"' move.json || fail "it was no post-copy: $(cat move.json)"
	swap
	only_on $at $other
	json move.json downtime_ns >>post-downtimes
	json move.json total_ns >>post-totals
	i=$((i + 1))
done

echo "= $N migrations: total $(median <totals) ns, downtime $(median <downtimes) ns, $(median <bytes) bytes; as many by post-copy: total $(median <post-totals) ns, downtime $(median <post-downtimes) ns"

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
on $at sh -c "head -c 300000 /dev/urandom | socat -u - TCP:$(address $other):7000" 2>/dev/null || :
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

# The same two with post-copy: what runs there waits for memory that nobody sends.
died() {
	VMBEAM_FAULT=$1 move $at $other --mode post-copy && fail "$1, post-copy: it was moved"
	grep -q "may run on the other machine" move.err || fail "$1, post-copy: '$(cat move.err)'"
}
died sender.committed=kill
check "resume here" on $at vmbeam resume m
only_on $at $other
died sender.started=kill
refuses "which still needs memory from here" on $at vmbeam resume m
check "resume there" on $at vmbeam migrate m --resume >/dev/null
swap
only_on $at $other

# From hypervisor to hypervisor; and one that is not there.
check "hypervisor hv-a" on $at vmbeam hypervisor start hv-a --memory 512M >/dev/null
check "hypervisor hv-b" on $other vmbeam hypervisor start hv-b --memory 512M >/dev/null
check "into hv-a" on $at vmbeam migrate m --to hv-a >/dev/null
placed() { on "$1" vmbeam info m --json 2>/dev/null | grep -q "\"placement\": \"$2\""; }
into=/hv-c
move $at $other && fail "moved into a hypervisor that is not there"
grep -q "there is no hypervisor hv-c there" move.err || fail "$(cat move.err)"
placed $at hv-a || fail "it did not go back into hv-a"
into=/hv-b
move $at $other || fail "to hv-b: $(cat move.err)"
swap
wait_for 30 placed $at hv-b
into=
only_on $at $other
check "power off" on $at vmbeam stop m --timeout 60
# (With its memory on the other side of a cut cable its writer waits, and its other threads go on.)
check "memory, disk, clock, serial" beatcheck --stall 600 --min ticks=20 --min passes=1 --min diskw=1000 m.log >verdict
check "stop hv-b" on $at vmbeam hypervisor stop hv-b --force
check "stop hv-a" on $other vmbeam hypervisor stop hv-a --force
for machine in here there; do
	on $machine pkill -f "^vmbeam receive" || :
done
echo "= guest: $(cat verdict)"
