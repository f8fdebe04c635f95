"""
Names, handles and times of access, seen from two mounts of one cluster.

    two_mounts.py CHECK MOUNT1 MOUNT2
"""

import errno
import os
import subprocess
import sys
import time

from calls import *

here, there = sys.argv[2:]


def put(path, data=b"x" * 5000):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(fd, data)
    os.close(fd)


def get(path, flags=0, count=100):
    fd = os.open(path, os.O_RDONLY | flags)
    os.read(fd, count)
    os.close(fd)


def fails(number, run):
    try:
        run()
    except OSError as error:
        assert error.errno == number, error
    else:
        raise AssertionError(f"should have failed with {errno.errorcode[number]}")


def handles():
    os.makedirs(f"{here}/h/d")
    put(f"{here}/h/d/f", b"text")
    os.symlink("f", f"{here}/h/d/l")
    found = {name: name_to_handle(f"{here}/h/{name}") for name in ("d/f", "d", "d/l")}
    found["root"] = name_to_handle(here)
    for root in (here, there):  # the other kernel has never seen them
        fd = open_by_handle(root, found["d/f"])
        assert os.read(fd, 9) == b"text"
        os.close(fd)
        fd = open_by_handle(root, found["d"])
        assert sorted(os.listdir(fd)) == ["f", "l"]
        assert os.readlink(f"/proc/self/fd/{fd}") == f"{root}/h/d", "it is connected to the root"
        os.close(fd)
        fd = open_by_handle(root, found["root"])
        assert "h" in os.listdir(fd)
        os.close(fd)
    os.rename(f"{there}/h/d", f"{there}/h/e")
    fd = open_by_handle(here, found["d"])
    assert os.readlink(f"/proc/self/fd/{fd}") == f"{here}/h/e"
    os.close(fd)
    held = open_by_handle(here, found["d/f"])
    os.unlink(f"{there}/h/e/f")
    assert os.read(held, 9) == b"text" and os.fstat(held).st_nlink == 0
    os.close(held)
    put(f"{here}/h/e/f")
    for root in (here, there):
        fails(errno.ESTALE, lambda: open_by_handle(root, found["d/f"]))


def unnamed():
    os.mkdir(f"{here}/u")
    fd = os.open(f"{here}/u", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"y" * 30000)
    assert os.listdir(f"{there}/u") == []
    link_descriptor(fd, f"{here}/u/f")
    assert os.stat(f"{there}/u/f").st_size == 30000
    os.unlink(f"{there}/u/f")
    os.pwrite(fd, b"z", 30000)
    assert os.fstat(fd).st_nlink == 0 and len(os.pread(fd, 40000, 0)) == 30001
    fails(errno.ENOENT, lambda: link_descriptor(fd, f"{here}/u/f"))
    os.close(fd)


def removed():
    """What is open on both is there until the last close, however it lost its name."""
    os.mkdir(f"{here}/r")
    for i, lose in enumerate((
        lambda name: os.unlink(f"{here}/r/{name}"),
        lambda name: os.unlink(f"{there}/r/{name}"),
        lambda name: (put(f"{there}/r/new"), os.rename(f"{there}/r/new", f"{there}/r/{name}")),
    )):
        name = f"f{i}"
        put(f"{here}/r/{name}", b"one")
        open_in = [os.open(f"{root}/r/{name}", os.O_RDWR) for root in (here, there)]
        lose(name)
        for fd in open_in:
            assert os.fstat(fd).st_nlink == 0 and os.pread(fd, 3, 0) == b"one"
        os.pwrite(open_in[0], b"two", 0)
        assert os.pread(open_in[1], 3, 0) == b"two"
        os.close(open_in[0])
        os.pwrite(open_in[1], b"end", 3)
        assert os.pread(open_in[1], 9, 0) == b"twoend"
        os.close(open_in[1])
    os.mkdir(f"{here}/r/d")
    fd = os.open(f"{here}/r/d", os.O_RDONLY)
    os.rmdir(f"{there}/r/d")
    assert os.listdir(fd) == [] and os.fstat(fd).st_nlink == 0
    fails(errno.ENOENT, lambda: os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


def atime(name):
    """As both see it, within a moment."""
    end = time.monotonic() + 5
    while True:
        a, b = (os.lstat(f"{root}/{name}").st_atime_ns for root in (here, there))
        if a == b:
            return a
        assert time.monotonic() < end, (name, a, b)
        time.sleep(0.01)


def seen_at_once(root, name):
    """By the machine that has read it."""
    before = os.lstat(f"{root}/{name}").st_atime_ns
    get(f"{root}/{name}")
    now = os.lstat(f"{root}/{name}").st_atime_ns
    assert now > before, (name, before, now)


def changes(name, run, expected=True):
    before = atime(name)
    others = [(os.lstat(f"{here}/{name}").st_mtime_ns, os.lstat(f"{here}/{name}").st_ctime_ns)]
    run()
    assert (atime(name) > before) == expected, (name, run, expected)
    others.append((os.lstat(f"{there}/{name}").st_mtime_ns, os.lstat(f"{there}/{name}").st_ctime_ns))
    assert others[0] == others[1], "nothing else"


def relatime():
    os.mkdir(f"{here}/t")
    put(f"{here}/t/f")
    seen_at_once(here, "t/f")
    os.chmod(f"{here}/t/f", 0o640)
    seen_at_once(there, "t/f")
    os.chmod(f"{there}/t/f", 0o644)
    changes("t/f", lambda: get(f"{here}/t/f"))
    changes("t/f", lambda: get(f"{here}/t/f"), False)
    changes("t/f", lambda: get(f"{there}/t/f"), False)
    os.chmod(f"{here}/t/f", 0o600)
    changes("t/f", lambda: get(f"{there}/t/f", os.O_NOATIME), False)
    changes("t/f", lambda: get(f"{there}/t/f", count=0), False)
    changes("t/f", lambda: get(f"{there}/t/f"))
    reader = os.open(f"{here}/t/f", os.O_RDONLY)
    os.pread(reader, 5000, 0)
    put(f"{there}/t/f", b"y")
    changes("t/f", lambda: os.pread(reader, 10, 4000))
    os.close(reader)
    writer = os.open(f"{here}/t/f", os.O_RDWR)
    os.pwrite(writer, b"z", 0)
    changes("t/f", lambda: os.pread(writer, 1, 0))
    os.close(writer)
    put(f"{here}/t/e", b"")
    changes("t/e", lambda: get(f"{there}/t/e"))
    changes("t", lambda: os.listdir(f"{there}/t"))
    changes("t", lambda: os.listdir(f"{here}/t"), False)
    os.symlink("f", f"{here}/t/l")
    changes("t/l", lambda: os.readlink(f"{there}/t/l"))
    changes("t/l", lambda: os.readlink(f"{here}/t/l"), False)
    past = (1, 0)
    utimens(f"{here}/t/f", past, past)
    changes("t/f", lambda: get(f"{there}/t/f"))
    # Many readers at once.
    os.chmod(f"{here}/t/f", 0o644)
    before = atime("t/f")
    readers = [subprocess.Popen(["cat", f"{root}/t/f"], stdout=subprocess.DEVNULL) for root in (here, there) * 4]
    for reader in readers:
        assert reader.wait(20) == 0
    assert atime("t/f") > before


def strict():
    """The first mount is strictatime, the second noatime and nodiratime."""
    os.mkdir(f"{here}/s")
    put(f"{here}/s/f")
    os.symlink("f", f"{here}/s/l")
    for _ in range(3):
        changes("s/f", lambda: get(f"{here}/s/f"))
        changes("s", lambda: os.listdir(f"{here}/s"))
        changes("s/l", lambda: os.readlink(f"{here}/s/l"))
        os.chmod(f"{there}/s/f", 0o644)
        changes("s/f", lambda: get(f"{there}/s/f"), False)
        changes("s", lambda: os.listdir(f"{there}/s"), False)
    fd = os.open(f"{here}/s/f", os.O_RDONLY)
    for _ in range(3):
        changes("s/f", lambda: os.pread(fd, 10, 0))
    os.close(fd)


globals()[sys.argv[1]]()
print("ok")
