# machines.sh: two machines for a test, `here` and `there`, each with VMs of its own.  In a lab of two (run.sh, "machines: 2")
# they are what they are called; else network namespaces of one, joined by a cable that a test may cut.
T=$PWD

if [ "${VMBEAM_LAB_MACHINE-}" ]; then
	address() { [ "$1" = here ] && echo 10.9.0.1 || echo 10.9.0.2; }
	# Over there a shell reads from port 99 (run.sh).
	on() {
		ns=$1
		shift
		if [ "$ns" = here ]; then
			"$@"
			return
		fi
		reply=$(mktemp -d "$T/on.XXXXXX")
		{
			printf "cd '%s'; export VMBEAM_FAULT='%s'; " "$T" "${VMBEAM_FAULT-}"
			printf "'%s' " "$@"
			printf '</dev/null 2>%s/err; echo $? >%s/status; exit\n' "$reply" "$reply"
		} | socat -t 9000 - TCP:10.9.0.2:99
		cat "$reply/err" >&2
		status_there=$(cat "$reply/status")
		rm -r "$reply"
		return "$status_there"
	}
	processes() { on "$1" pgrep -f "$2"; }
	wait_for 120 socat -u OPEN:/dev/null TCP:10.9.0.2:99
else
	address() { [ "$1" = here ] && echo 10.7.0.1 || echo 10.7.0.2; }
	# (What a test before has left; a namespace goes with the last process in it.)
	for ns in here there; do
		! ip netns list | grep -qw $ns || ip netns del $ns
	done
	ip netns add here && ip netns add there && ip link add cable netns here type veth peer name cable netns there ||
		fail "no network namespaces"
	for ns in here there; do
		ip -n $ns addr add "$(address $ns)/24" dev cable && ip -n $ns link set lo up && ip -n $ns link set cable up
		mkdir $ns
	done
	# on MACHINE COMMAND...
	on() {
		ns=$1
		shift
		ip netns exec "$ns" env VMBEAM_RUNTIME_DIR="$T/$ns" "$@"
	}
	# processes MACHINE TEXT: that have it in their command line.
	processes() {
		for p in $(pgrep -f "$2"); do
			[ "$(ip netns identify "$p")" != "$1" ] || echo "$p"
		done
	}
fi
# receive MACHINE [option...]
receive() {
	ns=$1
	shift
	on "$ns" sh -c "exec vmbeam receive --listen $(address "$ns"):7000 --tls certs --allow $T --allow $LAB --allow $GUESTS $* 2>&1" \
		>>"receive.$ns" &
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
victim() { processes "$2" "[v]mbeam-migrate $1"; }
runs_on() { on "$1" vmbeam info m --json 2>/dev/null | grep -q '"state": "running"'; }
absent_on() { on "$1" vmbeam info m 2>&1 | grep -q "no such VM"; }
# only_on MACHINE OTHER
only_on() {
	wait_for 20 runs_on "$1"
	wait_for 20 absent_on "$2"
	goes_on m.log
}

check "certs" vmbeam certs certs "$(address here)" "$(address there)" >/dev/null
truncate -s 16M disk.img
receive here
receive there
at=here other=there
swap() { x=$at at=$other other=$x; }
