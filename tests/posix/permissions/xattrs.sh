# Extended attributes and their namespaces
capabilities and setuid, and what takes them away.
touch f
setfattr -n user.a -v 1 f
setfattr -n trusted.t -v 2 f
r getfattr -d -m - f
r as 1001:1001:1001 getfattr -d -m - f
r as 1001:1001:1001 getfattr -n trusted.t f
r as 1001:1001:1001 setfattr -n user.b -v 1 f
r as 1001:1001:1001 setfattr -n trusted.b -v 1 f
r as 1001:1001:1001 setfattr -n security.foo -v 1 f
ln -s f l
r setfattr -h -n user.x -v 1 l
mkfifo p
r setfattr -n user.x -v 1 p
r setfattr -h -n trusted.x -v 1 l
r getfattr -h -d -m - l
mkdir s
chmod 1777 s
r as 1001:1001:1001 setfattr -n user.x -v 1 s
mkdir s2
chmod 777 s2
r as 1001:1001:1001 setfattr -n user.x -v 1 s2
r setfattr -n nonsense -v 1 f
r setfattr -n system.foo -v 1 f
r getfattr -n system.foo f
r setfattr -x system.foo f
r setfattr -x user.none f
r setfattr -n user. -v 1 f
r setfattr -x system.posix_acl_access f
python3 - <<'END'
import os,errno
def t(n,fn):
    try: print(n, fn())
    except OSError as e: print(n, errno.errorcode[e.errno])
t('create', lambda: os.setxattr('f','user.c',b'1',os.XATTR_CREATE))
t('create2', lambda: os.setxattr('f','user.c',b'1',os.XATTR_CREATE))
t('replace', lambda: os.setxattr('f','user.c',b'2',os.XATTR_REPLACE))
t('replace2', lambda: os.setxattr('f','user.nope',b'2',os.XATTR_REPLACE))
t('both', lambda: os.setxattr('f','user.c',b'2',3))
t('longname', lambda: os.setxattr('f','user.'+'n'*250,b'2'))
t('longname2', lambda: os.setxattr('f','user.'+'n'*251,b'2'))
t('big', lambda: os.setxattr('f','user.big',b'x'*65537))
t('empty', lambda: os.setxattr('f','user.e',b''))
t('getempty', lambda: os.getxattr('f','user.e'))
END
# capabilities
cp /bin/true c
setcap cap_net_raw+ep c
getcap c
echo >> c
r getcap c
for op in "chown 5 c" "truncate -s 100 c" "chmod 700 c" "touch c" "mv c c2" "mv c2 c" "fallocate -l 200000 c"; do cp /bin/true c; chmod 755 c; setcap cap_net_raw+ep c; $op; echo "$op: $(getcap c)"; done
python3 - <<'END'
import os,subprocess
open('k','w').write('x'); 
f=os.open('k',os.O_RDWR); os.write(f,b'abc'); subprocess.run(['setcap','cap_net_raw+ep','k']); print(subprocess.run(['getcap','k'],capture_output=True).stdout)
os.write(f,b'z'); print(subprocess.run(['getcap','k'],capture_output=True).stdout)
subprocess.run(['setcap','cap_net_raw+ep','k']); os.close(f); print(subprocess.run(['getcap','k'],capture_output=True).stdout)
END
touch d1
chmod 666 d1
r as 1001:1001:1001 setcap cap_net_raw+ep d1
# suid
cp /usr/bin/id id
chown 1001:1002 id
chmod 6755 id
as 1003:1003:1003 ./id -u -n 2>/dev/null
as 1003:1003:1003 ./id | sed 's/(.*//'
as 1003:1003:1003 ./id -g
cp /bin/cat cc
chmod 755 cc
setcap cap_dac_read_search+ep cc
echo secret > sec
chmod 600 sec
r as 1003:1003:1003 ./cc sec
chmod 6777 id
as 1003:1003:1003 sh -c 'echo >> id'
stat -c %a id
chmod 6777 id
as 1003:1003:1003 truncate -s 10 id
stat -c %a id
chmod 6755 id
chown 1001 id
stat -c %a id
chmod 6777 id
echo >> id
stat -c %a id
chmod 6777 id
as 1003:1003:1003 fallocate -l 100000 id
stat -c %a id
# Right after it was made, and while the kernel knows its mode.
for how in 'echo >> fresh' 'truncate -s 5 fresh' 'fallocate -l 100000 fresh' 'dd if=/dev/zero of=fresh bs=9 count=1 conv=notrunc status=none'; do
  rm -f fresh
  cp /bin/true fresh
  chmod 6777 fresh
  stat -c %a fresh
  as 1003:1003:1003 sh -c "$how; stat -c %a fresh"
  stat -c %a fresh
done
# what was setuid until it was written to may be linked by others
mkdir -m 777 links
r as 1001:1001:1001 python3 -c "
import os
for name in ('written', 'reserved'):
    f = os.open('links/' + name, os.O_CREAT | os.O_RDWR, 0o777)
    os.fchmod(f, 0o4777)
    os.write(f, b'x') if name == 'written' else os.posix_fallocate(f, 0, 100)
"
for name in written reserved; do
r as 1002:1002:1002 ln links/$name links/$name.2
done
