# What squashed.sh finds: made by root, in an empty directory.

chmod 777 .
mkdir private open sticky shared setgid readable
chmod 700 private
chmod 777 open
chmod 1777 sticky
chmod 711 readable
chmod 755 shared
chgrp 1009 setgid
chmod 2777 setgid
for dir in private open sticky shared readable; do
  echo text >$dir/file
  chmod 644 $dir/file
  mkdir $dir/dir
done
mkdir theirs
echo text >theirs/file
chown 1001 theirs
chmod 700 theirs
echo text >secret
chmod 600 secret
echo text >writable
chmod 666 writable
cp /bin/true suid
chmod 4777 suid
cp /bin/echo program
chmod 711 program
echo text >acl
chmod 600 acl
setfacl -m u:65534:rw acl
echo text >group
chmod 640 group
chgrp 65534 group
echo mine >mine
chown 65534:65534 mine
mkdir own
chown 65534:65534 own
echo text >own/file
setfattr -n user.x -v 1 writable
setfattr -n trusted.x -v 1 writable
setfattr -n user.x -v 1 secret
mkdir inherits
chmod 777 inherits
setfacl -d -m u:1001:rw inherits
