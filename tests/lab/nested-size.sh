# Size does not matter in a guest hypervisor either: downtime, and total without warming, of guests of 256 MiB,
# 1, 2 and 4 GiB, all of whose memory exists, moved between two hypervisors, medians of MOVES (default 10): within
# 1.3 of each other, in pages of 2 MiB.  The same in pages of 4 KiB for the two smaller (filling them takes minutes), and for each how long a move holds up whoever
# else is in the hypervisor that is left (the fence and the taking out of the memory).  One guest at a time: the
# emulated hypervisor has no room for four.  Needs a lab of 12 GiB (LAB_MEMORY).
N=${MOVES:-10}
thp=/sys/kernel/mm/transparent_hugepage/shmem_enabled

frozen() {
	for hv in hv-a hv-b; do
		info_of $hv window_frozen_ns
	done | awk '{ s += $1 } END { printf "%.0f\n", s }'
}

echo advise >$thp
check "hv-a" vmbeam hypervisor start hv-a --memory 1G --window 8G >hv-a.txt
check "hv-b" vmbeam hypervisor start hv-b --memory 1G --window 8G >hv-b.txt
for pages in 2M 4K; do
	sizes="256 1024 2048 4096"
	[ $pages = 2M ] || { echo never >$thp && sizes="256 1024"; }
	for s in $sizes; do
		g=g$pages-$s
		start_beat $g $g.log "beat.tick=1000 beat.mem=$((s * 7 / 8 - 100))M beat.rate=1M" --in hv-a --memory ${s}M
		echo "$pages, $s MiB: $(vmbeam info $g | grep allocated)"
		i=0
		while [ $i -lt "$N" ]; do
			before=$(frozen)
			vmbeam migrate $g --to $([ $((i % 2)) = 0 ] && echo hv-b || echo hv-a) --no-warm --json >move.json ||
				fail "$g: $(cat move.json)"
			json move.json downtime_ns >>$pages-$s.downtime
			json move.json total_ns >>$pages-$s.total
			phases move.json | sed -n 's/^fence //p' >>$pages-$s.fence
			json move.json bytes_sent >>bytes
			sleep 1
			echo $(($(frozen) - before)) >>$pages-$s.frozen
			i=$((i + 1))
		done
		check "power off" vmbeam stop $g --timeout 60
		check "memory, clock and serial" beatcheck --min ticks=5 $g.log >verdict
	done
	for what in downtime total fence frozen; do
		for s in $sizes; do
			echo "$s $(median <$pages-$s.$what)"
		done >$what
		ratio=$(awk '{ if (!n++ || $2 < lo) lo = $2; if ($2 > hi) hi = $2 } END { printf "%.2f", hi / lo }' $what)
		echo "= $pages pages, $what, medians of $N: $(awk '{ printf "%d MiB %.1f ms, ", $1, $2 / 1e6 }' $what) longest / shortest $ratio"
		case $pages-$what in
		2M-downtime | 2M-total) awk "BEGIN { exit !($ratio <= 1.3) }" || bad="${bad:-} $what" ;;
		esac
	done
done
echo "= at most $(sort -n bytes | tail -n 1) bytes copied"
[ -z "${bad:-}" ] || fail "$bad depends on the size by more than 1.3"
