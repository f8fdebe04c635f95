# Users and groups 0 to 999 are 100000 to 100999 there: nobody is root here who is root there.

mkdir "$there/all" && chown 100000:100000 "$there/all" && chmod 777 "$there/all"

echo "--- root here is user 100000 there, with all rights that root has here"
h touch all/file
h mkdir all/directory
h mknod all/null c 1 3
h as 33:33 touch all/user
show all/file all/directory all/null all/user
h chown 33:34 all/file
h chown 0:0 all/directory
h chown 100000 all/directory
show all/file all/directory
t bash -c 'echo text > all/private; chown 100033:100033 all/private; chmod 600 all/private'
h cat all/private
h chmod 640 all/private
h setfattr -n trusted.x -v y all/private
h getfattr -d -m - all/private
h as 33:33 getfattr -d -m - all/private
t bash -c 'cp /bin/true all/setuid; chown 100033:100034 all/setuid; chmod 6755 all/setuid'
h bash -c 'echo >> all/setuid'
h fallocate -l 1m all/setuid
h python3 -c "
import os
fd = os.open('all/setuid', os.O_RDWR)
os.copy_file_range(fd, fd, 10, 0, 4096)"
show all/setuid
h python3 -c "import os; os.chown('all/setuid', -1, -1)"
show all/setuid
t bash -c 'echo text > all/marked; chown 100033:100034 all/marked; chmod 2666 all/marked'
h fallocate -l 1m all/marked
h python3 -c "
import os
fd = os.open('all/marked', os.O_RDWR)
os.copy_file_range(fd, fd, 10, 0, 4096)"
show all/marked
h as 33:33 fallocate -l 2m all/marked
show all/marked
t chmod 6755 all/setuid
h as 33:33 bash -c 'echo >> all/setuid'
show all/setuid

echo "--- root there is nobody here"
t bash -c 'echo text > all/root; chmod 604 all/root; cp /usr/bin/id all/id; chmod 4755 all/id'
show all/root all/id
h cat all/root
h bash -c 'echo >> all/root'
h chmod 644 all/root
h rm -f all/root
h as 33:33 all/id -u

echo "--- capabilities count where root is who set them"
h bash -c 'cp /bin/cat all/able; setcap cap_dac_read_search+ep all/able; getcap all/able'
t getcap -n all/able
t bash -c 'cp /bin/cat all/unable; setcap cap_dac_read_search+ep all/unable; chmod 755 all/unable'
h bash -c 'echo secret > all/secret; chmod 600 all/secret'
h as 33:33 all/able all/secret
h as 33:33 all/unable all/secret

echo "--- ACLs"
h setfacl -m u:33:r,u:0:r all/secret
acls all/secret
h as 33:33 cat all/secret
t setfacl -m u:0:rw all/secret
acls all/secret
