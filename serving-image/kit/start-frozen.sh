#!/bin/sh
# Starts the model server of this folder: http://localhost:8987/upload. ./start.sh --help lists the options.
set -eu
case "$0" in */*) cd "${0%/*}" ;; esac

fail() {
  echo "$1" >&2
  exit 1
}

# A bare system may lack these programs; then the server itself reports what is missing.
[ "$(uname -m 2>/dev/null || echo x86_64)" = x86_64 ] || fail "This kit is for 64-bit PCs (x86_64) alone."
[ -e /lib64/ld-linux-x86-64.so.2 ] || fail "This kit needs a Linux with glibc, which this system does not have."
glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null || echo)
case "$glibc" in
  "glibc 2."*) [ "${glibc#glibc 2.}" -ge @GLIBC_MINOR@ ] || fail "This kit needs glibc 2.@GLIBC_MINOR@ or newer; this system has $glibc." ;;
esac

# Nearly every system has these libraries, as its glibc wants them. Ours are for those without.
spare=
libraries=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null || echo)
case "$libraries" in
  *libexpat.so.1*libstdc++.so.6* | *libstdc++.so.6*libexpat.so.1*) ;;
  *) spare=":$PWD/server/spare" ;;
esac
export LD_LIBRARY_PATH="$PWD/server/_internal$spare${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

# Some programs that unpack a zip forget which files are programs.
[ -x server/bloomery-server ] || chmod +x server/bloomery-server
exec ./server/bloomery-server start "$@"
