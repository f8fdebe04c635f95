# POSIX ACLs: what is inherited, masked and removed, and who may do what by them.

mkdir d
setfacl -m u:1001:rwx,g:1002:rx d
setfacl -d -m u:1001:rwx,g:1002:r,o::- d
show d
# umask counts where there is no default ACL only.
umask 077
touch d/f
mkdir d/s
mkfifo d/p
ln -s x d/l
mkdir n
show d/f d/s d/p n
umask 022
touch n/f
show n/f

# The mask follows the mode, and the mode the mask.
chmod 640 d/f
chmod 777 d/s
show d/f d/s
setfacl -m u:1003:rwx,m::r d/f
show d/f
# An ACL that says what the mode does is not kept.
setfacl -b d/f
getfattr -d -m - d d/f d/s 2>&1 | sort
setfacl -m u::rwx,g::r,o::- n/f
getfattr -m - n/f
show d/f n/f
setfacl -k d
setfacl -x u:1001 d
show d
r setfacl -d -m u:1:r d/f
r setfacl -m u:99:rwx d/l
r setfattr -n system.posix_acl_access -v 0x0200 d/f
r setfattr -n system.posix_acl_access -v 0x02000000010006000000000001 d/f

# Users and groups, supplementary ones as well.
echo hello >p1
chmod 600 p1
setfacl -m u:1001:r p1
r as 1001:1001:1001 cat p1
r as 1002:1002:1002 cat p1
r as 1001:1001:1001 sh -c 'echo x >> p1'
setfacl -m g:1005:rw p1
r as 1002:1002:1005,1002 sh -c 'echo y >> p1'
setfacl -m m::r p1
r as 1002:1002:1005 sh -c 'echo z >> p1'
r as 1002:1002:1005 setfacl -m u:1002:rwx p1
cat p1

# setgid goes when who sets the ACL, or the mode, is not of the group.
touch sg
chown 1001:1009 sg
chmod 2755 sg
as 1001:1001:1001 setfacl -m u:5:r sg
show sg
chmod 2755 sg
as 1001:1001:1009 setfacl -m u:5:rw sg
show sg
as 1001:1001:1001 chmod 2755 sg
stat -c %a sg

# Directories with setgid, and sticky ones.
mkdir g
chgrp 1009 g
chmod 2777 g
as 1001:1001:1001 touch g/f
as 1001:1001:1001 mkdir g/d
as 1001:1001:1001 sh -c 'umask 0; : > g/x; chmod 2755 g/x'
show g/f g/d g/x
mkdir t
chmod 1777 t
as 1001:1001:1001 touch t/a
r as 1002:1002:1002 rm -f t/a
r as 1002:1002:1002 mv t/a t/b
r as 1001:1001:1001 mv t/a t/b

cp -a d c
show c c/*

# A file that is made without a name inherits as well.
mkdir u
setfacl -d -m u:1001:rw,o::- u
python3 -c "
import os
fd = os.open('u', os.O_TMPFILE | os.O_RDWR, 0o666)
os.link('/proc/self/fd/%d' % fd, 'u/f')"
python3 -c "
import os
fd = os.open('n', os.O_TMPFILE | os.O_RDWR, 0o666)
os.link('/proc/self/fd/%d' % fd, 'n/t')"
show u/f n/t

# What no tool makes: the same user twice, owners twice, out of order, and no owner.
touch v
python3 -c "
import errno, os, struct
acl = lambda *entries: struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in entries)
owner, user, other, mask, all = (1, 7, 2**32 - 1), (2, 7, 1001), (2, 5, 1002), (16, 5, 2**32 - 1), (32, 4, 2**32 - 1)
group = (4, 5, 2**32 - 1)
for value in [
    acl(owner, user, user, group, mask, all), acl(owner, (2, 4, 1001), user, group, mask, all), acl(owner, owner, group, all),
    acl(all, owner, group), acl(owner, other, user, group, mask, all), acl(group, all), acl(owner, user, group, all), acl(),
]:
    try: os.setxattr('v', 'system.posix_acl_access', value)
    except OSError as error: print(errno.errorcode[error.errno])
    else: print(os.listxattr('v'), oct(os.stat('v').st_mode))
    try: print(os.getxattr('v', 'system.posix_acl_access').hex())
    except OSError as error: print(errno.errorcode[error.errno])
"
