"""
Holds things open over whatever happens to the cluster: `ready` when they are, then on a line of stdin looks at them.

    holder.py MOUNT NAME
"""

import os
import sys

from calls import link_descriptor

root, name = sys.argv[1:]
fd = os.open(f"{root}/shared", os.O_RDWR)
unnamed = os.open(root, os.O_TMPFILE | os.O_RDWR, 0o600)
lost = os.open(root, os.O_TMPFILE | os.O_RDWR, 0o600)
directory = os.open(f"{root}/dir", os.O_RDONLY)
os.write(unnamed, name.encode())
os.write(lost, b"lost")
print("ready", flush=True)
sys.stdin.readline()
assert os.pread(fd, 6, 0) == b"shared" and os.fstat(fd).st_nlink == 0
os.pwrite(fd, name.encode(), 100 + 10 * int(name[-1]))
assert os.pread(fd, len(name), 100 + 10 * int(name[-1])) == name.encode()
os.fsync(fd)
assert os.fstat(unnamed).st_nlink == 0 and os.pread(unnamed, 9, 0) == name.encode()
link_descriptor(unnamed, f"{root}/{name}")
assert os.pread(lost, 9, 0) == b"lost"
assert os.listdir(directory) == [] and os.fstat(directory).st_nlink == 0
print("looked", flush=True)
sys.stdin.readline()
print(" ".join(os.pread(fd, 200, 0).replace(b"\0", b" ").decode().split()), flush=True)
