# Size does not matter: downtime, and total without warming, of a 4 GiB guest against a 512 MiB one, all
# of whose memory exists, in one lab run, interleaved, medians of MOVES (default 20): within 1.3.
N=${MOVES:-20}

start_beat small small.log "beat.mem=400M beat.rate=1M" --memory 512M
start_beat large large.log "beat.mem=3600M beat.rate=1M" --memory 4G
i=0
while [ $i -lt "$N" ]; do
	for vm in small large; do
		vmbeam migrate $vm --to fresh --no-warm --json >move.json || fail "$vm: $(cat move.json)"
		json move.json downtime_ns >>$vm.downtime
		json move.json total_ns >>$vm.total
		sleep 0.3
	done
	i=$((i + 1))
done
for vm in small large; do
	check "power off" vmbeam stop $vm --timeout 60
	check "$vm" beatcheck --min ticks=10 $vm.log >/dev/null
done
for what in downtime total; do
	s=$(median <small.$what) l=$(median <large.$what)
	echo "= $what, medians of $N: 512 MiB $s ns, 4 GiB $l ns, ratio $(awk "BEGIN { printf \"%.2f\", $l / $s }")"
	awk "BEGIN { exit !($l <= 1.3 * $s) }" || bad="$what"
done
[ -z "${bad:-}" ] || fail "$bad depends on the size by more than 1.3"
