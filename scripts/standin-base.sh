#!/bin/sh
# usage: standin-base.sh IMAGE
# Makes a stand-in for the base image python:3.13-slim out of Debian packages, for a machine that reaches Debian's
# packages and no image registry. For trying the Dockerfile, not for a release. Needs root, buildah and debootstrap.
set -eu
image=$1

container=$(buildah from scratch)
trap 'buildah rm "$container" >/dev/null' EXIT
root=$(buildah mount "$container")
if ! log=$(debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates trixie "$root" 2>&1); then
    echo "$log" | tail -n 20 >&2
    exit 1
fi
ln -s /usr/bin/python3 "$root/usr/local/bin/python"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
buildah config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin "$container"
buildah commit --quiet "$container" "$image" >/dev/null
