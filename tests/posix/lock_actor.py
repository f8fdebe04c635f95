"""A process that takes locks as it is told: a line on stdin is a command, and a line on stdout what came of it.

    open NAME PATH r|rw        NAME: any word, for the descriptor
    close NAME                 close(2)
    dup NAME NAME2             dup(2)
    posix|ofd r|w|u NAME START LENGTH [wait]
    get posix|ofd r|w NAME START LENGTH    "free", or "r|w START LENGTH PID" of a lock in the way
    flock sh|ex|un NAME [wait]
    write NAME OFFSET TEXT     append NAME TEXT     read NAME OFFSET LENGTH     size NAME
    fork                       a child that has the same descriptors takes the commands until it exits
    exit

Answers are "ok", a value, or the name of an errno. A command that waits ends with EINTR at SIGUSR1.
"""

import errno
import fcntl
import os
import signal
import struct
import sys

FLOCK = "hhqqi4x"
TYPES = {"r": fcntl.F_RDLCK, "w": fcntl.F_WRLCK, "u": fcntl.F_UNLCK}
NAMES = {fcntl.F_RDLCK: "r", fcntl.F_WRLCK: "w"}
OFD_GETLK, OFD_SETLK, OFD_SETLKW = 36, 37, 38


def interrupted(_signal, _frame):
    raise OSError(errno.EINTR, "interrupted")


def lock(kind, how, fd, start, length, waits):
    if kind == "ofd":
        command = OFD_SETLKW if waits else OFD_SETLK
    else:
        command = fcntl.F_SETLKW if waits else fcntl.F_SETLK
    fcntl.fcntl(fd, command, struct.pack(FLOCK, TYPES[how], os.SEEK_SET, start, length, 0))
    return "ok"


def get(kind, how, fd, start, length):
    command = OFD_GETLK if kind == "ofd" else fcntl.F_GETLK
    answer = fcntl.fcntl(fd, command, struct.pack(FLOCK, TYPES[how], os.SEEK_SET, start, length, 0))
    found, _whence, first, count, pid = struct.unpack(FLOCK, answer)
    return "free" if found == fcntl.F_UNLCK else f"{NAMES[found]} {first} {count} {pid}"


FLOCKS = {"sh": fcntl.LOCK_SH, "ex": fcntl.LOCK_EX, "un": fcntl.LOCK_UN}
fds = {}


def run(words):
    command, *rest = words
    if command == "open":
        name, path, mode = rest
        fds[name] = os.open(path, os.O_RDONLY if mode == "r" else os.O_RDWR | os.O_CREAT, 0o644)
    elif command == "close":
        os.close(fds.pop(rest[0], -1))
    elif command == "dup":
        fds[rest[1]] = os.dup(fds[rest[0]])
    elif command in ("posix", "ofd"):
        how, name, start, length = rest[:4]
        return lock(command, how, fds[name], int(start), int(length), rest[4:] == ["wait"])
    elif command == "get":
        kind, how, name, start, length = rest
        return get(kind, how, fds[name], int(start), int(length))
    elif command == "flock":
        how, name = rest[:2]
        fcntl.flock(fds[name], FLOCKS[how] | (0 if rest[2:] == ["wait"] else fcntl.LOCK_NB))
    elif command == "write":
        name, offset, text = rest
        os.pwrite(fds[name], text.encode(), int(offset))
    elif command == "append":
        name, text = rest
        os.pwrite(fds[name], text.encode(), os.fstat(fds[name]).st_size)
    elif command == "read":
        name, offset, length = rest
        return os.pread(fds[name], int(length), int(offset)).decode()
    elif command == "size":
        return str(os.fstat(fds[rest[0]]).st_size)
    elif command == "fork":
        child = os.fork()
        if child != 0:
            os.waitpid(child, 0)
    elif command == "exit":
        os._exit(0)
    else:
        raise ValueError(command)
    return "ok"


def serve():
    signal.signal(signal.SIGUSR1, interrupted)
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    pending = b""
    while True:
        # Read byte by byte, so that a child finds what comes next in the pipe.
        byte = os.read(0, 1)
        if byte == b"":
            return
        if byte != b"\n":
            pending += byte
            continue
        words, pending = pending.decode().split(), b""
        try:
            answer = run(words)
        except OSError as error:
            answer = errno.errorcode.get(error.errno, str(error.errno))
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


serve()
