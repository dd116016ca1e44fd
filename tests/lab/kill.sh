# kill -9 of source, destination and driver at every point of a handover (zerocopy/fault.c lists the
# points), one victim at a time, and two at once where two can matter.  Without KILL_ALL=1 (as in
# `make check-long`) only the party that has reached the point is killed.
# Afterwards there is exactly one of these, and which one is laid down below:
#   runs     one copy of the guest, whose memory, clock and serial line are whole
#   crashed  the source died before its capture was complete: reported, its memory can be dumped

points=$(sed -n 's/^\t"\(.*\)",*$/\1/p; s/",\t* *"/ /g' "$TOP/zerocopy/fault.c" | tr -d '",\t')
[ "$(echo $points | wc -w)" = 19 ] || fail "19 points expected, found: $points"
cases=0 n=0

# Before the capture is complete, the death of the source is the VM's.
expected() {
	case $1:$2 in
	source:driver.offered | source:driver.prepared | source:driver.warmed | source:source.offered) echo crashed ;;
	source:source.begun | source:source.paused | source:source.drained | source:source.captured) echo crashed ;;
	source:destination.received | source:destination.built | source:destination.warmed) echo crashed ;;
	# source and destination go on while the driver is held: any moment may be hit
	source:driver.going | destination:driver.going) echo either ;;
	# the destination goes on while the source is held
	destination*:source.sent) echo either ;;
	# after the start the destination is the VM
	destination:destination.started | destination:driver.done) echo crashed ;;
	*) echo runs ;;
	esac
}

guest_up() {
	n=$((n + 1))
	start_beat "k$n" "k$n.log" "beat.mem=16M" --memory 128M
}

guest_down() {
	vmbeam stop "k$n" --force || fail "cannot stop k$n"
	beatcheck "k$n.log" >verdict 2>&1 || fail "k$n: $(cat verdict)"
}

vmm_pids() {
	pgrep -x vmbeam-vmm || true
}

# Somebody has stopped itself at the point.
holding() {
	for p in $driver $(vmm_pids); do
		grep -qs '^State:.T' /proc/$p/status && return 0
	done
	return 1
}

# judge POINT VICTIMS: what is left, against what is expected.
judge() {
	want=$(expected "$2" "$1")
	echo "  left: $(vmbeam list 2>&1 | tail -n 1); vmm: $(vmm_pids | tr '\n' ' '); driver: $(cat driver.out driver.err)"
	wait_for 20 sh -c "vmbeam info k$n --json >info.json && ! grep -q '\"state\": \"moving\"' info.json"
	have=$(json info.json state)
	case $want:$have in
	runs:running | either:running) goes_on "k$n.log" ;;
	crashed:crashed | either:crashed)
		rm -f core
		vmbeam dump "k$n" --out core || fail "$1, $2 killed: the memory cannot be dumped"
		[ "$(head -c 4 core | tail -c 3)" = ELF ] || fail "$1, $2 killed: the dump is no ELF file"
		guest_down
		guest_up
		;;
	*) fail "$1, $2 killed: the VM is '$have', not '$want'; driver: $(cat driver.out driver.err)" ;;
	esac
	[ "$(vmm_pids | wc -w)" = 1 ] || fail "$1, $2 killed: vmm processes left: $(vmm_pids)"
	cases=$((cases + 1))
}

# one POINT VICTIM...
one() {
	point=$1
	shift
	echo "$(date +%T) $point: $* killed"
	source=$(vmm_pids)
	rm -f driver.out driver.err
	: >/run/vmbeam/k$n/log
	party=${point%%.*}
	action=hold
	[ "$*" != "$party" ] || action=kill
	VMBEAM_FAULT=$point=$action vmbeam migrate "k$n" --to fresh --mode zero-copy >driver.out 2>driver.err &
	driver=$!
	if [ $action = hold ]; then
		wait_for 20 holding
		for victim; do
			case $victim in
			driver) kill -9 $driver 2>/dev/null || true ;; # it may be done
			source) kill -9 "$source" 2>/dev/null || true ;;
			destination) for p in $(vmm_pids); do [ "$p" = "$source" ] || kill -9 "$p" || true; done ;;
			esac
		done
		kill -CONT $driver $(vmm_pids) 2>/dev/null || true
	fi
	wait $driver 2>/dev/null || true
	# What is not the driver's child any more takes its own time.
	wait_for 20 sh -c 'n=$(pgrep -x vmbeam-vmm | wc -l); [ "$n" -le 1 ]'
	judge "$point" "$*"
}

guest_up
for point in $points; do
	for victim in source destination driver; do
		[ -n "${KILL_ALL:-}" ] || [ "$victim" = "${point%%.*}" ] || continue
		# What is not there yet, or no more, cannot be killed.
		case $victim:$point in
		destination:driver.offered | destination:source.offered | source:driver.done) continue ;;
		esac
		one "$point" $victim
	done
done
one driver.warmed destination driver
one source.sent destination driver
one destination.captured source driver
one destination.restored source driver
one destination.committed source driver
guest_down
echo "= $cases cases: each left one running copy, or a reported crash with its memory kept"
