#!/bin/sh
# extract-vmlinux.sh BZIMAGE: writes the ELF kernel inside a bzImage to stdout; used by lab.mk.
# The header says where the compressed kernel lies (Documentation/x86/boot.rst: payload_offset,
# payload_length); the last four bytes of it are its uncompressed size.
set -eu
image=$1
number() # offset, bytes
{
	od -An -t "u$2" -j "$1" -N "$2" "$image" | tr -d ' '
}

offset=$((($(number 497 1) + 1) * 512 + $(number 584 4)))
length=$(($(number 588 4) - 4))
payload()
{
	tail -c +$((offset + 1)) "$image" | head -c "$length"
}
case $(payload | head -c 4 | od -An -t x1 | tr -d ' ') in
fd377a58) payload | xz -dc ;;
28b52ffd) payload | zstd -dc ;;
1f8b*) payload | gzip -dc ;;
7f454c46) payload ;;
*)
	echo "extract-vmlinux: $image: unknown compression" >&2
	exit 1
	;;
esac
