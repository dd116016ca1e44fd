#!/bin/sh
# inside.sh RESULTS CONSTANTS RUNS POINT...: measures one system after another, in the lab or on a machine with KVM; called by bench.sh, which
# says what the columns are.
#
# Instead of a point: `ageing`, a hypervisor that leaks memory and disk, as the ageing monitor sees it (P10); `throughput-SYSTEM`, requests a
# second of a web service while it and other small guests move one after another (P9); `outside-SYSTEM`, how long a guest that moves does not
# answer; `speed-SYSTEM`, how fast a guest writes its memory before,
# while and after it moves; `overhead`, jobs that a guest times on the host and in a hypervisor; `extents`, moves of two guests that differ in
# how many pieces their memory is; each into a file of that name.  A point is
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
	case $1 in qemu* | cpr) wall_of stamp.t ;; *) json move.json total_ns ;; esac
}
# moved COMMAND...: it moves a guest, for a recording; move.json is what it leaves there, or prints.
moved() {
	check "move" "$@" >moved.json
	[ ! -s moved.json ] || mv moved.json move.json
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

# recorded NAME: what it reads is what there is to record.
recorded() {
	{
		echo "# ${constants##*,}"
		cat
	} >"$results.d/$1.new"
	[ "$(wc -l <"$results.d/$1.new")" -gt 1 ] || fail "$1: nothing was recorded"
	mv "$results.d/$1.new" "$results.d/$1"
	echo "$1: $(wc -l <"$results.d/$1") lines recorded"
}

# Its guests come and go meanwhile; an hour is a minute.
ageing() {
	check "hv" vmbeam hypervisor start hv-old --memory 768M --window 1G >/dev/null
	check "leak" vmbeam hypervisor age hv-old heap leak 250M 90
	check "leak" vmbeam hypervisor age hv-old disk leak 200M 90
	vmbeam monitor --record --test-speed 60 --test-interval-ms 1000 --for 90 >monitor.out 2>&1 &
	size=128 rate=0
	for i in 1 2 3; do
		run visitor -- --in hv-old
		sleep 10
		check "stop" vmbeam stop visitor --timeout 60
		sleep 5
	done
	wait $! || fail "monitor: $(cat monitor.out)"
	sqlite3 -csv "$VMBEAM_STATE_DIR/monitor.db" "SELECT (m.t - (SELECT min(t) FROM minute)) / 3600.0, s.name, m.value / 1048576 FROM minute m
		JOIN series s ON s.id = m.series JOIN subject u ON u.id = s.subject WHERE u.name = 'hv-old' AND NOT s.outside
		AND s.name IN ('memory_available', 'disk_available') ORDER BY m.t" | recorded ageing
	check "stop" vmbeam hypervisor stop hv-old
}

uptime_s() { cut -d' ' -f1 /proc/uptime; }
# The web service is reached over a bridge, wherever it runs; SMALL other guests, which do nothing and hardly say so.
# Emulated, where a nested exit takes 1 ms, the ticks of a guest that is never idle take all of its CPU: it is asked that often a second
# then, and not as often as it answers (0).
SMALL=10 WEB_S=15 WEB_RATE=$([ $slowness = 1 ] && echo 0 || echo 10) LOADER=httpload RECORDING=throughput-beam WEB_OPTIONS=
bystander_up() { # NAME PREFIX... --
	size=128 rate=0
	options() { echo "console=ttyS0 quiet panic=-1 beat.tick=5000 beat.threads=1 beat.mem=16M beat.rate=idle"; }
	run "$@"
}
web_up() { # NET HYPERVISOR COMMAND...: which starts it; its tap is made by then; HYPERVISOR: to be moved into ("": none)
	net=$1 nested_in=$2
	shift 2
	check "start web" "$@" --kernel "$LAB/vmlinux" --initrd "$GUESTS/debian-initrd.cpio" --memory 256M --disk "$GUESTS/debian.img,ro" --net tap=web \
		--serial "$T/web.serial" --detach --append "console=ttyS0 quiet guest.ip=$net.2/24 $WEB_OPTIONS" >/dev/null
	for i in $(seq $SMALL); do
		wait_for 200 reached seq 1 "small-$i.log"
	done
	wait_for 300 grep -qs "guest ready" web.serial
	# shellcheck disable=SC2046 # several names
	[ -z "$nested_in" ] || enter "$nested_in" $(seq -f small-%g $SMALL) web
	rm -f web.load web.progress
	mkfifo web.progress
	$LOADER "$net.2" --rate $WEB_RATE --clients 2 --progress --json >web.json 2>web.progress &
	load=$!
	# (Each line with the time at which it came.)
	while read -r line; do
		read -r now rest </proc/uptime
		echo "$now $line"
	done <web.progress >web.load &
	wait_for 60 grep -q requests web.load
	began=$(uptime_s)
	: >moves
	sleep $WEB_S
}
web_moved() { # NAME COMMAND...: moves it
	name=$1 from=$(uptime_s)
	shift
	check "move $name" "$@" >move.json
	echo "move $from $(uptime_s) $name" >>moves
	sleep 1
}
web_down() { # NAME: its recording
	sleep $WEB_S
	kill -TERM $load
	wait $load || grep -q '"requests"' web.json || fail "$LOADER: $(cat web.json)" # (requests that failed are in the recording)
	{
		echo "asked $WEB_RATE"
		sed -n 's/.*"requests":\([0-9]*\),"failures":\([0-9]*\).*/failed \2 \1/p' web.json
		sed -n 's/.*"longest_gap_ns":\([0-9]*\).*/longest \1/p' web.json
		awk -v b="$began" '/requests/ { if (last) print "rate", $1 - b, $4 / ($1 - last); last = $1 }' web.load
		awk -v b="$began" '{ print $1, $2 - b, $3 - b, $4 }' moves
	} | recorded "$1"
}
throughput_beam() {
	pair_up web 768M 2G --cpus 2
	make_tap web 10.97.8.1/24
	for i in $(seq $SMALL); do
		bystander_up "small-$i" within beam --
	done
	web_up 10.97.8 web-a within beam vmbeam run web
	for g in $(seq -f small-%g $SMALL) web; do
		web_moved "$g" vmbeam migrate "$g" --to web-b --json
	done
	web_down $RECORDING
	for g in $(seq -f small-%g $SMALL) web; do
		vmbeam stop "$g" --force
	done
	pair_down web
	ip link del web
}
# The same of a redis, alone.
throughput_redis() {
	SMALL=0 LOADER=redisload RECORDING=throughput-redis
	throughput_beam
}
# The same of a job that compiles, alone, in the place of requests: the guest says over its web server how many files it has compiled.
compileload() { # ADDRESS ...
	requests=0 failed=0 last=$(compiled "$1")
	: "${last:=0}"
	trap 'echo "{\"requests\":$requests,\"failures\":$failed}"; exit' TERM
	while :; do
		sleep 1
		now=$(compiled "$1") || failed=$((failed + 1))
		: "${now:=$last}"
		echo "1.0 s: $((now - last)) requests" >&2
		requests=$((requests + now - last)) last=$now
	done
}
compiled() { curl -sf -m 5 "http://$1/compiled"; }
throughput_compile() {
	SMALL=0 LOADER=compileload RECORDING=throughput-compile WEB_RATE=0 WEB_OPTIONS=guest.compile=1
	throughput_beam
}
# A network that reaches both machines, with a tap `web` in each.
phys_net() {
	[ ! -e /sys/class/net/web-here ] || return 0
	ip link add lan type bridge && ip addr add 10.97.9.1/24 dev lan && ip link set lan up || fail "no bridge"
	for m in here there; do
		ip link add "web-$m" master lan up type veth peer name up netns $m || fail "no veth"
		ip -n $m link add bridge up type bridge && ip -n $m link set dev up master bridge && ip -n $m link set dev up up &&
			ip -n $m tuntap add web mode tap && ip -n $m link set dev web master bridge && ip -n $m link set dev web up ||
			fail "no bridge in $m"
		on $m sh -c "exec vmbeam receive --listen $(address $m):7002 --tls certs --allow $T --allow $LAB --allow $GUESTS --allow tap=web" \
			>"receive-web.$m" 2>&1 &
		wait_for 20 grep -q "receiving at" "receive-web.$m"
	done
	cable 10gbit
}
throughput_phys() {
	phys_net
	for i in $(seq $SMALL); do
		bystander_up "small-$i" within here ip netns exec here env VMBEAM_RUNTIME_DIR="$T/here" --
	done
	web_up 10.97.9 "" within here ip netns exec here env VMBEAM_RUNTIME_DIR="$T/here" vmbeam run web
	for g in $(seq -f small-%g $SMALL) web; do
		web_moved "$g" on here vmbeam migrate "$g" --to "tls://$(address there):7002" --tls certs --timeout 900 --json
	done
	web_down throughput-phys
	for g in $(seq -f small-%g $SMALL) web; do
		on there vmbeam stop "$g" --force
	done
}

# What somebody outside sees of a guest that answers UDP, while it moves and while it does not: a ping a millisecond, or, emulated, where so
# many would take all of the machine, every twentieth.
PINGS=5
outside_options() { # ADDRESS
	address_seen=$1 size=128 rate=0 meter=
	options() { echo "console=ttyS0 quiet panic=-1 beat.tick=1000 beat.rate=idle beat.mem=16M beat.net=$address_seen/24"; }
}
outside_up() { # ADDRESS PREFIX... -- OPTION...
	outside_options "$1"
	shift
	run seen "$@"
	wait_for 300 reached seq 2 seen.log
	outside_asked
}
outside_asked() { # by somebody, from now on
	every=$([ $slowness = 1 ] && echo 1 || echo 20)
	beatpeer "$address_seen" --rate 1000 --interval $every >peer.json 2>peer.err &
	peer=$!
	sleep 2
	: >gaps
}
longest_gap() { # since it was asked last
	n=$(grep -c longest_udp_gap_ns peer.json)
	kill -USR1 $peer
	wait_for 20 sh -c "[ \$(grep -c longest_udp_gap_ns peer.json) -gt $n ]"
	sed -n 's/.*"longest_udp_gap_ns": *\([0-9]*\).*/\1/p' peer.json | tail -n 1
}
outside_moved() { # COMMAND...
	longest_gap >/dev/null
	from=$(uptime_s)
	moved "$@"
	sleep 1
	echo "gap $(longest_gap)" >>gaps
	echo "downtime $(json move.json downtime_ns)" >>gaps
	# As long without a move.
	sleep "$(awk -v a="$from" -v b="$(uptime_s)" 'BEGIN { print b - a }')"
	echo "still $(longest_gap)" >>gaps
}
outside_down() { # NAME
	kill -TERM $peer
	wait $peer || fail "beatpeer: $(cat peer.err)"
	recorded "$1" <gaps
}
outside_beam() {
	pair_up out 512M 1G
	make_tap out 10.96.1.1/24
	outside_up 10.96.1.2 within beam -- --in out-a --net tap=out
	for i in $(seq $PINGS); do
		outside_moved vmbeam migrate seen --to "$(other_of seen)" --json
	done
	outside_down outside-beam
	check "stop" vmbeam stop seen --force
	pair_down out
	ip link del out
}
outside_warm() {
	check "hv" within beam vmbeam hypervisor start hv-out --memory 512M --window 1G >/dev/null
	make_tap out 10.96.1.1/24
	outside_up 10.96.1.2 within beam -- --in hv-out --net tap=out
	for i in 1 2 3; do # (each takes as long as a hypervisor's start, twice)
		outside_moved vmbeam rejuvenate hv-out --method warm --json
	done
	outside_down outside-warm
	check "stop" vmbeam stop seen --force
	check "stop hv" vmbeam hypervisor stop hv-out
	ip link del out
}
outside_host() {
	make_tap out 10.96.1.1/24
	outside_up 10.96.1.2 within host -- --net tap=out
	for i in $(seq $PINGS); do
		outside_moved vmbeam migrate seen --to fresh --json
	done
	outside_down outside-host
	check "stop" vmbeam stop seen --force
	ip link del out
}
outside_phys() {
	phys_net
	outside_up 10.97.9.3 within here ip netns exec here env VMBEAM_RUNTIME_DIR="$T/here" -- --net tap=web
	from_m=here to_m=there
	for i in $(seq $PINGS); do
		outside_moved on $from_m vmbeam migrate seen --to "tls://$(address $to_m):7002" --tls certs --timeout 900 --json
		x=$from_m from_m=$to_m to_m=$x
	done
	outside_down outside-phys
	check "stop" on $from_m vmbeam stop seen --force
}

# Between host VMs whose guests are on the bridge that these are on.
outside_nest() {
	for n in 1 2; do
		did $n "brctl addbr lan; ip link set lan up; tunctl -t seen; brctl addif lan seen; ip link set seen up
			ip addr del 10.8.0.$n/24 dev eth0; brctl addif lan eth0; ip addr add 10.8.0.$n/24 dev lan
			vmbeam receive --listen 10.8.0.$n:7002 --tls /certs --allow / --allow tap=seen >/tmp/seen 2>&1 </dev/null & sleep 1; cat /tmp/seen"
	done
	outside_options 10.8.0.3
	did 1 "vmbeam run seen --kernel /vmlinux --initrd /beat.cpio --memory ${size}M --append '$(options)' --net tap=seen --serial /tmp/seen.log --detach </dev/null"
	at=1 to=2
	wait_for 300 nest_pinged
	outside_asked
	for i in $(seq $PINGS); do
		outside_moved inside_json $at "vmbeam migrate seen --to tls://10.8.0.$to:7002 --tls /certs --mode pre-copy --timeout 600 --json </dev/null"
		x=$at at=$to to=$x
	done
	outside_down outside-nest
	did $at "vmbeam stop seen --force"
}
nest_pinged() { ping -c 1 -W 1 10.8.0.3; }
inside_json() { # N COMMAND: what it prints
	inside "$@" >inside.out 2>&1
	grep -v ^done inside.out
	grep -q "^done 0$" inside.out
}
outside_qemu() {
	phys_net
	outside_options 10.97.9.4
	qemu_more="-netdev tap,id=net,ifname=web,script=no,downscript=no -device virtio-net-pci,netdev=net,mac=52:54:00:00:09:04"
	qemu_start
	wait_for 300 reached seq 2 qemu.log
	outside_asked
	for i in $(seq $PINGS); do
		locate qemu
		outside_moved qemu_tls_move
	done
	outside_down outside-qemu
	qemu_more=
	locate qemu
	qemu_stop
}

# A guest that writes its memory as fast as it can; when it moves is told by its ticks: four a second, or, emulated, where so many would take
# a nested guest's CPU, one.
SPEED_TICKS=16 SPEED_MS=$([ $slowness = 1 ] && echo 250 || echo 1000)
speed_options() {
	size=256 rate=0 meter=
	options() { echo "console=ttyS0 quiet panic=-1 beat.tick=$SPEED_MS beat.threads=1 beat.thp=1 beat.mem=128M beat.full=1000000000"; }
}
speed_up() { # PREFIX... -- [OPTION...]: with a guest of the name speed
	speed_options
	run speed "$@"
	wait_for 300 reached seq $SPEED_TICKS speed.log
}
speed_lines() { # GUEST
	if [ "$1" = nest ]; then
		inside $nest_at "cat /tmp/nest.log" | grep -v ^done | cat nest.log - 2>/dev/null
	else
		cat "$1.log"
	fi >ticks
}
speed_at() { # GUEST
	speed_lines "$1"
	last_of seq ticks
}
speed_reached() { # N GUEST
	now=$(speed_at "$2")
	[ "${now:--1}" -ge "$1" ]
}
speed_moves() { # SYSTEM GUEST COMMAND...
	system=$1 moving=$2
	shift 2
	began=$(speed_at "$moving")
	moved "$@"
	locate "$moving"
	ended=$(speed_at "$moving")
	wait_for 120 speed_reached $((ended + SPEED_TICKS)) "$moving"
	# (mono and written of each tick; the ticks between which it moved)
	{
		echo "move $began $ended $(total_of "$system")"
		sed -n 's/^tick \([0-9]*\) mono=\([0-9]*\) .* written=\([0-9]*\) .*/tick \1 \2 \3/p' ticks |
			awk -v a=$((began - SPEED_TICKS)) -v b=$((ended + SPEED_TICKS)) '$2 >= a && $2 <= b'
	} | recorded "speed-$system"
}
speed_beam() {
	pair_up speed 512M 1G
	speed_up within beam -- --in speed-a
	speed_moves beam speed vmbeam migrate speed --to speed-b --json
	sleep 2
	speed_moves cold speed vmbeam migrate speed --to speed-a --no-warm --json
	check "stop" vmbeam stop speed --force
	pair_down speed
}
speed_warm() {
	check "hv" within beam vmbeam hypervisor start hv-speed --memory 512M --window 1G >/dev/null
	speed_up within beam -- --in hv-speed
	speed_moves warm speed vmbeam rejuvenate hv-speed --method warm --json
	check "stop" vmbeam stop speed --force
	check "stop hv" vmbeam hypervisor stop hv-speed
}
speed_host() {
	speed_up within host --
	speed_moves host speed vmbeam migrate speed --to fresh --json
	check "stop" vmbeam stop speed --force
}
# By pre-copy, which slows it down since it writes faster than it can be sent, and by post-copy.
speed_phys() {
	cable 10gbit
	speed_up within here ip netns exec here env VMBEAM_RUNTIME_DIR="$T/here" --
	speed_moves phys speed on here vmbeam migrate speed --to "tls://$(address there):7000" --tls certs --mode pre-copy --timeout 900 --json
	speed_moves post speed on there vmbeam migrate speed --to "tls://$(address here):7000" --tls certs --mode post-copy --timeout 900 --json
	check "stop" on here vmbeam stop speed --force
}
speed_nest() {
	speed_options
	nest_start
	wait_for 300 speed_reached $SPEED_TICKS nest
	speed_moves nest nest nest_move
	nest_stop
}
speed_qemu() {
	speed_options
	qemu_start
	wait_for 300 reached seq $SPEED_TICKS qemu.log
	speed_moves cpr qemu qemu_cpr_move
	speed_moves qemu qemu qemu_tls_move
	qemu_stop
}

# What a guest pays for being in a hypervisor; on the host it is as if there was none.
overhead() {
	check "hv" vmbeam hypervisor start hv-over --memory 1G --window 1G >/dev/null
	size=256 rate=0
	options() { echo "console=ttyS0 quiet panic=-1 beat.jobs=1 beat.mem=160M"; }
	run plain within host --
	run nested within beam -- --in hv-over
	for g in plain nested; do
		wait_for 120 grep -q '^jobs ready' $g.log
	done
	for round in 1 2 3 4 5; do
		for job in cpu mem touch exit io; do
			for g in plain nested; do
				n=$(grep -c "^job $job ns=" $g.log)
				printf '%s\n' $job | socat -t 0.2 - UNIX-CONNECT:$T/run/$g/console >/dev/null
				wait_for 120 sh -c "[ \$(grep -c '^job $job ns=' $g.log) -gt $n ]"
			done
		done
	done
	for g in plain nested; do
		sed -n "s/^job \([a-z]*\) ns=\([0-9]*\)/job $g \1 \2/p" $g.log
		check "stop" vmbeam stop $g --force
	done | recorded overhead
	check "stop" vmbeam hypervisor stop hv-over
}

# Pieces of a guest's RAM, with holes between them: SEEK_DATA is 3, SEEK_HOLE 4.
extents_of() {
	perl -e 'opendir D, "/proc/$ARGV[0]/fd"; for (readdir D) { $f = "/proc/$ARGV[0]/fd/$_"; next unless readlink($f) =~ /vmbeam-ram/;
		open F, "<", $f or die; $at = 0; while (defined($data = sysseek F, $at, 3)) { $at = sysseek F, $data, 4; $n++ } print $n; exit }' "$(info_of "$1" pid)"
}
extents() {
	pair_up pieces 512M 3G
	size=1024 rate=0
	options() { echo "console=ttyS0 quiet panic=-1 beat.tick=1000 beat.threads=1 beat.thp=1 beat.mem=384M beat.rate=idle $more"; }
	more="" && run few within beam --
	more="beat.holes=1 beat.load=virtio_balloon" && run many within beam --
	for g in few many; do
		wait_for 300 is_up $g
	done
	reported() { [ "$(info_of many allocated_bytes)" -lt 600000000 ]; }
	wait_for 60 reported
	enter pieces-a few many
	for round in 1 2 3 4 5; do
		for g in few many; do
			beam_to $g || fail "$g: $(cat move.json)"
			echo "extents $g $(extents_of $g)"
			echo "warm $g $(phases move.json | awk '$1 == "warm" { print $2 }')"
			echo "total $g $(json move.json total_ns)"
		done
	done >pieces
	recorded extents <pieces
	for g in few many; do
		check "stop $g" vmbeam stop $g --timeout 60
		beatcheck --min ticks=5 $g.log >verdict 2>&1 || fail "$g has lost something: $(cat verdict)"
	done
	pair_down pieces
}

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

for point; do
	case $point in
	*:*)
		(one_point "$point") || {
			echo "$point failed"
			stop_guests
			# shellcheck disable=SC2046 # several of them
			kill -CONT $(qemus) 2>/dev/null
			kill $(qemus) 2>/dev/null
			rm -f qemu.pid*
			[ ! -e "$T/run/nest-1" ] || for n in 1 2; do
				inside $n "vmbeam stop nest --force" >/dev/null 2>&1
			done
		}
		;;
	*)
		echo "$point: it takes some minutes"
		(
			trap 'kill $(jobs -p) 2>/dev/null' EXIT
			"$(echo "$point" | tr - _)"
		) || {
			echo "$point failed"
			stop_guests
		}
		;;
	esac
done
