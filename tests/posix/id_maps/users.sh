# Users and groups 1001 to 1010 are 5001 to 5010 there; root is root.

mkdir "$there/all" && chmod 777 "$there/all"

echo "--- what is made belongs to its maker"
h as 1001:1002 touch all/file
h as 1001:1002 mkdir all/directory
h as 1001:1002 ln -s target all/symlink
h as 1001:1002 mkfifo all/fifo
h mknod all/null c 1 3
h as 1001:1002 python3 -c "
import os
fd = os.open('all', os.O_TMPFILE | os.O_RDWR)
print(os.fstat(fd).st_uid, os.fstat(fd).st_gid)
os.link(f'/proc/self/fd/{fd}', 'all/unnamed', src_dir_fd=fd, follow_symlinks=True)"
h as 1001:1002 ln all/file all/hard
show all/file all/directory all/symlink all/fifo all/null all/unnamed all/hard
t touch all/theirs
t chown 5003:5004 all/theirs
t chown 1003:1004 all/unnamed
h bash -c "ls -ln all | awk '{ print \$1, \$3, \$4, \$NF }'"
h find all -printf '%U:%G %p\n' | sort
h python3 -c "
import os
for entry in sorted(os.scandir('all'), key=lambda entry: entry.name):
    print(entry.name, entry.stat(follow_symlinks=False).st_uid)"

echo "--- owners are given in numbers of the view"
h chown 1005:1006 all/file
h chgrp 1007 all/directory
h chown -h 1005 all/symlink
show all/file all/directory all/symlink
t chown 5008:5009 all/file
show all/file
h chown 5001 all/file
h chgrp 5001 all/file
h as 1008:1009 chmod 640 all/file
h as 5008:5009 chmod 600 all/file
show all/file

echo "--- the owner gives groups of his own"
h as 1003:1004:1005,1006 chgrp 1006 all/theirs
h as 1003:1004:1005,1006 chgrp 1007 all/theirs
h as 1003:1004:1005,1006 chown 1002 all/theirs
show all/theirs

echo "--- groups of the caller count"
t bash -c 'echo text > all/of_group; chown 5001:5003 all/of_group; chmod 640 all/of_group'
h as 1002:1003 cat all/of_group
h as 1002:1002:1003 cat all/of_group
h as 1002:1002:5003 cat all/of_group
h as 1001:1001 cat all/of_group
h as 5001:5001 cat all/of_group

echo "--- a directory hands its group on"
h as 1001:1002 mkdir all/setgid
h as 1001:1002:1004 chgrp 1004 all/setgid
h as 1001:1002:1004 chmod 2777 all/setgid
h as 1003:1003 touch all/setgid/file
h as 1003:1003 mkdir all/setgid/directory
show all/setgid all/setgid/file all/setgid/directory
h as 1003:1003 chmod 2755 all/setgid/file
h as 1003:1003:1004 bash -c 'umask 0; touch all/setgid/member; chmod 2775 all/setgid/member'
show all/setgid/file all/setgid/member

echo "--- setgid without the right to execute stays with members"
for who in 1005:1005:1004 1005:1005 1005:1005:5004 1004:1004; do
  t bash -c 'rm -f all/marked; touch all/marked; chown 5001:5004 all/marked; chmod 2666 all/marked'
  h as "$who" bash -c 'echo >> all/marked'
  show all/marked
done

echo "--- a sticky directory"
h as 1001:1001 mkdir all/sticky
h as 1001:1001 chmod 1777 all/sticky
h as 1002:1002 touch all/sticky/one all/sticky/two all/sticky/three
h as 1003:1003 rm -f all/sticky/one
h as 5002:5002 rm -f all/sticky/one
h as 1003:1003 mv all/sticky/one all/sticky/other
h as 1002:1002 rm all/sticky/one
h as 1001:1001 mv all/sticky/two all/sticky/other
h rm all/sticky/three
h ls all/sticky

echo "--- ACLs"
h as 1001:1001 bash -c 'echo text > all/acl; chmod 600 all/acl'
h as 1001:1001 setfacl -m u:1002:r,g:1003:rw,u:0:r all/acl
acls all/acl
h as 1002:1002 cat all/acl
h as 1004:1003 bash -c 'echo more >> all/acl'
h as 1004:1004:1003 bash -c 'echo more >> all/acl'
h as 1004:1004 cat all/acl
h as 5002:5002 cat all/acl
t setfacl -m u:5004:r all/acl
h as 1004:1004 cat all/acl
h setfacl -x u:1002 all/acl
acls all/acl
h setfacl -m u:5001:r all/acl
h setfacl -m g:5001:r all/acl
t setfacl -m u:1002:rw,g:1003:rw all/acl
acls all/acl
h as 1002:1002 cat all/acl
h as 1005:1003 cat all/acl
h bash -c 'setfacl -m u:1006:r all/acl 2>/dev/null'
t setfacl -b all/acl
acls all/acl

echo "--- default ACLs"
h as 1001:1001 mkdir all/inherits
h as 1001:1001 setfacl -d -m u:1002:rwx,g:1003:rx all/inherits
t setfacl -d -m u:1004:r all/inherits
h as 1001:1001 mkdir all/inherits/below
h as 1001:1001 touch all/inherits/file
acls all/inherits all/inherits/below all/inherits/file
h as 1002:1002 bash -c 'echo > all/inherits/file'

echo "--- who has no number there makes nothing, and reads what all may"
h as 5001:1001 touch all/new
h as 1001:5001 touch all/new
h as 5001:5001 mkdir all/new
h as 5001:5001 ln -s target all/new
h as 5001:5001 mkfifo all/new
h as 5001:5001 python3 -c "import os; os.open('all', os.O_TMPFILE | os.O_RDWR)"
t bash -c 'echo text > all/readable; chmod 666 all/readable'
h as 5001:5001 cat all/readable
h as 5001:5001 bash -c 'echo more >> all/readable'
h as 5001:5001 mv all/readable all/renamed
h as 5001:5001 ln all/readable all/another
h as 5001:5001 rm all/readable
h ls all

echo "--- what belongs to whom this machine has no number for"
t bash -c 'echo text > all/foreign; chown 1001:1002 all/foreign; chmod 606 all/foreign'
t bash -c 'echo text > all/private; chown 1001:1002 all/private; chmod 600 all/private'
t bash -c 'mkdir all/closed; echo text > all/closed/file; chown 1001:1002 all/closed; chmod 707 all/closed'
show all/foreign all/private all/closed
h cat all/foreign
for who in 1001:1002 65534:65534 5001:5001 1003:1003; do
  h as "$who" cat all/private
  h as "$who" chmod 644 all/private
  h as "$who" touch -d @1 all/private
  h as "$who" bash -c 'echo more >> all/foreign'
done
h as 1001:1002 touch all/closed/new
h as 1003:1003 touch all/closed/new
h cat all/private
h chmod 644 all/private
h bash -c 'echo more >> all/foreign'
h rm -f all/private
h mv all/private all/moved
h rm -f all/closed/file
h ln all/private all/another
h setfattr -n user.x -v y all/foreign
h chown 1003:1003 all/private
show all/foreign all/private all/closed

echo "--- capabilities"
h bash -c 'cp /bin/true all/able; setcap cap_net_raw+ep all/able; getcap all/able'
t getcap all/able
h setcap -n 1003 cap_net_raw+ep all/able
t getcap -n all/able
h getcap -n all/able
