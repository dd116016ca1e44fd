# lib.sh: the two host VMs of `nest`, nest-1 and nest-2, which know nothing of a window, on a bridge of their own (bench/nest.mk); for
# who has read tests/lab/lib.sh.

# nest_up MEMORY [COMMAND...]: starts them (COMMAND: how), and has both receive, TLS at port 7000, without it at 7001.
nest_up() {
	nest_memory=$1
	shift
	ip link add nest type bridge && ip addr add 10.8.0.254/24 dev nest && ip link set nest up || fail "no bridge"
	for n in 1 2; do
		ip tuntap add "nest$n" mode tap && ip link set "nest$n" master nest up || fail "no tap"
		VMBEAM_HYPERVISOR_DIR=$LAB/../nest check "nest-$n" "$@" vmbeam hypervisor start "nest-$n" --memory "$nest_memory" --window 1G \
			--net "tap=nest$n,mac=52:54:00:00:08:0$n" >/dev/null
	done
	for n in 1 2; do
		wait_for 30 socat -u OPEN:/dev/null "TCP:10.8.0.$n:99"
	done
	did 1 "vmbeam certs /certs 10.8.0.1 10.8.0.2 >/dev/null; tar c -C / certs | base64 >/tmp/certs; cat /tmp/certs"
	certs=$(grep -v ^done inside.out)
	did 2 "echo '$certs' | base64 -d | tar x -C /"
	# 2 MiB pages: else each fresh page of a guest costs several ms where it is emulated.
	for n in 1 2; do
		did $n "echo always >/sys/kernel/mm/transparent_hugepage/shmem_enabled"
		did $n "vmbeam receive --listen 10.8.0.$n:7000 --tls /certs --allow / >/tmp/receive 2>&1 </dev/null & sleep 1; cat /tmp/receive"
		did $n "vmbeam receive --listen 10.8.0.$n:7001 --insecure --allow / >/tmp/plain 2>&1 </dev/null & sleep 1; cat /tmp/plain"
	done
}

# inside N COMMAND: what the shell of host VM N says to it; `done N` at the end, N its status.
inside() {
	printf '%s\necho "done $?"; exit\n' "$2" | socat -t 600 - "TCP:10.8.0.$1:99"
}
# did N COMMAND: and it must be 0.
did() {
	inside "$1" "$2" >inside.out 2>&1
	grep -q "^done 0$" inside.out || fail "nest-$1: $2: $(cat inside.out)"
}

# nest_fetch N NAME: what VM NAME has written to its serial line there, which may end within a line, to NAME.log here.
nest_fetch() {
	did "$1" "base64 /tmp/$2.log && rm /tmp/$2.log"
	grep -v "^done" inside.out | base64 -d >>"$2.log"
}
