# `run` in the foreground and `console` follow a VM through handovers; a VM that powers off or resets
# itself while it is being moved does so, once.

run() { # NAME OPTIONS...: in the foreground
	name=$1 options=$2
	vmbeam run "$name" --kernel "$LAB/vmlinux" --initrd "$GUESTS/beat.cpio" --memory 128M \
		--append "console=ttyS0 quiet panic=-1 beat.mem=16M $options" >"$name.log" 2>"$name.err"
}

run a "beat.end=150" &
runner=$!
wait_for 60 grep -aq '^tick 1 ' a.log
timeout 60 vmbeam console a >console.log 2>console.err </dev/null &
console=$!
moves=0
while [ $moves -lt 5 ]; do
	check "handover" vmbeam migrate a --to fresh >move.out
	moves=$((moves + 1))
	sleep 0.3
done
wait $runner || fail "run ended with $?: $(cat a.err)"
check "the serial line of run" beatcheck --min ticks=50 a.log >verdict

wait $console || fail "console ended with $?: $(cat console.err)"
[ "$(grep -ac '^tick' console.log)" -gt 10 ] || fail "console: $(cat console.err) $(wc -c <console.log) bytes"
[ ! -e /run/vmbeam/a ] || fail "a: its runtime folder is left"

# Handovers until the guest has powered off, wherever that finds them.
for round in 1 2; do
	run p$round "beat.end=$((20 + round))" &
	runner=$!
	wait_for 60 grep -aq '^tick 1 ' p$round.log
	moves=0
	while vmbeam migrate p$round --to fresh >move.out 2>move.err; do
		moves=$((moves + 1))
		[ $moves -lt 200 ] || fail "p$round does not end"
	done
	wait $runner || fail "p$round: run ended with $?: $(cat p$round.err); $(cat move.err)"
	check "power off in $moves handovers" beatcheck --min ticks=20 p$round.log >verdict
	[ ! -e /run/vmbeam/p$round ] || fail "p$round: its runtime folder is left: $(vmbeam list)"
done

# The same with resets: it comes back each time.
start_beat r r.log "beat.mem=16M beat.reboot=8" --memory 128M
moves=0 failed=0
while [ "$(grep -ac 'beat ready' r.log)" -lt 3 ]; do
	vmbeam migrate r --to fresh >move.out 2>move.err || failed=$((failed + 1))
	moves=$((moves + 1))
	[ $moves -lt 400 ] || fail "r is stuck: $(cat move.err)"
done
in_state r running || fail "r: $(state_of r) after resets"
check "stop" vmbeam stop r --force
echo "= power off and reset among handovers: $moves handovers around 2 resets, $failed refused"
