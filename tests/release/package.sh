#!/bin/bash
# Installs, upgrades and removes the Debian package with dpkg, on a copy of this machine that only this process sees: an
# overlay over / in a mount namespace, entered by chroot. A systemctl stands in there that notes what it is asked.
# Prints a line `NAME: ANSWER` for each look. Arguments: the package, one of a later version, a directory.
set -u
first=$1 second=$2 dir=$3
root=$dir/root
mkdir -p "$dir/layer" "$root"
mount -t tmpfs tmpfs "$dir/layer" || exit 1
mkdir "$dir/layer/upper" "$dir/layer/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$dir/layer/upper,workdir=$dir/layer/work" "$root" || exit 1
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root/packages" "$root/run/systemd/system"
cp "$first" "$root/packages/first.deb"
cp "$second" "$root/packages/second.deb"
# Not what this machine may have of it already.
rm -rf "$root/etc/mfs" "$root/var/lib/mfs" "$root/var/cache/mfs" "$root/usr/bin/mfs" "$root/sbin/mount.mfs" \
  "$root/sbin/mount.fuse.mfs"
cat >"$root/usr/bin/systemctl" <<'END'
#!/bin/sh
echo "$*" >>/packages/asked
case $1 in list-units) echo "mfs-nameserver.service loaded active running" ;; esac
END
chmod 755 "$root/usr/bin/systemctl"

inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"; }
look() { # look NAME COMMAND...: its exit code and what it says, in one line
  local name=$1 said
  shift
  said=$("$@" 2>&1 </dev/null)
  echo "$name: $? $(tr '\n' '|' <<<"$said")"
}
asked() {
  cat "$root/packages/asked" 2>/dev/null
  : >"$root/packages/asked"
}
files() { (cd "$root" && find etc lib/systemd sbin usr/bin usr/sbin usr/lib/sysusers.d usr/lib/tmpfiles.d usr/share/doc var/lib/mfs \
  \( -path '*/mfs*' -o -name mount.mfs \) 2>/dev/null | sort); }

# Other packages' are named alike (MooseFS).
others=$(files)
added() { comm -13 <(echo "$others") <(files); }

look install inside dpkg -i /packages/first.deb
look installed inside dpkg -s mfs
look runs inside mfs version
look helper inside readlink -f /sbin/mount.mfs
look user inside getent passwd mfs
look state inside stat -c '%U %G %a' /var/lib/mfs
look asked_install asked
look format inside setpriv --reuid mfs --regid mfs --clear-groups mfs format --dir /var/lib/mfs/nameserver
look verify inside dpkg -V mfs
echo '# mine' >>"$root/etc/mfs/nameserver.toml"
echo 'mine' >"$root/etc/mfs/mount-data.env"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s /lib/systemd/system/mfs-nameserver.service "$root/etc/systemd/system/multi-user.target.wants/"
look upgrade inside dpkg -i /packages/second.deb
look upgraded inside dpkg -s mfs
look asked_upgrade asked
look kept inside tail -n 1 /etc/mfs/nameserver.toml
look remove inside dpkg -r mfs
look asked_remove asked
look config_stays inside tail -n 1 /etc/mfs/nameserver.toml
look gone inside ls /usr/bin/mfs /sbin/mount.mfs /lib/systemd/system/mfs-nameserver.service
look again inside dpkg -i /packages/first.deb
look purge inside dpkg --purge mfs
look after added
look data inside ls /var/lib/mfs/nameserver
look known inside dpkg -s mfs
