#!/bin/sh
# mkinitrd.sh OUT MODULES-FOLDER FILE=SOURCE... MODULE...: an uncompressed initramfs with the files
# and the kernel modules (paths below kernel/, without .ko) as /modules/NAME.ko, listed in
# /modules/order.  Uncompressed: unpacking costs more than loading.  Used by guests.mk.
set -eu
out=$1 modules=$2
shift 2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/modules"
for arg; do
	case $arg in
	*=*)
		install -D -m 755 "${arg#*=}" "$dir/${arg%%=*}"
		continue
		;;
	esac
	name=${arg##*/}
	echo "$name" >>"$dir/modules/order"
	if [ -e "$modules/kernel/$arg.ko.xz" ]; then
		xz -dc "$modules/kernel/$arg.ko.xz" >"$dir/modules/$name.ko"
	else
		install -m 644 "$modules/kernel/$arg.ko" "$dir/modules/$name.ko"
	fi
done
(cd "$dir" && find . | sort | cpio -o -H newc -R 0:0 --quiet) >"$out.tmp"
mv "$out.tmp" "$out"
