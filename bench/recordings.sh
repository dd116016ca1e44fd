# recordings.sh: what `vmbeam bench` records beside runs, each into a file of its name (bench.sh says when it is taken anew); for inside.sh, which
# calls each in a subshell.
#
#   ageing             a hypervisor that leaks memory and disk, as the ageing monitor sees it (P10)
#   throughput-SYSTEM  requests a second of a web service while it and other small guests move one after another (P9); of a redis, or
#                      files that a guest compiles, while it moves alone
#   outside-SYSTEM     how long a guest that moves does not answer
#   speed-SYSTEM       how fast a guest writes its memory before, while and after it moves
#   overhead           jobs that a guest times on the host and in a hypervisor
#   extents            moves of two guests that differ in how many pieces their memory is

# moved COMMAND...: it moves a guest; move.json is what it leaves there, or prints.
moved() {
	check "move" "$@" >moved.json
	[ ! -s moved.json ] || mv moved.json move.json
	case $(json move.json fallback_reason) in "" | null) ;; *) fail "it was copied: $(json move.json fallback_reason)" ;; esac
	[ "$(json move.json mode)" != warm ] || [ "$(json move.json to)" != host ] || fail "it ran on the host meanwhile"
}
# recorded NAME: what it reads is what there is to record.
recorded() {
	{
		echo "# ${constants##*,}"
		echo "# $RECORDED"
		cat
	} >"$results.d/$1.new"
	[ "$(wc -l <"$results.d/$1.new")" -gt 2 ] || fail "$1: nothing was recorded"
	mv "$results.d/$1.new" "$results.d/$1"
	echo "$1: $(($(wc -l <"$results.d/$1") - 2)) lines recorded"
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
	moved "$@"
	echo "move $from $(uptime_s) $name" >>moves
	sleep 1
}
web_down() { # NAME: its recording
	sleep $WEB_S
	kill -TERM $load
	wait $load || grep -q '"requests":[1-9]' web.json || fail "$LOADER: $(cat web.json)" # (requests that failed are in the recording)
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
	requests=0 failed=0
	wait_for 60 compiled "$1"
	last=$(compiled "$1")
	trap 'echo "{\"requests\":$requests,\"failures\":$failed}"; exit' TERM
	while :; do
		sleep 1
		now=$(compiled "$1") || {
			failed=$((failed + 1))
			continue
		}
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
	kill -USR1 $peer || fail "beatpeer: $(cat peer.err peer.json)"
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
	began=$(speed_at "$moving") from=$(uptime_s)
	moved "$@"
	took=$(awk -v a="$from" -v b="$(uptime_s)" 'BEGIN { printf "%.0f", (b - a) * 1e9 }')
	ended=$(speed_at "$moving")
	# (To look at nest's takes of what it has.)
	sleep $((SPEED_TICKS * SPEED_MS / 1000))
	wait_for 120 speed_reached $((ended + SPEED_TICKS)) "$moving"
	# (mono and written of each tick; the ticks between which it moved, ns that the command took)
	{
		echo "move $began $ended $took"
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
	wait_for 300 nest_ticked 2
	sleep $((SPEED_TICKS * SPEED_MS / 1000))
	wait_for 300 speed_reached $SPEED_TICKS nest
	speed_moves nest nest nest_move
	nest_stop
}
speed_qemu() {
	speed_options
	qemu_start
	wait_for 300 reached seq $SPEED_TICKS qemu.log
	speed_moves cpr qemu qemu_cpr_move
	locate qemu
	speed_moves qemu qemu qemu_tls_move
	locate qemu
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

