# Helpers of the scripts here. Each runs in an empty directory of ext4 and of a mount, and what it says is compared.

# as UID:GID:GROUP,... COMMAND...
as() {
  local who=$1 uid gid groups
  shift
  IFS=: read -r uid gid groups <<<"$who"
  setpriv --reuid "$uid" --regid "$gid" --groups "$groups" --inh-caps=-all -- "$@"
}

# A command, what it says, and its exit code.
r() {
  "$@" 2>&1
  echo "rc $? of $*"
}

show() {
  local file
  for file in "$@"; do
    stat -c '%A %u:%g %n' "$file"
    getfacl -np "$file" 2>&1
  done
}
umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
