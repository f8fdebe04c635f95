"""Shows a directory elsewhere with its users and groups mapped by Linux itself (mount_setattr(2), MOUNT_ATTR_IDMAP).

    idmapped.py DIRECTORY TARGET LOCAL:CLUSTER:COUNT...

Exit code 3: this kernel does not do that for the file system of the directory.
"""

import ctypes
import os
import struct
import sys

# The generic numbers (asm-generic/unistd.h) and linux/mount.h.
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH, MOUNT_ATTR_IDMAP = 1, 4, 0x100000
CLONE_NEWUSER = 0x10000000

libc = ctypes.CDLL(None, use_errno=True)


def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        error = ctypes.get_errno()
        print(f"system call {number}: {os.strerror(error)}", file=sys.stderr)
        sys.exit(3)
    return result


def user_namespace(ranges):
    """A descriptor of one that lasts as long as somebody has it open."""
    ready, go_on = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        libc.unshare(CLONE_NEWUSER)
        os.write(ready[1], b"x")
        os.read(go_on[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{child}/{name}", "w") as file:
            file.write("".join(f"{cluster} {local} {count}\n" for local, cluster, count in ranges))
    namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
    os.write(go_on[1], b"x")
    os.waitpid(child, 0)
    return namespace


directory, target, *ranges = sys.argv[1:]
namespace = user_namespace([one.split(":") for one in ranges])
tree = call(SYS_OPEN_TREE, AT_FDCWD, directory.encode(), OPEN_TREE_CLONE)
attributes = struct.pack("QQQQ", MOUNT_ATTR_IDMAP, 0, 0, namespace)
call(SYS_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, attributes, ctypes.c_size_t(len(attributes)))
call(SYS_MOVE_MOUNT, tree, b"", AT_FDCWD, target.encode(), MOVE_MOUNT_F_EMPTY_PATH)
