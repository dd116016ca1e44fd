# vmbeamd on two machines, each with `vmbeam receive`: where method pre-copy is configured a hypervisor's guests go to the other machine, and it is
# started anew; what that refuses stays, and so does its hypervisor.
. "$TOP/tests/lab/machines.sh"
# (Here the daemons receive, not those that machines.sh has begun.)
pkill -f "receive --listen"
for ns in here there; do
	wait_for 20 sh -c "! ip netns exec $ns ss -ltn | grep -q :7000"
done
# daemon_on MACHINE OTHER "what VMs may open"
daemon_on() {
	cat >$1.conf <<-E
	[daemon]
	socket = $T/$1.sock
	tls = $T/certs
	receive = $(address $1):7000
	allow = $GUESTS
	$3
	monitor = no
	[hypervisor *]
	min-interval = 0
	retry = 300s
	methods = pre-copy
	target = tls://$(address $2):7000
	E
	ip netns exec $1 env VMBEAM_RUNTIME_DIR="$T/$1" VMBEAM_STATE_DIR="$T/$1.state" vmbeamd --config $1.conf >>$1.out 2>&1 &
	eval "$1=$!"
	wait_for 20 get $1 /v1/status
	wait_for 20 sh -c "ip netns exec $1 ss -ltn | grep -q :7000"
}
get() {
	curl -sf -m 10 --unix-socket "$1.sock" "http://vmbeam$2" ${3-} ${4-}
}
says() {
	get "$1" /v1/hypervisors | grep -q "\"state\": \"$2\""
}
completed() {
	get "$1" /v1/rejuvenations | grep -q '"outcome": "completed"'
}
daemon_on there here ""
echo "a daemon there"
check "hv" on here vmbeam hypervisor start hv --memory 640M --window 1G >hv.txt
check "one" on here vmbeam run one --in hv --kernel "$LAB/vmlinux" --initrd "$GUESTS/beat.cpio" --append "console=ttyS0 quiet panic=-1 beat.tick=1000 beat.mem=16M beat.rate=64K" \
	--memory 128M --serial "$T/one.log" --detach
wait_for 60 grep -q '^tick 1 ' one.log
echo "one runs in hv"
daemon_on here there "allow = $LAB"
wait_for 30 says here idle

echo "a daemon here"
# What it names may not be opened there: refused before anything moves.
check "wanted" get here /v1/hypervisors/hv/rejuvenate -X POST >/dev/null
wait_for 120 says here blocked

get here /v1/hypervisors | sed -n 's/.*"reason": "\(.*\)",$/= refused: \1/p'
on here vmbeam info one --json >info.json
[ "$(json info.json placement)" = hv ] || fail "one is in $(json info.json placement)"
goes_on one.log

# Allowed, it goes.
sed -i "s|^allow = $GUESTS|&\nallow = $LAB\nallow = $T|" there.conf
kill -HUP $there
wait_for 20 pgrep -f "receive --listen $(address there).*$T"
wait_for 20 sh -c "ip netns exec there ss -ltn | grep -q :7000"
check "wanted" get here /v1/hypervisors/hv/rejuvenate -X POST >/dev/null
wait_for 240 completed here
on there vmbeam info one --json >info.json
[ "$(json info.json state)" = running ] || fail "one is not there: $(cat info.json)"
goes_on one.log
on here vmbeam list >left
! grep -q '^one ' left || fail "one is here, too: $(cat left)"
grep -q '^hv ' left || fail "hv is gone: $(cat left)"
get here /v1/rejuvenations >runs.json
echo "= one went to the other machine, downtime $(json runs.json downtime_ns) ns"
kill $here $there
wait $here || fail "vmbeamd here ended with $?"
wait $there || fail "vmbeamd there ended with $?"
on there vmbeam stop one --timeout 60
beatcheck --min ticks=5 one.log >verdict || fail "one: $(cat verdict)"
on here vmbeam hypervisor stop hv
pkill -f "receive --listen" || fail "no receiver has outlived its daemon"
