# Between two machines, everything that can break does while memory is on its way, before the switch-over and after it:
# each time exactly one copy runs, or waits for its memory, and the next migration succeeds.
. "$TOP/tests/lab/machines.sh"
check "start m" on here vmbeam run m --kernel "$LAB/vmlinux" --initrd "$GUESTS/beat.cpio" --append \
	"console=ttyS0 quiet panic=-1 beat.mem=32M beat.rate=10M beat.disk=1" --memory 128M --disk "$T/disk.img" \
	--serial "$T/m.log" --detach
wait_for 60 grep -q '^tick 1 ' m.log

# slowly RATE TEXT [option...]: until the progress says TEXT.
slowly() {
	rate=$1 text=$2
	shift 2
	on $at vmbeam migrate m --to "tls://$(address $other):7000" --tls certs --bandwidth "$rate" "$@" >slow.out 2>&1 &
	slow=$!
	wait_for 60 grep -q "$text" slow.out
}
received=$(grep -c "receiving at" receive.$other)
back() { wait_for 20 sh -c "[ \$(grep -c 'receiving at' receive.$other) -gt $received ]"; }

# While it is being copied: the receiver, the sender, the driver are killed, the cable is cut.
for part in receiver sender driver cable; do
	slowly 4M "m: round 1"
	case $part in
	receiver) kill -9 $(victim receive $other) ;;
	sender) kill -9 $(victim send $at) ;;
	driver) kill -TERM $(pgrep -f "^vmbeam migrate m") ;;
	cable) ip -n $at link set cable down ;;
	esac
	wait $slow && fail "$part: it was moved: $(cat slow.out)"
	ip -n $at link set cable up
	only_on $at $other
	echo "= $part: $(tail -n 1 slow.out)"
	[ $part != receiver ] || back
done
# Twice at once, and cancelled.
slowly 4M "m: round 1"
refuses "being moved" on $at vmbeam migrate m --to fresh
check "cancel" on $at vmbeam migrate m --cancel
wait $slow && fail "it was not cancelled"
only_on $at $other

# Noise from some byte on, on every connection: in the handshake, in the first message, among the pages.
for good in 50 3000 100000 4000000; do
	spoiled=$((7000 + good % 97 + 1))
	on $other socat "TCP-LISTEN:$spoiled,fork,reuseaddr" \
		"SYSTEM:(dd bs=64k count=$good iflag=count_bytes status=none; head -c 300000 /dev/urandom) | socat - TCP\:$(address $other)\:7000" 2>/dev/null &
	wait_for 5 on $other socat -u OPEN:/dev/null "TCP:$(address $other):$spoiled"
	port=$spoiled
	move $at $other && fail "moved through noise after $good bytes"
	port=7000
	pkill -f "TCP-LISTEN:$spoiled"
	[ "$(wc -l <move.err)" = 1 ] || fail "more than one line: $(cat move.err)"
	only_on $at $other
	echo "= noise after $good bytes: $(cat move.err)"
done

# The receiver gets no more memory in the middle: whoever is killed for it, the guest runs on here.
mkdir -p groups && mount -t cgroup2 none groups && echo +memory >groups/cgroup.subtree_control && mkdir groups/small && echo 60M >groups/small/memory.max
for p in $(pgrep -f "vmbeam receive") $(victim receive $other); do
	[ "$(ip netns identify "$p")" != $other ] || echo "$p" >groups/small/cgroup.procs
done
move $at $other && fail "moved into too little memory"
echo "= too little memory: $(cat move.err)"
for p in $(cat groups/small/cgroup.procs); do
	echo "$p" >groups/cgroup.procs
done
umount groups
only_on $at $other
received=$(grep -c "receiving at" receive.$other)
if ! pgrep -f "vmbeam receive --listen $(address $other)" >/dev/null; then
	receive $other
fi
wait_for 20 on $other socat -u OPEN:/dev/null "TCP:$(address $other):7000"

# It runs there, and its memory is still coming: the same.  It waits, and goes on with all of its memory.
for part in receiver cable sender driver; do
	received=$(grep -c "receiving at" receive.$other)
	slowly 8M "m: it runs there" --mode post-copy
	runs_on $at && fail "it runs on"
	refuses "which still needs memory from here" on $at vmbeam migrate m --to fresh
	status=0
	case $part in
	receiver) kill -9 $(victim receive $other) ;;
	sender) kill -9 $(victim send $at) ;;
	driver) kill -KILL $(pgrep -f "^vmbeam migrate m") ;;
	cable)
		ip -n $at link set cable down
		sleep 15
		ip -n $at link set cable up
		;;
	esac
	wait $slow || status=1
	if [ $part = sender ]; then
		grep -q "migrate m --resume" slow.out || fail "sender: $(cat slow.out)"
		refuses "which still needs memory from here" on $at vmbeam resume m --force
		check "resume" on $at vmbeam migrate m --resume --json >move.json
	elif [ $part != driver ]; then
		[ $status = 0 ] || fail "$part: $(cat slow.out)"
	fi
	swap
	only_on $at $other
	echo "= $part, post-copy: $(tail -n 1 slow.out)"
done

# Whoever is attached to one that goes is told, and is not told that it has crashed.
on $at vmbeam run attached --kernel "$LAB/vmlinux" --initrd "$GUESTS/beat.cpio" --append \
	"console=ttyS0 quiet panic=-1 beat.mem=16M" --memory 128M </dev/null >attached.out 2>&1 &
attached=$!
wait_for 60 grep -q "^tick 1 " attached.out
on $at vmbeam migrate attached --to "tls://$(address $other):7000" --tls certs --downtime-limit 1000 >move.out 2>&1 ||
	fail "attached: $(cat move.out)"
wait $attached || fail "attached: $(tail -n 2 attached.out)"
grep -q "attached: it has moved to another machine" attached.out || fail "attached: $(tail -n 2 attached.out)"
check "stop attached" on $other vmbeam stop attached --force

check "power off" on $at vmbeam stop m --timeout 60
# (With its memory on the other side of a cut cable its writer waits, and its other threads go on.)
check "memory, disk, clock, serial" beatcheck --stall 600 --min ticks=20 --min passes=1 --min diskw=1000 m.log >verdict
kill $(pgrep -f "vmbeam receive") 2>/dev/null
echo "= guest: $(cat verdict)"
