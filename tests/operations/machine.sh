#!/bin/bash
# A machine for OPERATIONS.md, within namespaces of its own (mounts, name, processes, network): an /etc and a /var/lib that can
# be written to, empty /srv and /mnt, mfs and mount.mfs as the package would have them, and a systemctl that runs units of scripts/systemd.
# Arguments: a directory for what is written, its name, the program, the directory of units. Prints `up` and sleeps.
set -eu
dir=$1 name=$2 program=$3 units=$4
mkdir -p "$dir"/{srv/disk1,mnt,log}
hostname "$name"
mount --make-rprivate /
for place in srv mnt; do mount --bind "$dir/$place" "/$place"; done
over() { # over DIR: what is written there lies elsewhere
  local layer="$dir/over$1"
  mkdir -p "$layer"/{upper,work}
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$layer/upper,workdir=$layer/work" "$1"
}
sbin=$(readlink -f /sbin)
for place in /etc /var/lib "$sbin"; do over "$place"; done
mkdir -p /etc/mfs /var/lib/mfs
environment="export HOME='$HOME' MFS_CACHE='${MFS_CACHE:-}' DENO='${DENO:-}' DENO_DIR='${DENO_DIR:-}' MFS_EXIT_ON_STDIN_EOF="
for helper in mfs mount.mfs; do
  cat >"$sbin/$helper" <<END
#!/bin/sh
$environment
exec '$program' $([ $helper = mfs ] || echo mount.mfs) "\$@"
END
done
cat >"$sbin/systemctl" <<END
#!/bin/bash
# enable --now, disable --now, start, stop and restart of one unit, whose ExecStart it runs.
set -eu
args=()
for arg in "\$@"; do [ "\$arg" = --now ] || args+=("\$arg"); done
verb=\${args[0]} unit=\${args[1]} log=$dir/log/\${args[1]}
stop() {
  [ -e \$log.pid ] || return 0
  pid=\$(cat \$log.pid)
  kill \$pid
  for i in \$(seq 100); do [ -e /proc/\$pid ] || break; sleep 0.1; done
  rm \$log.pid
}
start() {
  read -ra command < <(sed -n 's|^ExecStart=/usr/bin/||p' $units/\$unit.service)
  setsid "\${command[@]}" >\$log.out 2>>\$log.err </dev/null &
  echo \$! >\$log.pid
  for i in \$(seq 300); do
    grep -q '^ready' \$log.out && return
    [ -e /proc/\$! ] || break
    sleep 0.1
  done
  tail -n 5 \$log.err >&2
  exit 1
}
case \$verb in
  enable | start) start ;;
  disable | stop) stop ;;
  restart) stop; start ;;
esac
END
chmod 755 "$sbin"/{mfs,mount.mfs,systemctl}
echo up
# The first process of a machine takes in what others leave.
while :; do
  sleep 3600 &
  wait
done
