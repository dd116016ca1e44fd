# The clock of a whole machine: daylight saving time begins and ends, a leap day, the clock is set forward and back by a day: vmbeamd
# rejuvenates once where it was due once.  Its VMs are files (tests/native/fake/vmbeam).
mkdir bin hv vm
cp "$TOP/build/vmbeamd" "$TOP/tests/native/fake/vmbeam" bin/
PATH=$PWD/bin:$PATH
export FAKE=$PWD VMBEAM_RUNTIME_DIR=$PWD/run TZ='CET-1CEST,M3.5.0,M10.5.0/3'
. "$TOP/tests/lab/daemon-lib.sh"
echo first >hv/hv
echo hv >vm/one
: >steps
up() {
	cut -d. -f1 /proc/uptime
}
began=$(date +%s) up=$(up)
trap 'kill -9 $daemon 2>/dev/null || true; date -s "@$((began + $(up) - up))" >/dev/null' EXIT
is_it() {
	date -s "$1" >/dev/null || fail "date $1"
}
runs() {
	grep -c "^prepare" steps || true
}
# scheduled SCHEDULE DATE: from then on, a daemon that knows of nothing.
scheduled() {
	[ -z "$daemon" ] || stop_daemon
	rm -rf state
	: >steps
	is_it "$2"
	configure "schedule = $1" true
	start_daemon X=
	wait_for 20 daemon_says idle
	sleep 2
	[ "$(runs)" = 0 ] || fail "$1 at $2: it has begun at once"
}
# ran N WHAT: so often, after the time that it takes; a second time would follow at once.
ran() {
	for i in $(seq 15); do
		[ "$(runs)" -lt "$1" ] || break
		sleep 1
	done
	wait_for 20 daemon_says idle
	sleep 4
	[ "$(runs)" = "$1" ] || fail "$2: it ran $(runs) times, not $1: $(cat vmbeamd.log)"
}

scheduled "30 2 * * *" "2027-03-28 01:59:00 CET"
is_it "2027-03-28 01:59:58 CET"
ran 0 "daylight saving time begins"
is_it "2027-03-28 03:29:58 CEST"
ran 1 "the night whose 2:30 there is not"
is_it "2027-03-29 02:29:58 CEST"
ran 2 "the night after it"

scheduled "30 2 * * *" "2027-10-31 01:00:00 CEST"
is_it "2027-10-31 02:29:58 CEST"
sleep 8
is_it "2027-10-31 02:29:58 CET"
ran 1 "the night in which 2:30 comes twice"
is_it "2027-11-01 02:29:58 CET"
ran 2 "the night after it"

scheduled "0 12 29 2 *" "2028-02-28 11:59:58 CET"
ran 0 "28 February"
is_it "2028-02-29 11:59:58 CET"
ran 1 "29 February"
is_it "2028-03-01 11:59:58 CET"
ran 1 "1 March"

scheduled "0 3 * * *" "2027-06-01 12:00:00 CEST"
is_it "2027-06-02 12:00:00 CEST"
ran 1 "set forward by a day"
is_it "2027-06-01 12:00:20 CEST"
ran 1 "and back"
is_it "2027-06-02 02:59:58 CEST"
ran 1 "what was seen to comes again"
is_it "2027-06-03 02:59:58 CEST"
ran 2 "the next that has not been"

scheduled "0 3 * * *" "2027-06-02 01:00:00 CEST"
is_it "2027-06-02 02:59:58 CEST"
ran 1 "its time"
is_it "2027-06-01 03:00:20 CEST"
ran 1 "set back by a day"
is_it "2027-06-02 02:59:58 CEST"
ran 1 "the same time again"
is_it "2027-06-03 02:59:58 CEST"
ran 2 "the next"
stop_daemon
echo "= the clock: once where it was due once, whatever the clock does"
