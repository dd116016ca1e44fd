#!/bin/sh
# check.sh [TEST...]: the KVM tests, in the lab (or right here where KVM nests).  Called by
# `make check-lab`.  A test that did not run is a failure.  When the emulator itself breaks down
# (status 125 of `vmbeam lab`, which says why) the tests that have no result yet run again in a fresh
# lab, at most RETRIES times; nothing else is tried again.
set -u
RETRIES=3
# What the tests take from the environment, numbers: the lab's own is another.
OPTIONS='HANDOVERS|SOAK|MOVES|NESTED|NESTED_ALL|CPUS|REJUVENATIONS|ROUNDS|MIGRATIONS|COPIES|RUNS|KILL_ALL|KILLS|TEST_TIMEOUT'
cd "$(dirname "$0")/../.." || exit 1
[ $# -gt 0 ] || set -- $(cat tests/lab/tests.list)
results=build/tests/lab.results
rm -f "$results"
mkdir -p build/tests
tries=0

# in_lab OPTIONS TEST...: those that have no result, in one lab.
in_lab() {
	machines=$1
	shift
	while :; do
		left=
		for name; do
			grep -qs " $name " "$results" || left="$left $name"
		done
		[ -n "$left" ] || break
		# (Without --machines a machine with KVM is the lab.)
		build/vmbeam lab --memory "${LAB_MEMORY:-8G}" $machines -- env $(env | grep -E "^($OPTIONS)=") \
			sh tests/lab/run.sh "$(pwd)/$results" $left
		status=$?
		[ $status = 125 ] || break
		tries=$((tries + 1))
		[ $tries -le $RETRIES ] || break
		echo "the emulator broke down (see above); running what is left in a fresh lab, try $tries of $RETRIES"
	done
}
one= two=
for name; do
	if grep -q "^# machines: 2" "tests/lab/$name.sh"; then
		two="$two $name"
	else
		one="$one $name"
	fi
done
in_lab "" $one
in_lab "--machines 2" $two
passed=0 failed=0
for name; do
	if grep -qs "^pass $name " "$results"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		echo "failed: $name"
	fi
done
echo "lab tests: $passed passed, $failed failed"
[ $failed = 0 ]
