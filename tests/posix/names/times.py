"""Which times each call changes, of all that it touches: one line a call. To be compared with ext4's."""

import fcntl
import mmap
import os
import sys
import time

from calls import *

os.chdir(sys.argv[1])
TICK = 0.012  # longer than a step of the kernel's coarse clock


def stamps(what):
    status = os.stat(what) if isinstance(what, int) else os.lstat(what)
    return status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns


def op(name, run, *watched):
    before = [stamps(what) for what in watched]
    time.sleep(TICK)
    try:
        run()
        outcome = ""
    except OSError as error:
        outcome = f" errno {error.errno}"
    changes = []
    for what, old in zip(watched, before):
        try:
            new = stamps(what)
        except OSError:
            changes.append("gone")
            continue
        letters = "".join(letter for letter, a, b in zip("amc", old, new) if a != b)
        assert all(b >= a for a, b in zip(old, new)) or "set" in name or "exchange" in name, (name, old, new)
        changes.append(letters or "-")
    print(f"{name}:{outcome} {' '.join(changes)}")


def create(path, data=b""):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(fd, data)
    os.close(fd)


def read(path, flags=0, count=100, offset=0):
    fd = os.open(path, os.O_RDONLY | flags)
    os.pread(fd, count, offset)
    os.close(fd)


def write(path, data, offset=0, flags=0):
    fd = os.open(path, os.O_WRONLY | flags)
    os.pwrite(fd, data, offset)
    os.close(fd)


def opened(path, flags, run):
    fd = os.open(path, flags)
    try:
        run(fd)
    finally:
        os.close(fd)


def mapped(path, run, write=False):
    fd = os.open(path, os.O_RDWR if write else os.O_RDONLY)
    memory = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | (mmap.PROT_WRITE if write else 0))
    run(memory)
    memory.close()
    os.close(fd)


def store(memory):
    memory[0:1] = b"m"
    memory.flush()


os.mkdir("d")
os.mkdir("e")
op("create", lambda: create("d/f", b"x" * 5000), "d")
op("create what is there", lambda: create("d/f", b"y"), "d", "d/f")
op("open and close", lambda: opened("d/f", os.O_RDWR, lambda fd: None), "d", "d/f")
op("write", lambda: write("d/f", b"z"), "d", "d/f")
op("append", lambda: write("d/f", b"z" * 9, 0, os.O_APPEND), "d/f")
op("write nothing", lambda: write("d/f", b""), "d/f")
op("read", lambda: read("d/f"), "d", "d/f")
op("read again", lambda: read("d/f"), "d/f")
op("chmod", lambda: os.chmod("d/f", 0o600), "d", "d/f")
op("read nothing", lambda: read("d/f", count=0), "d/f")
op("read O_NOATIME", lambda: read("d/f", os.O_NOATIME), "d/f")
op("read after chmod", lambda: read("d/f"), "d/f")
op("chown to the same", lambda: os.chown("d/f", os.getuid(), os.getgid()), "d/f")
op("read", lambda: read("d/f"), "d/f")
op("chown nothing", lambda: os.chown("d/f", -1, -1), "d/f")
op("mmap, not due", lambda: mapped("d/f", lambda m: m[0]), "d/f")
op("setxattr", lambda: os.setxattr("d/f", "user.a", b"v"), "d", "d/f")
op("mmap, due", lambda: mapped("d/f", lambda m: m[0]), "d/f")
op("getxattr", lambda: os.getxattr("d/f", "user.a"), "d/f")
op("listxattr", lambda: os.listxattr("d/f"), "d/f")
op("removexattr", lambda: os.removexattr("d/f", "user.a"), "d/f")
op("mmap, store, msync", lambda: mapped("d/f", store, True), "d/f")
op("truncate to the same", lambda: os.truncate("d/f", os.stat("d/f").st_size), "d/f")
op("ftruncate to the same", lambda: opened("d/f", os.O_RDWR, lambda fd: os.ftruncate(fd, os.fstat(fd).st_size)), "d/f")
op("truncate, longer", lambda: os.truncate("d/f", 20000), "d", "d/f")
op("truncate, shorter", lambda: os.truncate("d/f", 5000), "d/f")
op("fallocate", lambda: opened("d/f", os.O_RDWR, lambda fd: fallocate(fd, 0, 0, 30000)), "d/f")
op("fallocate in what is there", lambda: opened("d/f", os.O_RDWR, lambda fd: fallocate(fd, 0, 0, 30000)), "d/f")
op("fallocate KEEP_SIZE", lambda: opened("d/f", os.O_RDWR, lambda fd: fallocate(fd, KEEP_SIZE, 0, 60000)), "d/f")
op("punch", lambda: opened("d/f", os.O_RDWR, lambda fd: fallocate(fd, KEEP_SIZE | PUNCH_HOLE, 0, 8192)), "d/f")
op("fsync", lambda: opened("d/f", os.O_RDWR, os.fsync), "d/f")
op("open O_TRUNC", lambda: write("d/f", b"", 0, os.O_TRUNC), "d", "d/f")
op("open O_TRUNC of nothing", lambda: write("d/f", b"", 0, os.O_TRUNC), "d/f")
op("read of an empty file", lambda: read("d/f"), "d/f")
op("read of an empty file again", lambda: read("d/f"), "d/f")
op("set both", lambda: utimens("d/f", (5, 6), (7, 8)), "d/f")
print(stamps("d/f")[:2])
op("set atime", lambda: utimens("d/f", (1 << 33, 999999999), (0, UTIME_OMIT)), "d/f")
op("set mtime", lambda: utimens("d/f", (0, UTIME_OMIT), (-5, 1)), "d/f")
print(stamps("d/f")[:2])
op("set nothing", lambda: utimens("d/f", (0, UTIME_OMIT), (0, UTIME_OMIT)), "d/f")
op("set now", lambda: utimens("d/f", (0, UTIME_NOW), (0, UTIME_NOW)), "d/f")
op("statfs, access", lambda: (os.statvfs("d/f"), os.access("d/f", os.R_OK)), "d", "d/f")

op("list", lambda: os.listdir("d"), "d", "d/f")
op("list again", lambda: os.listdir("d"), "d")
op("open a directory", lambda: opened("e", os.O_RDONLY, lambda fd: None), "e")
op("list an empty directory", lambda: os.listdir("e"), "e")
op("mkdir", lambda: os.mkdir("d/s"), "d")
op("list after mkdir", lambda: os.listdir("d"), "d")
op("rmdir of what is not empty", lambda: os.rmdir("d"), "d")
op("rmdir", lambda: os.rmdir("d/s"), "d")
op("mknod", lambda: os.mkfifo("d/p"), "d")
op("symlink", lambda: os.symlink("f", "d/l"), "d")
op("readlink", lambda: os.readlink("d/l"), "d", "d/l")
op("readlink again", lambda: os.readlink("d/l"), "d/l")
op("link", lambda: os.link("d/f", "d/g"), "d", "d/f")
op("link into another", lambda: os.link("d/f", "e/g"), "d", "e", "d/f")
op("link of a symlink", lambda: os.link("d/l", "d/l2", follow_symlinks=False), "d", "d/l")
op("link where something is", lambda: os.link("d/f", "d/g"), "d", "d/f")
op("rename onto another name of the same", lambda: os.rename("d/f", "d/g"), "d", "d/f")
op("unlink", lambda: os.unlink("d/g"), "d", "d/f")
op("rename", lambda: os.rename("d/f", "d/h"), "d")
op("rename into another", lambda: os.rename("d/h", "e/h"), "d", "e")
fd = os.open("e/g", os.O_RDWR)
os.unlink("e/h")
create("d/h")
op("rename over", lambda: os.rename("d/h", "e/g"), "d", "e", fd)
op("write to what has no name", lambda: os.pwrite(fd, b"w", 0), "e", fd)
op("read of what has no name", lambda: os.pread(fd, 1, 0), fd)
os.close(fd)
moved = os.open("e/g", os.O_RDONLY)
op("rename, of the file", lambda: os.rename("e/g", "e/i"), "e", moved)
op("unlink of an open file", lambda: os.unlink("e/i"), "e", moved)
os.close(moved)
os.mkdir("d/s")
os.mkdir("d/s/t")
below = os.open("d/s", os.O_RDONLY)
op("rename a directory", lambda: os.rename("d/s", "d/u"), "d", below, "d/s/t" if os.path.exists("d/s/t") else "d")
op("rename a directory into another", lambda: os.rename("d/u", "e/u"), "d", "e", below)
os.mkdir("e/v")
over = os.open("e/v", os.O_RDONLY)
op("rename a directory over another", lambda: os.rename("e/u", "e/v"), "e", below, over)
os.close(over)
create("d/a")
time.sleep(TICK)
create("e/b")
op("exchange", lambda: renameat2("d/a", "e/b", EXCHANGE), "d", "e", "d/a", "e/b")
op("exchange with a directory", lambda: renameat2("d/a", "e/v", EXCHANGE), "d", "e", "d/a", "e/v")
op("rename NOREPLACE", lambda: renameat2("e/b", "e/c", NOREPLACE), "e")
op("rename WHITEOUT", lambda: renameat2("e/c", "e/w", WHITEOUT), "e", "d")
op("rename into itself", lambda: os.rename("d", "d/a/x"), "d")
op("O_TMPFILE", lambda: opened("d", os.O_TMPFILE | os.O_RDWR, lambda fd: os.write(fd, b"x")), "d")
unnamed = os.open("d", os.O_TMPFILE | os.O_RDWR)
op("link of what has no name", lambda: link_descriptor(unnamed, "d/t"), "d", unnamed)
create("d/src", b"s" * 9000)
create("d/dst", b"")
op(
    "copy_file_range",
    lambda: opened("d/src", os.O_RDONLY, lambda i: opened("d/dst", os.O_WRONLY, lambda o: os.copy_file_range(i, o, 9000))),
    "d/src",
    "d/dst",
)
create("d/src2", b"s" * 9000)
op(
    "sendfile",
    lambda: opened("d/src2", os.O_RDONLY, lambda i: opened("d/dst", os.O_WRONLY, lambda o: os.sendfile(o, i, 0, 9000))),
    "d/src2",
    "d/dst",
)
op("flock", lambda: opened("d/dst", os.O_RDONLY, lambda fd: fcntl.flock(fd, fcntl.LOCK_EX)), "d/dst")
