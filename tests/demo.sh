#!/bin/sh
# demo.sh: what `make demo` shows: two guest VMs, redis and nginx under steady load from outside, in a guest
# hypervisor that leaks; one `vmbeam rejuvenate`, while the load goes on.  Run in the lab where there is
# no KVM that nests, and right here where there is.
set -u
cd "$(dirname "$0")/.." || exit 1
TOP=$(pwd)
if [ "${1:-}" != inside ]; then
	[ "$(build/vmbeam lab --where)" = native ] || echo "no KVM that nests here: all of it runs in an emulated machine, so times are emulated"
	# The emulator sometimes breaks down (status 125: it says why): then once more, twice at most.
	for try in 1 2 3; do
		build/vmbeam lab --memory 6G -- sh tests/demo.sh inside
		status=$?
		[ $status = 125 ] || break
		[ $try = 3 ] || echo "once more, in a fresh emulated machine"
	done
	exit $status
fi
export PATH=$TOP/build:$TOP/build/guests:$PATH VMBEAM_TEST=1
T=$(mktemp -d)
export VMBEAM_STATE_DIR=$T/state
. tests/lab/lib.sh
GUESTS="redis nginx"
cleanup() {
	for g in $GUESTS; do
		[ ! -f "$T/$g.pid" ] || kill "$(cat "$T/$g.pid")" 2>/dev/null
		vmbeam stop $g --force 2>/dev/null
		ip link del vmbeam-$g 2>/dev/null
	done
	vmbeam stop hv-a --force 2>/dev/null
	vmbeam stop hv-a.new --force 2>/dev/null
	rm -rf "$T"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
# What is under way says so at least every 5 s.
during() {
	s=0
	while ! eval "$2"; do
		sleep 1
		s=$((s + 1))
		[ $((s % 5)) != 0 ] || echo "  $1, $s s"
		[ $s -lt 240 ] || fail "$1: not within $s s"
	done
}
# Of the last line of JSON that a load printed.
field() {
	tail -n 1 "$T/$1.load" | sed "s/.*\"$2\": *\([-0-9.]*\).*/\1/"
}

echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled # 2 MiB pages at both levels
echo "starting a guest hypervisor (hv-a, 1 GiB) ..."
vmbeam hypervisor start hv-a --memory 1G --window 8G | head -n 1
i=0
for g in $GUESTS; do
	i=$((i + 1))
	make_tap vmbeam-$g 10.97.$i.1/24
	echo "starting $g, a Debian guest with 256 MiB, in hv-a ..."
	vmbeam run $g --in hv-a --kernel build/lab/vmlinux --initrd build/guests/debian-initrd.cpio --memory 256M \
		--disk build/guests/debian.img,ro --net tap=vmbeam-$g --serial "$T/$g.serial" --detach \
		--append "console=ttyS0 quiet guest.ip=10.97.$i.2/24" || exit 1
done
during "booting" 'grep -qs "guest ready" "$T/redis.serial" && grep -qs "guest ready" "$T/nginx.serial"'
echo "both are up; 10 requests a second to each from outside from now on"
redisload 10.97.1.2 --rate 10 --clients 2 --json >"$T/redis.load" 2>"$T/redis.err" &
echo $! >"$T/redis.pid"
httpload 10.97.2.2 --rate 10 --clients 2 --json >"$T/nginx.load" 2>"$T/nginx.err" &
echo $! >"$T/nginx.pid"
sleep 5
for mib in 100 200 300 400 500; do
	vmbeam hypervisor leak hv-a 100M || exit 1
	echo "hv-a ages: it has lost $mib MiB"
done
vmbeam hypervisor list
echo "vmbeam rejuvenate hv-a"
vmbeam rejuvenate hv-a --json >"$T/rejuvenation" &
pid=$!
during "starting a fresh hypervisor beside it, moving the guests" '! kill -0 $pid 2>/dev/null'
wait $pid || fail "rejuvenate: $(cat "$T/rejuvenation")"
sleep 5
lost=0
for g in $GUESTS; do
	load=$(cat "$T/$g.pid")
	rm "$T/$g.pid"
	kill -TERM "$load"
	wait "$load" || lost=1
done
vmbeam hypervisor list
# One guest's part of the report.
of() {
	awk -v vm="$1" -v key="\"$2\":" '$1 == "\"vm\":" { here = $2 == "\"" vm "\"," } here && $1 == key && !done { sub(",", "", $2); print $2; done = 1 }' "$T/rejuvenation"
}
echo
printf '%-8s %11s %14s %14s %10s %8s\n' guest "total, ms" "downtime, ms" "copied, bytes" requests failed
for g in $GUESTS; do
	printf '%-8s %11.1f %14.1f %14d %10d %8d\n' $g "$(of $g total_ns | awk '{ print $1 / 1e6 }')" \
		"$(of $g downtime_ns | awk '{ print $1 / 1e6 }')" "$(of $g bytes_sent)" "$(field $g requests)" "$(field $g failures)"
	[ "$(field $g failures)" = 0 ] || lost=1
done
echo
mib() {
	echo $(($(json "$T/rejuvenation" "$1") / 1048576)) MiB
}
echo "free memory of the hypervisor: $(mib available_before_bytes) before, $(mib available_after_bytes) after"
[ $lost = 0 ] || fail "requests were lost: $(tail -n 1 "$T/redis.load") $(tail -n 1 "$T/nginx.load")"
