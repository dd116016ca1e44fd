# In every state of a rejuvenation each of those it is about dies once: the old hypervisor's process, the fresh one's, a guest's, and
# the old one's agent (which from then on talks nonsense).  Who was not killed, and whose hypervisor was not, runs on; a guest that
# went with either is said to have crashed, its memory is there; the daemon comes to rest, and the next rejuvenation succeeds.
# KILLS=moving:old,moving:guest... for some of them.
. "$TOP/tests/lab/daemon-lib.sh"
names=$(state_names)
pid_of() {
	vmbeam info "$1" --json 2>/dev/null | sed -n 's/^ *"pid": \([0-9]*\),*$/\1/p' | head -n 1
}
is_there() {
	[ -n "$(pid_of "$1")" ]
}
is_stopped() {
	grep -q '^State:.T' "/proc/$daemon/status"
}
is_at_rest() {
	kill -CONT $daemon # it stops each time that it comes to that state
	get /v1/hypervisors >rests.json || return 1 # stopped again
	rests=$(sed -n 's/^ *"state": "\(.*\)",$/\1/p' rests.json | head -n 1)
	case $rests in idle | blocked | '') ;; *) return 1 ;; esac
}
# At rest, and the daemon has seen it since it was started.
is_seen() {
	is_at_rest && [ "$rests" ]
}
# A guest that has to be there: runs, and goes on.
lives() {
	[ "$(info_of "$1" state)" = running ] || fail "$what: $1 is $(info_of "$1" state) in $(info_of "$1" placement)"
	goes_on "$1.log"
}
# One that may have gone with what was killed: it runs, or it is a crashed one that can be looked at.
lives_or_crashed() {
	case $(info_of "$1" state) in
	running) goes_on "$1.log" ;;
	crashed)
		lost=$((lost + 1))
		rm -f core
		check "$what: dump" vmbeam dump "$1" --out core >/dev/null
		[ "$(head -c 4 core | tail -c 3)" = ELF ] || fail "$what: the dump of $1 is no ELF file"
		check "$what: clear" vmbeam stop "$1" --force
		;;
	*) fail "$what: $1 is $(info_of "$1" state) in $(info_of "$1" placement)" ;;
	esac
}
# All of it there again, for the next.
restore() {
	[ -n "$(pid_of hv)" ] || check "hv" vmbeam hypervisor start hv --memory 640M --window 1G >hv.txt
	for g in one two; do
		if [ -z "$(pid_of $g)" ]; then
			start_beat_in hv $g $g.log "beat.tick=1000 beat.mem=16M beat.rate=64K" --memory 128M
		elif [ "$(info_of $g placement)" != hv ]; then
			# (One whose agent talks nonsense takes none: the rejuvenation that follows takes them from where they are.)
			vmbeam migrate $g --to hv >/dev/null || echo "$g stays in $(info_of $g placement)"
		fi
	done
}
# one STATE POINT VICTIM
one() {
	what="$3 killed when $1"
	echo "$(date +%T) $what"
	start_daemon VMBEAM_DAEMON_FAULT="$1$2=stop"
	wait_for 60 daemon_says idle
	want 2>/dev/null & # it may be stopped before it answers
	wait_for 200 is_stopped
	case $3 in
	old) victim=$(pid_of hv) ;;
	fresh)
		# (In the other states it is not there, or not any more.)
		case $1 in preparing | moving | verifying) wait_for 60 is_there hv.new ;; esac
		victim=$(pid_of hv.new)
		;;
	guest) victim=$(pid_of one) ;;
	agent) victim=$(pid_of hv) ;;
	esac
	if [ -z "$victim" ]; then
		echo "$what: it is not there"
	elif [ "$3" = agent ]; then
		refuses "does not answer" vmbeam hypervisor noise hv
	else
		kill -9 "$victim"
	fi
	wait_for 300 is_at_rest
	stop_daemon
	case $3 in
	guest)
		lives two
		[ -z "$(pid_of one)" ] || lives_or_crashed one # it may have had another process by then
		;;
	agent) lives one && lives two ;;
	*) lives_or_crashed one && lives_or_crashed two ;;
	esac
	restore
	configure "methods = beam" true
	start_daemon X=
	wait_for 60 is_seen
	n=$(runs_completed)
	check "$what: wanted again" want
	wait_for 300 has_completed "$n"
	wait_for 60 daemon_says idle
	whole "$what, again"
	stop_daemon
	[ -z "$victim" ] || cases=$((cases + 1))
}
cases=0 lost=0
configure "methods = beam" true
start_all
for state in $names; do
	state=${state%%:*}
	point=.begun
	case $state in
	due | blocked) point= ;;
	replacing | rolling-back | idle | preparing | moving | verifying | retiring) ;;
	*) fail "state $state has no case here" ;;
	esac
	for victim in old fresh guest agent; do
		case $state:$victim in due:fresh | replacing:fresh) continue ;; esac # there is none
		case ",${KILLS-$state:$victim}," in *",$state:$victim,"*) ;; *) continue ;; esac
		case $state in
		idle) continue ;; # nothing is under way: the tests of VMs and hypervisors have these
		replacing) configure "methods = warm" true ;;
		rolling-back | blocked) configure "methods = beam" false ;;
		*) configure "methods = beam" true ;;
		esac
		one $state "$point" $victim
	done
done
echo "= $cases times one of them was killed: no guest was lost but $lost with the process that ran it, and the next rejuvenation succeeded"
