# machines.sh: two machines for a test (tests/lab/network.sh, limits.sh): network namespaces here and there, joined by a
# cable, each with VMs of its own.
T=$PWD

# (What a test before has left; a namespace goes with the last process in it.)
for ns in here there; do
	! ip netns list | grep -qw $ns || ip netns del $ns
done
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
# move FROM TO [option...]: in move.json; $into: /HYPERVISOR.
into= port=7000
move() {
	from=$1 to=$2
	shift 2
	on "$from" vmbeam migrate m --to "tls://$(address "$to"):$port$into" --tls certs --downtime-limit 1000 "$@" --json >move.json 2>move.err
}
# victim PART MACHINE: vmbeam-migrate's process there.
victim() {
	for p in $(pgrep -f "vmbeam-migrate $1"); do
		[ "$(ip netns identify "$p")" != "$2" ] || echo "$p"
	done
}
runs_on() { on "$1" vmbeam info m --json 2>/dev/null | grep -q '"state": "running"'; }
absent_on() { on "$1" vmbeam info m 2>&1 | grep -q "no such VM"; }
# only_on MACHINE OTHER
only_on() {
	wait_for 20 runs_on "$1"
	wait_for 20 absent_on "$2"
	goes_on m.log
}

check "certs" vmbeam certs certs 10.7.0.1 10.7.0.2 >/dev/null
truncate -s 16M disk.img
receive here
receive there
at=here other=there
swap() { x=$at at=$other other=$x; }
