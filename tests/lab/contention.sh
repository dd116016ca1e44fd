# Who takes whose CPU is seen whatever the load average says: a saturated CPU, bursts that a load average hides, a VM with many vCPUs
# that is squeezed before one with few; and a little of it, as devices make, is normal.  The monitor's ten minutes take one here.
export VMBEAM_STATE_DIR=$PWD/state
SPEED=10
burn() {
	taskset -c 1 sh -c 'while :; do :; done' &
	burners="${burners-} $!"
}
quiet() {
	kill $burners 2>/dev/null
	wait $burners 2>/dev/null || true
	burners=
}
# Share of its CPU time that NAME waited for: mean, bursts.
shares() {
	vmbeam monitor "$1" --json 2>/dev/null >shares.json
	echo "$(json shares.json contention) $(json shares.json contention_bursts)"
}
thought_of() {
	vmbeam monitor "$1" 2>/dev/null | awk '{ print $2 }'
}
is() {
	[ "$(thought_of "$1")" = "$2" ]
}
dd if=/dev/zero of=disk bs=1M count=64 2>/dev/null
start_beat busy busy.log "beat.tick=1000 beat.mem=16M beat.rate=4M beat.disk=1" --memory 128M --disk "$PWD/disk"
start_beat idle idle.log "beat.tick=1000 beat.rate=64K" --memory 128M
taskset -acp 1 "$(info_of busy pid)" >/dev/null
taskset -acp 0 "$(info_of idle pid)" >/dev/null
taskset -cp 0 $$ >/dev/null
vmbeam monitor --record --test-speed $SPEED --test-interval-ms 500 >monitor.txt 2>&1 &
monitor=$!
sleep 75
is busy learning || fail "busy is $(vmbeam monitor busy)"
little=$(shares busy)
usual=$(cut -d' ' -f1 /proc/loadavg)

# Bursts: one second in six, which the load average of this machine hardly tells.
end=$(($(date +%s) + 100))
while [ "$(date +%s)" -lt $end ]; do
	burn
	burn
	burn
	sleep 1
	quiet
	sleep 5
done
load=$(cut -d' ' -f1 /proc/loadavg)
wait_for 40 is busy contended
bursts=$(shares busy)
vmbeam monitor busy | grep -q "in bursts" || fail "$(vmbeam monitor busy)"
awk -v l="$load" -v u="$usual" 'BEGIN { exit !(l < u + 1) }' || fail "the load average is $load, and was $usual: it sees the bursts, too"

# Saturated, all the time.
sleep 70
wait_for 60 is busy learning
burn
burn
burn
sleep 60
wait_for 40 is busy contended
saturated=$(shares busy)
quiet
sleep 70
wait_for 60 is busy learning
check "power off" vmbeam stop busy --timeout 60
check "stop" vmbeam stop idle --force

# Two VMs that may take the same, one with four vCPUs and one with one, and each vCPU busy.
mkdir /sys/fs/cgroup/one /sys/fs/cgroup/four
for vm in one four; do
	cpus=1
	[ $vm = one ] || cpus=4
	start_beat $vm $vm.log "beat.tick=1000 beat.mem=16M" --memory 128M --cpus $cpus
	pid=$(info_of $vm pid)
	taskset -acp 1 "$pid" >/dev/null
	echo "$pid" >/sys/fs/cgroup/$vm/cgroup.procs
done
vmbeam top --interval 20 --json >top.json
steal() {
	awk -v n="\"$1\"," '/"name":/ { on = $2 == n } on && /"steal":/ { print $2 + 0 }' top.json
}
awk -v a="$(steal one)" -v b="$(steal four)" 'BEGIN { exit !(b > a && b > 0.3) }' || fail "one: $(steal one), four: $(steal four)"
kill $monitor
for vm in one four; do
	check "stop" vmbeam stop $vm --force
	rmdir /sys/fs/cgroup/$vm
done
echo "= share of CPU time waited for (mean, bursts): no neighbour $little; (load average $usual); bursts $bursts ($load); saturated $saturated"
echo "= two VMs with the same share of a CPU: 1 vCPU waits for $(steal one) of its time, 4 vCPUs for $(steal four)"
