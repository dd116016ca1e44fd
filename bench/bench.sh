#!/bin/sh
# bench.sh [quick|all|P1...P10]... [--out DIR] [--systems NAME,NAME...]: the paper's plots; `vmbeam bench`.
#
# Every run of every call stays in DIR/results.csv (default build/bench/results; the lab may write below build/ only: to
# elsewhere what it has measured comes when the call ends); what is there already, of the same version, is
# not measured again, so that a call that was cut off goes on.  All runs of a point, one of each system after another, are in one
# lab, or right here where KVM nests (inside.sh).  When the emulator breaks down (status 125 of `vmbeam lab`) what is left
# runs in a fresh one, RETRIES times at most.  At last the report is written (report.c).  Columns:
#   call, machine, where, lab, vmbeam   when, on what and whether emulated, the number of this lab, version
#   system, size, rate, round           what was run; MiB, MiB/s written by the guest (0: its memory is filled, and stays)
#   outcome                             "ok" or what went wrong; then figures are missing
#   mode                                how it was moved, by the engine's word
#   total, downtime                     ns, as the engine accounts for them: without warming
#   gap                                 ns, the longest time that a real-time thread of the guest had no CPU around the move
#   wire, bytes                         bytes that network interfaces carried; that the engine sent
#   cpu, base, wall                     ns of CPU time that the system's processes used, that they use a second while nothing moves, and
#                                       how long the command took; all other guests stand still meanwhile
#   written                             bytes of pages that the guest wrote a second, before
#   misses                              of the last-level cache, of the system's processes, where the machine counts them
set -u
from=$PWD
cd "$(dirname "$0")/.." || exit 1
RETRIES=3
out=build/bench/results only= what=
remaps="beam cold small small_cold host qemu_cpr" copies="phys phys10 plain_phys qemu_tls qemu_plain nest plain_nest"
others="warm rejuv_1 rejuv_2 rejuv_4 rejuv_8 rejuv_16"
usage() {
	echo "vmbeam bench: $1 (usage: vmbeam bench [quick|all|P1...P10]... [--out DIR] [--systems beam,cold,nest,...])" >&2
	exit 2
}
while [ $# -gt 0 ]; do
	case $1 in
	quick | all | P[1-9] | P10) what="$what $1" ;;
	--out | --systems)
		[ $# -gt 1 ] || usage "$1 needs a value"
		if [ "$1" = --systems ]; then
			only=$2
		else
			case $2 in /*) out=$2 ;; *) out=$from/$2 ;; esac
		fi
		shift
		;;
	*) usage "$1: there is no such thing" ;;
	esac
	shift
done
for s in $(echo "$only" | tr , ' '); do
	case " $remaps $copies $others " in *" $s "*) ;; *) usage "--systems: $s: no such system" ;; esac
done
mkdir -p "$out" || exit 1
out=$(realpath "$out")
where=$(build/vmbeam lab --where) || exit 1
memory=14336 # MiB, of the lab
[ $where = emulated ] || memory=$(awk '/^MemTotal/ { printf "%d", $2 / 1024 }' /proc/meminfo)
dir=$out
bring() { [ "$dir" = "$out" ] || cp -a "$dir/." "$out/"; }
[ $where = native ] || [ "${out#"$PWD/build/"}" != "$out" ] || dir=$PWD/build/bench/out-$(echo "$out" | cksum | cut -d' ' -f1)
exec 9>"$dir.lock"
flock -n 9 || usage "$out: another call writes there"
if [ "$dir" != "$out" ]; then
	# (What a call that was killed has left there is brought first.)
	[ ! -d "$dir" ] || bring || exit 1
	rm -rf "$dir" && cp -a "$out" "$dir" || exit 1
	trap 'bring && rm -rf "$dir"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
fi
csv=$dir/results.csv
# The version of what is measured: the last commit of the sources of that and of how it is measured (not of how it is drawn), and what they
# differ from that by.
sources="vmm nested migrate zerocopy rejuv aging-monitor proto tests/guests bench/inside.sh bench/nest bench/nest.mk bench/qemu-lib.sh bench/qemu-move.c
	bench/qemu-fetch.sh bench/stamp.c bench/stream.c"
# shellcheck disable=SC2086 # several folders
if commit=$(git log -1 --format=%h -- $sources 2>/dev/null) && [ -n "$commit" ]; then
	changes=$(git diff HEAD -- $sources | cksum | cut -d' ' -f1)
	git diff --quiet HEAD -- $sources || commit=$commit+$changes
else
	commit=$(cat build/vmbeam build/vmbeam-vmm build/vmbeam-migrate | cksum | cut -d' ' -f1)
fi
qemu=$(sed 's/.*version \([0-9.]*\).*/\1/' build/bench/qemu10/version)
version="$commit QEMU $qemu"
call=$(date -u +%Y-%m-%dT%H:%M:%SZ)
machine=$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1 | tr -d "\"',<>&")
# What is there of another version is not confused with what this one does.
mkdir -p "$csv.d"
[ "$(cat "$csv.d/version" 2>/dev/null)" = "$version" ] || rm -f "$csv.d"/*-*-*-*
echo "$version" >"$csv.d/version"

# chosen SYSTEM...: those that are asked for.
chosen() {
	for s; do
		case ,${only:-$s}, in *,"$s",*) printf '%s ' "$s" ;; esac
	done
}
# point SIZE RATE ROUNDS SYSTEM...: a line for each run.
point() {
	size=$1 rate=$2 rounds=$3
	shift 3
	for round in $(seq "$rounds"); do
		for s in $(chosen "$@"); do
			echo "$size $rate $round $s"
		done
	done
}
# copied SIZE...: all systems
copied() {
	for at; do
		point "$at" 0 3 $remaps $copies
	done
}
# What does not copy goes further: to the largest that fit beside each other.
sizes() {
	copied 256 1024 512
	at=2048
	while [ $at -le 8192 ] && [ $((2 * at + 4096)) -le "$memory" ]; do # (the window of their hypervisors is of 8 GiB)
		point "$at" 0 3 beam cold host
		at=$((2 * at))
	done
}
# To more than a link carries: 1 GbE, or, emulated, encryption, some 22 MB/s.
rates() {
	for at in 0 $([ $where = native ] && echo 32 119 256 || echo 2 8 32); do
		point 256 "$at" 3 beam host
		point 256 "$at" 1 phys nest
	done
}
plan() {
	for w in ${what:-quick}; do
		case $w in
		quick)
			point 256 0 3 beam cold host
			point 256 0 1 phys plain_phys nest plain_nest
			;;
		P1 | P3) sizes ;;
		P2 | P4) rates ;;
		P5 | P6 | P7 | P8) copied 1024 ;;
		all)
			sizes
			point 1024 0 3 warm
			rates
			point 128 0 3 rejuv_1 rejuv_2 rejuv_4 rejuv_8
			point 128 0 1 rejuv_16
			point 512 0 2 rejuv_4 # (the model is tried there)
			;;
		esac
	done | awk '!seen[$0]++'
}
# What is no point, but a recording of its own, and not there yet; that is taken anew, too, when how it is taken is another.
taken="taken by $(cksum <bench/recordings.sh)"
outsides="outside-beam outside-warm outside-host outside-phys outside-qemu outside-nest"
throughputs="throughput-beam throughput-redis throughput-compile throughput-phys"
recordings() {
	for w in ${what:-quick}; do
		case $w in
		all) echo "overhead extents ageing speed-beam speed-warm speed-host speed-phys $throughputs $outsides speed-qemu speed-nest connections" ;;
		P9) echo "$throughputs" ;;
		P3) echo "$outsides" ;;
		P10) echo ageing ;;
		esac
	done | tr ' ' '\n' | awk '!seen[$0]++' | while read -r one; do
		case ${one#*-} in
		qemu) of="qemu_tls qemu_cpr" ;;
		redis | compile) of=beam ;;
		*) of=${one#*-} ;;
		esac
		# shellcheck disable=SC2086 # several systems
		[ "$(head -n 2 "$csv.d/$one" 2>/dev/null | tr '\n' ' ')" = "# $version # $taken " ] || [ -z "$(chosen $of)" ] || echo "$one"
	done
}
in_lab() {
	recordings | grep -vx connections
}
# Those of the plan that have no result yet.
left() {
	plan | while read -r size rate round s; do
		grep -qs ",\"$machine\",$where,[0-9]*,$version,$s,$size,$rate,$round,\"ok\",\([^,]*,\)\{10\}[0-9]*$" "$csv" || echo "$size $rate $round $s"
	done
}
# Of such lines one word for each point (inside.sh).  Hypervisors with many guests are not there at the same time.
points() {
	awk '{ k = $1 ":" $2 ($4 ~ /^(rejuv|warm)/ ? $4 : ""); if (!(k in at)) { at[k] = ++n; name[n] = $1 ":" $2 }
		i = at[k]; r = i SUBSEP $3; if (!(r in list)) order[i] = order[i] " " $3
		list[r] = list[r] (r in list && list[r] != "" ? "," : "") $4 }
		END { for (i = 1; i <= n; i++) { text = ""; m = split(order[i], rounds, " ")
			for (j = 1; j <= m; j++) text = text (j > 1 ? "+" : "") rounds[j] "=" list[i SUBSEP rounds[j]]
			print name[i] ":" text } }'
}
header="call,machine,where,lab,vmbeam,system,size,rate,round,outcome,mode,total,downtime,gap,wire,bytes,cpu,base,wall,written,misses"
[ -s "$csv" ] || echo "$header" >"$csv"
[ "$(head -n 1 "$csv")" = "$header" ] || usage "$csv has other columns: choose another --out"

peers="QEMU $qemu beside it; guests and hypervisors with $(grep -a -m 1 -o 'Linux version [0-9][0-9.a-z-]*' build/lab/vmlinux | head -n 1)"
[ $where = native ] || peers="$peers; emulated by $(qemu-system-x86_64 --version | sed -n 's/^\(QEMU emulator version [0-9.]*\).*/\1/p')"
lab=0
while [ $lab -le $RETRIES ]; do
	left >"$dir/left"
	[ -s "$dir/left" ] || [ -n "$(in_lab)" ] || break
	lab=$((lab + 1))
	echo "$(wc -l <"$dir/left") runs are left"
	# shellcheck disable=SC2046 # several points
	build/vmbeam lab --memory "${memory}M" -- env MACHINE="$peers" RECORDED="$taken" sh bench/inside.sh "$csv" "$call,\"$machine\",$where,$lab,$version" "$(wc -l <"$dir/left")" \
		$(points <"$dir/left") $(in_lab)
	status=$?
	[ $status = 125 ] || break
	echo "the emulator broke down (see above)"
done
rm -f "$dir/left"
# The migration engine alone, without a VM, over connections: right here, nothing of it is emulated.
connections() {
	build/vmbeam certs "$dir/certs" >/dev/null || return 1
	echo "# $version"
	echo "# $taken"
	for round in 1 2 3; do
		build/bench/stream --memory 2G --connections 1,2,4,8 --tls "$dir/certs" >"$dir/stream" || return 1
		awk '$1 ~ /^[0-9]+$/ { print "tls", $1, $3 } /^AES/ { print "cipher", 1, $(NF - 1) }' "$dir/stream"
		build/bench/stream --memory 2G --connections 1,2,4,8 >"$dir/stream" || return 1
		awk '$1 ~ /^[0-9]+$/ { print "plain", $1, $3 }' "$dir/stream"
	done
}
if recordings | grep -qx connections; then
	echo "the engine over 1 to 8 connections"
	mkdir -p "$csv.d"
	connections >"$csv.d/connections.new" && mv "$csv.d/connections.new" "$csv.d/connections"
	rm -rf "$dir/certs" "$dir/stream"
fi
bring
build/bench/report "$out" --version "$version" ${DOCS:+--docs "$DOCS"} || exit 1
[ -z "${DOCS-}" ] || cp "$out/results.csv" "$DOCS/results/" || exit 1
missing=$(
	left
	recordings
)
[ -z "$missing" ] || { echo "vmbeam bench: missing: $(echo "$missing" | wc -l) runs" >&2 && exit 1; }
