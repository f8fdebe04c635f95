#!/bin/sh
# MaggieFS @VERSION@ in one file: Deno, the program and its packages, which the first start of each user unpacks to a
# directory that is named after the content. After the last line of this script a .tar.gz follows.
set -eu
umask 022

HASH=@HASH@
OFFSET=@OFFSET@

self=$(readlink -f -- "$0")
export PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"

# Makes $1 when it is missing. False unless it is a directory that only this user can write to, and no link.
is_ours() {
  [ -n "$1" ] || return 1
  mkdir -p -m 755 -- "$1" 2>/dev/null || return 1
  case $(stat -c '%F:%u:%A' -- "$1" 2>/dev/null) in
    "directory:$uid:drwx"?"-"??"-"?) return 0 ;;
    *) return 1 ;;
  esac
}

# Unpacks under $1, and sets $dir to where that is. Safe when several do it at once: each unpacks its own, and a
# rename makes one of them count. False when it cannot, or when nothing may be run there.
unpack() {
  dir=$1/$HASH
  if [ ! -d "$dir" ]; then
    find "$1" -maxdepth 1 -name 'unpacking.*' -mmin +60 -exec rm -rf {} + 2>/dev/null || true
    new=$(mktemp -d -- "$1/unpacking.XXXXXX" 2>/dev/null) || return 1
    trap 'rm -rf -- "$new"' EXIT
    trap 'exit 1' INT TERM HUP
    if tail -c "+$((OFFSET + 1))" -- "$self" | tar -xzf - --no-same-owner -C "$new" 2>/dev/null; then
      sync -f "$new" 2>/dev/null || true
      # When somebody else was first, theirs stays.
      [ -d "$dir" ] || mv -T -- "$new" "$dir" 2>/dev/null || true
    fi
    rm -rf -- "$new"
    trap - EXIT INT TERM HUP
  fi
  "$dir/deno" --version >/dev/null 2>&1
}

uid=$(id -u)
dir=
for place in "${MFS_CACHE:-}" "${CACHE_DIRECTORY:-}" "${XDG_CACHE_HOME:+$XDG_CACHE_HOME/mfs}" \
  "${HOME:+$HOME/.cache/mfs}" "/var/cache/mfs-$uid" "/tmp/mfs-$uid" "/var/tmp/mfs-$uid" "/dev/shm/mfs-$uid"; do
  if is_ours "$place" && unpack "$place"; then break; fi
  dir=
done
if [ -z "$dir" ]; then
  echo "mfs: prepare: no place to unpack the program (150 MB): set MFS_CACHE to a directory of yours" >&2
  exit 1
fi

export MFS_EXECUTABLE="$self" MFS_PROGRAM="${MFS_PROGRAM:-$0}"
export DENO_DIR="$dir/cache" DENO_NO_UPDATE_CHECK=1 RUST_BACKTRACE=0
case ${0##*/} in
  mount.*) set -- mount.mfs "$@" ;;
esac
v8=
case ${1:-} in
  # Most of its memory would be garbage that V8 lets lie: a third of it is left so.
  nameserver) v8=--v8-flags=--optimize-for-size ;;
esac
exec "$dir/deno" run --quiet --no-prompt --allow-all --no-lock --cached-only --config "$dir/mfs/deno.json" $v8 \
  "$dir/mfs/main.ts" "$@"
