#!/bin/sh
# mkdebian.sh OUT.img ROOT.tar: the disk image of the Debian guest: the file system of mkroot.sh and
# the files of tests/guests/debian.  ext4 on the whole disk, sparse, made without a mount.
set -eu
out=$1 tar=$2 from=$(dirname "$0")/debian
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

mkdir "$dir/root"
tar -xf "$tar" -C "$dir/root" --exclude='./dev/*' --exclude='./var/cache/*' --exclude='./var/lib/apt/*'
chmod 755 "$dir/root" # mktemp's 700 would become the guest's /
rm -rf "$dir"/root/var/www/html/*
install -m 755 "$from/guest-init" "$from/guest-poweroff" "$dir/root/sbin/"
install -m 644 "$from/nginx.conf" "$dir/root/etc/nginx/nginx.conf"
install -D -m 755 "$from/PWRF" "$dir/root/etc/acpi/PWRF/00000080"
for name in poweroff reboot halt; do ln -sf busybox "$dir/root/bin/$name"; done
echo debian >"$dir/root/etc/hostname"
echo 'set enable-bracketed-paste off' >"$dir/root/etc/inputrc" # keeps the serial log readable
cat >"$dir/root/var/www/html/index.html" <<X
<!DOCTYPE html><title>vmbeam</title><p>nginx in a Debian guest of vmbeam
X
# 1 MiB in which every line is another one, so that a wrong page shows.
seq -f '%015.0f' 0 65535 >"$dir/root/var/www/html/1MiB"

truncate -s 512M "$out.tmp"
mke2fs -q -t ext4 -L debian -m 0 -N 16384 -J size=8 -E lazy_itable_init=0,lazy_journal_init=0 \
	-d "$dir/root" "$out.tmp"
mv "$out.tmp" "$out"
