#!/bin/bash
# Under the systemd of systemd.sh: a cluster and a mount as services. Prints a line `NAME: ANSWER` for each look.
set -u

look() { # look NAME COMMAND...: its exit code and what it says, in one line
  local name=$1 said
  shift
  said=$("$@" 2>&1 </dev/null)
  echo "$name: $? $(tr '\n' '|' <<<"$said")"
}
state() { systemctl show -p ActiveState -p StatusText -p NRestarts "$1"; }
pid() { systemctl show -p MainPID --value "$1"; }

look format runuser -u mfs -- mfs format --dir /var/lib/mfs/nameserver
install -d -o mfs -g mfs /disks/1/mfs
for unit in mfs-nameserver mfs-dataserver mfs-mount@mnt-data; do
  look "start_$unit" systemctl start "$unit"
  look "state_$unit" state "$unit"
done
look mounted mountpoint -q /mnt/data
look copy cp -a /usr/share/doc/bash /mnt/data
look diff diff -r /usr/share/doc/bash /mnt/data/bash
look write dd if=/dev/zero of=/mnt/data/large bs=1M count=8 status=none conv=fsync
look user stat -c '%U' "/proc/$(pid mfs-nameserver)" "/proc/$(pid mfs-dataserver)"
look reload systemctl reload mfs-nameserver mfs-dataserver mfs-mount@mnt-data
for unit in mfs-nameserver mfs-dataserver mfs-mount@mnt-data; do look "reloaded_$unit" state "$unit"; done

# An automounter lets only its own process group through to the mount point, until something is mounted there.
mkdir -p /mnt/auto
echo '127.0.0.1:7400 /mnt/auto mfs noauto,x-systemd.automount,_netdev,nofail 0 0' >>/etc/fstab
systemctl daemon-reload
look automount systemctl start mnt-auto.automount
look automounted timeout 20 diff -r /usr/share/doc/bash /mnt/auto/bash
look automount_state systemctl show -p ActiveState --value mnt-auto.mount
look automount_stop systemctl stop mnt-auto.automount mnt-auto.mount

before=$(pid mfs-nameserver)
kill -STOP "$before"
for _ in $(seq 100); do
  sleep 0.2
  after=$(pid mfs-nameserver)
  [ "$after" = "$before" ] || [ "$after" = 0 ] || [ "$(systemctl is-active mfs-nameserver)" != active ] || break
done
look hung state mfs-nameserver
look after_hung dd if=/mnt/data/large of=/dev/null bs=1M status=none
look write_after sh -c 'echo text >/mnt/data/file && cat /mnt/data/file'
look stop systemctl stop mfs-mount@mnt-data mfs-dataserver mfs-nameserver
look unmounted mountpoint -q /mnt/data
look failed systemctl list-units --failed --plain --no-legend 'mfs-*'
