# Rejuvenations in a row, of a hypervisor with two guests, leave nothing behind at L0: processes, descriptors,
# mappings of guests' memory, shared memory.  REJUVENATIONS says how many (default 1; 50 in `make check-long`).
N=${REJUVENATIONS:-1}

# What vmbeam's processes hold: processes, descriptors, mapped memfds; shared memory of the machine in MiB.
count() {
	sleep 1
	p=0 d=0 m=0
	for pid in $(pgrep -x vmbeam-vmm); do
		p=$((p + 1))
		d=$((d + $(ls /proc/$pid/fd | wc -l)))
		m=$((m + $(grep -c 'memfd:' /proc/$pid/maps)))
	done
	echo "$p $d $m"
	awk '/^Shmem:/ { print int($2 / 1024) }' /proc/meminfo >shmem
}

# 2 MiB pages at both levels.
echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled
check "hv" vmbeam hypervisor start hv --memory 768M --window 4G >hv.txt
for g in one two; do
	start_beat_in hv $g $g.log "beat.tick=1000 beat.mem=32M beat.rate=1M" --memory 128M
done
check "the first" vmbeam rejuvenate hv --json >first.json
before=$(count) shared=$(cat shmem)
i=0
while [ $i -lt "$N" ]; do
	vmbeam rejuvenate hv --parallel $((1 + i % 2)) --json >r.json || fail "rejuvenation $i: $(cat r.json)"
	i=$((i + 1))
	echo "$i of $N"
done
after=$(count)
[ "$before" = "$after" ] || fail "processes, descriptors, mappings: $before before, $after after"
[ "$(cat shmem)" -le $((shared + 32)) ] || fail "shared memory: $shared MiB before, $(cat shmem) after"
[ "$(ls /run/vmbeam | wc -l)" = 3 ] || fail "folders are left: $(ls /run/vmbeam)"
for g in one two; do
	check "power off" vmbeam stop $g --timeout 60
	check "memory, clock and serial" beatcheck --min ticks=5 $g.log >verdict
done
check "stop" vmbeam hypervisor stop hv
echo "= $N rejuvenations; processes, descriptors, mapped memfds: $after; shared memory $shared, then $(cat shmem) MiB"
