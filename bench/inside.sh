#!/bin/sh
# inside.sh RESULTS CONSTANTS RUNS POINT...: measures one system after another, in the lab or on a machine with KVM; called by bench.sh, which
# says what the columns are.
#
# Instead of a point: the name of a recording (recordings.sh); $RECORDED is its second line.  A point is
# SIZE:RATE:ROUND=SYSTEM,SYSTEM...+ROUND=SYSTEM...: memory of the guest in MiB, how much of it it writes, in MiB/s (0: none, its memory
# is filled and stays).  The guests of all systems are there at once; a round moves each of its systems' once, one after the other.  A
# line of RESULTS is CONSTANTS, a comma, and the figures; a folder RESULTS.d holds what `stamp` saw of each run.
set -u
EVERY_MS=20 CGROUPS=/sys/fs/cgroup
results=$1 constants=$2 runs=$3
shift 3
TOP=$(pwd)
export LAB=$TOP/build/lab GUESTS=$TOP/build/guests
export PATH=$TOP/build/bench:$TOP/build:$GUESTS:$PATH VMBEAM_TEST=1
T=/tmp/bench
rm -rf $T && mkdir -p $T "$results.d" && cd $T || exit 1
export VMBEAM_STATE_DIR=$T/state VMBEAM_RUNTIME_DIR=$T/run VMBEAM_CGROUP=
. "$TOP/tests/lab/lib.sh"
. "$TOP/bench/nest/lib.sh"
. "$TOP/bench/qemu-lib.sh"

# Who wants to know why something failed finds what there was.
keep() {
	mkdir -p "$results.d/last"
	cp "$T"/*.log "$T"/*.out "$T"/*err "$T"/*.json "$T"/stamp.t "$results.d/last" 2>/dev/null
}
THP=/sys/kernel/mm/transparent_hugepage
thp_before=$(sed 's/.*\[\(.*\)\].*/\1/' $THP/shmem_enabled) scan_before=$(cat $THP/khugepaged/scan_sleep_millisecs)
# All VMs are in folders of our own, all processes children of this one's, all network devices named here.
stop_all() { # but NAME...
	for vm in "$T"/run/*/control "$T"/here/*/control "$T"/there/*/control; do
		[ -S "$vm" ] || continue
		name=$(basename "${vm%/control}")
		case " $* " in *" $name "*) ;; *) VMBEAM_RUNTIME_DIR=$(dirname "${vm%/*/control}") vmbeam stop "$name" --force >/dev/null 2>&1 ;; esac
	done
}
# What is to stay from one point or recording to the next does.
stop_guests() { stop_all hv-a hv-b hv-w nest-1 nest-2; }
qemus() { cat "$T"/qemu.pid* 2>/dev/null; }
tear_down() {
	keep
	stop_all
	# shellcheck disable=SC2046 # several of them
	kill $(jobs -p) $(qemus) 2>/dev/null
	for m in here there; do
		ip netns pids $m 2>/dev/null | xargs -r kill 2>/dev/null
		ip netns del $m 2>/dev/null
	done
	for link in nest nest1 nest2 lan web out; do
		ip link del $link 2>/dev/null
	done
	echo "$thp_before" >$THP/shmem_enabled
	echo "$scan_before" >$THP/khugepaged/scan_sleep_millisecs
	for c in beam host nest here there qemu; do
		rmdir $CGROUPS/$c 2>/dev/null
	done
}
trap tear_down EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# What has pages of 4 KiB keeps them.
echo 1000000000 >$THP/khugepaged/scan_sleep_millisecs

# What each system's processes use is counted in cgroups of its own: beam, host, nest, here, there, qemu.
mountpoint -q $CGROUPS || mount -t cgroup2 cgroup2 $CGROUPS || fail "no cgroups"
# within CGROUP COMMAND...
within() {
	sh -c "echo 0 >$CGROUPS/$1/cgroup.procs && shift && exec \"\$@\"" sh "$@"
}
echo advise >$THP/shmem_enabled
for c in beam host nest here there qemu; do
	mkdir -p $CGROUPS/$c
done

# ---- each system: NAME_up once, NAME_start and NAME_stop the guest of a point, NAME_move; the guest's lines come to NAME.log

# A tick is a line, and emulated each of its characters costs a nested guest 3 ms: one that only waits has fewer.  What is used anyway is
# looked at for as long as it takes from one to the next.
IDLE_TICK=$([ $slowness = 1 ] && echo 1000 || echo 3000) meter="--base $IDLE_TICK --every $EVERY_MS"
options() { # of the guest
	echo "console=ttyS0 quiet panic=-1 beat.tick=$([ "$rate" = 0 ] && echo $IDLE_TICK || echo 1000) beat.threads=1 beat.thp=1 beat.mem=70% beat.rate=$([ "$rate" = 0 ] && echo idle || echo "${rate}M")"
}
# run NAME [PREFIX...] -- [OPTION...]
run() {
	name=$1 prefix=
	shift
	while [ "$1" != -- ]; do
		prefix="$prefix $1"
		shift
	done
	shift
	rm -f "$name.log"
	# shellcheck disable=SC2086 # several words
	check "start $name" $prefix vmbeam run "$name" --kernel "$LAB/vmlinux" --initrd "$GUESTS/beat.cpio" --append "$(options)" \
		--memory "${size}M" --serial "$T/$name.log" --detach "$@" >/dev/null
}

sum_of() { # COMMAND: of the numbers it prints
	"$@" | awk '{ s += $1 } END { printf "%.0f", s }'
}

# A pair of hypervisors, NAME-a and NAME-b, for guests that go from one to the other.
pair_up() { # NAME MEMORY WINDOW [OPTION...]
	pair=$1 memory=$2 window=$3
	shift 3
	for hv in "$pair-a" "$pair-b"; do
		check "$hv" within beam vmbeam hypervisor start "$hv" --memory "$memory" --window "$window" "$@" >/dev/null
	done
}
other_of() { # GUEST: that of the pair where it is not
	at=$(info_of "$1" placement)
	case $at in *-a) echo "${at%a}b" ;; *) echo "${at%b}a" ;; esac
}
pair_down() { # NAME
	for hv in "$1-a" "$1-b"; do
		check "stop $hv" vmbeam hypervisor stop "$hv"
	done
}
enter() { # HYPERVISOR GUEST...
	hypervisor=$1
	shift
	for vm; do
		move_in "$hypervisor" "$vm" within beam
	done
}
beam_to() { # GUEST [OPTION...]
	g=$1 to=$(other_of "$1")
	shift
	stamp stamp.t $meter --cgroup $CGROUPS/beam -- vmbeam migrate "$g" --to "$to" --mode zero-copy "$@" --json >move.json
}

beam_up() { [ -e "$T/run/hv-a" ] || pair_up hv 512M 8G; }
beam_start() { run beam within beam --; }
beam_enter() { enter hv-a beam; }
beam_stop() { check "stop beam" vmbeam stop beam --timeout 60; }
beam_move() { beam_to beam; }
cold_move() { beam_to beam --no-warm; }

# Its hypervisor is started anew under it.
warm_up() { check "hv-w" within beam vmbeam hypervisor start hv-w --memory 512M --window 4G >/dev/null; }
warm_start() { run warm within beam --; }
warm_enter() { enter hv-w warm; }
warm_stop() { check "stop warm" vmbeam stop warm --timeout 60; }
warm_move() { stamp stamp.t $meter --cgroup $CGROUPS/beam -- vmbeam rejuvenate hv-w --method warm --json >move.json; }

# The same, on pages of 4 KiB.
small_up() { beam_up; }
small_start() {
	# (The others' pages are to be large.)
	for other in $guests; do
		case $other in small | nest | qemu) ;; *) wait_for 600 is_up $other ;; esac # (nest has memory of its hypervisor's, QEMU its own)
	done
	echo never >$THP/shmem_enabled
	run small within beam --
	wait_for 600 is_up small
	echo advise >$THP/shmem_enabled
}
small_enter() { enter hv-a small; }
small_stop() { check "stop small" vmbeam stop small --timeout 60; }
small_move() { beam_to small; }
small_cold_move() { beam_to small --no-warm; }

host_up() { :; }
host_start() { run host within host --; }
host_stop() { check "stop host" vmbeam stop host --timeout 60; }
host_move() { stamp stamp.t $meter --cgroup $CGROUPS/host -- vmbeam migrate host --to fresh --mode zero-copy --json >move.json; }

nest_start() {
	nest_at=1 nest_other=2
	rm -f nest.log
	did 1 "vmbeam run nest --kernel /vmlinux --initrd /beat.cpio --memory ${size}M --append '$(options)' --serial /tmp/nest.log --detach </dev/null"
}
nest_stop() {
	did $nest_at "vmbeam stop nest --timeout 100 >/dev/null 2>&1"
	nest_fetch $nest_at nest
}
carried() { sum_of cat /sys/class/net/nest1/statistics/rx_bytes /sys/class/net/nest1/statistics/tx_bytes; }
# All that there is here: of those that need no network.
anything() { sum_of cat /sys/class/net/*/statistics/tx_bytes; }
# nest_to PORT SCHEME OPTIONS
nest_to() {
	port=$1
	shift
	wire=$(carried)
	stamp stamp.t $meter --cgroup $CGROUPS/nest -- sh -c "printf '%s\necho \"done \$?\"; exit\n' \
		'vmbeam migrate nest --to $1://10.8.0.$nest_other:$port $2 --mode pre-copy --timeout 600 --json </dev/null' |
		socat -t 900 - TCP:10.8.0.$nest_at:99" >inside.out 2>&1
	grep -q "^done 0$" inside.out || fail "nest: $(cat inside.out)"
	wire=$(($(carried) - wire))
	grep -v ^done inside.out >move.json
	nest_fetch $nest_at nest
	nest_at=$nest_other # (in this subshell)
}
nest_move() { nest_to 7000 tls "--tls /certs"; }
plain_nest_move() { nest_to 7001 tcp --insecure; }

# Two machines: network namespaces, joined by a cable of so many bits a second.
phys_up() {
	[ ! -d here ] || return 0 # (QEMU's moves are between them, too)
	. "$TOP/tests/lab/machines.sh"
	for m in here there; do
		on $m sh -c "exec vmbeam receive --listen $(address $m):7001 --insecure --allow $T --allow $LAB --allow $GUESTS" >receive-plain.$m 2>&1 &
		wait_for 20 grep -q "receiving at" receive-plain.$m
		for p in $(ip netns pids $m); do
			echo "$p" >$CGROUPS/$m/cgroup.procs
		done
	done
}
phys_start() {
	phys_at=here phys_other=there
	run phys within here ip netns exec here env VMBEAM_RUNTIME_DIR="$T/here" --
}
phys_stop() { check "stop phys" on $phys_at vmbeam stop phys --timeout 60; }
sent() { sum_of ip netns exec here sh -c 'cat /sys/class/net/cable/statistics/?x_bytes'; }
# cable RATE: both ways.
cable() {
	for m in here there; do
		ip netns exec $m tc qdisc replace dev cable root tbf rate "$1" burst 4mb latency 100ms || fail "no tbf"
	done
}
# phys_to PORT SCHEME OPTION RATE
phys_to() {
	cable "$4"
	wire=$(sent)
	stamp stamp.t $meter --cgroup $CGROUPS/$phys_at --cgroup $CGROUPS/$phys_other -- ip netns exec $phys_at \
		env VMBEAM_RUNTIME_DIR="$T/$phys_at" vmbeam migrate phys --to "$2://$(address $phys_other):$1" $3 --mode pre-copy --timeout 600 --json >move.json
	status=$?
	wire=$(($(sent) - wire))
	return $status
}
phys_move() { phys_to 7000 tls "--tls certs" 1gbit; }
phys10_move() { phys_to 7000 tls "--tls certs" 10gbit; }
plain_phys_move() { phys_to 7001 tcp --insecure 10gbit; }

# QEMU 10.0 (qemu-lib.sh).
qemu_up() {
	qemu_files
	check certs vmbeam certs qemu-certs >/dev/null
	phys_up
}
# qemu N COMMAND...: its N-th process; COMMAND: how it is started.
qemu() {
	n=$1
	shift
	qemu_vm "$n" qemu.log "$size" "$(options)" -object "tls-creds-x509,id=server,dir=$T/qemu-certs,endpoint=server,verify-peer=on" \
		-object "tls-creds-x509,id=client,dir=$T/qemu-certs,endpoint=client,verify-peer=on" ${qemu_more-} -- \
		"$@"
}
qemu_start() {
	qemu_at=here qemu_other=there qemu_n=1
	rm -f qemu.log qemu.pid* qmp*
	qemu 1 within qemu ip netns exec here env LD_LIBRARY_PATH="$qemu_libs" >qemu.out 2>&1 &
	wait_for 60 test -s qemu.pid1
	sleep 1
	kill -0 "$(cat qemu.pid1)" || fail "QEMU: $(cat qemu.out)"
}
qemu_stop() {
	p=$(cat "qemu.pid$qemu_n")
	kill "$p" && wait_for 30 sh -c "! kill -0 $p 2>/dev/null"
}
# qemu_to HOW WHERE MACHINE
qemu_to() {
	wire=$(sent)
	qemu $((qemu_n + 1)) stamp stamp.t $meter --gone "$(cat "qemu.pid$qemu_n")" --cgroup $CGROUPS/qemu -- \
		timeout 600 ip netns exec "$3" env LD_LIBRARY_PATH="$qemu_libs" qemu-move "$1" "qmp$qemu_n" "qmp$((qemu_n + 1))" "$2" -- >move.json
	status=$?
	[ $status = 0 ] || kill "$(cat "qemu.pid$((qemu_n + 1))")" 2>/dev/null
	wire=$(($(sent) - wire))
	return $status
}
qemu_cpr_move() { qemu_to cpr "$T/channel$qemu_n" $qemu_at; }
qemu_tls_move() { cable 10gbit && qemu_to tls "$(address $qemu_other):7100" $qemu_other; }
qemu_plain_move() { cable 10gbit && qemu_to plain "$(address $qemu_other):7100" $qemu_other; }

# A hypervisor with so many guests, rejuvenated; the first is called as the system is.
for k in 1 2 4 8 16; do
	eval "rejuv_${k}_up() { :; }
	rejuv_${k}_start() { rejuv_start $k; }
	rejuv_${k}_enter() { enter hv-$k \$(rejuv_guests $k); }
	rejuv_${k}_stop() { rejuv_stop $k; }
	rejuv_${k}_move() { stamp stamp.t \$meter --cgroup $CGROUPS/beam -- vmbeam rejuvenate hv-$k --json >move.json; }"
done
rejuv_guests() {
	echo "rejuv_$1"
	[ "$1" = 1 ] || seq -f "rejuv_$1-%g" 2 "$1"
}
rejuv_start() {
	check "hv-$1" within beam vmbeam hypervisor start "hv-$1" --memory 512M --window 4G >/dev/null
	for vm in $(rejuv_guests "$1"); do
		run "$vm" within beam --
	done
	for vm in $(rejuv_guests "$1"); do
		wait_for 600 reached seq 1 "$vm.log"
	done
}
rejuv_stop() {
	for vm in $(rejuv_guests "$1"); do
		check "stop $vm" vmbeam stop "$vm" --timeout 100
		beatcheck --min ticks=5 "$vm.log" >verdict 2>&1 || fail "$vm has lost something: $(cat verdict)"
	done
	check "stop hv-$1" vmbeam hypervisor stop "hv-$1"
}

# Whose guest it is that moves.
guest_of() {
	case $1 in beam | cold) echo beam ;; small | small_cold) echo small ;; nest | plain_nest) echo nest ;; phys | phys10 | plain_phys) echo phys ;; qemu_*) echo qemu ;; *) echo "$1" ;; esac
}
guests_of() {
	for s in $(echo "$1" | sed 's/[0-9]*=//g' | tr ',+' '  '); do
		guest_of "$s"
	done | sort -u
}

# ---- runs

# Where a guest is, before each run: what was to move it may have failed.
locate() {
	case $1 in
	nest)
		nest_at=1 nest_other=2
		inside 1 "vmbeam info nest >/dev/null 2>&1" | grep -q "^done 0$" || nest_at=2 nest_other=1
		;;
	phys)
		phys_at=here phys_other=there
		[ -S "$T/here/phys/control" ] || phys_at=there phys_other=here
		;;
	qemu)
		for n in $(ls qemu.pid* | sed 's/qemu.pid//' | sort -n); do
			kill -0 "$(cat "qemu.pid$n")" 2>/dev/null && qemu_n=$n
		done
		qemu_at=here qemu_other=there
		[ "$(ip netns identify "$(cat "qemu.pid$qemu_n")")" = here ] || qemu_at=there qemu_other=here
		;;
	esac
}
# The other guests stand still while one is measured.
still() { # pause or resume, GUEST that is not meant
	for other in $guests; do
		[ "$other" != "$2" ] || continue
		case $other in
		nest) locate nest && inside $nest_at "vmbeam $1 nest" | grep -q "^done 0$" ;;
		phys) locate phys && on $phys_at vmbeam "$1" phys ;;
		qemu) locate qemu && kill -$([ "$1" = pause ] && echo STOP || echo CONT) "$(cat "qemu.pid$qemu_n")" ;;
		rejuv_*) ;; # (is alone)
		*) vmbeam "$1" "$other" ;;
		esac || return 1
	done
}

# Lines of its log, wherever that is.
nest_lines() { inside $nest_at "tail -n 4 /tmp/nest.log" | grep -v ^done; }
nest_ticked() {
	nest_lines | grep -q "^tick [$1-9]\|^tick [0-9][0-9]"
}
is_up() { # GUEST: its memory is filled, and it has ticked so often
	if [ "$1" = nest ]; then
		nest_ticked 2
	else
		reached seq 2 "$1.log"
	fi
}
# The last lines of its log; what nest said before it came where it is, is here.
lines_of() {
	if [ "$1" = nest ]; then
		nest_lines
	else
		tail -n 4 "$1.log"
	fi >lines
}
tick_of() { # GUEST KEY
	lines_of "$1"
	last_of "$2" lines
}
ticks_on() { # GUEST N
	now=$(tick_of "$1" seq)
	[ "${now:--1}" -ge "$2" ]
}
# The longest time that its real-time thread had no CPU, as all ticks tell from the last before the command to the first that came
# wholly after it; pgap is what it had none while it printed.
gap_of() {
	g=$1
	lines_of "$g"
	at=$(last_of seq lines)
	wait_for 60 ticks_on "$g" $((${at:--1} + 2))
	if [ "$g" = nest ]; then
		inside $nest_at "cat /tmp/nest.log" | cat nest.log - >all
	else
		tail -n 2000 "$g.log" >all
	fi
	awk -v n="$before" '$1 == "tick" && $2 > n' all | tr ' ' '\n' | sed -n 's/^\(maxgap\|pgap\)=\([0-9]*\)$/\2/p' | sort -n | tail -n 1
}
wall_of() { # STAMPED
	awk '$1 == "start" { s = $2 } $1 == "end" || $1 == "gone" { e = $2 } END { printf "%.0f", e - s }' "$1"
}
total_of() { # SYSTEM: QEMU's own is without starting the destination
	case $1 in qemu_*) wall_of stamp.t ;; *) json move.json total_ns ;; esac
}
# measure SYSTEM: one run; its figures.
measure() {
	system=$1 guest=$(guest_of "$1") wire=
	rm -f move.json stamp.t figures
	locate "$guest"
	still pause "$guest" || fail "the others do not stand still"
	before=$(tick_of "$guest" seq) wrote=
	if [ "$rate" != 0 ]; then
		# (What it did while the others were measured is in its next two ticks.)
		wait_for 60 ticks_on "$guest" $((${before:--1} + 2))
		lines_of "$guest"
		wrote=$(last_of written lines) since=$(last_of mono lines)
		wait_for 60 ticks_on "$guest" $((${before:--1} + 4))
		lines_of "$guest"
		wrote=$(awk -v a="$wrote" -v b="$(last_of written lines)" -v s="$since" -v e="$(last_of mono lines)" 'BEGIN { printf "%.0f", (b - a) * 1e9 / (e - s) }')
		before=$(last_of seq lines)
	fi
	loose=$(anything)
	"${system}_move" || fail "$system: $(cat move.json) $(cat err)"
	[ -n "$wire" ] || wire=$(($(anything) - loose))
	mode=$(json move.json mode)
	case $system in
	beam | cold | small* | host) wanted=zero-copy ;;
	nest | phys* | plain_*) wanted=pre-copy ;;
	*) wanted=$mode ;;
	esac
	[ "$mode" = "$wanted" ] || fail "$system: moved by $mode: $(json move.json fallback_reason)"
	gap=
	if [ "$rate" = 0 ]; then # (it does not look at its clock)
		wait_for 60 ticks_on "$guest" $((${before:--1} + 1))
	else
		gap=$(gap_of "$guest")
	fi
	[ "$guest" = nest ] || [ "$guest" = qemu ] || beatcheck --min ticks=5 "$guest.log" >verdict 2>&1 || fail "$guest has lost something: $(cat verdict)"
	wall=$(wall_of stamp.t)
	echo "${mode:-$system},$(total_of "$system"),$(sed -n 's/.*"downtime_ns": \([0-9]*\).*/\1/p' move.json | sort -n | tail -n 1),$gap,$wire,$(json move.json bytes_sent),$(sed -n 's/^cpu //p' stamp.t),$(sed -n 's/^base //p' stamp.t),$wall,$wrote,$(sed -n 's/^misses //p' stamp.t)" >figures
}

. "$TOP/bench/recordings.sh"

systems=$(for p; do
	case $p in
	*:*) guests_of "$(echo "$p" | cut -d: -f3)" ;;
	*-phys | *-nest | *-qemu) echo "${p#*-}" ;;
	esac
done | sort -u)
for s in $systems; do
	echo "$s: made ready"
	case $s in
	nest) nest_up 1600M within nest ;;
	*) "${s}_up" ;;
	esac
done
# How far it is: runs, and seconds since the first of them began.
echo "0 $(uptime_s)" >progress
one_point() { # SIZE:RATE:ROUNDS
	size=${1%%:*} rest=${1#*:}
	rate=${rest%%:*} rounds=${rest#*:}
	guests=$(guests_of "$rounds")
	for g in $guests; do
		echo "$g: a guest of $size MiB, $rate MiB/s"
		"${g}_start"
	done
	for g in $guests; do
		wait_for 300 is_up "$g"
	done
	for g in $guests; do
		case $g in beam | small | warm | rejuv_*) "${g}_enter" ;; esac
	done
	for g in $guests; do
		[ "$g" = nest ] || wait_for 60 reached seq $(($(last_of seq "$g.log") + 1)) "$g.log"
		case $g in beam | small) has_pages $g ;; esac
	done
	echo "all of them are up"
	for one in $(echo "$rounds" | tr + ' '); do
		round=${one%%=*}
		# Every second round the other way round: what comes after what, and which way a guest goes, is not always the same.
		order=$(echo "${one#*=}" | tr , ' ')
		[ $((round % 2)) = 1 ] || order=$(echo "$order" | tr ' ' '\n' | tac | tr '\n' ' ')
		for s in $order; do
			outcome=ok
			(measure "$s") >out 2>&1 || outcome="$(tail -n 1 out | tr ',"\n' ';  ')"
			still resume "$(guest_of "$s")"
			[ "$outcome" = ok ] || : >figures
			run=$(($(cut -d' ' -f1 progress) + 1))
			echo "$run $(cut -d' ' -f2 progress)" >progress
			if [ "$outcome" = ok ]; then
				cp stamp.t "$results.d/$s-$size-$rate-$round" 2>/dev/null
				cp move.json "$results.d/$s-$size-$rate-$round.json" 2>/dev/null
			else
				sed 's/^/    /' out
			fi
			[ -z "$(tail -c 1 "$results")" ] || echo >>"$results" # (one that was cut off)
			echo "$constants,$s,$size,$rate,$round,\"$outcome\",$(cat figures)" >>"$results"
			left=$(awk -v now="$(uptime_s)" -v runs="$runs" '{ printf "%d", (now - $2) * (runs - $1) / $1 / 60 + 1 }' progress)
			echo "[$run of $runs, some $left min left, if all take as long] $s $size MiB, $rate MiB/s, round $round: $(awk -F, '{ printf "total %.1f ms, downtime %.1f ms", $2 / 1e6, $3 / 1e6 }' figures) $outcome"
		done
	done
	for g in $guests; do
		locate "$g"
		"${g}_stop"
		beatcheck --min ticks=5 "$g.log" >verdict 2>&1 || fail "$g of $size MiB has lost something: $(cat verdict)"
	done
}
# The pages that its guests are to have, in the destination's and the source's tables.
has_pages() {
	vmbeam info "$1" --json >pages.json || fail "$(cat pages.json)"
	huge=$(json pages.json translated_huge_bytes) all=$(json pages.json translated_bytes)
	[ "${all:-0}" -gt 0 ] || return 0 # (it cannot be asked here)
	case $1 in
	small) [ "$huge" -lt $((all / 10)) ] ;;
	*) [ "$huge" -gt $((all / 10 * 8)) ] ;;
	esac || fail "$1: $huge of $all bytes are in 2 MiB pages"
}
{
	echo "# ${constants##*,}"
	echo "Measured on Linux $(uname -r), $(nproc) CPUs, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1 | tr -d '<>&'), $(sed -n 's/^MemTotal: *//p' /proc/meminfo) of memory${MACHINE:+; $MACHINE}."
} >"$results.d/machine"

# What a point or recording that failed has left does not stay beside the next.
give_up() {
	stop_guests
	# shellcheck disable=SC2046 # several of them
	kill -CONT $(qemus) 2>/dev/null
	kill $(qemus) 2>/dev/null
	rm -f qemu.pid*
	[ ! -e "$T/run/nest-1" ] || for n in 1 2; do
		inside $n "vmbeam stop nest --force; vmbeam stop seen --force" >/dev/null 2>&1
	done
	for link in web out; do
		ip link del $link 2>/dev/null
	done
}
for point; do
	case $point in
	*:*)
		(one_point "$point") || {
			echo "$point failed"
			give_up
		}
		;;
	*)
		echo "$point: it takes some minutes"
		(
			trap 'kill $(jobs -p) 2>/dev/null' EXIT
			"$(echo "$point" | tr - _)"
		) || {
			echo "$point failed"
			give_up
		}
		;;
	esac
done
