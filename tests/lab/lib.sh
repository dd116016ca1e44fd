# lib.sh: what the lab tests share.  Each test is a file tests/lab/NAME.sh, run by run.sh inside the lab
# in a process of its own, with a scratch folder $T (tmpfs) that is its working directory.  It passes
# if it ends with 0; `fail` says why not.  VMs it leaves behind are stopped by run.sh.

fail() {
	echo "FAILED: $*" >&2
	exit 1
}

# check WHAT COMMAND...: the command must succeed.
check() {
	what=$1
	shift
	"$@" || fail "$what: '$*' ended with $?"
}

# refuses TEXT COMMAND...: the command must fail with status 1 and one line that holds TEXT.
refuses() {
	text=$1
	shift
	status=0
	"$@" >refused.out 2>refused.err </dev/null || status=$?
	[ "$status" = 1 ] || fail "'$*' ended with $status, not 1: $(cat refused.err)"
	[ "$(wc -l <refused.err)" = 1 ] || fail "'$*' said more than one line: $(cat refused.err)"
	grep -q -- "$text" refused.err || fail "'$*' said '$(cat refused.err)', not '$text'"
}

# wait_for SECONDS COMMAND...: until the command succeeds; where it is emulated twice as long, as all takes longer there.  It looks ever
# more seldom, since that takes from what is waited for.
slowness=1
! grep -q "QEMU TCG" /proc/cpuinfo || slowness=2
wait_for() {
	tenths=$(($1 * 10 * slowness)) pause=1
	shift
	while ! "$@" >/dev/null 2>&1; do
		[ $tenths -gt 0 ] || fail "waited in vain for: $*"
		sleep 0.$pause
		tenths=$((tenths - pause))
		[ $pause = 4 ] || pause=$((pause + 1))
	done
}

# start_beat NAME LOG "beat options" [run options...]: the memory guest, detached, its serial in LOG.
start_beat() {
	name=$1 log=$2 options=$3
	shift 3
	check "start $name" vmbeam run "$name" --kernel "$LAB/vmlinux" --initrd "$GUESTS/beat.cpio" \
		--append "console=ttyS0 quiet panic=-1 $options" --serial "$PWD/$log" --detach "$@"
	wait_for 60 grep -q '^tick 1 ' "$log"
}

# move_in HYPERVISOR GUEST [PREFIX...]: a guest that is to be nested boots on the host, where that takes a fraction of the time, emulated, and
# is moved in when it is up.
move_in() {
	into=$1 moved=$2
	shift 2
	check "move $moved in" "$@" vmbeam migrate "$moved" --to "$into" >/dev/null
}
# start_beat_in HYPERVISOR NAME LOG OPTIONS ARGUMENT...: so the memory guest.
start_beat_in() {
	hypervisor=$1
	shift
	start_beat "$@"
	move_in "$hypervisor" "$name"
}

# goes_on LOG: its guest runs.
goes_on() {
	before=$(grep -c "^tick " "$1")
	wait_for 60 sh -c "[ \$(grep -c '^tick ' $1) -gt $((before + 2)) ]"
}

# json FILE KEY: a number or string of a flat place in a JSON object (KEY as in "downtime_ns").
json() {
	sed -n "s/^ *\"$2\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" "$1" | head -n 1
}

# phases FILE: "NAME NS" for each phase of a move's JSON.
phases() {
	sed -n '/"phases"/,/]/p' "$1" | tr -d '{}[]:,"\n' | sed 's/name \([a-z]*\) *ns \([0-9]*\)/\n\1 \2\n/g' | grep -E '^[a-z]+ [0-9]+$'
}

# phase_table FILE: such lines of many moves; one line of medians in ms.
phase_table() {
	for phase in $(awk '!seen[$1]++ { print $1 }' "$1"); do
		echo "$phase $(awk -v p="$phase" '$1 == p { print $2 }' "$1" | median)"
	done | awk '{ printf "%s %.1f  ", $1, $2 / 1e6 }'
}

# median of the numbers on standard input
median() {
	sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# info_of VM KEY: one figure or word that info tells.
info_of() {
	vmbeam info "$1" --json >info.json 2>/dev/null && json info.json "$2"
}

state_of() {
	info_of "$1" state
}

in_state() {
	[ "$(state_of "$1")" = "$2" ]
}

# make_tap NAME ADDRESS/PREFIX
make_tap() {
	ip tuntap add "$1" mode tap && ip addr add "$2" dev "$1" && ip link set "$1" up ||
		fail "cannot make tap $1"
}

# repeat_history: what the ageing monitor has recorded so far, over and over, is what it has seen in the last 50 hours.
repeat_history() {
	cat >history.sql <<-'EOF'
	CREATE TEMP TABLE was AS SELECT min(t) AS a, max(t) + 60 - min(t) AS span FROM minute;
	WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < (SELECT 180000 / span FROM was))
	INSERT OR IGNORE INTO minute SELECT series, t - i * span, value FROM minute, k, was;
	UPDATE series SET first = first - 180000;
	SELECT (max(t) - min(t)) / 3600 FROM minute;
	EOF
	echo "= history: $(sqlite3 "$VMBEAM_STATE_DIR/monitor.db" <history.sql) hours"
}
