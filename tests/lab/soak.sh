# vmbeamd left to itself: each guest hypervisor leaks, and SOAK (default 3; 30 in `make check-long`) times one is replaced because too
# little is left (BY=threshold), or because the forecast says that there soon will be (BY=forecast, time compressed 40 times), while
# three guest VMs, two of them under load from outside, run on.  No request may fail, no guest is lost, this machine's own memory
# stays what it is.
N=${SOAK:-3} BY=${BY:-threshold} rate=2
[ $BY = threshold ] || rate=1
MONITOR=yes
# What it was judged by, for who wants to know why: build/tests/soak-BY.
keep() {
	rm -rf "$TOP/build/tests/soak-$BY" && mkdir -p "$TOP/build/tests/soak-$BY"
	cp state/*.db* vmbeamd.log ./*.load ./*.err "$TOP/build/tests/soak-$BY" 2>/dev/null || true # what there is
}
trap keep EXIT
. "$TOP/tests/lab/daemon-lib.sh"
echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled
check "hv" vmbeam hypervisor start hv --memory 768M --cpus 2 --window 2G >hv.txt
start_beat_in hv beat beat.log "beat.tick=1000 beat.mem=16M beat.rate=64K" --memory 128M
i=0
for g in redis nginx; do
	i=$((i + 1))
	make_tap vmbeam-$g 10.97.$i.1/24
	check "start $g" vmbeam run $g --kernel "$LAB/vmlinux" --initrd "$GUESTS/debian-initrd.cpio" --memory 256M \
		--disk "$GUESTS/debian.img,ro" --net tap=vmbeam-$g --serial "$PWD/$g.serial" --detach \
		--append "console=ttyS0 quiet guest.ip=10.97.$i.2/24" >/dev/null
done
for g in redis nginx; do
	wait_for 200 grep -qs "guest ready" $g.serial
	move_in hv $g
done
redisload 10.97.1.2 --rate $rate --clients 1 --json >redis.load 2>redis.err &
redis=$!
httpload 10.97.2.2 --rate $rate --clients 1 --json >nginx.load 2>nginx.err &
nginx=$!
# What each that comes leaks, and when it is time.
case $BY in
threshold)
	speed=20 leak="150M 30" rule="threshold = memory_available < 450M" patience=240
	;;
forecast)
	speed=40 leak="400M 2160" rule="predict = 36h" patience=300
	check "record" vmbeam monitor --record --test-speed $speed --test-interval-ms 1500 --for 90 >monitor0.txt
	repeat_history
	;;
esac
configure "methods = beam
	$rule" true
start_daemon VMBEAM_TEST_SPEED=$speed
wait_for 30 daemon_says idle
held() {
	awk '/^(Slab|KernelStack|PageTables|VmallocUsed|Shmem|AnonPages):/ { s += $2 } END { print int(s / 1024) }' /proc/meminfo
}
# Each that comes leaks, until it is replaced.
n=0
while [ $n -lt "$N" ]; do
	wait_for 20 vmbeam hypervisor age hv heap leak $leak
	wait_for $patience has_completed $n
	n=$((n + 1))
	wait_for 30 daemon_says idle
	# (Whoever watches sees it; a failure shows it.)
	vmbeam monitor hv 2>/dev/null | head -n 3
	get /v1/rejuvenations | sed -n 's/^ *"why": "\(.*\)",$/\1/p' | head -n 1
	[ $n != 1 ] || first=$(held)
	echo "$(date +%T) $n of $N"
done
sleep 5
last=$(held)
for g in redis nginx beat; do
	[ "$(info_of $g state)" = running ] && [ "$(info_of $g placement)" = hv ] || fail "$g is $(info_of $g state) in $(info_of $g placement)"
done
lost=
for g in redis nginx; do
	eval "kill -TERM \$$g"
	eval "wait \$$g" || lost="$lost $g"
	tail -n 1 $g.load | sed "s/^/= $g: /"
done
get /v1/rejuvenations >runs.json
sed -n 's/.*"downtime_ns": \([0-9]*\).*/\1/p' runs.json >downtimes
echo "= $n rejuvenations by themselves: downtime of a guest $(median <downtimes | awk '{ print $1 / 1e6 }') ms, at most $(sort -n downtimes | tail -n 1 | awk '{ print $1 / 1e6 }') ms; this machine holds $first, then $last MiB"
[ -z "$lost" ] || fail "requests of$lost were lost"
grep -q '"outcome": "blocked"' runs.json && fail "some were blocked: $(grep '"error"' runs.json | sort | uniq -c)"
[ "$(grep -c '"outcome": "completed"' runs.json)" -ge "$N" ] || fail "$(grep -c completed runs.json) were completed"
grep -q "\"why\": \"$BY: memory_available" runs.json || fail "why: $(grep '"why"' runs.json | sort | uniq -c)"
[ "$last" -lt $((first + 64)) ] || fail "this machine holds $last MiB, and held $first after the first"
stop_daemon
check "power off" vmbeam stop beat --timeout 60
check "memory, clock and serial" beatcheck --min ticks=5 beat.log >beats
check "the rest" vmbeam shutdown --timeout 60 >shutdown.txt
! ls /run/vmbeam | grep -q . || fail "shutdown left: $(ls /run/vmbeam)"
grep 'a turn of the loop' vmbeamd.log | tail -n 1 | sed 's/.*; /= /'
