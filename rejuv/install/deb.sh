#!/bin/sh
# deb.sh VERSION: makes build/vmbeam_VERSION_ARCH.deb of what is installed in build/deb/root; called by `make deb`.
set -eu
cd build/deb
arch=$(dpkg --print-architecture)
mkdir -p root/DEBIAN debian
printf 'Source: vmbeam\n\nPackage: vmbeam\nArchitecture: any\n' >debian/control
depends=$(dpkg-shlibdeps -O root/usr/lib/vmbeam/vmbeam* 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || { echo "dpkg-shlibdeps found nothing" >&2; exit 1; }
cat >root/DEBIAN/control <<END
Package: vmbeam
Version: $1
Architecture: $arch
Maintainer: the vmbeam developers <vmbeam@localhost>
Section: admin
Priority: optional
Depends: $depends, adduser
Recommends: gnuplot-nox
Description: virtual machines that keep running while their hypervisor is replaced
 Runs KVM guests in guest hypervisors, watches these grow old, and moves the
 guests to a fresh one without copying their memory.
END
echo /etc/vmbeam/vmbeamd.conf >root/DEBIAN/conffiles
cat >root/DEBIAN/postinst <<'END'
#!/bin/sh
set -e
if [ "$1" = configure ]; then
	getent group vmbeam >/dev/null || addgroup --system --quiet vmbeam
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload
		# VMs go on meanwhile.
		[ -z "$2" ] || systemctl try-restart vmbeamd.service || true
	fi
fi
END
cat >root/DEBIAN/prerm <<'END'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
	systemctl stop vmbeamd.service || true
fi
END
chmod 755 root/DEBIAN/postinst root/DEBIAN/prerm
dpkg-deb --root-owner-group --build root "../vmbeam_$1_$arch.deb"
