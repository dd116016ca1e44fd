#!/bin/sh
# mkinitrd.sh OUT INIT MODULES-FOLDER MODULE...: an uncompressed initramfs with INIT as /init and
# the named kernel modules (paths below kernel/, without .ko) in /modules.  Used by guests.mk.
set -eu
out=$(realpath -m "$1") init=$2 modules=$3
shift 3
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/modules"
install -m 755 "$init" "$dir/init"
for m; do
	for f in "$modules/kernel/$m".ko*; do
		case $f in
		*.xz) xz -dc "$f" >"$dir/modules/${m##*/}.ko" ;;
		*) install -m 644 "$f" "$dir/modules/${m##*/}.ko" ;;
		esac
	done
done
cd "$dir"
find . | sort | cpio -o -H newc -R 0:0 --quiet >"$out.tmp"
mv "$out.tmp" "$out"
