# What a nested move saves: a guest VM of 1 GiB moved between two hypervisors, beside QEMU's encrypted copy (TLS with
# a shared key, over loopback, no bandwidth limit) of the same guest at L0, without nesting; in turns, medians of
# ROUNDS (default 3) for QEMU and of twice as many moves.
N=${ROUNDS:-3}
options="console=ttyS0 quiet panic=-1 beat.tick=1000 beat.rate=idle beat.mem=800M"

mkdir psk
echo "qemu:$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')" >psk/keys.psk
# qemu N ENDPOINT [options...]
qemu() {
	n=$1 endpoint=$2
	shift 2
	qemu-system-x86_64 -nodefaults -no-user-config -display none -accel kvm -cpu host -machine q35 -m 1G \
		-object "tls-creds-psk,id=tls,endpoint=$endpoint,dir=$PWD/psk$([ "$endpoint" = server ] || echo ,username=qemu)" \
		-serial "file:qemu$n.log" -monitor "unix:qemu$n,server=on,wait=off" -pidfile "pid$n" -daemonize \
		-kernel "$LAB/vmlinuz" -initrd "$GUESTS/beat.cpio" -append "$options noxsave" "$@" ||
		fail "QEMU"
}
tell() { # N COMMAND
	printf '%s\n' "$2" | socat -t 1 - "UNIX-CONNECT:qemu$1"
}
migrated() {
	tell 1 "info migrate" >state
	grep -q "Migration status: completed" state
}
copy() {
	rm -f qemu1.log
	qemu 1 client
	wait_for 120 grep -qs '^tick 2 ' qemu1.log
	qemu 2 server -incoming defer
	tell 2 "migrate_set_parameter tls-creds tls" >/dev/null
	tell 2 "migrate_incoming tcp:127.0.0.1:4444" >/dev/null
	tell 1 "migrate_set_parameter tls-creds tls" >/dev/null
	tell 1 "migrate_set_parameter max-bandwidth 100G" >/dev/null
	tell 1 "migrate -d tcp:127.0.0.1:4444" >/dev/null
	wait_for 300 migrated
	sed -n 's/^total time: \([0-9]*\) ms.*/\1000000/p' state >>copy.totals
	sed -n 's/^downtime: \([0-9]*\) ms.*/\1000000/p' state >>copy.downtimes
	sed -n 's/^transferred ram: \([0-9]*\) kbytes.*/\1/p' state | tail -n 1
	kill "$(cat pid1)" "$(cat pid2)"
	sleep 1
}

echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled
check "hv-a" vmbeam hypervisor start hv-a --memory 768M --window 2G >hv-a.txt
check "hv-b" vmbeam hypervisor start hv-b --memory 768M --window 2G >hv-b.txt
check "start" vmbeam run g --in hv-a --kernel "$LAB/vmlinux" --initrd "$GUESTS/beat.cpio" --append "$options" \
	--serial "$PWD/g.log" --memory 1G --detach
wait_for 120 grep -q '^tick 2 ' g.log
vmbeam info g | grep allocated
for _ in $(seq $N); do
	for to in hv-b hv-a; do
		check "move" vmbeam migrate g --to $to --json >move.json
		json move.json total_ns >>move.totals
		phases move.json | sed -n 's/^warm //p' >>move.warms
		json move.json downtime_ns >>move.downtimes
		sleep 1
	done
	echo "copied $(copy) KiB"
done
check "power off" vmbeam stop g --timeout 60
check "memory, clock and serial" beatcheck --min ticks=2 g.log >verdict
copied=$(median <copy.totals) moved=$(median <move.totals)
awk "BEGIN { printf \"= total: encrypted copy %.0f ms, nested move %.0f ms (and %.0f ms of warming while it runs): %.1f times shorter; downtime %.0f and %.0f ms\\n\",
	$copied / 1e6, $moved / 1e6, $(median <move.warms) / 1e6, $copied / $moved, $(median <copy.downtimes) / 1e6, $(median <move.downtimes) / 1e6 }"
awk "BEGIN { exit !($copied >= 20 * $moved) }" || fail "less than 20 times"
