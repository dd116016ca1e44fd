# Size does not matter in a guest hypervisor either: downtime, and total without warming, of guests of 256 MiB,
# 1, 2 and 4 GiB, all of whose memory exists, moved between two hypervisors, medians of MOVES (default 10): within
# 1.3 of each other.  One guest at a time: the emulated hypervisor has no room for four.
# Needs a lab of 12 GiB (LAB_MEMORY).
N=${MOVES:-10}

# 2 MiB pages at both levels.
echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled
check "hv-a" vmbeam hypervisor start hv-a --memory 1G --window 8G >hv-a.txt
check "hv-b" vmbeam hypervisor start hv-b --memory 1G --window 8G >hv-b.txt
for s in 256 1024 2048 4096; do
	start_beat g$s g$s.log "beat.tick=1000 beat.mem=$((s * 7 / 8 - 100))M beat.rate=1M" --in hv-a --memory ${s}M
	echo "$s MiB: $(vmbeam info g$s | grep allocated)"
	i=0
	while [ $i -lt "$N" ]; do
		vmbeam migrate g$s --to $([ $((i % 2)) = 0 ] && echo hv-b || echo hv-a) --no-warm --json >move.json ||
			fail "g$s: $(cat move.json)"
		json move.json downtime_ns >>$s.downtime
		json move.json total_ns >>$s.total
		json move.json bytes_sent >>bytes
		sleep 1
		i=$((i + 1))
	done
	check "power off" vmbeam stop g$s --timeout 60
	check "memory, clock and serial" beatcheck --min ticks=5 g$s.log >verdict
done
for what in downtime total; do
	for s in 256 1024 2048 4096; do
		echo "$s $(median <$s.$what)"
	done >$what
	ratio=$(awk '{ if (!n++ || $2 < lo) lo = $2; if ($2 > hi) hi = $2 } END { printf "%.2f", hi / lo }' $what)
	echo "= $what, medians of $N: $(tr '\n' ' ' <$what) (MiB ns), longest / shortest $ratio"
	awk "BEGIN { exit !($ratio <= 1.3) }" || bad="${bad:-} $what"
done
echo "= at most $(sort -n bytes | tail -n 1) bytes copied"
[ -z "${bad:-}" ] || fail "$bad depends on the size by more than 1.3"
