# A guest VM in a guest hypervisor, three levels of real KVM: it writes memory and disk and has a network
# stream running, all verified, while it is moved between two hypervisors, to the host and back; at the
# end its hypervisor is rejuvenated.  NESTED says how many moves between hypervisors (default 4), CPUS
# how many vCPUs host VMs and guest have (default 1).  With NESTED_ALL its host VM is handed over under it and
# its hypervisor is rejuvenated warm, too.
N=${NESTED:-4} CPUS=${CPUS:-1}

make_tap tap-nested 10.8.0.1/24
modprobe loop
truncate -s 64M disk.img
loop=$(losetup -f --show disk.img)
# 2 MiB pages at both levels.
echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled
check "hv-a" vmbeam hypervisor start hv-a --memory 1G --cpus "$CPUS" --window 8G >hv-a.txt
check "hv-b" vmbeam hypervisor start hv-b --memory 1G --cpus "$CPUS" --window 2G >hv-b.txt
refuses "no gap" vmbeam run big --in hv-b --kernel "$LAB/vmlinux" --memory 3G --detach
refuses "no such VM" vmbeam run lost --in hv-z --kernel "$LAB/vmlinux" --detach
start_beat n n.log "beat.tick=1000 beat.disk=1 beat.net=10.8.0.2/24 beat.mem=64M" --in hv-a --cpus "$CPUS" --memory 256M \
	--disk "$loop" --net tap=tap-nested
refuses "guest VMs run in it" vmbeam hypervisor stop hv-a
refuses "in hypervisor hv-a already" vmbeam migrate n --to hv-a
refuses "no such VM" vmbeam migrate n --to hv-z
wait_for 60 ping -c 1 -W 1 10.8.0.2
# A line of the serial port costs an exit per character: few lines, slow packets, or the emulated guest is
# busy with nothing else.
beatpeer 10.8.0.2 --rate 200000 --interval 20 >peer.json 2>peer.err &
peer=$!
sleep 2

note() { echo "$(cut -d" " -f1 /proc/uptime)" "$@"; }
# moved TO: one move, its downtime and total kept under $kind.
moved() {
	vmbeam migrate n --to "$1" --json >move.json || fail "move to $1: $(cat move.json)"
	json move.json downtime_ns >>"$kind.downtimes"
	json move.json total_ns >>"$kind.totals"
	json move.json bytes_sent >>"$kind.bytes"
	phases move.json >>"$kind.phases"
	note "moved to $1: $(json move.json downtime_ns) "; sleep 0.5
}

i=0
while [ $i -lt "$N" ]; do
	kind=nested
	moved $([ $((i % 2)) = 0 ] && echo hv-b || echo hv-a)
	i=$((i + 1))
done
kind=mixed
moved fresh
moved host
kind=host
moved fresh
moved fresh
moved fresh
kind=mixed
moved hv-a
# Its host VM goes to fresh processes under it.
if [ -n "${NESTED_ALL:-}" ]; then
	kind=hv
	for _ in 1 2; do
		vmbeam migrate hv-a --to fresh --json >move.json || fail "hv-a to a fresh process: $(cat move.json)"
		json move.json downtime_ns >>hv.downtimes
		sleep 0.5
	done
fi
note rejuvenate
vmbeam rejuvenate hv-a --json >rejuvenation.json || fail "rejuvenate: $(cat rejuvenation.json)"
[ "$(info_of n placement)" = hv-a ] || fail "it is not in hv-a"
if [ -n "${NESTED_ALL:-}" ]; then
	note rejuvenate, warm
	vmbeam rejuvenate hv-a --method warm --json >warm.json || fail "rejuvenate, warm: $(cat warm.json)"
fi
note rejuvenated
kill -TERM $peer
wait $peer || fail "the network stream: $(cat peer.json peer.err)"
check "power off" vmbeam stop n --timeout 120
check "memory, disk, network, clock, serial" beatcheck --min ticks=10 --min passes=2 \
	--min diskw=100000 --min nettx=10000 --min netrx=10000 n.log >verdict
losetup -d "$loop"
# Nobody listens to its serial line, in a hypervisor and out of it again: it still shuts down.
check "web" vmbeam run web --kernel "$LAB/vmlinux" --initrd "$GUESTS/beat.cpio" --append "console=ttyS0 quiet" \
	--cpus 2 --serial socket --detach
sleep 3
for to in hv-a hv-b host; do
	check "web to $to" vmbeam migrate web --to "$to" >/dev/null
	sleep 1
done
check "power off web" vmbeam stop web
check "stop hv-a" vmbeam hypervisor stop hv-a
check "stop hv-b" vmbeam hypervisor stop hv-b
[ -z "$(pgrep -x vmbeam-vmm)" ] || fail "a process is left"
echo "= $N nested moves: median downtime $(median <nested.downtimes) ns, total $(median <nested.totals) ns," \
	"at most $(sort -n nested.bytes | tail -n 1) bytes copied; at host: $(median <host.downtimes) ns"
echo "= nested, ms: $(phase_table nested.phases)"
echo "= at host, ms: $(phase_table host.phases)"
[ -z "${NESTED_ALL:-}" ] || echo "= its host VM to a fresh process: downtime $(median <hv.downtimes) ns; rejuvenated by beam: $(json rejuvenation.json downtime_ns) ns, warm: $(json warm.json downtime_ns) ns"
echo "= guest: $(cat verdict); peer: $(tr -d '\n' <peer.json)"
[ "$(sort -n nested.bytes | tail -n 1)" -lt 1048576 ] || fail "more than 1 MiB was copied"
