#!/bin/sh
# Makes a Python virtual environment, also where Debian's python3 comes without ensurepip (its package python3-venv).
#
#   deploy/venv.sh FOLDER [PYTHON]
#
# There pip is taken from Debian's own archive, whose signature apt checks: the package python3-pip-whl is downloaded and
# unpacked beside the environment. Nothing is installed on the system, and no rights of root are needed.
set -eu

folder=${1:?usage: deploy/venv.sh FOLDER [PYTHON]}
python=${2:-python3}
say() { echo "deploy/venv.sh: $*" >&2; }

command -v "$python" >/dev/null || { say "there is no $python; install Python 3.11 or newer, or name one as second word."; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  say "Python 3.11 or newer is needed, and $python is $("$python" -V 2>&1); name another one as second word (make: PYTHON=…)."
  exit 1
}
if "$python" -c 'import ensurepip' 2>/dev/null; then
  exec "$python" -m venv "$folder"
fi

remedy="install it (apt-get install python3-venv) and do this again."
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
  say "$python has no ensurepip, which makes virtual environments; install it with your system's packages and do this again."
  exit 1
fi
say "$python has no ensurepip; taking pip from Debian's package python3-pip-whl."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
# Lists and cache of our own: apt's are root's, and empty in most containers.
apt() {
  apt-get -qq -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root "$@" >"$work/log" 2>&1
}
apt update || { say "Debian's archive cannot be read ($(tail -n 1 "$work/log")). Debian's python3-venv is missing: $remedy"; exit 1; }
(cd "$work" && apt download python3-pip-whl) ||
  { say "python3-pip-whl cannot be had ($(tail -n 1 "$work/log")). Debian's python3-venv is missing: $remedy"; exit 1; }
dpkg-deb -x "$work"/python3-pip-whl_*.deb "$work/files"
pip=$(ls "$work"/files/usr/share/python-wheels/pip-*.whl)

"$python" -m venv --without-pip "$folder"
# A wheel of pip runs from its own archive; it installs itself from there, and asks no index.
"$folder/bin/python" "$pip/pip" install --quiet --disable-pip-version-check --no-index "$pip"
