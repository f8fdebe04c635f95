# Inode flags: what immutable and append-only forbid, by path and by descriptors that were open before.
ls_() { lsattr -d "$@" 2>&1 | sed 's/e/-/'
}
echo a > i
echo a > a
mkdir id ad
echo x > id/f
echo x > ad/f
chattr +i i id
chattr +a a ad
ls_ i a id ad
for f in i a; do
r sh -c "echo b > $f"
r sh -c "echo b >> $f"
r truncate -s 0 $f
r chmod 600 $f
r chown 5 $f
r touch $f
r touch -d 2001-01-01 $f
r ln $f h$f
r mv $f m$f
r rm -f $f
r setfattr -n user.x -v y $f
r setfacl -m u:5:r $f
r cat $f
r python3 -c "
import os,sys
for fl in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY|os.O_APPEND, os.O_WRONLY|os.O_TRUNC, os.O_WRONLY|os.O_APPEND|os.O_TRUNC, os.O_RDONLY, os.O_WRONLY|os.O_CREAT):
    try: os.close(os.open('$f', fl)); print(fl, 'ok')
    except OSError as e: print(fl, e.strerror)
"
done
for f in id ad; do
r touch $f/new
r mkdir $f/newd
r rm -f $f/f
r mv $f/f $f/g
r mv $f/f out
r mv i $f/
r sh -c "echo b >> $f/f"
r rmdir $f
r chmod 700 $f
r ln $f/f h
r mv $f $f.x
touch other
r mv other $f/other
r mv other $f/f
r setfattr -n user.x -v y $f
done
# held descriptors
echo 0123456789 > h
exec 5<>h
chattr +i h
r sh -c 'echo zz >&5'
r python3 -c "
import os
for n,f in (('ftruncate',lambda: os.ftruncate(5,1)),('fallocate',lambda: os.posix_fallocate(5,0,100)),('write',lambda: os.pwrite(5,b'q',0)), ('fchmod', lambda: os.fchmod(5,0o600))):
    try: f(); print(n,'ok')
    except OSError as e: print(n, e.strerror)
"
chattr -i h
chattr +a h
r sh -c 'echo YY >&5'
r python3 -c "
import os
for n,f in (('ftruncate',lambda: os.ftruncate(5,1)),('fallocate',lambda: os.posix_fallocate(5,0,100)),('write',lambda: os.pwrite(5,b'q',0))):
    try: f(); print(n,'ok')
    except OSError as e: print(n, e.strerror)
"
r fallocate -p -o 0 -l 5 h
chattr -a h
exec 5>&-
r fallocate -p -o 0 -l 5 h
od -c h | head
chattr +d id 2>&1
chattr -i id
chattr +d id
touch id/nd
ls_ id id/nd
mkdir id/sub
ls_ id/sub
r as 1001:1001:1001 chattr +i other
touch own
chown 1001 own
r as 1001:1001:1001 chattr +i own
r as 1001:1001:1001 chattr +d own
ls_ own
r as 1002:1002:1002 chattr -d own
# no-atime and sync
mkdir hush
chattr +AS hush
echo x > hush/f
mkdir hush/d
ls_ hush hush/f hush/d
for flag in -A +A; do
chattr $flag hush/f
touch -a -d 2001-01-01 hush/f
before=$(stat -c %z hush/f)
cat hush/f > /dev/null
echo "$flag: $(stat -c %x hush/f | sed 's/^2001.*/kept/; s/^20[2-9].*/now/')"
sleep 0.05
chattr -S hush/f
[ "$before" = "$(stat -c %z hush/f)" ] || echo "ctime changed"
chattr +S hush/f
done
r lsattr -d /dev/null
mkfifo pp
r sh -c 'chattr +i pp 2>/dev/null'
ln -s i ll
chattr -i i
chattr -a a
ls_ i a
r rm i
r rm a
r mv ad ad2
chattr -a ad
r mv ad ad2
