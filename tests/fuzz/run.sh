#!/bin/sh
# run.sh TARGET...: runs fuzz targets one after another, FUZZ_SECONDS each, from their own seeds and tests/fuzz/corpus.
# Prints one line a target; any crash, leak, descriptor left behind or input of 10 s is a failure.
cd "$(dirname "$0")/../.." || exit 1
export VMBEAM_CGROUP=
failed=0
mkdir -p build/fuzz/found build/fuzz/log
for t in "$@"; do
	program=build/fuzz/tests/fuzz/$t log=build/fuzz/log/$t corpus=build/fuzz/corpus/$t
	seeds=build/fuzz/seeds/$t
	kept=tests/fuzz/corpus/$t # what earlier runs have found to be worth keeping; part of the source
	[ -d "$kept" ] || kept=
	rm -rf "$seeds"
	mkdir -p "$corpus" "$seeds"
	"$program" --seeds="$seeds" || exit 1
	if ASAN_OPTIONS=quarantine_size_mb=8:allocator_release_to_os_interval_ms=-1 UBSAN_OPTIONS=print_stacktrace=1 "$program" -max_total_time="${FUZZ_SECONDS:-60}" -timeout=10 \
			-rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 -verbosity=1 \
			-artifact_prefix="build/fuzz/found/$t-" "$corpus" "$seeds" $kept >"$log" 2>&1; then
		result=ok
	else
		result=FAILED failed=1
	fi
	awk -v t="$t" -v result=$result '
		/ cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") cov = $(i + 1) }
		/number_of_executed_units/ { runs = $2 }
		/average_exec_per_sec/ { rate = $2 }
		END { printf "fuzz %-10s %-6s %8d executions, %6d a second, coverage %d\n", t, result, runs, rate, cov }
	' "$log"
	if [ $result = FAILED ]; then
		grep -E -A 25 'ERROR|SUMMARY|runtime error|descriptors before|can prevent' "$log" | head -60
		echo "(all of it: $log; the input: build/fuzz/found/$t-*)"
	fi
done
exit $failed
