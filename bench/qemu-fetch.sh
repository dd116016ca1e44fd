#!/bin/sh
# qemu-fetch.sh DIR: unpacks the QEMU of Debian's backports, and the libraries that it needs beyond
# those of this machine, into DIR/root.  Called once, by bench/bench.mk.
#
# Nothing is installed and no setting of the machine's apt is touched: apt works with lists, sources
# and a package status of its own in DIR.  Where from is what the machine's own apt says.
set -eu
export LC_ALL=C
rm -rf "$1"
mkdir -p "$1/lists/partial" "$1/archives/partial" "$1/root"
cd "$1"
dir=$(pwd)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
# shellcheck source=/dev/null
release=$(. /etc/os-release && echo "$VERSION_CODENAME")

# The machine's sources that are Debian's, and beside the release itself its backports.
sources() {
	# shellcheck disable=SC2016 # apt's variables
	apt-get indextargets --format '$(CREATED_BY) $(ORIGIN) $(COMPONENT) $(RELEASE) $(REPO_URI)' |
		awk -v release="$release" -v keys="$keys" '
			$1 != "Packages" || $2 != "Debian" || $3 != "main" { next }
			{ print "deb [signed-by=" keys "]", $5, $4, $3 }
			$4 == release { print "deb [signed-by=" keys "]", $5, release "-backports", $3 }' >sources.list
	grep -q -- -backports sources.list
}
# apt knows who made a list only once it has it.
sources || { apt-get update -qq && sources; } || {
	echo "qemu-fetch: apt has no source of Debian $release to find its backports beside" >&2
	exit 1
}

# A QEMU that is installed must not count as there.
awk -v RS= -v ORS='\n\n' '!/^Package: (qemu-system|seabios)/' /var/lib/dpkg/status >status
apt() {
	apt-get -qq -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::State::lists="$dir/lists" -o Dir::State::status="$dir/status" \
		-o Dir::Cache::archives="$dir/archives" -o Debug::NoLocking=1 "$@"
}
{
	apt update
	apt install -y --download-only --no-install-recommends -t "$release-backports" qemu-system-x86
} >log 2>&1 || {
	cat log >&2
	exit 1
}
for deb in archives/*.deb; do
	dpkg -x "$deb" root
done
rm -rf lists archives status
# Other machines' firmware, other programs, documentation: every file costs time in the lab.
find root/usr/bin root/usr/share ! -type d ! -name qemu-system-x86_64 ! -name 'bios*.bin' \
	! -name linuxboot_dma.bin ! -name pvh.bin ! -name kvmvapic.bin -delete
find root -type d -empty -delete
LD_LIBRARY_PATH=root/lib/x86_64-linux-gnu:root/usr/lib/x86_64-linux-gnu root/usr/bin/qemu-system-x86_64 --version | head -n 1 >version
