#!/bin/sh
# qemu.sh: vmbeam beside QEMU's cpr-transfer; `make bench-qemu`.  RUNS (default 5), SIZES in MiB
# (512 1024), CPUS (2) and HUGE=1 (both with hugetlb pages) come from the environment.
#
# All rounds run in one lab (or right here where KVM nests), a vmbeam, a vmbeam without
# warming and a QEMU after one another in each (qemu-inside.sh).  When the emulator itself breaks down
# (status 125 of `vmbeam lab`) the rounds that are not complete run again in a fresh lab, at most
# RETRIES times; if that does not do, all is done again with one vCPU.  The table on stdout counts
# this call's runs; every complete round of every call stays in build/bench/qemu.csv:
#   call, machine, where, labs    when, on what and whether emulated, the number of this lab
#   vmbeam, qemu                  versions
#   size, cpus, huge, round, arm  what was run, memory in MiB
#   outcome                       "ok" or what went wrong; then figures may be missing
#   start, own_start              ns from starting the VMM to the first kvm_entry; vmbeam's own account
#   total                         vmbeam's total_ns; QEMU: as wall
#   own_total                     vmbeam's total_ns; QEMU's query-migrate: without starting the destination
#   wall                          from outside: start of `vmbeam migrate` or of the destination QEMU until
#                                 the guest runs there and the source's process is gone
#   downtime                      vmbeam's downtime_ns; QEMU's query-migrate, which leaves out the
#                                 destination's part
#   blackout                      the last kvm_exit at the source to the first kvm_entry at the destination
#   gap                           the longest pause that the guest saw by its own clock around the handover,
#                                 less the normal one (beatcheck); QEMU stops that clock meanwhile
#   rss, rss_nonram               KiB of the VMM; the second without its mapping of the RAM (a memfd)
#   pss_nonram                    KiB, shared libraries divided among their users
#   ram_2m                        KiB of memory that is mapped by 2 MiB pages
set -u
cd "$(dirname "$0")/.." || exit 1
RETRIES=3
runs=${RUNS:-5} sizes=${SIZES:-512 1024} huge=${HUGE:-}
csv=build/bench/qemu.csv
part=$PWD/build/bench/qemu.part
call=$(date -u +%Y-%m-%dT%H:%M:%SZ)
where=$(build/vmbeam lab --where) || exit 1
machine=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1 | tr -d '",')
versions=$(git describe --always --dirty 2>/dev/null),$(sed 's/.*Debian \(.*\))/\1/' build/bench/qemu10/version)
# shellcheck disable=SC2086 # several numbers
biggest=$(printf '%s\n' $sizes | sort -n | tail -n 1)

rm -f "$part"
for cpus in ${CPUS:-2} 1; do
	labs=0
	while [ $labs -le $RETRIES ]; do
		left=
		for round in $(seq "$runs"); do
			for size in $sizes; do
				grep -qs ",$size,$cpus,[^,]*,$round,qemu," "$part" || left="$left $size:$round"
			done
		done
		[ -n "$left" ] || break 2
		labs=$((labs + 1))
		# shellcheck disable=SC2086 # several rounds
		build/vmbeam lab --memory $((2 * biggest + 4096))M -- sh bench/qemu-inside.sh "$part" "$cpus" "$huge" \
			"$call,\"$machine\",$where,$labs,$versions" $left
		status=$?
		if [ $status != 125 ]; then
			[ $status = 0 ] || exit $status
		else
			echo "the emulator broke down (see above)"
		fi
	done
	[ "$cpus" != 1 ] || break
	echo "the emulator does not hold it with $cpus vCPUs: all again with 1"
	rm -f "$part"
done

[ -s "$part" ] || exit 1
header="call,machine,where,labs,vmbeam,qemu,size,cpus,huge,round,arm,outcome,start,own_start,total,\
own_total,wall,downtime,blackout,gap,rss,rss_nonram,pss_nonram,ram_2m"
[ ! -f $csv ] || [ "$(head -n 1 $csv)" = "$header" ] || mv $csv $csv.old # columns that meant something else
[ -f $csv ] || echo "$header" >$csv
cat "$part" >>$csv
awk -F, -f bench/qemu.awk "$part"
status=$?
echo "Every run is in $csv; bench/qemu.sh says what each figure is."
exit $status
