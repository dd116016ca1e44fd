#!/bin/sh
# engine.sh: what vmbeamd does in every state when it is killed, when a step fails, hangs or is cancelled; natively, on VMs that are
# files (fake/vmbeam).  Each guest is in one place at any time, and in the end all is done, or gone back and blocked.
set -eu
TOP=$(cd "$(dirname "$0")/../.." && pwd)
. "$TOP/tests/lab/lib.sh"
T=$(mktemp -d)
cd "$T"
mkdir bin
cp "${VMBEAMD:-$TOP/build/vmbeamd}" bin/vmbeamd
cp "$TOP/tests/native/fake/vmbeam" bin/
PATH=$T/bin:$PATH
export VMBEAM_RUNTIME_DIR=$T/run FAKE=$T
. "$TOP/tests/lab/daemon-lib.sh"
what=
cleanup() {
	[ $? = 0 ] || { echo "$what:" && tail -n 30 vmbeamd.log; } >&2 || true
	[ -z "$daemon" ] || kill -9 "$daemon" 2>/dev/null || true
	pkill -9 -f "$T/bin" 2>/dev/null || true
	cd / && rm -rf "$T"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

reset() {
	rm -rf hv vm state run steps slow-* fail-* gone-* hang-* odd-* vmbeamd.log
	mkdir hv vm
	: >steps
	echo first >hv/hv
	echo hv >vm/one
	echo hv >vm/two
	configure "${1:-methods = beam}" true
}
begin() {
	start_daemon "$@"
	wait_for 20 daemon_says "${STATE:-idle}"
}
end() {
	kill "$daemon" 2>/dev/null || true
	wait "$daemon" 2>/dev/null || true
	daemon=
	wait_for 20 no_steps # a step outlives the daemon
	runs=$((runs + 1))
}
# hold: it is replaced in place, and cut off while its guests are held.
hold() {
	reset "methods = warm
	step-timeout = 2s"
	: >hang-replace
	begin X=
	check "$what" want
	wait_for 30 grep -q 'not over in time' vmbeamd.log
}
# killed: the daemon is dead, or is now.
killed() {
	kill -9 $daemon 2>/dev/null || true
	wait $daemon 2>/dev/null || true
}
no_steps() {
	! pgrep -f "$T/bin/vmbeam " >/dev/null
}
# at PLACE: all guests are there, and nothing else is; on the host, that is, when there is no hypervisor.
at() {
	for g in one two; do
		[ "$(cat vm/$g)" = "$1" ] || fail "$what: $g is in $(cat vm/$g), not in $1: $(cat vmbeamd.log)"
	done
	[ "$(ls hv)" = "${1#host}" ] || fail "$what: there is $(ls hv | tr '\n' ' '): $(cat vmbeamd.log)"
}
done_is() {
	get /v1/rejuvenations | grep -q "\"outcome\": \"$1\""
}
names=$(state_names)
cases=0 runs=0

# Killed.
for s in $names; do
	state=${s%%:*} step=${s#*:}
	[ "$step" != NULL ] || step=
	for point in "" ${step:+.begun}; do
		what="killed when $state$point"
		reset
		case $state in
		idle) continue ;; # it is in that state before anything is journaled of it
		replacing) reset "methods = warm" ;;
		rolling-back | blocked) : >fail-verify ;;
		esac
		# (So that the step is under way when the next one looks.)
		[ -z "$step" ] || echo 1 >"slow-$step"
		begin VMBEAM_DAEMON_FAULT="$state$point=kill"
		want 2>/dev/null || true
		wait_for 20 is_dead
		wait $daemon 2>/dev/null || true
		begins=$(grep -c "^$step " steps) || true
		start_daemon X=
		case $state in
		rolling-back | blocked)
			wait_for 20 daemon_says blocked
			at hv
			rm fail-verify
			check "$what" want
			;;
		esac
		wait_for 20 done_is completed
		wait_for 20 daemon_says idle
		at hv
		[ -z "$step" ] || grep -q "restarted" vmbeamd.log || fail "$what: it does not say where it was: $(cat vmbeamd.log)"
		end
		cases=$((cases + 1))
	done
done

# Cancelled: after the step that is under way all goes back, or it is too late.
for s in $names; do
	state=${s%%:*} step=${s#*:}
	what="cancelled when $state"
	reset
	case $state in
	idle) continue ;;
	due) reset "blackout = 2000-01-01..2099-12-31
	schedule = * * * * *" ;;
	replacing) reset "methods = warm" ;;
	rolling-back | blocked) : >fail-verify ;;
	esac
	[ "$step" = NULL ] || echo 2 >"slow-$step"
	begin X=
	case $state in
	due) wait_for 90 daemon_says due ;;
	*) check "$what" want && wait_for 20 daemon_says $state ;;
	esac
	case $state in
	retiring | replacing | rolling-back)
		! get /v1/hypervisors/hv/rejuvenate -X DELETE || fail "$what: it was taken"
		[ $state = rolling-back ] && after=blocked || after=idle
		;;
	*) check "$what" get /v1/hypervisors/hv/rejuvenate -X DELETE >/dev/null && after=idle ;;
	esac
	wait_for 20 daemon_says $after
	at hv
	end
	cases=$((cases + 1))
done

# Steps that fail or hang, and what is done then.
what="prepare fails, warm is next"
reset "methods = beam, warm"
: >fail-prepare
begin X=
check "$what" want
wait_for 20 done_is completed
grep -q '^replace' steps || fail "$what: $(cat steps)"
at hv
end

what="a guest cannot be moved: none is"
reset
: >fail-move
begin X=
check "$what" want
wait_for 20 daemon_says blocked
at hv
end

what="a step hangs"
reset "step-timeout = 2s"
: >hang-move
begin X=
check "$what" want
wait_for 30 daemon_says blocked
grep -q 'not over in time' vmbeamd.log || fail "$what: $(cat vmbeamd.log)"
at hv
end

what="a step hangs, and the daemon is killed meanwhile"
reset "step-timeout = 2s"
: >hang-verify
begin VMBEAM_DAEMON_FAULT=verifying.begun=kill
want 2>/dev/null || true
wait_for 20 is_dead
rm hang-verify
start_daemon X=
wait_for 30 done_is completed
grep -q 'killed' vmbeamd.log || fail "$what: $(cat vmbeamd.log)"
at hv
end

what="replaced, and cut off while its guests are held"
hold
! get /v1/hypervisors/hv/rejuvenate -X DELETE || fail "$what: it could be cancelled"
sleep 6 # it is not there, and not forgotten
[ "$(get /v1/hypervisors | grep -c '"hypervisor": "hv"')" = 1 ] || fail "$what: $(get /v1/hypervisors)"
killed
rm hang-replace
start_daemon X=
wait_for 40 done_is completed
at hv
end

# It is not forgotten, and comes whether or not a maintenance window is open; who does not want it any more says so.
what="replaced, and it does not come up"
for then in comes cancelled; do
	RETRY=3s reset "methods = warm
	window = Mon 00:00-00:01"
	: >gone-replace
	begin X=
	check "$what" want
	wait_for 20 daemon_says blocked
	at host
	wait_for 20 sh -c '[ "$(grep -c ^replace steps)" -ge 2 ]'
	killed
	start_daemon X=
	wait_for 20 sh -c '[ "$(grep -c ^replace steps)" -ge 3 ]'
	if [ $then = comes ]; then
		rm gone-replace
		wait_for 30 done_is completed
		at hv
	else
		wait_for 20 daemon_says blocked
		get /v1/hypervisors/hv/rejuvenate -X DELETE >/dev/null || fail "$what: it cannot be cancelled"
		wait_for 20 grep -q "gone *it is not there" vmbeamd.log
		at host
	fi
	end
done

what="what a step says is no text"
reset
sed 's/^\t\[ ! -e "fail-$step" \]/\t[ ! -e "odd-$step" ] || { printf "\\377\\n" >\&2; exit 1; }\n&/' "$TOP/tests/native/fake/vmbeam" >bin/vmbeam.new
chmod +x bin/vmbeam.new && mv bin/vmbeam.new bin/vmbeam
: >odd-move
begin X=
check "$what" want
wait_for 20 daemon_says blocked
rm odd-move
check "$what" want
wait_for 20 done_is completed
at hv
end

lose_journal() {
	rm -f state/journal.db-*
	echo "no journal at all" >state/journal.db
}
went_on() {
	wait_for 40 done_is completed
	grep -q "was cut off, and nothing was known of it" vmbeamd.log || fail "$what: $(cat vmbeamd.log)"
	wait_for 20 daemon_says idle
	at hv
	end
}
what="the journal is lost, twice, while a rejuvenation is under way"
reset
begin VMBEAM_DAEMON_FAULT=verifying=kill
want 2>/dev/null || true
wait_for 20 is_dead
killed
for bad in bad bad2; do
	lose_journal
	start_daemon X=
	[ -s state/journal.db.$bad ] || fail "$what: $(ls state)"
	killed
done
start_daemon X=
went_on

what="the journal is lost while guests are held, and their hypervisor is gone"
hold
killed
wait_for 20 no_steps
lose_journal
rm hang-replace
start_daemon X=
went_on

what="the journal is lost when the old one has gone, and the fresh one has not its name yet"
reset
mv hv/hv hv/hv.new
echo hv.new >vm/one
echo hv.new >vm/two
start_daemon X=
went_on

what="what was left of a rejuvenation is cancelled"
reset "blackout = 2000-01-01..2099-12-31"
echo fresh >hv/hv.new
echo hv.new >vm/one
begin X=
wait_for 30 daemon_says due
check "$what" get /v1/hypervisors/hv/rejuvenate -X DELETE >/dev/null
wait_for 20 daemon_says idle
at hv
end

what="another VM has the name of a fresh one"
reset
echo host >vm/hv.new
begin X=
sleep 15
daemon_says idle || fail "$what: $(get /v1/hypervisors)"
! grep -q . steps || fail "$what: $(cat steps)"
rm vm/hv.new
end

what="to another machine, if it cannot be moved here"
reset "methods = beam, pre-copy
	target = tls://other:7000
	[daemon]
	tls = $PWD"
: >fail-move
begin X=
check "$what" want
wait_for 20 sh -c '[ -z "$(ls vm)" ]'
wait_for 20 done_is completed
end

what="never to be moved"
reset
printf '[vm one]\nmove = never\n' >>vmbeamd.conf
begin X=
check "$what" want
wait_for 20 daemon_says blocked
grep -q 'one is never to be moved' vmbeamd.log || fail "$what: $(cat vmbeamd.log)"
at hv
! grep -q . steps || fail "$what: $(cat steps)"
end

what="last"
reset
printf '[vm one]\nmove = last\n' >>vmbeamd.conf
begin X=
check "$what" want
wait_for 20 done_is completed
[ "$(grep '^move' steps | head -n 1)" = "move hv two" ] || fail "$what: $(cat steps)"
end

what="one at a time"
reset
echo second >hv/other
echo 1 >slow-prepare
begin X=
check "$what" want
check "$what" get /v1/hypervisors/other/rejuvenate -X POST >/dev/null
daemon_says due || fail "$what: $(get /v1/hypervisors)"
wait_for 20 has_completed 1
awk '$2 != last && seen[$2]++ { bad = 1 } { last = $2 } END { exit bad }' steps || fail "$what: $(cat steps)"
end

what="tried again by itself, later each time"
reset "methods = beam
	retry = 1s"
sed -i '/retry = 300s/d' vmbeamd.conf
: >fail-prepare
begin X=
check "$what" want
wait_for 30 sh -c '[ "$(grep -c ^prepare steps)" -ge 3 ]'
rm fail-prepare
wait_for 30 done_is completed
at hv
end

what="a hypervisor that goes"
reset
begin X=
rm hv/hv vm/one vm/two
wait_for 20 sh -c "curl -s --unix-socket sock http://x/v1/hypervisors | grep -q '^\[\]'"
end
echo "engine: killed and cancelled in $cases states and points, and $((runs - cases)) ways to fail: each guest in one place, all done or gone back"
