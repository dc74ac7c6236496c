#!/bin/sh
# usage: venv.sh PYTHON DIRECTORY
# Makes an empty virtual environment, or says in one line what is missing.
set -eu
python=$1 venv=$2

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Python 3.11 or newer is needed, and '$python' is not: make PYTHON=/path/to/python3.11" >&2
    exit 1
fi

# Debian and Ubuntu ship ensurepip, which venv needs, in a package of its own.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "Python's ensurepip is missing: install the package $package (apt-get install $package)" >&2
        exit 1
    fi
    echo "installing $package"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "$package" >/dev/null
fi

"$python" -m venv --clear "$venv"
