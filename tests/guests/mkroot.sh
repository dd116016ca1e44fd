#!/bin/sh
# mkroot.sh OUT.tar: a minimal Debian 12 with redis, nginx and a small C compiler, installed by mmdebstrap from the
# Debian mirrors that this machine's own apt uses.  Takes a minute; guests.mk keeps the result.
set -eu
out=$1
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

# Lines of a sources.list for the suites of Debian 12.
sources() {
	apt-get indextargets --format '$(CODENAME) deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
		'Created-By: Packages' 'Origin: Debian' |
		sed -nE 's/^bookworm(-updates|-security)? deb /deb /p' | sort -u
}

sources >"$dir/sources"
if [ ! -s "$dir/sources" ]; then
	apt-get update -qq
	sources >"$dir/sources"
fi
apt-config dump Acquire >"$dir/apt.conf" # proxies and the like
mmdebstrap --variant=essential --mode=root --format=tar --quiet \
	--include=redis-server,nginx-light,busybox-static,tcc \
	--aptopt="$dir/apt.conf" --dpkgopt=force-unsafe-io \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	'' "$out.tmp" - <"$dir/sources"
mv "$out.tmp" "$out"
