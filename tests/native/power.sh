#!/bin/sh
# power.sh: the power fails while vmbeamd is at a rejuvenation: the whole emulated machine is killed, and another is booted on what was on its
# disk.  After that the inventory is true: of what was lost nothing is said to be there, and vmbeamd works.
set -eu
TOP=$(cd "$(dirname "$0")/../.." && pwd)
cd "$TOP"
T=build/tests/power
rm -rf $T
mkdir -p $T
truncate -s 64M $T/disk.img
mkfs.ext4 -q $T/disk.img
cat >$T/conf <<'E'
[daemon]
socket = /tmp/sock
[hypervisor *]
methods = beam
min-interval = 0
schedule = 0 3 * * *
E
cat >$T/begin.sh <<'E'
set -eu
export PATH=$PWD/build:$PATH VMBEAM_STATE_DIR=/tmp/disk/state VMBEAM_TEST=1
modprobe -q loop || true
mkdir -p /tmp/disk
mount -o loop build/tests/power/disk.img /tmp/disk
E
cat >$T/before.sh <<'E'
. build/tests/power/begin.sh
vmbeam hypervisor start hv --memory 640M --window 1G
vmbeam run one --in hv --kernel build/lab/vmlinux --initrd build/guests/beat.cpio --append "console=ttyS0 quiet panic=-1 beat.tick=1000" \
	--memory 128M --serial /tmp/one.log --detach
VMBEAM_DAEMON_FAULT=$1.begun=stop vmbeamd --config build/tests/power/conf >build/tests/power/out 2>&1 &
while ! curl -sf --unix-socket /tmp/sock http://x/v1/hypervisors | grep -q '"idle"'; do sleep 0.2; done
curl -s -m 2 --unix-socket /tmp/sock http://x/v1/hypervisors/hv/rejuvenate -X POST || true
while ! grep -q "^State:.T" /proc/$!/status; do sleep 0.1; done
echo ready >build/tests/power/ready
sleep 600
E
cat >$T/after.sh <<'E'
. build/tests/power/begin.sh
vmbeamd --config build/tests/power/conf >build/tests/power/out.after 2>&1 &
daemon=$!
tries=600
# Nothing is there, and nothing is said to be.
until [ "$(curl -sf --unix-socket /tmp/sock http://x/v1/hypervisors)" = "[]" ]; do
	sleep 0.2
	tries=$((tries - 1))
	[ $tries -gt 0 ] || { echo "still said to be there: $(curl -s --unix-socket /tmp/sock http://x/v1/hypervisors)"; exit 1; }
done
[ "$(curl -sf --unix-socket /tmp/sock http://x/v1/vms)" = "[]" ] || { echo "VMs: $(curl -s --unix-socket /tmp/sock http://x/v1/vms)"; exit 1; }
curl -sf --unix-socket /tmp/sock http://x/v1/rejuvenations | grep -q '"under way"' && { echo "a rejuvenation is said to be under way"; exit 1; }
# And it works: another one of that name.
vmbeam hypervisor start hv --memory 640M --window 1G
until vmbeam rejuvenate hv 2>/tmp/refused; do
	grep -q 'no such hypervisor' /tmp/refused || { cat /tmp/refused; exit 1; }
	sleep 1
done
kill $daemon
wait $daemon
E
build/vmbeam lab --emulate -- true # what it needs is made first
for state in ${STATES:-moving retiring}; do
	rm -f $T/ready
	build/vmbeam lab --emulate --timeout 900 -- sh $T/before.sh $state >$T/before.log 2>&1 &
	lab=$!
	tries=3000
	until [ -e $T/ready ]; do
		kill -0 $lab 2>/dev/null && [ $tries -gt 0 ] || { cat $T/before.log; echo "power: the machine did not come so far"; exit 1; }
		tries=$((tries - 1))
		sleep 0.2
	done
	echo "  power cut when $state"
	pkill -9 -P $lab || true
	kill -9 $lab
	wait $lab 2>/dev/null || true
	build/vmbeam lab --emulate --timeout 900 -- sh $T/after.sh || { cat $T/out.after; exit 1; }
done
echo "power: after a cut in ${STATES:-moving, retiring} nothing was said to be there that was not, and it went on"
