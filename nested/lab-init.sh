#!/bin/busybox sh
# lab-init.sh: the first process of the lab, out of the initramfs that nested/lab.mk builds.
#
# Loads the modules, makes the machine's root (9p tag "root", read-only) the root, mounts the build
# tree (tag "build", writable) and what a running system needs over it, and becomes the agent
# (nested/lab-agent.c).  nested/lab.c gives it these variables on the kernel command line, with
# every unusual byte of a path written \xHH:
#   LAB_DIR    build/lab              LAB_AGENT  the vmbeam program
#   LAB_CWD    the caller's folder        LAB_MACHINE  1 or 2, where there are two
# What goes wrong here ends the lab; the reason is the last line of the console log.
# shellcheck shell=dash

export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys

fail()
{
	echo "lab: $*"
	poweroff -f
}
decode()
{
	printf '%b' "$1"
}

for m in /modules/*; do
	case $m in
	*-kvm-amd.ko) insmod "$m" nested=1 ;;
	*) insmod "$m" ;;
	esac || fail "module ${m##*-} does not load"
done

dir=$(decode "$LAB_DIR")
build=${dir%/*}
agent=$(decode "$LAB_AGENT")
cwd=$(decode "$LAB_CWD")

p9=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o ro,$p9,cache=loose root /root || fail "the machine's root does not mount"
new=/newroot
mount --bind /root $new
mount -t proc -o nosuid,nodev,noexec proc $new/proc
mount -t sysfs -o nosuid,nodev,noexec sys $new/sys
mount -t devtmpfs -o nosuid dev $new/dev
mkdir -p $new/dev/pts $new/dev/shm $new/dev/hugepages $new/dev/mqueue
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts $new/dev/pts
mount -t tmpfs -o nosuid,nodev shm $new/dev/shm
mount -t hugetlbfs hugetlbfs $new/dev/hugepages
mount -t mqueue mqueue $new/dev/mqueue
ln -sf /proc/self/fd $new/dev/fd
ln -sf fd/0 $new/dev/stdin
ln -sf fd/1 $new/dev/stdout
ln -sf fd/2 $new/dev/stderr
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 $new/sys/fs/cgroup
echo "+cpuset +cpu +io +memory +hugetlb +pids" >$new/sys/fs/cgroup/cgroup.subtree_control
mount -t debugfs debugfs $new/sys/kernel/debug
mount -t tracefs tracefs $new/sys/kernel/tracing
mount -t tmpfs -o mode=755,nosuid,nodev run $new/run
mount -t tmpfs -o mode=1777,nosuid,nodev tmp $new/tmp
[ -d $new/var/tmp ] && mount -t tmpfs -o mode=1777,nosuid,nodev tmp $new/var/tmp
mkdir -p $new/run/lock $new/run/lab

# The caller's folder and the build tree are there even if the fresh /tmp or /run covers them.
[ -d "$new$cwd" ] || { mkdir -p "$new$cwd" && mount --bind "/root$cwd" "$new$cwd"; }
mkdir -p "$new$build"
mount -t 9p -o rw,$p9,cache=mmap build "$new$build" || fail "the build tree does not mount"
touch $new/run/lab/agent
mount --bind "/root$agent" $new/run/lab/agent || fail "$agent is not there"

# The modules of this kernel.  A machine whose own kernel has none has no /lib/modules to mount on.
lib=$new/lib
[ -L $lib ] && lib=$new/usr/lib
if [ ! -d $lib/modules ]; then
	mkdir -p /over && mount -t tmpfs over /over && mkdir -p /over/up/modules /over/work
	mount -t overlay -o "lowerdir=$lib,upperdir=/over/up,workdir=/over/work" overlay $lib ||
		fail "no place for /lib/modules"
fi
mount -t tmpfs modules $lib/modules
mkdir "$lib/modules/$(uname -r)"
mount --bind "$new$dir/modules" "$lib/modules/$(uname -r)" || fail "no modules in $dir"

ip link set lo up
hostname "lab$LAB_MACHINE"
if [ -n "$LAB_MACHINE" ]; then
	ip link set eth0 name cable && ip addr add "10.9.0.$LAB_MACHINE/24" dev cable && ip link set cable up ||
		fail "no network"
fi
thp=/sys/kernel/mm/transparent_hugepage
echo madvise >$thp/enabled
echo advise >$thp/shmem_enabled
umount /sys /proc
exec switch_root $new /run/lab/agent lab --agent
