# What user 65534 may do in squashed_tree.sh's tree: said by that user, and by root where root counts as that user.

for dir in private open sticky shared readable; do
  r stat -c %a $dir/file
  r cat $dir/file
  r ls $dir
  r ls $dir/dir
  r sh -c "echo more >>$dir/file"
  r touch $dir/new
  r mkdir $dir/newdir
  r ln -s target $dir/link
  r mkfifo $dir/pipe
  r mv $dir/file $dir/moved
  r mv $dir/dir open/$dir
  r rm -f $dir/file $dir/moved
  r rmdir $dir/dir
  r ln mine $dir/linked
  r mv mine $dir/mine
  r mv $dir/mine mine
done
r cat theirs/file
r stat -c %a theirs/file
for file in secret writable acl group mine own/file suid; do
  r cat $file
  r sh -c "echo more >>$file"
  r sh -c "echo less >|$file"
  r truncate -s 3 $file
  r chmod 606 $file
  r chmod 2775 $file
  r touch $file
  r touch -d 2001-01-01 $file
  r chown 65534 $file
  r chown 1001 $file
  r chgrp 1001 $file
  r chgrp 65534 $file
  r ln $file own/linked
  r rm -f own/linked
  r setfattr -n user.y -v 2 $file
  r setfattr -x user.y $file
  r setfattr -n trusted.y -v 2 $file
  r setfattr -n security.y -v 2 $file
  r getfattr -n user.x $file
  r getfattr -n trusted.x $file
  r getfattr -d -m - $file
  r setfacl -m u:1002:r $file
  r chattr +i $file
  stat -c '%A %u:%g %s' $file
done
r ./program hello
r cp program copy
r mknod device c 1 3
r mknod own/file2 p
r rm -f own/file
touch own/new inherits/new setgid/new
mkdir own/dir inherits/dir setgid/dir
(umask 0; : >setgid/x; chmod 2775 setgid/x)
chmod 6755 own/new
echo more >>own/new
python3 -c "
import os
for name, flags in (('own/new', os.O_CREAT | os.O_EXCL | os.O_WRONLY), ('own/tmp', os.O_CREAT | os.O_RDWR), ('secret', os.O_CREAT | os.O_RDWR),
                    ('writable', os.O_CREAT | os.O_TRUNC | os.O_WRONLY), ('shared/none', os.O_CREAT | os.O_RDWR), ('own', os.O_TMPFILE | os.O_RDWR),
                    ('shared', os.O_TMPFILE | os.O_RDWR), ('private/file', os.O_RDONLY), ('readable/file', os.O_RDONLY)):
    try:
        os.close(os.open(name, flags, 0o644))
        print(name, 'ok')
    except OSError as error:
        print(name, error.strerror)
fd = os.open('own/held', os.O_CREAT | os.O_RDWR, 0o644)
os.chmod('own/held', 0)
os.write(fd, b'through the descriptor')
os.ftruncate(fd, 7)
print(os.fstat(fd).st_size)"
