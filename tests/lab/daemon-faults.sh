# A rejuvenation that cannot be done, or whose parties die: vmbeamd is blocked with the reason, or goes on; guests that were not hit run on, and
# once the reason is gone it succeeds.
. "$TOP/tests/lab/daemon-lib.sh"

reason() {
	get /v1/hypervisors | sed -n 's/.*"reason": "\(.*\)",$/\1/p'
}
# blocked TEXT: it is wanted, and blocked for a reason with TEXT; all is as before.
blocked() {
	check "wanted" want
	wait_for 240 daemon_says blocked
	reason | grep -q -- "$1" || fail "blocked for '$(reason)', not '$1'"
	whole "$1"
	cases=$((cases + 1))
	echo "$(date +%T) blocked: $(reason)"
}
# Then it succeeds.
succeeds() {
	n=$(runs_completed)
	check "wanted" want
	wait_for 240 has_completed "$n"
	wait_for 20 daemon_says idle
	whole "after $1"
	echo "$(date +%T) done after: $1"
}

cases=0
configure "methods = beam" true
start_all
mkdir state
mount -t tmpfs -o size=3m tmpfs state
start_daemon X=
wait_for 30 daemon_says idle

# No memory for a second one.
echo $((($(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo) - 500) / 2)) >/proc/sys/vm/nr_hugepages
blocked "memory: .* are needed"
echo 0 >/proc/sys/vm/nr_hugepages

# No disk for the journal: nothing is begun.
! dd if=/dev/zero of=state/file bs=4k 2>/dev/null || fail "the disk is not full"
check "wanted" want
wait_for 60 grep -q "full" vmbeamd.log
echo "$(date +%T) disk full"
whole "disk full"
cases=$((cases + 1))
rm state/file
wait_for 240 has_completed 0
wait_for 20 daemon_says idle
whole "after a full disk"
echo "$(date +%T) disk not full any more"

# No image, and one that is none.
stop_daemon
start_daemon VMBEAM_HYPERVISOR_DIR=/nowhere
wait_for 30 daemon_says idle
blocked "/nowhere/vmlinuz"
stop_daemon
mkdir broken
cp "$TOP/build/hypervisor/vmlinuz" broken/
head -c 100000 "$TOP/build/hypervisor/initramfs" >broken/initramfs
start_daemon VMBEAM_HYPERVISOR_DIR="$PWD/broken"
wait_for 30 daemon_says blocked
blocked "."
reason | sed 's/^/= never healthy: /'
stop_daemon

# A destination that dies in each move; what it was is said.
start_daemon VMBEAM_FAULT=destination.built=kill
wait_for 30 daemon_says blocked
blocked "."
stop_daemon
start_daemon X=
wait_for 30 daemon_says blocked
succeeds "all that"

# An API socket or a journal that is taken: the second daemon says so, the first goes on.
refuses "another vmbeamd has it" vmbeamd --config vmbeamd.conf
get /v1/status >/dev/null || fail "the daemon is gone"

# Started anew in place, and it does not come up: its guests, which were held, go on on the host, until it does.
stop_daemon
configure "methods = warm" true
start_daemon VMBEAM_HYPERVISOR_DIR=/nowhere
wait_for 30 daemon_says idle
check "wanted" want
wait_for 120 grep -q "failed *replace" vmbeamd.log
for g in one two; do
	[ "$(info_of $g state)" = running ] && [ "$(info_of $g placement)" = host ] || fail "$g is $(info_of $g state) in $(info_of $g placement)"
	goes_on $g.log
done
wait_for 30 daemon_says blocked
cases=$((cases + 1))
stop_daemon
start_daemon X=
check "wanted again" want
wait_for 120 daemon_says idle
whole "it came up"
[ ! -e /run/vmbeam/.replacing-hv ] || fail "somebody is said to be held"

# An old hypervisor past answering, whose process dies when it is empty.
refuses "does not answer" vmbeam hypervisor noise hv
configure "methods = beam" "if [ -e kill-old ]; then rm kill-old; kill -9 $(info_of hv pid); fi"
: >kill-old
sed -i "s|kill-old|$PWD/kill-old|g" vmbeamd.conf
kill -HUP $daemon
n=$(runs_completed)
check "wanted" want
wait_for 240 has_completed "$n"
[ ! -e kill-old ] || fail "the old one was not killed"
wait_for 20 daemon_says idle
whole "the old one killed"
cases=$((cases + 1))

# The process of a guest dies: it crashes, as it would have; the other is moved.
kill -9 "$(info_of one pid)"
wait_for 20 sh -c "! vmbeam info one >/dev/null 2>&1"
configure "methods = beam" true
n=$(runs_completed)
check "wanted" want
wait_for 240 has_completed "$n"
whole "one dead" two
cases=$((cases + 1))

# The fresh one dies with a guest in it: that one is lost with it, and said to be; nothing else is.
configure "methods = beam" "if [ -e $PWD/kill-fresh ]; then rm $PWD/kill-fresh; kill -9 \$(vmbeam info hv.new --json | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p'); sleep 1; false; fi"
: >kill-fresh
check "wanted" want
wait_for 240 daemon_says blocked
[ ! -e kill-fresh ] || fail "the fresh one was not killed"
[ "$(info_of two state)" = crashed ] || fail "two is $(info_of two state)"
check "dump" vmbeam dump two --out core
[ "$(head -c 4 core | tail -c 3)" = ELF ] || fail "the dump is no ELF file"
check "clear" vmbeam stop two --force
cases=$((cases + 1))
n=$(runs_completed)
check "wanted" want
wait_for 240 has_completed "$n"
stop_daemon
umount state
for g in one two; do
	beatcheck $g.log >verdict || fail "$g: $(cat verdict)"
done
check "stop" vmbeam hypervisor stop hv
echo "= $cases faults: blocked with the reason or gone on; no guest was lost but with the process that ran it"
