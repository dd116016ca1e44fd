#!/bin/sh
# lab-test.sh [PROGRAM]: what `vmbeam lab` promises, tried out in the emulator; `make check-lab-self`.
# A dozen boots, about a minute.  Says what failed and ends with 1 if anything did.
set -u
vmbeam=$(realpath "${1:-build/vmbeam}")
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

lab()
{
	"$vmbeam" lab --emulate --timeout 120 "$@"
}
check() # name, got, wanted
{
	if [ "$2" = "$3" ]; then
		echo "ok   $1"
	else
		echo "FAIL $1: got '$2', wanted '$3'"
		failed=1
	fi
}
emulator() # the QEMU that process $1 started
{
	while ! pgrep -P "$1" -f -- "-name vmbeam-lab"; do
		kill -0 "$1" 2>/dev/null || return
		sleep 0.1
	done
}
gone() # process
{
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		state=$(sed -n 's/^State:\t\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null)
		case $state in '' | Z) echo yes && return ;; esac
		sleep 0.2
	done
	echo no
}
logs()
{
	find "$(dirname "$vmbeam")/lab" -maxdepth 1 -name 'console-*.log' | wc -l
}
before=$(logs)

head -c 3000000 /dev/urandom >"$dir/bytes"
(cd / && lab -- sh -c 'pwd; exec cat' <"$dir/bytes" >"$dir/out" 2>"$dir/err")
{ echo /; cat "$dir/bytes"; } | cmp -s - "$dir/out"
check "stdin and stdout are binary-clean" $? 0
lab -- sh -c 'cat /proc/self/exe >&2; echo out; exit 7' >"$dir/out" 2>"$dir/err"
check "exit status" $? 7
cmp -s "$dir/err" /bin/cat
check "stderr is binary-clean" $? 0
check "stdout is separate" "$(cat "$dir/out")" out
check "environment" "$(VMBEAM_X='a  b
c' lab -- printenv VMBEAM_X)" "a  b
c"
# shellcheck disable=SC2016 # for the shell inside
check "the inside" "$(lab -- sh -c '
	[ -c /dev/kvm ] && [ -c /dev/net/tun ] && echo devices
	cat /sys/module/kvm_amd/parameters/nested /proc/sys/kernel/hostname
	cat /sys/devices/system/clocksource/clocksource0/current_clocksource
	grep -o "\[[a-z]*\]" /sys/kernel/mm/transparent_hugepage/shmem_enabled
	modprobe dm-mod && ulimit -c && touch /etc/x 2>/dev/null || echo read-only' | tr '\n' ' ')" \
	"devices 1 lab tsc [advise] 0 read-only "
lab -- sh -c 'kill -9 $$'
check "killed by a signal" $? 137
lab -- /no/such/command 2>/dev/null
check "no such command" $? 127
{ lab -- yes; echo $? >"$dir/status"; } | head -n 1 >/dev/null
check "nobody reads the output" "$(cat "$dir/status")" 141

lab -- sh -c 'echo last words; echo c >/proc/sysrq-trigger' >"$dir/out" 2>"$dir/err"
check "panic" $? 125
check "output before a panic" "$(cat "$dir/out")" "last words"
check "the panic is named" "$(grep -c '^vmbeam: lab: Kernel panic.*console-.*log' "$dir/err")" 1
"$vmbeam" lab --emulate -- sleep 100 2>"$dir/err" &
qemu=$(emulator $!)
kill -ABRT "$qemu"
wait $!
check "the emulator crashes" $? 125
"$vmbeam" lab --emulate --timeout 1 -- sleep 100 2>/dev/null
check "timeout" $? 124
check "three console logs" $(($(logs) - before)) 3

for signal in INT:130 TERM:143 HUP:129 KILL:137; do
	"$vmbeam" lab --emulate -- sleep 100 &
	qemu=$(emulator $!)
	sleep 4
	kill "-${signal%:*}" $!
	wait $! 2>/dev/null
	check "SIG${signal%:*}" $? "${signal#*:}"
	check "SIG${signal%:*} leaves no process" "$(gone "$qemu")" yes
done
# shellcheck disable=SC2016 # for the shells inside
check "two machines" "$(lab --machines 2 --memory 512M -- sh -c '
	[ $VMBEAM_LAB_MACHINE = 1 ] || exec sleep 100
	ping -q -c 1 -w 20 10.9.0.2 >/dev/null && hostname')" lab1
lab --machines 2 --memory 512M -- sh -c 'echo c >/proc/sysrq-trigger' 2>/dev/null
check "two machines, a panic" $? 125
# shellcheck disable=SC2016
lab --machines 2 --memory 512M -- sh -c '[ $VMBEAM_LAB_MACHINE = 1 ] || echo c >/proc/sysrq-trigger; sleep 100' 2>/dev/null
check "two machines, a panic of the second" $? 125
"$vmbeam" lab --emulate --memory 1K 2>/dev/null
check "usage" $? 2
VMBEAM_LAB_DIR=$dir "$vmbeam" lab --emulate 2>"$dir/err"
check "no kernel" "$? $(grep -c 'make lab-kernel' "$dir/err")" "1 1"
exit $failed
