"""What names do: renames of all kinds, links, files without a name, special files, errors. To be compared with ext4's."""

import errno
import os
import socket
import stat
import sys

from calls import *

os.chdir(sys.argv[1])
KINDS = {1: "fifo", 2: "chr", 4: "dir", 6: "blk", 8: "reg", 10: "lnk", 12: "sock"}


def op(name, run):
    try:
        result = run()
        print(f"{name}: {'' if result is None else result}")
    except OSError as error:
        print(f"{name}: {errno.errorcode[error.errno]}")


def tree(path="."):
    """All that is below, each with its type, mode, links, device and target."""
    for directory, names, files in sorted(os.walk(path)):
        for name in sorted(names + files):
            status = os.lstat(f"{directory}/{name}")
            target = os.readlink(f"{directory}/{name}") if stat.S_ISLNK(status.st_mode) else ""
            size = status.st_size if stat.S_ISREG(status.st_mode) or target else ""
            device = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
            print(f"  {directory}/{name} {oct(status.st_mode)} {status.st_nlink} {device} {size} {target[:20]}")


def listing(path):
    """Names and types by readdir; the inode numbers are those of stat."""
    directory = Directory(path)
    entries = directory.rest()
    directory.close()
    for name, _, inode in entries:
        assert inode == os.lstat(f"{path}/{name}").st_ino, name
    print("  ", sorted((name, KINDS[kind]) for name, kind, _ in entries))


def put(path, data=b""):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(fd, data)
    os.close(fd)


os.umask(0o022)
for name in ("a", "b", "a/x", "a/x/y", "empty", "full"):
    os.mkdir(name)
put("full/f")
for name in ("one", "two"):
    put(name, name.encode())

op("NOREPLACE onto a file", lambda: renameat2("one", "two", NOREPLACE))
op("NOREPLACE onto itself", lambda: renameat2("one", "one", NOREPLACE))
op("NOREPLACE", lambda: renameat2("one", "three", NOREPLACE))
op("EXCHANGE of files", lambda: renameat2("two", "three", EXCHANGE))
op("EXCHANGE file and directory", lambda: renameat2("two", "full", EXCHANGE))
op("EXCHANGE back", lambda: renameat2("full", "two", EXCHANGE))
op("EXCHANGE with nothing", lambda: renameat2("two", "absent", EXCHANGE))
op("EXCHANGE with its ancestor", lambda: renameat2("a/x", "a/x/y", EXCHANGE))
op("EXCHANGE and NOREPLACE", lambda: renameat2("two", "three", EXCHANGE | NOREPLACE))
op("EXCHANGE and WHITEOUT", lambda: renameat2("two", "three", EXCHANGE | WHITEOUT))
op("unknown flag", lambda: renameat2("two", "three", 8))
op("WHITEOUT", lambda: renameat2("two", "moved", WHITEOUT))
op("WHITEOUT over a file", lambda: renameat2("moved", "three", WHITEOUT))
op("WHITEOUT and NOREPLACE", lambda: renameat2("three", "a/white", WHITEOUT | NOREPLACE))
op("WHITEOUT of a directory", lambda: renameat2("empty", "a/empty", WHITEOUT))
tree()
listing(".")

op("a directory into itself", lambda: os.rename("a", "a/x/z"))
op("a directory onto its parent", lambda: os.rename("a/x/y", "a"))
op("a file onto a directory", lambda: os.rename("full/f", "b"))
op("a directory onto a file", lambda: os.rename("b", "full/f"))
op("a directory onto a full one", lambda: os.rename("b", "full"))
op("a directory onto an empty one", lambda: os.rename("full", "b"))
op("rename of nothing", lambda: os.rename("absent", "c"))
op("rename into nothing", lambda: os.rename("b", "absent/c"))
op("rename of .", lambda: os.rename("a/.", "c"))
op("rename of ..", lambda: os.rename("a/..", "c"))
op("rename to a name of 255 bytes", lambda: os.rename("b", "n" * 255))
op("rename to one of 256", lambda: os.rename("n" * 255, "n" * 256))
op("back", lambda: os.rename("n" * 255, "b"))
op("file with a slash behind", lambda: os.rename("b/f", "c/"))
tree()

put("l", b"link")
op("link", lambda: os.link("l", "l2"))
op("link of a symlink", lambda: (os.symlink("l", "s"), os.link("s", "s2", follow_symlinks=False))[1])
op("link of a directory", lambda: os.link("a", "l3"))
op("link onto something", lambda: os.link("l", "l2"))
op("rename onto another link", lambda: os.rename("l", "l2"))
op("unlink of a directory", lambda: os.unlink("a"))
op("rmdir of a file", lambda: os.rmdir("l"))
op("rmdir of a full directory", lambda: os.rmdir("b"))
op("rmdir of .", lambda: os.rmdir("a/."))
op("rmdir of ..", lambda: os.rmdir("a/x/.."))
op("mkdir of what is there", lambda: os.mkdir("a"))
op("mkdir of a dangling symlink", lambda: (os.symlink("nowhere", "dangling"), os.mkdir("dangling"))[1])
op("create through a dangling symlink", lambda: put("dangling"))
op("create below a file", lambda: put("l/f"))
op("symlink of 4095 bytes", lambda: os.symlink("t" * 4095, "long"))
op("its size", lambda: (os.lstat("long").st_size, len(os.readlink("long"))))
op("symlink of 4096 bytes", lambda: os.symlink("t" * 4096, "longer"))
op("symlink to nothing", lambda: os.symlink("", "none"))
op("a loop", lambda: (os.symlink("loop", "loop"), os.open("loop", os.O_RDONLY))[1])
op("O_NOFOLLOW", lambda: os.open("s", os.O_RDONLY | os.O_NOFOLLOW))
op("O_DIRECTORY", lambda: os.open("l", os.O_RDONLY | os.O_DIRECTORY))
op("write to a directory", lambda: os.open("a", os.O_WRONLY))
op("truncate of a directory", lambda: os.truncate("a", 0))
op("truncate below 0", lambda: os.truncate("l", -1))
op("readlink of a file", lambda: os.readlink("l"))
op("a path that is too long", lambda: os.stat("a/" * 2100))
tree()

op("fifo", lambda: os.mkfifo("fifo", 0o640))
op("socket", lambda: socket.socket(socket.AF_UNIX).bind("sock"))
op("character device", lambda: os.mknod("null", 0o666 | stat.S_IFCHR, os.makedev(1, 3)))
op("block device", lambda: os.mknod("blk", 0o600 | stat.S_IFBLK, os.makedev(0xFFF, 0xFFFFF)))
op("regular file", lambda: os.mknod("reg", 0o600 | stat.S_IFREG))
op("a directory by mknod", lambda: os.mknod("dir", 0o600 | stat.S_IFDIR))
op("open of a device", lambda: os.read(os.open("null", os.O_RDWR), 1))
op("truncate of a fifo", lambda: os.truncate("fifo", 0))
op("open of a socket", lambda: os.open("sock", os.O_RDONLY))
tree()
listing(".")

before = os.listdir("a")
fd = os.open("a", os.O_TMPFILE | os.O_RDWR, 0o640)
op("unnamed", lambda: (os.fstat(fd).st_nlink, oct(os.fstat(fd).st_mode), os.listdir("a") == before))
op("write", lambda: os.write(fd, b"unnamed" * 1000))
op("unnamed onto something", lambda: link_descriptor(fd, "l"))
op("unnamed gets a name", lambda: link_descriptor(fd, "a/named"))
op("and another", lambda: os.link("a/named", "a/again"))
op("links", lambda: os.fstat(fd).st_nlink)
os.unlink("a/named")
os.unlink("a/again")
op("none again", lambda: os.fstat(fd).st_nlink)
op("no name for what was unlinked", lambda: link_descriptor(fd, "a/named"))
op("still there", lambda: len(os.pread(fd, 10000, 0)))
os.close(fd)
fd = os.open("a", os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o640)
op("O_EXCL never gets a name", lambda: link_descriptor(fd, "a/named"))
os.close(fd)
op("O_TMPFILE for reading", lambda: os.open("a", os.O_TMPFILE | os.O_RDONLY))
op("O_TMPFILE in a file", lambda: os.open("l", os.O_TMPFILE | os.O_RDWR))

gone = os.open("a/x/y", os.O_RDONLY)
os.rmdir("a/x/y")
op("create in a removed directory", lambda: os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=gone))
op("list of a removed directory", lambda: os.listdir(gone))
op("links of a removed directory", lambda: os.fstat(gone).st_nlink)
op(".. of a removed directory", lambda: os.stat("..", dir_fd=gone).st_ino == os.stat("a/x").st_ino)

os.mkdir("many")
for i in range(300):
    os.mkdir(f"many/{i}")
op("links of a directory", lambda: os.stat("many").st_nlink)
os.rename("many/7", "a/7")
renameat2("many/8", "l", EXCHANGE)
op("after a move and an exchange", lambda: (os.stat("many").st_nlink, os.stat("a").st_nlink, os.stat(".").st_nlink))
op("statvfs", lambda: (os.statvfs(".").f_namemax, os.statvfs(".").f_bavail > 0, os.statvfs(".").f_ffree > 0))
