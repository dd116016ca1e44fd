# vmbeamd is killed in the states of a rejuvenation in which guests are on their way, just after the state's step has begun (with KILL_ALL=1 in
# every state, and just before, too; engine.sh has them all on VMs that are files), and begun again: it says where it was, goes on or
# goes back, and no guest is lost.
. "$TOP/tests/lab/daemon-lib.sh"
names=$(state_names)

# one STATE POINT
one() {
	echo "$(date +%T) killed when $1$2"
	n=$(runs_completed)
	stop_daemon
	start_daemon VMBEAM_DAEMON_FAULT="$1$2=kill"
	wait_for 30 daemon_says idle
	want 2>/dev/null || true # it may be killed before it answers
	wait_for 120 is_dead
	wait $daemon 2>/dev/null || true
	start_daemon X=
	case $1 in
	rolling-back | blocked)
		wait_for 120 daemon_says blocked
		whole "$1$2, gone back"
		configure "methods = beam" true
		check "tried again" want
		;;
	esac
	wait_for 240 has_completed "$n"
	wait_for 60 daemon_says idle
	whole "$1$2"
	cases=$((cases + 1))
}

cases=0
configure "methods = beam" true
start_all
start_daemon X=
wait_for 30 daemon_says idle
printf '[hypervisor a]\nschedule = 0 3 * * funday\n' >bad.conf
refuses "bad.conf:2:20: this is no day of week" vmbeamd --check --config bad.conf
refuses "bad.conf:2:20: this is no day of week" vmbeamd --config bad.conf
check "wanted" want
wait_for 240 has_completed 0
whole "undisturbed"
for state in $names; do
	state=${state%%:*}
	case $state in
	idle)
		kill -9 $daemon
		wait $daemon 2>/dev/null || true
		start_daemon X=
		wait_for 30 daemon_says idle
		whole idle
		cases=$((cases + 1))
		continue
		;;
	due) configure "methods = beam" true ;;
	replacing) configure "methods = warm" true ;;
	rolling-back | blocked) configure "methods = beam" false ;;
	preparing | moving | verifying | retiring) configure "methods = beam" true ;;
	*) fail "state $state has no case here" ;;
	esac
	case ${KILL_ALL-}:$state in :due | :preparing | :verifying | :blocked) continue ;; esac
	point=.begun
	case $state in due | blocked) point= ;; esac # no step begins there
	one $state "$point"
	[ -z "${KILL_ALL-}" ] || [ -z "$point" ] || { [ $state != rolling-back ] || configure "methods = beam" false; one $state ""; }
done
[ -d state/retired ] || fail "nothing is kept of those retired"
for f in console info.json; do
	[ -s "$(ls -d state/retired/hv@* | head -n 1)/$f" ] || fail "nothing is kept: $f"
done
stop_daemon
for g in one two; do
	check "power off" vmbeam stop $g --timeout 60
	check "memory, clock and serial" beatcheck --min ticks=5 $g.log >beats
done
check "stop" vmbeam hypervisor stop hv
grep 'a turn of the loop' vmbeamd.log | tail -n 1 | sed 's/.*; /= /'
echo "= vmbeamd killed in $cases states: each time it went on or back, and no guest was lost"
