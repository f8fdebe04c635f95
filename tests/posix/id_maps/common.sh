# Helpers of the scripts here, which say the same of two views of one directory, whoever maps between them: $here has users and
# groups mapped, $there shows them as they are kept.

umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# as UID:GID[:GROUP,...] COMMAND...
as() {
  local who=$1 uid gid groups
  shift
  IFS=: read -r uid gid groups <<<"$who"
  setpriv --reuid "$uid" --regid "$gid" --groups "${groups:-$gid}" --inh-caps=-all -- "$@"
}

# A command in the mapped view, what it says, and its exit code.
h() {
  (cd "$here" && "$@" 2>&1)
  echo "rc $? of $*"
}

# The same in the other view.
t() {
  (cd "$there" && "$@" 2>&1)
  echo "there: rc $? of $*"
}

# Both views of files.
show() {
  (cd "$here" && stat -c '%A %u:%g %n' "$@" 2>&1)
  (cd "$there" && stat -c 'there: %A %u:%g %n' "$@" 2>&1)
}

# Both views of files' ACLs. Whom this machine has no number for is none of the last two.
acls() {
  (cd "$here" && getfacl -cnp "$@" 2>&1 | sed -E 's/:429496729[45]:/:unknown:/')
  (cd "$there" && getfacl -cnp "$@" 2>&1 | sed 's/^./there: &/')
}
