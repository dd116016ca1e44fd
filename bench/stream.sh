#!/bin/sh
# stream.sh: the migration engine beside QEMU's, natively: `make bench-stream`.  MEMORY (default 8G), CONNECTIONS (1,2,4,8),
# RUNS (2) and ARMS (tls plain) come from the environment.
#
# Both send the same amount of random bytes over loopback, idle, all runs interleaved: ours from a process with a memfd
# to another (bench/stream.c), QEMU 10.0's from a guest that is not started, whose memory is a file of tmpfs that was filled
# before, with multifd channels.  Throughput counts the pages' bytes; CPU is user and system time of both processes.
# A machine that is virtual itself may be slow the first time that it touches memory: look at all runs.
set -u
cd "$(dirname "$0")/.." || exit 1
memory=${MEMORY:-8G} runs=${RUNS:-2} arms=${ARMS:-tls plain} connections=${CONNECTIONS:-1,2,4,8}
dir=$(mktemp -d /dev/shm/vmbeam-stream.XXXXXX) || exit 1
root=$PWD/build/bench/qemu10/root
pids=
clean() {
	[ -z "$pids" ] || kill $pids 2>/dev/null
	rm -rf "$dir"
}
trap clean EXIT
trap 'exit 130' INT TERM

qemu() {
	LD_LIBRARY_PATH=$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu "$root/usr/bin/qemu-system-x86_64" \
		-L "$root/usr/share/qemu" -L "$root/usr/share/seabios" -nodefaults -display none -accel tcg -S -m "$memory" \
		-machine pc,memory-backend=ram "$@" 2>>"$dir/log" &
	pids="$pids $!"
}
# qmp SIDE COMMAND: the last answer.
qmp() {
	printf '{"execute":"qmp_capabilities"}\n%s\n' "$2" | socat -t 1 - "UNIX-CONNECT:$dir/$1.qmp" | grep '"return"' | tail -n 1
}
settle() {
	n=0
	until [ -S "$dir/$1.qmp" ]; do
		n=$((n + 1))
		[ $n -lt 100 ] || exit 1
		sleep 0.1
	done
}
# Ticks of user and system time.
ticks() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'; }

qemu_run() {
	arm=$1 channels=$2 pids=
	creds= server= client=
	if [ "$arm" = tls ]; then
		server="-object tls-creds-x509,id=tls0,dir=$dir/certs,endpoint=server,verify-peer=on"
		client="-object tls-creds-x509,id=tls0,dir=$dir/certs,endpoint=client,verify-peer=on"
		creds='"tls-creds":"tls0","tls-hostname":"localhost",'
	fi
	rm -f "$dir"/*.qmp
	# shellcheck disable=SC2086 # options
	qemu -object memory-backend-memfd,id=ram,size="$memory",share=on $server -incoming defer -qmp "unix:$dir/to.qmp,server=on,wait=off"
	to=$!
	# shellcheck disable=SC2086
	qemu -object memory-backend-file,id=ram,size="$memory",share=on,mem-path="$dir/memory" $client \
		-qmp "unix:$dir/from.qmp,server=on,wait=off"
	from=$!
	settle to
	settle from
	for side in to from; do
		qmp $side '{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"multifd","state":true}]}}' >/dev/null
		qmp $side "{\"execute\":\"migrate-set-parameters\",\"arguments\":{$creds\"multifd-channels\":$channels,\"max-bandwidth\":100000000000}}" >/dev/null
	done
	qmp to '{"execute":"migrate-incoming","arguments":{"uri":"tcp:127.0.0.1:47111"}}' >/dev/null
	qmp from '{"execute":"migrate","arguments":{"uri":"tcp:127.0.0.1:47111"}}' >/dev/null
	while :; do
		answer=$(qmp from '{"execute":"query-migrate"}')
		case $answer in
		*'"status": "completed"'*) break ;;
		*'"status": "failed"'*)
			echo "QEMU: $answer" >&2
			return 1
			;;
		esac
		sleep 1
	done
	gib=$(stat -c %s "$dir/memory" | awk '{ print $1 / 2 ^ 30 }')
	hz=$(getconf CLK_TCK)
	echo "$answer" | tr ',{}' '\n' | sed -n 's/.*"total-time": *//p' | head -n 1 | awk -v arm="$arm" -v n="$channels" -v gib="$gib" \
		-v hz="$hz" -v a="$(ticks $from)" -v b="$(ticks $to)" \
		'{ printf "QEMU 10.0, %-5s %u channels  %7.2f s  %.3f GB/s  CPU s/GiB: %.2f + %.2f\n", arm, n, $1 / 1000, gib * 2 ^ 30 / 1e6 / $1, a / hz / gib, b / hz / gib }'
	# shellcheck disable=SC2086
	kill $pids
	wait
	pids=
}

build/vmbeam certs "$dir/certs" >/dev/null || exit 1
for round in $(seq "$runs"); do
	for arm in $arms; do
		tls=
		[ "$arm" = plain ] || tls="--tls $dir/certs"
		# shellcheck disable=SC2086
		build/bench/stream --memory "$memory" --connections "$connections" $tls || exit 1
		size=$(numfmt --from=iec "$memory")
		openssl enc -aes-128-ctr -pass pass:vmbeam -nosalt -pbkdf2 </dev/zero 2>/dev/null | head -c "$size" >"$dir/memory"
		for n in $(echo "$connections" | tr , ' '); do
			qemu_run "$arm" "$n" || exit 1
		done
		rm -f "$dir/memory"
	done
	echo "round $round of $runs done"
done
