#!/bin/bash
# Boots systemd on a copy of this machine that only these processes see, with the Debian package installed, and runs
# systemd_inside.sh there: an overlay over / in namespaces of its own, whose first process is systemd. The outcome is in
# DIR/said. Exits with 77 where that cannot be set up. Arguments: the package, DIR.
set -u
deb=$1 dir=$2
root=$dir/root
here=$(dirname "$(readlink -f "$0")")
mkdir -p "$dir/layer" "$root"
touch "$dir/said"
mount --make-rprivate / || exit 77
mount -t tmpfs tmpfs "$dir/layer" || exit 77
mkdir "$dir/layer/upper" "$dir/layer/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/layer/upper,workdir=$dir/layer/work" "$root" || exit 77
mount -t proc proc "$root/proc" || exit 77
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
mount -t sysfs sysfs "$root/sys" || exit 77
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup" || exit 77
touch "$root/said" && mount --bind "$dir/said" "$root/said"
# What this machine may have of it is not what is tried; a directory of root's must not be in the way.
rm -rf "$root/etc/mfs" "$root/var/lib/mfs" "$root/var/cache/mfs"
mkdir "$root/var/lib/mfs"
cp "$deb" "$root/run/mfs.deb"
cp "$here/systemd_inside.sh" "$root/run/inside.sh"
chroot "$root" dpkg -i /run/mfs.deb </dev/null >"$dir/dpkg.log" 2>&1 || { cat "$dir/dpkg.log" >&2; exit 1; }
: >"$root/etc/fstab"
for unit in mfs-nameserver mfs-dataserver mfs-mount@; do
  mkdir -p "$root/etc/systemd/system/$unit.service.d"
  # Half a minute is long for a test.
  printf '[Service]\nWatchdogSec=3s\n' >"$root/etc/systemd/system/$unit.service.d/test.conf"
done
cat >"$root/etc/systemd/system/inside.service" <<'END'
[Unit]
DefaultDependencies=no

[Service]
Type=oneshot
StandardOutput=append:/said
StandardError=append:/said
ExecStart=/bin/bash /run/inside.sh
ExecStopPost=/bin/systemctl --no-block exit
TimeoutStartSec=100
END
cd "$root" && mkdir -p old && pivot_root . old || exit 77
umount -l /old
exec env -i container=mfs-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=inside.service \
  --log-target=null --show-status=0 --default-standard-output=null --default-standard-error=null
