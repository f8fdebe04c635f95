"""What is open goes on as it is after its last name has gone: of all types. To be compared with ext4's."""

import errno
import os
import socket
import stat
import sys

os.chdir(sys.argv[1])
NAME = "removed"


def op(name, run):
    try:
        result = run()
        print(f"{name}: {'' if result is None else result}")
    except OSError as error:
        print(f"{name}: {errno.errorcode[error.errno]}")


def make(kind):
    """Makes it, and opens it by the way there is."""
    if kind == "file":
        return os.open(NAME, os.O_RDWR | os.O_CREAT, 0o644)
    if kind == "directory":
        os.mkdir(NAME, 0o755)
        os.setxattr(NAME, "user.before", b"1")
        return os.open(NAME, os.O_RDONLY)
    if kind == "link":
        os.symlink("somewhere", NAME)
        return os.open(NAME, os.O_PATH | os.O_NOFOLLOW)
    if kind == "socket":
        socket.socket(socket.AF_UNIX).bind(NAME)
        return os.open(NAME, os.O_PATH)
    if kind == "fifo":
        os.mkfifo(NAME, 0o644)
    else:
        os.mknod(NAME, 0o644 | stat.S_IFCHR, os.makedev(1, 3))
    os.setxattr(NAME, "trusted.before", b"1")
    return os.open(NAME, os.O_RDWR | os.O_NONBLOCK)


def status(fd):
    now = os.fstat(fd)
    size = 0 if stat.S_ISDIR(now.st_mode) else now.st_size
    changed = now.st_mtime if now.st_mtime < 1e6 else "now"
    return oct(now.st_mode), now.st_nlink, now.st_uid, now.st_gid, size, now.st_rdev, changed


def changes(path):
    op("chmod", lambda: os.chmod(path, 0o640))
    op("chown", lambda: os.chown(path, 5, 6))
    op("utimes", lambda: os.utime(path, (1000, 2000)))
    for space in ("user", "trusted"):
        op(f"set {space}", lambda: os.setxattr(path, f"{space}.a", b"value"))
        op(f"set {space} anew", lambda: os.setxattr(path, f"{space}.a", b"value", os.XATTR_CREATE))
        op(f"set {space} again", lambda: os.setxattr(path, f"{space}.b", b"value", os.XATTR_REPLACE))
        op(f"get {space}", lambda: os.getxattr(path, f"{space}.a"))
        op(f"get {space} from before", lambda: os.getxattr(path, f"{space}.before"))
    op("list", lambda: sorted(os.listxattr(path)))
    op("take away", lambda: os.removexattr(path, "trusted.a"))
    op("take away again", lambda: os.removexattr(path, "trusted.a"))
    op("list", lambda: sorted(os.listxattr(path)))


def inside(path):
    op("open", lambda: os.close(os.open(path, os.O_RDONLY)))
    op("look in", lambda: os.listdir(path))
    op("make a file in", lambda: os.open(f"{path}/x", os.O_CREAT | os.O_RDWR))
    op("make a directory in", lambda: os.mkdir(f"{path}/x"))
    op("link into", lambda: os.link("other", f"{path}/x"))
    op("rename into", lambda: os.rename("other", f"{path}/x"))
    op("above", lambda: os.stat(f"{path}/..").st_nlink)


open("other", "w").close()
for kind in ("file", "directory", "link", "socket", "fifo", "device"):
    for way in ("removed", "replaced"):
        print(f"-- {kind}, {way}")
        fd = make(kind)
        if way == "replaced":
            os.mkdir("new") if kind == "directory" else open("new", "w").close()
            os.rename("new", NAME)
        elif kind == "directory":
            os.rmdir(NAME)
        else:
            os.unlink(NAME)
        op("status", lambda: status(fd))
        if kind == "link":
            op("read", lambda: os.readlink("", dir_fd=fd))
        else:
            # Of what is open by its path only nothing can be changed but by way of /proc.
            changes(f"/proc/self/fd/{fd}" if kind == "socket" else fd)
        if kind == "directory":
            inside(f"/proc/self/fd/{fd}")
        op("status", lambda: status(fd))
        os.close(fd)
        if way == "replaced":
            os.rmdir(NAME) if kind == "directory" else os.unlink(NAME)
