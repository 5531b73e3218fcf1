#!/bin/sh
# Starts the model server of this folder: http://localhost:8987/upload. ./start.sh --help lists the options.
set -eu
case "$0" in */*) cd "${0%/*}" ;; esac

fail() {
  echo "$1" >&2
  exit 1
}

if [ ! -e venv/complete ] || ! venv/bin/python -c pass 2>/dev/null; then
  python=
  for name in python3.11 python3 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      python=$name
      break
    fi
  done
  [ -n "$python" ] || fail "This kit needs Python 3.11, which is not installed here (or not on the PATH)."
  echo "Installing into the folder venv, once ..."
  "$python" -m venv --clear venv || fail "The folder venv cannot be made. Debian and Ubuntu: apt install python3.11-venv"
  venv/bin/python -m pip install --quiet --disable-pip-version-check --no-index --find-links wheels --no-deps \
    --requirement requirements.txt || fail "The folder wheels lacks what the line above names: README.txt says how to fetch it."
  : > venv/complete
fi
exec venv/bin/python -m bloomery_serving start "$@"
