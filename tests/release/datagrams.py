"""The service manager's end of sd_notify: binds a unix datagram socket and prints each message as a line of JSON.

Argument: a path, or @NAME for the abstract namespace. Prints a line "bound" first. Ends with its stdin.
"""

import json
import select
import socket
import sys

name = sys.argv[1]
receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.bind("\0" + name[1:] if name.startswith("@") else name)
print("bound", flush=True)
while True:
    readable, _, _ = select.select([receiver, sys.stdin], [], [])
    if receiver in readable:
        print(json.dumps(receiver.recv(65536).decode()), flush=True)
    elif not sys.stdin.buffer.raw.read(1):
        break
