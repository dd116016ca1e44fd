#!/bin/sh
# run.sh RESULTS TEST...: runs lab tests one after another, inside the lab; called by check.sh.
# Writes a line "pass NAME SECONDS" or "fail NAME SECONDS" per test to the file RESULTS.
set -u
results=$1
shift
top=$(pwd)
export LAB=$top/build/lab GUESTS=$top/build/guests TOP=$top
export PATH=$top/build:$GUESTS:$PATH VMBEAM_TEST=1
mkdir -p "$(dirname "$results")"

# Cgroups of VMs that have gone, whether they are there or something is still charged to them.
cgroups_left() {
	set -- /sys/fs/cgroup/vmbeam/*/
	[ ! -d "$1" ] || echo "cgroups are left: $*"
	grep -s "nr_dying_descendants [1-9]" /sys/fs/cgroup/vmbeam/cgroup.stat
}

# Of two machines the second does what the first says (machines.sh); they share the build tree only.
[ "${VMBEAM_LAB_MACHINE:-1}" = 1 ] || exec socat -t 9000 TCP-LISTEN:99,fork,reuseaddr EXEC:sh

for name; do
	T=${VMBEAM_LAB_MACHINE:+$top/build/tests}
	T=${T:-/tmp}/test-$name
	rm -rf "$T"
	mkdir -p "$T"
	export VMBEAM_STATE_DIR=$T/state
	echo "--- $name"
	start=$(date +%s)
	# For whoever watches: how long, and what it said last.
	(while sleep 30; do
		echo "    ... $(($(date +%s) - start)) s: $(tail -n 1 "$T.log" 2>/dev/null | cut -c 1-100)"
	done) &
	heartbeat=$!
	if (cd "$T" && exec timeout "${TEST_TIMEOUT:-900}" sh -eu -c ". $top/tests/lab/lib.sh; . $top/tests/lab/$name.sh") >"$T.log" 2>&1 </dev/null; then
		verdict=pass
	else
		verdict=fail
	fi
	seconds=$(($(date +%s) - start))
	kill $heartbeat
	wait $heartbeat 2>/dev/null
	# What a test prints in lines that begin with "=" is its finding; a failure shows all.
	if [ $verdict = pass ]; then
		grep '^=' "$T.log"
	else
		tail -n 60 "$T.log" | sed 's/^/    /'
		for l in "$T"/*.log; do
			[ -f "$l" ] && grep -av '^tick ' "$l" | tail -n 25 | sed "s|^|    $(basename "$l"): |"
		done
		for l in /run/vmbeam/*/log; do
			[ -f "$l" ] && tail -n 5 "$l" | sed "s|^|    $l: |"
		done
		dmesg | grep -E 'audit: type=1326|BUG|Oops|segfault' | tail -n 5 | sed 's/^/    /'
	fi
	# On both machines.
	cat >"$T/clean" <<'EOF'
for vm in /run/vmbeam/*/; do
	[ -d "$vm" ] && vmbeam stop "$(basename "$vm")" --force >/dev/null 2>&1
done
exit
EOF
	sh "$T/clean"
	[ -z "${VMBEAM_LAB_MACHINE-}" ] || socat -t 60 - TCP:10.9.0.2:99 <"$T/clean" >/dev/null 2>&1
	for i in 1 2 3 4 5 6 7 8 9; do
		[ -n "$(cgroups_left)" ] || break
		sleep 1
	done
	[ -z "$(cgroups_left)" ] || { verdict=fail && cgroups_left | sed 's/^/    /'; }
	echo "$verdict $name $seconds" >>"$results"
	echo "    $verdict, $seconds s"
	rm -rf "$T"
done
