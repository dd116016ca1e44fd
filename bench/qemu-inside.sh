#!/bin/sh
# qemu-inside.sh RESULTS CPUS HUGE CONSTANTS SIZE:ROUND...: measures vmbeam beside QEMU, inside the lab;
# called by qemu.sh, which says what the columns are.
#
# A round is one run of each: a fresh VM with the guest "beat" at full speed on half its memory, at
# least SETTLE ticks and two passes over that memory, one handover, AFTER ticks more.  A round's lines
# (CONSTANTS, a comma, the figures) are added to RESULTS when it is complete.  All times are
# CLOCK_MONOTONIC, taken the same way for both: by `stamp`, by the tracepoint kvm:kvm_entry, by the guest.
set -u
SETTLE=30 AFTER=20 TRACE_KIB=32768
results=$1 cpus=$2 huge=$3 constants=$4
shift 4
TOP=$(pwd)
. "$TOP/tests/lab/lib.sh"
. "$TOP/bench/qemu-lib.sh"

# Ours are in memory, too.
work=/tmp/bench
mkdir -p $work/bin && cd $work || exit 1
cp "$TOP/build/vmbeam" "$TOP/build/bench/stamp" "$TOP/build/bench/qemu-move" "$TOP/build/guests/beatcheck" bin || exit 1
qemu_files
export PATH="$work/bin:$PATH" LD_LIBRARY_PATH="$qemu_libs"
append="console=ttyS0 quiet panic=-1 beat.mem=50%"

# qemu N [PREFIX...]
qemu() {
	n=$1
	shift
	qemu_vm "$n" log "$size" "$append" -smp "$cpus" -- "$@"
}
vmbeam_run() {
	stamp run.t -- vmbeam run bench --kernel "$work/vmlinuz" --initrd "$work/beat.cpio" \
		--append "$append noxsave" --memory "${size}M" --cpus "$cpus" ${huge:+--hugepages} --serial "$PWD/log" --detach
}

figure() {
	echo "$1=$2" >>figures
}
at() { # FILE WHAT: a time that `stamp` took
	sed -n "s/^$2 //p" "$1"
}

# KVM's own tracepoints say when guests really run, whoever's they are.  They stay on: switching one
# changes the kernel's code, and QEMU 7.2's TCG may go on with the old code when that is running.
trace=/sys/kernel/tracing
trace_on() {
	echo 0 >$trace/tracing_on
	echo >$trace/trace
	echo 1 >$trace/tracing_on
}
trace_off() { # prints lines "THREAD NS entry|exit" in order of time
	echo 0 >$trace/tracing_on
	sed -n 's/.*-\([0-9]*\) .* \([0-9]*\)\.\([0-9]*\): kvm_\([a-z]*\): .*/\1 \2\3000 \4/p' $trace/trace
}
first_entry() { # PID
	trace_off | while read -r thread ns what; do
		[ "$what" = exit ] || [ ! -d "/proc/$1/task/$thread" ] || { echo "$ns" && break; }
	done
}
# blackout PID: from the last exit of a thread that is not the destination's to the first entry of one
# that is.  (A vCPU that vmbeam warms the destination with runs before, so it does no harm.)
blackout() {
	trace_off >events
	# shellcheck disable=SC2012 # they are numbers
	ls "/proc/$1/task" | awk '
		FNR == NR { new[$1] = 1; next }
		!($1 in new) { out = $2; back = 0; next }
		$3 == "entry" && out && !back { back = $2 }
		END { if (back) printf "%.0f\n", back - out }' - events
}

# memory PID: what a VMM holds beside the guest's RAM, a mapping of a memfd.
memory() {
	awk '/^[0-9a-f]+-/ { ram = $6 ~ /^\/memfd:/ || $6 ~ /hugepage/ }
		$1 == "Rss:" { rss += $2; if (!ram) other += $2 }
		$1 == "Pss:" && !ram { pss += $2 } $1 == "ShmemPmdMapped:" { huge += $2 }
		END { print "rss=" rss; print "rss_nonram=" other; print "pss_nonram=" pss + 0; print "ram_2m=" huge }' \
		"/proc/$1/smaps" >>figures
}

# gap FROM TO: the longest time the guest did not run, less the normal one, as ticks FROM to TO saw it.
gap() {
	beatcheck --min "ticks=$SETTLE" --min passes=2 --top 1000000 log >verdict || fail "the guest: $(cat verdict)"
	awk -v from="$1" -v to="$2" '$1 == "tick" && $2 >= from && $2 <= to { sub("excess=", "", $4)
		if ($4 > max) max = $4 } END { print max + 0 }' verdict
}

# run ARM: one run; its figures go to the file "figures".
run() {
	trace_on
	if [ "$1" = qemu ]; then
		qemu 1 stamp run.t -- 2>err &
		wait_for 60 test -s qemu.pid1
		pid=$(cat qemu.pid1)
	else
		vmbeam_run || fail "vmbeam run"
		vmbeam info bench --json >info.json
		pid=$(json info.json pid)
		figure own_start_ns $(($(json info.json first_run_ns) - $(at run.t start)))
	fi
	wait_for 120 reached seq 0 log
	first=$(first_entry "$pid")
	[ -n "$first" ] || fail "process $pid: no kvm_entry seen"
	figure start_ns $((first - $(at run.t start)))
	wait_for 120 reached seq $SETTLE log
	wait_for 120 reached passes 2 log
	memory "$pid"

	before=$(last_of seq log)
	trace_on
	case $1 in
	qemu) qemu 2 stamp move.t --gone "$pid" -- qemu-move cpr qmp1 qmp2 channel -- >move 2>err ;;
	vmbeam) stamp move.t --gone "$pid" -- vmbeam migrate bench --to fresh --json >move 2>err ;;
	vmbeam-no-warm) stamp move.t --gone "$pid" -- vmbeam migrate bench --to fresh --no-warm --json >move 2>err ;;
	esac || fail "handover: $(tail -n 1 err)"
	echo 0 >$trace/tracing_on
	after=$(last_of seq log)
	end=$(at move.t end)
	[ "$(at move.t gone)" -lt "$end" ] || end=$(at move.t gone)
	wall=$((end - $(at move.t start)))
	if [ "$1" = qemu ]; then
		# From outside it is the only total that includes starting the destination.
		figure own_total_ns "$(json move total_ns)"
		figure total_ns $wall
		figure downtime_ns "$(json move downtime_ns)"
	else
		figure own_total_ns "$(json move total_ns)"
		figure total_ns "$(json move total_ns)"
		figure downtime_ns "$(json move downtime_ns)"
	fi
	figure wall_ns $wall
	if [ "$1" = qemu ]; then
		new=$(cat qemu.pid2)
	else
		vmbeam info bench --json >info.json
		new=$(json info.json pid)
	fi
	black=$(blackout "$new")
	[ -n "$black" ] || fail "process $new took over from $pid: no kvm_entry seen"
	figure blackout_ns "$black"
	wait_for 120 reached seq $((after + AFTER)) log
	figure gap_ns "$(gap $((before + 1)) $((after + 1)))"
}

# one ARM: one run in a shell and a folder of its own; prints its CSV fields.
one() {
	rm -rf run && mkdir run && cd run || exit 1
	outcome=ok
	(run "$1") >out 2>&1 || outcome="$(tail -n 1 out | tr ',"' '; ')"
	if [ "$1" = qemu ]; then
		for p in qemu.pid1 qemu.pid2; do
			[ ! -s $p ] || kill "$(cat $p)" 2>/dev/null
		done
		# shellcheck disable=SC2046 # several numbers
		wait_for 30 sh -c "! kill -0 $(cat qemu.pid1 qemu.pid2 2>/dev/null | tr '\n' ' ')"
	else
		vmbeam stop bench --force >/dev/null 2>&1
	fi
	awk -F= -v arm="$1" -v outcome="$outcome" -v order="start_ns own_start_ns total_ns own_total_ns \
		wall_ns downtime_ns blackout_ns gap_ns rss rss_nonram pss_nonram ram_2m" '
		{ v[$1] = $2 }
		END { printf "%s,\"%s\"", arm, outcome; n = split(order, key, " ")
			for (i = 1; i <= n; i++) printf ",%s", v[key[i]]
			print "" }' figures /dev/null 2>/dev/null
	[ "$outcome" = ok ] || sed 's/^/    /' out >&2
	cd ..
}

"$qemu_root/usr/bin/qemu-system-x86_64" --version >/dev/null && vmbeam help >/dev/null || exit 1
[ -d $trace/events ] || mount -t tracefs tracefs $trace || exit 1
[ -d $trace/events/kvm ] || modprobe -q kvm-amd || modprobe -q kvm-intel
echo mono >$trace/trace_clock
echo 0 >$trace/options/overwrite
echo $TRACE_KIB >$trace/buffer_size_kb
echo 0 >$trace/tracing_on
echo 1 >$trace/events/kvm/kvm_entry/enable
echo 1 >$trace/events/kvm/kvm_exit/enable
for item; do
	size=${item%:*} round=${item#*:}
	[ -z "$huge" ] || echo $((size / 2 + 64)) >/proc/sys/vm/nr_hugepages
	echo "--- $size MiB, round $round"
	: >lines
	for arm in vmbeam vmbeam-no-warm qemu; do
		line=$(one $arm)
		echo "    $line"
		echo "$constants,$size,$cpus,$huge,$round,$line" >>lines
	done
	cat lines >>"$results"
done
