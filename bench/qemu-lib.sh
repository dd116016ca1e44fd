# qemu-lib.sh: QEMU 10.0 (qemu-fetch.sh) as qemu.sh and bench.sh start it, and what the guest "beat" has told; for who has read
# tests/lab/lib.sh.

# qemu_files: programs, firmware, kernel and guest into the working directory, which is in memory, not on the lab's slow 9p.
qemu_files() {
	qemu_root=$PWD/root
	cp -r "$TOP/build/bench/qemu10/root" . && cp "$TOP/build/lab/vmlinuz" "$TOP/build/guests/beat.cpio" . || fail "no QEMU"
	qemu_libs=$qemu_root/lib/x86_64-linux-gnu:$qemu_root/usr/lib/x86_64-linux-gnu
}
# qemu_vm N LOG SIZE CMDLINE [OPTION...] -- [PREFIX...]: PREFIX with the command line of the N-th process, qemu.pidN and qmpN, of a VM of
# SIZE MiB whose kernel gets CMDLINE and whose serial lines come to LOG; with LD_LIBRARY_PATH=$qemu_libs.
qemu_vm() {
	n=$1 log=$2 mib=$3 cmdline=$4 options=
	shift 4
	while [ "$1" != -- ]; do
		options="$options $1"
		shift
	done
	shift
	# XSAVE: KVM under TCG gets it wrong; vmbeam hides it there, for QEMU's guest this does.
	# shellcheck disable=SC2086 # several options
	"$@" "$qemu_root/usr/bin/qemu-system-x86_64" -L "$qemu_root/usr/share/qemu" -L "$qemu_root/usr/share/seabios" -pidfile "qemu.pid$n" \
		-nodefaults -no-user-config -display none -accel kvm -cpu host -m "${mib}M" \
		-object "memory-backend-memfd,id=ram,size=${mib}M,share=on${huge:+,hugetlb=on}" \
		-machine q35,memory-backend=ram,aux-ram-share=on -chardev "file,id=serial,path=$log,append=on" -serial chardev:serial \
		-qmp "unix:qmp$n,server=on,wait=off" -kernel "$qemu_root/../vmlinuz" -initrd "$qemu_root/../beat.cpio" \
		-append "$cmdline noxsave" $options
}

# last_of KEY LOG: of the last tick in it that is complete (seq: its number).
last_of() {
	sed -n 's/^tick \([0-9]*\) \(.* sum=....\).$/seq=\1 \2/p' "$2" | tail -n 1 | tr ' ' '\n' | sed -n "s/^$1=//p"
}
# reached KEY NUMBER LOG
reached() {
	now=$(last_of "$1" "$3")
	[ "${now:--1}" -ge "$2" ]
}
