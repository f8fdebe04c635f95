/**
 * Files that are written and cut through several mounts in turn, while others read them: once a call has returned, every mount
 * shows the size that it left, and nothing past it, from its caches and past them.
 */

import { assertEquals } from "@std/assert";
import { run } from "../harness/command.ts";
import { RoleCluster } from "../harness/role_cluster.ts";

const SECONDS = 15;

/** SECONDS MOUNT ...: one process a file that changes it and looks, and processes that read; prints what is wrong. */
const PROGRAM = `
import mmap, multiprocessing, os, random, sys, time

seconds, mounts = float(sys.argv[1]), sys.argv[2:]
names = ["one", "two", "three"]
end = time.monotonic() + seconds

def read(name, seed):
    draw = random.Random(seed)
    while time.monotonic() < end:
        fd = os.open(f"{draw.choice(mounts)}/{name}", os.O_RDONLY)
        for _ in range(draw.randrange(1, 6)):
            os.pread(fd, draw.choice([100, 4096, 65536]), draw.choice([0, 0, 40960, draw.randrange(1 << 20)]))
            os.fstat(fd)
        os.close(fd)

def change(draw, fd, size):
    if size < 3 << 20 and draw.random() < 0.6:
        for _ in range(draw.randrange(1, 4)):
            length, offset = draw.choice([100, 4096, 40000, 300000]), draw.choice([size, draw.randrange(size + 65536)])
            os.pwrite(fd, b"x" * length, offset)
            size = max(size, offset + length)
        if draw.random() < 0.7: return size
    size = draw.randrange(size) if size > 0 and draw.random() < 0.9 else 0
    os.ftruncate(fd, size)
    return size

def look(path, size):
    """The size twice, bytes from there on, and bytes past the page cache in the page of the end."""
    fd = os.open(path, os.O_RDONLY)
    found = os.stat(path).st_size, os.fstat(fd).st_size, len(os.pread(fd, 8192, size))
    os.close(fd)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    found += os.preadv(fd, [mmap.mmap(-1, 4096)], size // 4096 * 4096),
    os.close(fd)
    return found

def write(name, seed, is_right):
    draw, size, rounds = random.Random(seed), 0, 0
    while time.monotonic() < end:
        changer = draw.choice(mounts)
        fd = os.open(f"{changer}/{name}", os.O_RDWR)
        size = change(draw, fd, size)
        os.close(fd)
        rounds += 1
        for mount in mounts:
            found, right = look(f"{mount}/{name}", size), (size, size, 0, size % 4096)
            if found == right: continue
            print(f"{name} on {mount}, changed on {changer}: {found}, not {right}", flush=True)
            return
    is_right[seed] = rounds

is_right = multiprocessing.Array("i", len(names))
for name in names: open(f"{mounts[0]}/{name}", "w").close()
work = [multiprocessing.Process(target=write, args=(name, i, is_right)) for i, name in enumerate(names)]
work += [multiprocessing.Process(target=read, args=(names[i % len(names)], i)) for i in range(6)]
for process in work: process.start()
for process in work: process.join()
sys.exit(0 if min(is_right) > 0 and all(process.exitcode == 0 for process in work) else 1)
`;

Deno.test({
  name: "cut files: every mount shows the size that the last call left, and nothing past it",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () =>
    RoleCluster.with({ mounts: 3, dataservers: 3, replication: 2 }, 120_000, async (cluster) => {
      const args = ["-c", PROGRAM, String(SECONDS), ...cluster.mountpoints];
      const { code, stdout, stderr } = await run("python3", args, { timeoutMs: 90_000 });
      assertEquals({ code, stdout, stderr }, { code: 0, stdout: "", stderr: "" });
    }),
});
