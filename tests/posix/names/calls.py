"""System calls that Python lacks or hides, for the scripts here; failures are OSError, as of os."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
AT_SYMLINK_FOLLOW = 0x400
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


def checked(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def renameat2(old, new, flags):
    checked(libc.renameat2(AT_FDCWD, old.encode(), AT_FDCWD, new.encode(), flags))


def link_descriptor(fd, new):
    """What O_TMPFILE made gets a name."""
    path = f"/proc/self/fd/{fd}".encode()
    checked(libc.linkat(AT_FDCWD, path, AT_FDCWD, new.encode(), AT_SYMLINK_FOLLOW))


def fallocate(fd, mode, offset, length):
    checked(libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))


def utimens(path, atime, mtime):
    """Each is (seconds, nanoseconds); UTIME_NOW and UTIME_OMIT are nanoseconds."""
    times = (ctypes.c_long * 4)(*atime, *mtime)
    checked(libc.utimensat(AT_FDCWD, path.encode(), times, 0))


UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


class FileHandle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("handle", ctypes.c_ubyte * 128)]


def name_to_handle(path):
    handle, mount = FileHandle(128, 0), ctypes.c_int()
    checked(libc.name_to_handle_at(AT_FDCWD, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0))
    return bytes(handle)


def open_by_handle(mountpoint, handle, flags=os.O_RDONLY):
    directory = os.open(mountpoint, os.O_RDONLY)
    try:
        return checked(libc.open_by_handle_at(directory, ctypes.byref(FileHandle.from_buffer_copy(handle)), flags))
    finally:
        os.close(directory)


class Directory:
    """An open directory as readdir(3) has it, with positions."""

    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long

    def __init__(self, path):
        self.stream = ctypes.c_void_p(libc.opendir(path.encode()))
        assert self.stream.value, path

    def next(self):
        """(name, d_type, d_ino), or None at the end."""
        entry = libc.readdir(self.stream)
        if entry is None:
            return None
        inode = ctypes.c_uint64.from_address(entry).value
        kind = ctypes.c_ubyte.from_address(entry + 18).value
        return ctypes.string_at(entry + 19).decode(), kind, inode

    def rest(self):
        return list(iter(self.next, None))

    def tell(self):
        return libc.telldir(self.stream)

    def seek(self, position):
        libc.seekdir(self.stream, ctypes.c_long(position))

    def rewind(self):
        libc.rewinddir(self.stream)

    def close(self):
        libc.closedir(self.stream)
