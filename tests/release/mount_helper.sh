#!/bin/bash
# mount(8) with mount.mfs, in a mount namespace of its own, whose /sbin has the helper. Prints a line `NAME: ANSWER` for
# each look; ends without a mount. Arguments: the program, the nameserver, a directory.
set -u
program=$1 nameserver=$2 dir=$3
mkdir -p "$dir"/{upper,work,mnt}
sbin=$(readlink -f /sbin)
mount -t overlay overlay -o "lowerdir=$sbin,upperdir=$dir/upper,workdir=$dir/work" "$sbin" || exit 1
# mount(8) gives its helpers no environment; a checkout needs its cache.
cat >"$sbin/mount.mfs" <<END
#!/bin/sh
export HOME='$HOME' MFS_CACHE='${MFS_CACHE:-}' DENO='${DENO:-}' DENO_DIR='${DENO_DIR:-}'
exec '$program' mount.mfs "\$@"
END
chmod 755 "$sbin/mount.mfs"
cp "$sbin/mount.mfs" "$sbin/mount.fuse.mfs"
trap 'umount -l "$dir/mnt" 2>/dev/null' EXIT
log="log_file=$dir/log"

look() { # look NAME COMMAND...: its exit code and what it says
  local name=$1 said
  shift
  said=$(timeout 60 "$@" 2>&1 </dev/null)
  echo "$name: $? $said"
}

look mount mount -v -t mfs "$nameserver" "$dir/mnt" -o "noatime,nosuid,noexec,sync,x-foo=1,_netdev,defaults,comment=a,$log"
look shown grep " $dir/mnt " /proc/self/mountinfo
look write sh -c "echo text >$dir/mnt/file; cat $dir/mnt/file"
look to_readonly mount -o remount,ro "$dir/mnt"
look refused_write touch "$dir/mnt/file"
look still_shown grep " $dir/mnt " /proc/self/mountinfo
look to_writable mount -o remount,rw,nosuid "$dir/mnt"
look write_again touch "$dir/mnt/file"
look umount umount "$dir/mnt"
look remount_nothing mount -o remount,ro "$dir/mnt"
look unknown mount -t mfs "$nameserver" "$dir/mnt" -o "ro,nonsense,$log"
look refused mount -t mfs 127.0.0.1:1 "$dir/mnt" -o "$log"
look source mount -t mfs nowhere "$dir/mnt"
look absent mount -t mfs "$nameserver" "$dir/none" -o "$log"
look fake mount -f -t mfs "$nameserver" "$dir/mnt"
look after_fake mountpoint -q "$dir/mnt"
look sloppy mount -s -t mfs "$nameserver" "$dir/mnt" -o "nonsense,ro,$log"
look readonly touch "$dir/mnt/other"
look umount_sloppy umount "$dir/mnt"
echo "$nameserver $dir/mnt mfs ro,nofail,_netdev,soft,timeout=5,root_squash,rack=r1,uidmap=1000:20001+1001:20005,gidmap=100:5100:50,x-systemd.automount,$log 0 0" >"$dir/fstab"
look fstab mount -a -T "$dir/fstab"
look fstab_maps grep -o "uidmap=.* gidmap=[^ ]*" "$dir/log"
look fstab_again mount -a -T "$dir/fstab"
look mounted_once grep -c " $dir/mnt " /proc/self/mountinfo
look umount_by_source umount "$nameserver"
