#!/bin/sh
# demo.sh: what `make demo` shows: a Debian guest whose redis is under steady load is handed to a fresh
# VMM ten times.  Run in the lab where there is no /dev/kvm, and right here where there is.
set -u
cd "$(dirname "$0")/.." || exit 1
TOP=$(pwd)
if [ "${1:-}" != inside ]; then
	[ -c /dev/kvm ] || echo "no /dev/kvm here: all of it runs in an emulated machine, so times are emulated"
	exec build/vmbeam lab --memory 4G -- env HANDOVERS="${HANDOVERS:-}" sh tests/demo.sh inside
fi
export PATH=$TOP/build:$TOP/build/guests:$PATH
N=${HANDOVERS:-10}
T=$(mktemp -d)
. tests/lab/lib.sh
cleanup() {
	[ -z "${load:-}" ] || kill "$load" 2>/dev/null
	vmbeam stop demo --force 2>/dev/null
	ip link del vmbeam-demo 2>/dev/null
	rm -rf "$T"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

make_tap vmbeam-demo 10.97.0.1/24
echo "starting a Debian guest (redis, nginx) with 512 MiB and 2 vCPUs ..."
vmbeam run demo --kernel build/lab/vmlinux --initrd build/guests/debian-initrd.cpio --memory 512M --cpus 2 \
	--disk build/guests/debian.img,ro --net tap=vmbeam-demo --serial "$T/serial" --detach \
	--append "console=ttyS0 quiet guest.ip=10.97.0.2/24" || exit 1
s=0
until grep -qs "guest ready" "$T/serial"; do
	sleep 1
	s=$((s + 1))
	[ $((s % 5)) != 0 ] || echo "  booting, $s s"
	[ $s -lt 120 ] || fail "the guest did not boot: $(tail -n 5 "$T/serial")"
done
echo "  up after $s s; 100 requests a second to its redis from outside from now on"
redisload 10.97.0.2 --rate 100 --clients 4 --json >"$T/load" 2>"$T/load.err" &
load=$!
sleep 3
kill -USR1 $load
sleep 1
# Of the last line of JSON that the load printed.
field() {
	tail -n 1 "$T/load" | sed "s/.*\"$1\": *\([-0-9.]*\).*/\1/"
}
ms() {
	awk "BEGIN { printf \"%.$2f\", $1 / 1e6 }"
}
failed=0 requests=0 i=0
while [ $i -lt "$N" ]; do
	i=$((i + 1))
	lines=$(wc -l <"$T/load")
	vmbeam migrate demo --to fresh --json >"$T/move" || fail "handover $i: $(cat "$T/move")"
	sleep 1
	kill -USR1 $load || fail "the load has ended: $(cat "$T/load" "$T/load.err")"
	wait_for 10 sh -c "[ \$(wc -l <'$T/load') -gt $lines ]"
	f=$(field failures) r=$(field requests)
	failed=$((failed + f)) requests=$((requests + r))
	printf 'handover %2d/%d: %d MiB, total %s ms, downtime %s ms, copied %d bytes; %d requests meanwhile, %d failed\n' \
		$i "$N" $(($(json "$T/move" memory_bytes) / 1048576)) "$(ms "$(json "$T/move" total_ns)" 0)" \
		"$(ms "$(json "$T/move" downtime_ns)" 1)" "$(json "$T/move" bytes_sent)" "$r" "$f"
	json "$T/move" total_ns >>"$T/totals"
	json "$T/move" downtime_ns >>"$T/downtimes"
done
kill -TERM $load
wait $load
status=$?
load=
summary=$(tail -n 1 "$T/load")
range() {
	sort -n "$1" | awk -v d="$2" '{ v[NR] = $1 / 1e6 } END { printf "%8.*f %8.*f %8.*f", d, v[1], d, NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2, d, v[NR] }'
}
echo
echo "                       min   median      max"
echo "total, ms         $(range "$T/totals" 1)"
echo "downtime, ms      $(range "$T/downtimes" 1)"
echo "requests          $requests, failed $failed"
echo "memory copied     none: 512 MiB were remapped $N times"
[ $status = 0 ] && [ $failed = 0 ] || fail "requests were lost: $summary"
