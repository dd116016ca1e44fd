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
units="vmbeam-guests.service vmbeamd.service"
if [ "$1" = configure ]; then
	getent group vmbeam >/dev/null || addgroup --system --quiet vmbeam
fi
# Enabled once; what the administrator has made of it since stays (deb-systemd-helper(1p)).
for unit in $units; do
	if deb-systemd-helper --quiet was-enabled $unit; then
		deb-systemd-helper enable $unit >/dev/null
	else
		deb-systemd-helper update-state $unit >/dev/null
	fi
done
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	deb-systemd-invoke start vmbeam-guests.service || true
	# VMs go on meanwhile.
	deb-systemd-invoke restart vmbeamd.service || true
fi
END
cat >root/DEBIAN/prerm <<'END'
#!/bin/sh
set -e
if [ "$1" = remove ]; then
	if [ "$(vmbeam list --json)" != "[]" ]; then
		echo "vmbeam: VMs are running, and nothing could stop them any more; 'vmbeam shutdown' does" >&2
		exit 1
	fi
	[ ! -d /run/systemd/system ] || deb-systemd-invoke stop vmbeamd.service vmbeam-guests.service
fi
END
cat >root/DEBIAN/postrm <<'END'
#!/bin/sh
set -e
if [ "$1" = remove ] || [ "$1" = purge ]; then
	deb-systemd-helper purge vmbeam-guests.service vmbeamd.service >/dev/null
	[ ! -d /run/systemd/system ] || systemctl daemon-reload
fi
[ "$1" != purge ] || rm -rf /var/lib/vmbeam /run/vmbeam
END
chmod 755 root/DEBIAN/postinst root/DEBIAN/prerm root/DEBIAN/postrm
dpkg-deb --root-owner-group --build root "../vmbeam_$1_$arch.deb"
