# daemon-lib.sh: what the lab tests of vmbeamd share; its configuration and socket are in the working directory.
export VMBEAM_STATE_DIR=$PWD/state
daemon=
# configure "LINES OF [hypervisor *]" "PROBE OF two": and has it read, if it runs.
configure() {
	cat >vmbeamd.conf <<-E
	[daemon]
	socket = $PWD/sock
	monitor = ${MONITOR:-no}
	[hypervisor *]
	min-interval = 0
	retry = ${RETRY:-300s}
	$1
	[vm two]
	probe = $2
	E
	[ -n "$daemon" ] || return 0
	reads=$(grep -c "read again" vmbeamd.log) || true
	kill -HUP $daemon
	wait_for 20 has_read
}
has_read() {
	[ "$(grep -c "read again" vmbeamd.log)" -gt "$reads" ]
}
# start_daemon [VARIABLE=VALUE...]: and waits until it answers.
start_daemon() {
	env "$@" vmbeamd --config vmbeamd.conf >>vmbeamd.log 2>&1 &
	daemon=$!
	wait_for 20 get /v1/status
}
stop_daemon() {
	kill $daemon
	wait $daemon || fail "vmbeamd ended with $?: $(tail -n 20 vmbeamd.log)"
	daemon=
}
get() {
	curl -sf -m 10 --unix-socket sock "http://vmbeam$1" ${2-} ${3-}
}
want() {
	get /v1/hypervisors/hv/rejuvenate -X POST >/dev/null
}
daemon_says() {
	get /v1/hypervisors | grep -q "\"state\": \"$1\""
}
runs_completed() {
	get /v1/rejuvenations | grep -c '"outcome": "completed"' || true
}
has_completed() {
	[ "$(runs_completed)" -gt "$1" ]
}
# The states of a rejuvenation and their steps, "STATE:STEP" each (NULL: none).
state_names() {
	sed -n '/^} states\[/,/^};/p' "$TOP/rejuv/daemon/machine.c" | sed 's/\[REJUV_/\n[REJUV_/g' |
		sed -n 's/^\[REJUV_[A-Z_]*\] = {"\([a-z-]*\)", \(.*\)}.*/\1:\2/p' | tr -d '"' >states
	[ "$(wc -l <states)" = 9 ] || fail "9 states expected, found: $(cat states)"
	cat states
}
is_dead() {
	! kill -0 "$daemon" 2>/dev/null || grep -q '^State:.Z' "/proc/$daemon/status"
}
# A hypervisor, hv, with two guests, one and two.
start_all() {
	check "hv" vmbeam hypervisor start hv --memory 640M --window 1G >hv.txt
	for g in one two; do
		start_beat_in hv $g $g.log "beat.tick=1000 beat.mem=16M beat.rate=64K" --memory 128M
	done
}
# whole WHEN [GUESTS]: each guest runs in hv, and nothing is left over.
whole() {
	for g in ${2-one two}; do
		[ "$(info_of $g state)" = running ] && [ "$(info_of $g placement)" = hv ] ||
			fail "$1: $g is $(info_of $g state) in $(info_of $g placement): $(tail -n 20 vmbeamd.log)"
		goes_on $g.log
	done
	for g in hv ${2-one two}; do
		[ "$(cat /proc/$(info_of $g pid)/cgroup)" = 0::/vmbeam/$g ] || fail "$1: the cgroup of $g: $(cat /proc/$(info_of $g pid)/cgroup)"
	done
	[ ! -e /run/vmbeam/hv.new ] || fail "$1: hv.new is left: $(tail -n 20 vmbeamd.log)"
}
