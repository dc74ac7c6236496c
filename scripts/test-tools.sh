#!/bin/sh
# Installs the Prometheus, Alertmanager, Chromium, curl, openssl, systemd-analyze and strace that some tests start, where
# they are missing and where it may.
set -eu
packages=
command -v prometheus >/dev/null && command -v promtool >/dev/null || packages="prometheus"
{ command -v prometheus-alertmanager || command -v alertmanager; } >/dev/null && command -v amtool >/dev/null ||
    packages="$packages prometheus-alertmanager"
command -v chromium >/dev/null || packages="$packages chromium"
command -v curl >/dev/null || packages="$packages curl"
command -v openssl >/dev/null || packages="$packages openssl"
command -v systemd-analyze >/dev/null || packages="$packages systemd"
command -v strace >/dev/null || packages="$packages strace"
# Without a font that has them, the names of media are boxes in the pictures.
[ -n "$(fc-list :lang=ja 2>/dev/null)" ] || packages="$packages fontconfig fonts-ipafont-gothic"
[ -n "$packages" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests that need them are skipped; to run them: apt-get install --no-install-recommends" $packages
    exit 0
fi

echo "installing" $packages
# The packages are wanted for their programs alone: no service of theirs may start, now or at the next boot.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $packages >/dev/null
services=$(for each in $packages; do case $each in prometheus*) echo "$each" ;; esac; done)
if [ -n "$services" ] && [ -d /run/systemd/system ]; then
    systemctl disable --now --quiet $services
fi
