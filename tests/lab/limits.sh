# Does a migration between machines keep its downtime limit?  The fixed cost of switching over is measured with an idle
# guest; then limits of 3 and 10 times that, with guests that write slowly and fast.  RUNS (5) for each.
. "$TOP/tests/lab/machines.sh"

# start RATE: a guest that writes its memory at that rate.
start() {
	check "start m" on $at vmbeam run m --kernel "$LAB/vmlinux" --initrd "$GUESTS/beat.cpio" \
		--append "console=ttyS0 quiet panic=-1 beat.mem=64M beat.rate=$1" --memory 256M --serial "$T/m.log" --detach
	wait_for 60 grep -q '^tick 1 ' m.log
}
over() {
	check "power off" on $at vmbeam stop m --timeout 60
	check "memory" beatcheck m.log >verdict
	wait_for 10 absent_on $at
	rm -f m.log
}
# try LIMIT RATE: "LIMIT RATE OUTCOME DOWNTIME" to the file `tries`.
try() {
	outcome=given-up
	if on $at vmbeam migrate m --to "tls://$(address $other):7000" --tls certs --mode pre-copy --downtime-limit "$1" \
		--timeout 90 --json >move.json 2>move.err; then
		outcome=completed
		swap
	fi
	echo "$1 $2 $outcome $(json move.json downtime_ns) $(tail -n 1 move.err)" | tee -a tries
	only_on $at $other
}

start 1M
for i in $(seq 5); do
	try 100000 idle
done
over
fixed=$(awk '{ print $4 / 1e6 }' tries | median | cut -d. -f1)
rm tries
for rate in 5M 50M; do
	start $rate
	for i in $(seq "${RUNS:-5}"); do
		for times in 3 10; do
			try $((fixed * times)) $rate
		done
	done
	over
done
kill $(pgrep -f "vmbeam receive") 2>/dev/null
for limit in $((fixed * 3)) $((fixed * 10)); do
	for rate in 5M 50M; do
		awk -v l="$limit" -v r=$rate '$1 == l && $2 == r { n++; done += $3 == "completed"; ms = $4 / 1e6
			if ($3 == "completed") { kept += ms <= l; if (ms > max) max = ms } }
			END { printf "= limit %d ms, %s/s: %d of %d completed, %d kept it, longest %d ms\n", l, r, done, n, kept, max }' tries
	done
done
awk -v fixed="$fixed" '$3 == "completed" { done++; kept += $4 / 1e6 <= $1 } END {
	printf "= switching over takes %d ms; %d of %d kept their limit, %d were given up\n", fixed, kept, done, NR - done
	exit kept < 0.95 * done || NR - done > 0.1 * NR }' tries || fail "$(cat tries)"
