"""
Positions in a directory while entries come and go on two mounts: what was there throughout is seen once and in its place,
whatever else happens; a position leads to what comes after it; rewinddir sees what is new.

    positions.py MOUNT1 MOUNT2 SEED
"""

import os
import random
import sys

from calls import Directory

here, there, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
rng = random.Random(seed)
STAYING, COMING, PASSES = 400, 60, 2
LONG = "-" * 150  # so that they come in several calls

os.mkdir(f"{here}/p")
for i in range(STAYING + COMING):
    os.mknod(f"{here}/p/{'stays' if i % 8 else 'goes'}{i}{LONG}")
coming = sorted(name for name in os.listdir(f"{here}/p") if name.startswith("goes"))
made = 0


def disturb():
    """One change, on either mount; a name that went never comes back."""
    global made
    root = rng.choice((here, there))
    kind = rng.random()
    if kind < 0.45 or not coming:
        made += 1
        coming.append(f"goes-new{made}{LONG}")
        os.mknod(f"{root}/p/{coming[-1]}")
    elif kind < 0.8:
        os.unlink(f"{root}/p/{coming.pop(rng.randrange(len(coming)))}")
    else:
        made += 1
        at = rng.randrange(len(coming))
        os.rename(f"{root}/p/{coming[at]}", f"{root}/p/goes-moved{made}{LONG}")
        coming[at] = f"goes-moved{made}{LONG}"


order = [name for name in os.listdir(f"{there}/p") if name.startswith("stays")]
place = {name: i for i, name in enumerate(order)}
assert len(place) == len(order) >= STAYING and coming

for root in (here, there):
    directory = Directory(f"{root}/p")
    for turn in range(PASSES):
        expected, seen, positions = 0, set(), []
        while True:
            if rng.random() < 0.08:
                disturb()
            entry = directory.next()
            if entry is None:
                if expected != len(order):
                    raise SystemExit(f"seed {seed}: {order[expected]} was missed")
                break
            name = entry[0]
            if name in seen:
                raise SystemExit(f"seed {seed}: {name} came twice")
            seen.add(name)
            if name not in place:
                continue
            if place[name] != expected:
                raise SystemExit(f"seed {seed}: {name} came instead of {order[expected]}")
            expected += 1
            if rng.random() < 0.02:
                positions.append((directory.tell(), expected))
            if positions and rng.random() < 0.003:
                # Back, or on again, to where we were.
                position, expected = rng.choice(positions)
                directory.seek(position)
                seen = set(order[:expected])
        made += 1
        coming.append(f"goes-new{made}{LONG}")
        os.mknod(f"{there if root == here else here}/p/{coming[-1]}")
        directory.rewind()
        names = [name for name, _, _ in directory.rest()]
        if set(names) != set(os.listdir(f"{here}/p")) | {".", ".."} or len(names) != len(set(names)):
            raise SystemExit(f"seed {seed}: rewinddir shows something else than is there")
        directory.rewind()
    directory.close()
print("ok")
