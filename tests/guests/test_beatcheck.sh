#!/bin/bash
# test_beatcheck.sh BEATCHECK: does the checker accept a good log and refuse each kind of bad one?
# Run by `make check-guests`.
set -u
shopt -s lastpipe # `... | expect` counts in this shell
check=$1
passed=0 failed=0

# tick SEQ MONO [WRITTEN [EXTRA]]: a tick line with its sum (FNV-1a, as in beat_line.h).
tick() {
	local line hash=2166136261 i code
	line="tick $1 mono=$2 real=$((1000000000000 + $2)) maxgap=1000 passes=$(($1 / 2))"
	line+=" written=${3:-$((4096 * $1))}${4:- bad=0 back=0} late=10"
	for ((i = 0; i < ${#line}; i++)); do
		printf -v code %d "'${line:i:1}"
		hash=$((((hash ^ code) * 16777619) & 0xffffffff))
	done
	printf '%s sum=%04x\n' "$line" $(((hash ^ hash >> 16) & 0xffff))
}

# log COUNT: a whole log of that many ticks.
log() {
	echo "[    1.000000] a kernel line"
	echo "beat ready cpus=1 mem=4096 pages=1 threads=1"
	for ((n = 0; n < $1; n++)); do tick $n $((n * 100000000)); done
}

# expect 0|1 NAME [OPTION...] with the log on standard input
expect() {
	local want=$1 name=$2 said status
	shift 2
	said=$("$check" "$@" 2>&1)
	status=$?
	if [ $status = "$want" ]; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "FAIL $name: exit status $status: $said"
	fi
}

good=$(log 10)
end="BEAT END passes=5 bad=0"
edit() { sed "$@" <<<"$good"; }
extra() { { echo "$good"; "$@"; }; }

echo "$good" | expect 0 "a good log"
edit 's/$/\r/' | expect 0 "carriage returns"
printf '%s\ntick 10 mono=12' "$good" | expect 0 "a last line still to be written"
{ echo "$good"; echo "$end"; echo "[ 2.0] reboot"; echo "$good"; } | expect 0 "a reset"
echo "$good" | expect 0 "minima that are met" --min ticks=10 --min passes=4
echo "$good" | expect 1 "too few ticks" --min ticks=11
echo "$good" | expect 1 "too few passes" --min passes=5
echo "$good" | expect 1 "a key that is not there" --min diskw=1
: | expect 1 "an empty log"
edit 1,2d | expect 1 "no ready line"
edit 6d | expect 1 "a lost line"
edit 6p | expect 1 "a doubled line"
edit 3d | expect 1 "a lost first line"
edit '6s/ passes/passes/' | expect 1 "a lost character"
edit '6s/0/00/' | expect 1 "a doubled character"
edit '6s/\(.\{20\}\)/\1\n/' | expect 1 "a line torn in two"
edit '6{N;s/\n//}' | expect 1 "two lines in one"
edit '6s/.*/garbage/' | expect 1 "garbage"
printf '%s\n\0tick\n' "$good" | expect 1 "a zero byte"
extra tick 10 800000000 | expect 1 "a clock that goes back"
extra tick 10 1000000000 4096 | expect 1 "a counter that shrinks"
extra tick 10 1000000000 90000 " bad=1 back=0" | expect 1 "a mismatch in memory"
extra tick 10 1000000000 90000 " bad=0 back=1" | expect 1 "a clock that went back in the guest"
extra tick 10 1000000000 90000 " bad=0 back=0 diskbad=1" | expect 1 "a mismatch on the disk"
extra echo "BEAT MISMATCH thread=0 page=1 want=1 got=2" | expect 1 "a mismatch line"
extra eval 'for ((n = 10; n < 70; n++)); do tick $n $((n * 100000000)) 90000; done' |
	expect 1 "no progress"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
