# Run as root in a mount namespace of its own: the file system is mounted by an ordinary user, through fusermount3, and used by
# that user and others.
#
#     mounts.sh SCRATCH ROOT_MOUNT MOUNT_COMMAND... (mount.ts, up to the user's number)
#
# fusermount3 wants the mounting user to have a name: nobody.

scratch=$1 root=$2
shift 2
command=("$@")
mine=$scratch/mine
mkdir -m 755 "$mine"
chown 65534:65534 "$mine"

as() {
  local user=$1
  shift
  timeout 20 setpriv --reuid "$user" --regid "$user" --clear-groups --inh-caps=-all -- "$@" 2>&1
}

# The error only, whatever program says so.
try() {
  local said
  said=$(as "$@") && echo "$1 ${*:2}: $said" || echo "$1 ${*:2}: ${said##*: }"
}

mounted() { grep -q " $mine " /proc/self/mounts; }

mount_as_user() {
  "${command[@]}" "$mine" "$@" >"$scratch/mount.log" 2>&1 &
  process=$!
  for _ in $(seq 300); do
    mounted && return
    kill -0 "$process" 2>/dev/null || break
    sleep 0.1
  done
  tail -n 3 "$scratch/mount.log"
  wait "$process"
  echo "not mounted, exit code $?"
}

unmount() {
  as 65534 fusermount3 -u mine
  wait "$process"
  echo "exit code $?"
  mounted && echo "still mounted"
}

cd "$scratch" || exit 1
# As udev makes it.
mknod -m 666 fuse c 10 229
mount --bind fuse /dev/fuse
echo "user_allow_other" >fuse.conf
: >empty.conf
mkdir -m 777 "$root/d"
cp /bin/id "$root/d/id"
chmod 4755 "$root/d/id"
mknod -m 666 "$root/d/null" c 1 3

echo "--- for oneself"
mount --bind empty.conf /etc/fuse.conf
mount_as_user
awk -v at="$mine" '$2 == at { print $3, $4 }' /proc/self/mounts | tr ',' '\n' | grep -E '^fuse.mfs|nosuid|nodev|user_id|allow_other'
try 65534 cat mine/d/missing
try 65534 sh -c 'echo text > mine/d/own; chmod 640 mine/d/own; cat mine/d/own; stat -c "%u:%g %a" mine/d/own'
try 65534 mine/d/id -u
try 65534 cat mine/d/null
try 1002 ls mine
try 0 ls mine
unmount
stat -c '%u:%g %a' "$root/d/own"

echo "--- for all, where the machine does not let users"
mount_as_user allow_other | sed 's/.*fuse.conf.*/told about fuse.conf/' | grep -E 'told|not mounted'

echo "--- as somebody else"
mount_as_user uidmap=65534:0:1

echo "--- for all"
umount /etc/fuse.conf
mount --bind fuse.conf /etc/fuse.conf
mount_as_user allow_other
try 65534 cat mine/d/own
try 1002 cat mine/d/own
try 1002 sh -c 'echo > mine/d/own'
try 1002 sh -c 'umask 0; mkdir mine/d/theirs; echo theirs > mine/d/theirs/f; stat -c "%u:%g %a" mine/d/theirs/f'
try 65534 cat mine/d/theirs/f
try 65534 chmod 600 mine/d/theirs/f
try 1002 mkdir mine/e
try 65534 mkdir mine/e
try 1002 chown 65534 mine/d/theirs/f
try 1002 mine/d/id -u
try 1002 mknod mine/d/zero c 1 5
try 0 cat mine/d/own
unmount
