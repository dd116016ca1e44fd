#!/bin/sh
# package.sh: the Debian package and its systemd units on a Debian 12 of its own: installed there by dpkg, booted in an emulated machine and tried;
# at last that machine is powered off while VMs run.  Called by `make check-package`.
set -eu
TOP=$(cd "$(dirname "$0")/../.." && pwd)
cd "$TOP"
. tests/lab/lib.sh
C=build/package # what takes minutes is kept there
T=build/tests/package
R=$T/root
INSIDE=${INSIDE:-1500} POWEROFF=${POWEROFF:-180} # seconds
qemu= lab=
cleanup() {
	[ -z "$lab" ] || kill "$lab" 2>/dev/null || true
	[ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true
	rm -rf $R
}
trap cleanup EXIT
trap 'exit 130' INT TERM
rm -rf $T
mkdir -p $R $C
deb=$(ls -t build/vmbeam_*_amd64.deb | head -n 1)

# Debian 12 with systemd and with what the package depends on, but without it.
depends=$(dpkg-deb -f "$deb" Depends | sed 's/([^)]*)//g; s/ //g')
packages=systemd-sysv,udev,dbus,libpam-systemd,linux-image-amd64,initramfs-tools,man-db,bash-completion,$depends
sources() {
	apt-get indextargets --format '$(CODENAME) deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' |
		sed -nE 's/^bookworm(-updates|-security)? deb /deb /p' | sort -u
}
if [ "$(cat $C/packages 2>/dev/null)" != "$packages" ]; then
	echo "  APT  $C/root.tar"
	[ -n "$(sources)" ] || apt-get update -qq
	apt-config dump Acquire >$C/apt.conf # proxies and the like
	sources | mmdebstrap --variant=essential --mode=root --format=tar --quiet --include="$packages" --aptopt=$C/apt.conf \
		--dpkgopt=force-unsafe-io '' $C/root.tar -
	echo "$packages" >$C/packages
fi
tar -xf $C/root.tar -C $R --exclude='./dev/*'
chmod 755 $R

# Installed: nothing but what its Depends names is there, and dpkg has nothing to say against it.
cp "$deb" $R/root/vmbeam.deb
chroot $R dpkg -i /root/vmbeam.deb >$T/dpkg.out 2>&1 || fail "dpkg -i: $(tail -n 3 $T/dpkg.out)"
! grep -iE 'warn|error|fail|not found|cannot' $T/dpkg.out >&2 || fail "dpkg -i complained"
[ -z "$(chroot $R dpkg --audit)" ] || fail "dpkg --audit: $(chroot $R dpkg --audit)"
for f in vmbeam-migrate vmbeam-monitor vmbeamd; do
	! chroot $R ldd /usr/lib/vmbeam/$f | grep "not found" >&2 || fail "$f: a library is missing"
done

# The same as a newer version, for the upgrade.
dpkg-deb -R "$deb" $T/newer
sed -i 's/^Version: .*/&+newer/' $T/newer/DEBIAN/control
dpkg-deb --root-owner-group -b $T/newer $R/root/newer.deb >/dev/null
rm -rf $T/newer

cp build/lab/vmlinux build/guests/beat.cpio $R/root/
mkdir -p $R/etc/systemd/system/vmbeamd.service.d $R/etc/systemd/system/vmbeam-guests.service.d
printf '[Service]\nWatchdogSec=10\n' >$R/etc/systemd/system/vmbeamd.service.d/test.conf
printf '[Service]\nStandardOutput=journal+console\n' >$R/etc/systemd/system/vmbeam-guests.service.d/test.conf
cat >$R/etc/systemd/system/inside.service <<'E'
[Unit]
After=multi-user.target vmbeamd.service
[Service]
ExecStart=/bin/sh /root/inside.sh
WorkingDirectory=/root
StandardOutput=tty
StandardError=inherit
TTYPath=/dev/ttyS1
[Install]
WantedBy=multi-user.target
E
ln -s ../inside.service $R/etc/systemd/system/multi-user.target.wants/
cp tests/lab/lib.sh $R/root/
cat >$R/root/inside.sh <<'E'
set -eu
. /root/lib.sh
trap '[ $? = 0 ] || { echo "FAILED: while $now"; journalctl -b -n 40 -o short-monotonic; echo END; sleep 5; systemctl poweroff -ff; }' EXIT
U=vmbeamd.service
step() {
	now=$*
	echo "  $(cut -d. -f1 /proc/uptime) s: $*"
}
pid() {
	systemctl show -p MainPID --value $U
}
active() {
	systemctl -q is-active $U
}
# again OLD: systemd has started it again, another process than OLD.
again() {
	active && [ "$(pid)" != "$1" ] && [ "$(pid)" != 0 ]
}
one_monitor() {
	[ "$(cat /proc/[0-9]*/comm | grep -c '^vmbeam-monitor')" = 1 ]
}
all_go_on() {
	for log in /root/*.log; do
		goes_on $log
	done
	[ "$(ls /root/*.log | wc -l)" = 2 ] || fail "guests: $(ls /root/*.log)"
}
enabled() {
	[ "$(systemctl is-enabled vmbeamd vmbeam-guests)" = "$(printf 'enabled\nenabled')" ]
}
# completes TO WORD...: what bash makes of "vmbeam WORD..." and a tab.
completes() {
	to=$1
	shift
	made=$(bash -c '. /usr/share/bash-completion/bash_completion; _completion_loader vmbeam; complete -p vmbeam >/dev/null || exit
		COMP_WORDS=(vmbeam "$@") COMP_CWORD=$#; _vmbeam; echo "${COMPREPLY[*]}"' bash "$@" 2>&1) || true
	[ "$made" = "$to" ] || fail "'vmbeam $*' is completed to: $made"
}

step "the daemon, as the package has installed it"
wait_for 60 active
check "enabled" enabled
check "active" systemctl -q is-active vmbeam-guests.service
check "--check" vmbeamd --check
[ "$(vmbeam list --json)" = "[]" ] || fail "vmbeam list: $(vmbeam list)"
[ "$(stat -c '%U:%G %a' /run/vmbeam/vmbeamd.sock)" = "root:vmbeam 660" ] || fail "socket: $(stat -c '%U:%G %a' /run/vmbeam/vmbeamd.sock)"
[ "$(stat -c '%U:%G %a' /var/lib/vmbeam)" = "root:root 700" ] || fail "state: $(stat -c '%U:%G %a' /var/lib/vmbeam)"
useradd -m -G vmbeam -s /bin/sh member
useradd -m -s /bin/sh other
[ "$(su - member -c 'vmbeam list --json')" = "[]" ] || fail "the daemon does not answer a member of group vmbeam"
! su - other -c 'test -w /run/vmbeam/vmbeamd.sock' || fail "who is not in group vmbeam may use the socket"
wait_for 30 one_monitor
for page in 1/vmbeam.1 8/vmbeamd.8 5/vmbeamd.conf.5; do
	name=${page#*/}
	check "man page" man -w "${name%.*}" >/dev/null
	[ -z "$(LC_ALL=C.UTF-8 man --warnings -l /usr/share/man/man$page 2>&1 >/dev/null)" ] || fail "man $name: $(man --warnings -l /usr/share/man/man$page 2>&1 >/dev/null)"
done
completes "migrate" mig

step "removed and installed again"
dpkg -r vmbeam
[ -z "$(systemctl list-unit-files --no-legend 'vmbeam*')" ] || fail "left: $(systemctl list-unit-files 'vmbeam*')"
[ -z "$(find /etc/systemd -name 'vmbeam*' -type l)" ] || fail "still enabled: $(find /etc/systemd -name 'vmbeam*' -type l)"
! grep -q '^vmbeam' /proc/[0-9]*/comm || fail "still running: $(grep '^vmbeam' /proc/[0-9]*/comm)"
dpkg -i vmbeam.deb
check "active after dpkg -i" active
check "enabled after dpkg -i" enabled

step "VMs of root's and of a member of group vmbeam, whose sessions end"
guest="--kernel /root/vmlinux --initrd /root/beat.cpio --append 'console=ttyS0 quiet panic=-1 beat.rate=idle beat.mem=8M beat.tick=500' --memory 128M"
su - -c "vmbeam run one $guest --serial /root/one.log --detach"
[ "$(cat "/proc/$(vmbeam info one --json | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')/cgroup")" = 0::/vmbeam/one ] || fail "one is still in a session"
su - member -c "vmbeam run two $guest --serial /root/two.log --detach"
su - member -c "vmbeam hypervisor start hv --memory 640M --window 1G" >/dev/null
wait_for 120 grep -q '^tick 1 ' one.log
wait_for 120 grep -q '^tick 1 ' two.log
completes "hv one two" info ""

step "restarted"
old=$(pid)
check "restart" systemctl restart $U
check "another process" again "$old"
all_go_on
step "killed"
old=$(pid)
kill -9 "$old"
wait_for 30 again "$old"
all_go_on
step "hanging"
old=$(pid)
kill -STOP "$old"
wait_for 60 again "$old"
[ "$(journalctl -q -b -u $U -g 'Watchdog timeout' | wc -l)" = 1 ] || fail "it was not the watchdog"
all_go_on
wait_for 30 one_monitor

step "with a wrong configuration"
cp -p /etc/vmbeam/vmbeamd.conf good
printf '[daemon]\nno-such-key = 1\n' >/etc/vmbeam/vmbeamd.conf
old=$(pid)
! systemctl reload $U || fail "read a wrong configuration again"
[ "$(pid)" = "$old" ] || fail "a wrong configuration that was to be read again ended it"
! systemctl restart $U || fail "started with a wrong configuration"
sleep 5
[ "$(systemctl is-active $U)" = failed ] || fail "with a wrong configuration it is $(systemctl is-active $U)"
# What it has said since the one before was stopped.
journalctl -q -b -o cat SYSLOG_IDENTIFIER=vmbeamd | awk '/ stopped  /{ n = 0 } { line[n++] = $0 } END { for (i = 1; i < n; i++) print line[i] }' >said
[ "$(cat said)" = "vmbeam: /etc/vmbeam/vmbeamd.conf:2:1: there is no such key" ] || fail "it said: $(cat said)"
all_go_on
cp -p good /etc/vmbeam/vmbeamd.conf
check "start" systemctl start $U
check "reload" systemctl reload $U

step "upgraded"
old=$(pid)
dpkg -i newer.deb
check "another process" again "$old"
all_go_on
check "migrate" vmbeam migrate one --to fresh >/dev/null
all_go_on
! dpkg -r vmbeam || fail "removed while VMs run"
check "still there" active
all_go_on

step "powered off"
printf '[vm two]\nshutdown = last\n' >>/etc/vmbeam/vmbeamd.conf
cut -d. -f1 /proc/uptime >poweroff
echo END
systemctl poweroff
E

# The kernel as an ELF file, and the lab's QEMU without its faults: a copy of what the lab runs (nested/lab-qemu.c).
kernel=$(ls $R/boot/vmlinuz-*)
sh nested/extract-vmlinux.sh "$kernel" >$T/vmlinux
cp $R/boot/initrd.img-* $T/initrd
if [ ! -e $C/qemu ] || [ build/vmbeam -nt $C/qemu ]; then
	build/vmbeam lab --emulate -- sleep 60 &
	lab=$!
	wait_for 30 sh -c "readlink /proc/\$(pgrep -P $lab)/exe | grep -v /vmbeam"
	cp "/proc/$(pgrep -P $lab)/exe" $C/qemu
	kill $lab
	wait $lab || true
	lab=
fi
truncate -s 3G $T/disk.img
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 -d $R $T/disk.img
rm -rf $R

bin=$(dirname "$(command -v qemu-system-x86_64)")
QEMU_MODULE_DIR=/usr/lib/x86_64-linux-gnu/qemu $C/qemu -L "$bin/../share/qemu" -L "$bin/../share/seabios" -nodefaults -no-user-config -no-reboot \
	-display none -M q35,smm=off,vmport=off -accel tcg,thread=multi -cpu max -smp 2 -m 4G -kernel $T/vmlinux -initrd $T/initrd \
	-append "root=/dev/vda rw console=ttyS0 panic=-1 mitigations=off no_timer_check cryptomgr.notests tsc=reliable clocksource=tsc" \
	-drive file=$T/disk.img,format=raw,if=virtio,cache=unsafe -serial file:$T/console -serial file:$T/inside </dev/null &
qemu=$!
touch $T/inside
tail -n +1 -f --pid=$qemu $T/inside | sed -un 's/\r$//; /^  /p' &
inside() {
	! kill -0 $qemu 2>/dev/null || tr -d '\r' <$T/inside | grep -qx END
}
off() {
	! kill -0 $qemu 2>/dev/null
}
# The file F as the machine has left it.
left() {
	debugfs -R "cat $1" $T/disk.img 2>/dev/null
}
(wait_for $INSIDE inside) 2>/dev/null || fail "inside: not at its end after $INSIDE s: $(tail -n 3 $T/inside $T/console)"
why=$(tr -d '\r' <$T/inside | sed -n 's/^FAILED: //p' | head -n 1)
[ -z "$why" ] || fail "package: $why (see $T/inside)"
tr -d '\r' <$T/inside | grep -qx END || fail "the machine went down: $(tail -n 3 $T/inside $T/console)"

# It powers off by itself, and before that its VMs are shut down, not ended.
(wait_for $POWEROFF off) 2>/dev/null || fail "the machine is not off after $POWEROFF s"
wait $qemu || fail "QEMU ended with $?"
qemu=
took=$(($(tr -d '\r' <$T/console | sed -n 's/^\[ *\([0-9]*\)\.[0-9]*\] reboot: Power down$/\1/p') - $(left /root/poweroff)))
for vm in one two; do
	left /root/$vm.log | grep -q '^BEAT POWEROFF' || fail "$vm: its power button was not pressed"
	grep -qE "$vm +shut down" $T/console || fail "$vm was not shut down: $(grep -E "$vm +(by force|still)" $T/console)"
done
! grep -q "all VMs are shut down at once" $T/console || fail "the configuration was not read: $(grep "at once" $T/console)"
ended() {
	left /root/$1.log | sed -n 's/^tick .* real=\([0-9]*\) .*/\1/p' | tail -n 1
}
[ "$(ended two)" -gt "$(ended one)" ] || fail "two is to be the last, and went at $(ended two), one at $(ended one)"
grep -qE "hv +shut down" $T/console || fail "hv was not shut down"
[ $took -lt 90 ] || fail "the machine was off after $took s"
rm -f $T/disk.img
echo "package: installed, started, restarted, upgraded, removed; guests went on, and were shut down with the machine in $took s"
