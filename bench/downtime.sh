#!/bin/sh
# downtime.sh: does a pre-copy keep its downtime limit?  Natively, with memory that a thread writes, which can be slowed
# down (bench/stream.c): `make bench-downtime`.  MEMORY (512M), RATES in MB/s (0 50 200 500 1000 3000), LIMITS in ms
# (50 100 300), SWITCH in ms (20), RUNS (5) and TIMEOUT in s (10) come from the environment.
#
# Each line: of RUNS migrations how many completed, how many of those kept the limit, the longest downtime beside the
# limit, and how many were given up although a stop had been expected to keep the limit.
set -u
cd "$(dirname "$0")/.." || exit 1
runs=${RUNS:-5} dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
build/vmbeam certs "$dir/certs" >/dev/null || exit 1
echo "MB/s written  limit, ms  completed  kept  longest / limit  given up though feasible"
for rate in ${RATES:-0 50 200 500 1000 3000}; do
	for limit in ${LIMITS:-50 100 300}; do
		build/bench/stream --json --memory "${MEMORY:-512M}" --connections 2 --tls "$dir/certs" --runs "$runs" \
			--throttle --write "$rate" --limit "$limit" --switch "${SWITCH:-20}" --timeout "${TIMEOUT:-10}" >"$dir/out"
		tr ',{}' '\n' <"$dir/out" | awk -F: -v rate="$rate" -v limit="$limit" '
			/"outcome":"completed"/ { done++; ok = 1 }
			/"outcome":"failed"/ { ok = 0 }
			/"feasible":true/ && !ok { lost++ }
			/"downtime_ns"/ && ok { ms = $2 / 1e6; kept += ms <= limit; if (ms > worst) worst = ms }
			END { printf "%12d %10d %10d %5d %16.2f %25d\n", rate, limit, done, kept, worst / limit, lost }' |
			tee -a "$dir/lines"
	done
done
awk '{ done += $3; kept += $4; lost += $6 } END {
	printf "of %d that completed %d kept the limit (%.1f %%); %d were given up though feasible\n", done, kept, 100 * kept / done, lost
	exit kept < 0.95 * done || lost > 0.1 * (done + lost) }' "$dir/lines"
