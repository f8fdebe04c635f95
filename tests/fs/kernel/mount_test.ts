/** The whole of fs/kernel against the real kernel: a MemoryFs mounted by a child process. Needs root and /dev/fuse. */

import assert from "node:assert/strict";
import { findMount } from "../../../base/mountinfo.ts";
import {
  abortConnection,
  clearDeadMount,
  mountFuse,
  raiseReadAhead,
  unmountFuse,
} from "../../../fs/kernel/mount.ts";
import { isErrno } from "../../../wire/errno.ts";
import { bash, canMount, MountedMemory } from "./mounted.ts";

const TEST_MS_MAX = 60_000;

/** A test with a time limit that is skipped where nothing can be mounted. */
function mountTest(name: string, body: () => Promise<void>): void {
  Deno.test(name, async () => {
    if (!await canMount()) return;
    let timer: number | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`not done after ${TEST_MS_MAX} ms`)), TEST_MS_MAX);
    });
    try {
      await Promise.race([body(), late]);
    } finally {
      clearTimeout(timer);
    }
  });
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function countsOf(fs: MountedMemory): Promise<Record<string, number>> {
  return await fs.command("counts") as Record<string, number>;
}

/** Waits until so many requests of an operation have come. */
async function untilAsked(fs: MountedMemory, operation: string, count: number): Promise<void> {
  while (((await countsOf(fs))[operation] ?? 0) < count) await sleep(20);
}

const MODES: readonly { name: string; options: { delayMs?: number; timeoutMs?: number } }[] = [
  { name: "handlers that answer at once", options: {} },
  { name: "handlers that answer in a microtask", options: { delayMs: 0 } },
  { name: "handlers that answer after 2 ms, with long timeouts", options: { delayMs: 2, timeoutMs: 60_000 } },
];

for (const mode of MODES) {
  mountTest(`mount: files, directories, links and names work with ${mode.name}`, async () => {
    await using fs = await MountedMemory.start(mode.options);
    assert.equal(await fs.ok("echo hello >a; cat a; stat -c '%s %F %a' a"), "hello\n6 regular file 644");
    assert.equal(await fs.ok("echo more >>a; cat a; : >a; stat -c %s a"), "hello\nmore\n0");
    assert.equal(await fs.ok("mkdir -p d/e; mv a d/e/b; ls -R . | tr '\\n' ' '"), ".: d  ./d: e  ./d/e: b");
    assert.equal(await fs.ok("ln -s some/where l; readlink l; ln d/e/b h; stat -c %h h"), "some/where\n2");
    assert.equal(await fs.ok("rm h; rm -r d; rm l; ls -a"), ".\n..");
    const count = mode.options.timeoutMs === undefined ? 3000 : 300;
    assert.equal(await fs.ok(`seq ${count} | xargs touch; ls | wc -l; rm *; ls | wc -l`, 20), `${count}\n0`);
    assert.equal(
      await fs.ok("echo x >f; truncate -s 100 f; chmod 4711 f; chown 7:8 f; stat -c '%s %a %u %g' f"),
      "100 711 7 8",
    );
    assert.equal(
      await fs.ok("touch -d '1960-02-03 04:05:06.123456789 UTC' f; TZ=UTC stat -c %y f"),
      "1960-02-03 04:05:06.123456789 +0000",
    );
    assert.match(await fs.ok("stat -c %W f"), /^1[0-9]{9}$/);
    assert.equal(
      await fs.ok("mknod p p; mknod c c 5 300; stat -c '%F %t %T' p c"),
      "fifo 0 0\ncharacter special file 5 12c",
    );
    assert.equal(await fs.ok("df --output=size,avail . | tail -1 | tr -s ' '"), " 4000 1600");
    const long = "n".repeat(255);
    assert.equal(await fs.ok(`touch ${long}; ls | grep -c nnn; rm ${long}`), "1");
    assert.match((await fs.bash(`touch $M/${long}n`)).err, /too long/);
    assert.match((await fs.bash("cat $M/absent")).err, /No such file/);
    assert.equal(await fs.ok("exec 9<>u; echo deleted >&9; rm u; cat /proc/self/fd/9"), "deleted");
  });
}

mountTest("mount: extended attributes round-trip", async () => {
  if ((await bash("command -v python3")).code !== 0) return console.log("skipped: no python3");
  await using fs = await MountedMemory.start();
  const script = `
import os
open("f", "w").close()
os.setxattr("f", "user.a", b"value"); os.setxattr("f", "user.b", bytes(range(256)) * 200)
assert os.getxattr("f", "user.a") == b"value"
assert os.getxattr("f", "user.b") == bytes(range(256)) * 200
assert sorted(os.listxattr("f")) == ["user.a", "user.b"]
os.removexattr("f", "user.a")
try: os.getxattr("f", "user.a")
except OSError as e: print(e.errno, os.listxattr("f"))
fd = os.open("f", os.O_RDWR); os.posix_fallocate(fd, 0, 5000); print(os.fstat(fd).st_size)
print(os.lseek(fd, 10, os.SEEK_DATA), os.lseek(fd, 10, os.SEEK_HOLE))
import fcntl
fcntl.flock(fd, fcntl.LOCK_EX); fcntl.lockf(fd, fcntl.LOCK_UN)
os.rename("f", "g")
t = os.open(".", os.O_TMPFILE | os.O_RDWR); os.write(t, b"tmp"); print(os.fstat(t).st_size)
try: fcntl.ioctl(fd, 0x40086602, b"\\0" * 8)
except OSError as e: print(e.errno)
`;
  await Deno.writeTextFile(`${fs.mountpoint}.py`, script);
  try {
    assert.equal(await fs.ok('python3 "$M.py"'), "61 ['user.b']\n5000\n10 5000\n3\n25");
  } finally {
    await Deno.remove(`${fs.mountpoint}.py`);
  }
});

for (const delayMs of [undefined, 1]) {
  const when = delayMs === undefined ? "at once" : "later";
  mountTest(`mount: large writes and reads keep every byte, answered ${when}`, async () => {
    await using fs = await MountedMemory.start(delayMs === undefined ? {} : { delayMs, timeoutMs: 60_000 });
    await fs.ok(
      `
      head -c 20000001 /dev/urandom >"$M.data"
      for f in big later; do
        dd if="$M.data" of=$f bs=1M status=none
        cmp "$M.data" $f
        dd if="$M.data" of=$f bs=300001 status=none conv=notrunc oflag=direct
        dd if=$f bs=1M iflag=direct status=none | cmp - "$M.data"
      done
      # several writers at a time share the buffers
      for i in 1 2 3 4 5 6; do cp "$M.data" c$i & done; wait
      for i in 1 2 3 4 5 6; do cmp "$M.data" c$i; done
      rm "$M.data"`,
      40,
    );
  });
}

/** Compiles the reader; undefined where there is no compiler. */
async function compileReader(directory: string): Promise<string | undefined> {
  const source = new URL("./signalled_reader.c", import.meta.url).pathname;
  const program = `${directory}/reader`;
  try {
    const { success, stderr } = await new Deno.Command("cc", { args: ["-pthread", "-o", program, source] })
      .output();
    assert.ok(success, new TextDecoder().decode(stderr));
    return program;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    console.log("skipped: no C compiler");
    return undefined;
  }
}

/** A process that reads a file of the mount, once it is waiting for its answer. */
async function startReader(program: string, ...args: string[]): Promise<Deno.ChildProcess> {
  const child = new Deno.Command(program, { args, cwd: "/", stdout: "piped", stderr: "null" }).spawn();
  await sleep(500);
  return child;
}

/** Ends the wait whatever happens, so that no test hangs on a process that can't be killed. */
async function statusWithin(ms: number, child: Deno.ChildProcess): Promise<Deno.CommandStatus> {
  let timer: number | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not dead after ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([child.status, late]);
  } finally {
    clearTimeout(timer);
  }
}

for (const name of ["slow", "slow-direct"]) {
  mountTest(`mount: who waits in a read of "${name}" can be killed, and others are not delayed`, async () => {
    await using fs = await MountedMemory.start({ slowMs: 30_000 });
    await fs.ok(`echo slow >${name}; echo fast >fast`);
    // A second open of "slow" would wait in the kernel for the page that the first read holds.
    const signals = name === "slow" ? ["SIGKILL"] as const : ["SIGKILL", "SIGTERM", "SIGINT"] as const;
    for (const signal of signals) {
      const blocked = await startReader("cat", `${fs.mountpoint}/${name}`);
      const other = await fs.bash("cat $M/fast; ls $M | wc -l");
      assert.equal(other.out, "fast\n2\n");
      assert.ok(other.ms < 3000, `others took ${other.ms} ms`);
      const startMs = performance.now();
      blocked.kill(signal);
      const status = await statusWithin(3_000, blocked);
      const tookMs = performance.now() - startMs;
      await blocked.stdout.cancel();
      assert.equal(status.signal, signal);
      assert.ok(tookMs < 1_000, `${signal} took ${tookMs} ms`);
    }
    // Reads into the page cache are in the background: the kernel interrupts only the others.
    assert.deepEqual(await fs.command("interrupts"), { interrupts: name === "slow" ? 0 : 3 });
  });
}

mountTest("mount: a signal with a handler ends no wait: the caller gets its data", async () => {
  const directory = await Deno.makeTempDir();
  try {
    const program = await compileReader(directory);
    if (program === undefined) return;
    await using fs = await MountedMemory.start({ slowMs: 2_000 });
    await fs.ok("echo slow >slow-direct");
    for (const how of ["alarm", "plain"]) {
      const reader = await startReader(program, `${fs.mountpoint}/slow-direct`, how);
      if (how === "plain") reader.kill("SIGUSR1");
      const { stdout } = await reader.output();
      const text = new TextDecoder().decode(stdout);
      assert.match(text, /^ready\n5 bytes, \d+ signals\n$/, how);
    }
    assert.deepEqual(await fs.command("interrupts"), { interrupts: 0 });
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

mountTest(
  "mount: who was interrupted before by a signal with a handler can still be killed, any thread of it",
  async () => {
    const directory = await Deno.makeTempDir();
    try {
      const program = await compileReader(directory);
      if (program === undefined) return;
      await using fs = await MountedMemory.start({ slowMs: 30_000 });
      await fs.ok("echo slow >slow-direct");
      for (const how of ["plain", "alarm", "thread"]) {
        const reader = await startReader(program, `${fs.mountpoint}/slow-direct`, how);
        // The kernel tells of the first signal only.
        if (how === "plain") reader.kill("SIGUSR1");
        await sleep(300);
        const startMs = performance.now();
        reader.kill("SIGKILL");
        const status = await statusWithin(3_000, reader);
        const tookMs = performance.now() - startMs;
        await reader.stdout.cancel();
        assert.equal(status.signal, "SIGKILL", how);
        assert.ok(tookMs < 1_000, `${how} took ${tookMs} ms`);
      }
      assert.deepEqual(await fs.command("interrupts"), { interrupts: 3 });
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  },
);

mountTest("mount: a handler that throws is EIO to the caller, and the mount goes on", async () => {
  await using fs = await MountedMemory.start();
  await fs.ok("echo x >explode");
  assert.match((await fs.bash("cat $M/explode")).err, /Input\/output error/);
  assert.equal(await fs.ok("echo y >other; cat other"), "y");
});

mountTest("mount: notifications drop names and attributes; one that waits delays nobody", async () => {
  await using fs = await MountedMemory.start({ timeoutMs: 3_600_000, slowMs: 3000 });
  assert.equal((await fs.command("features") as { minor: number }).minor > 30, true);
  await fs.ok("echo x >a; echo y >slow; cat a; stat a");
  assert.equal(await fs.command("invalidateInode", 2, -1, 0), true);
  assert.equal(await fs.command("invalidateInode", 2, 0, 0), true);
  assert.equal(await fs.command("invalidateEntry", 1, "a"), true);
  assert.equal(await fs.command("invalidateEntry", 1, "absent"), false);
  assert.equal(await fs.command("invalidateInode", 999, 0, 0), false);
  assert.equal(typeof await fs.command("incrementEpoch"), "boolean");
  // A page of "slow" (node 3) is locked while its read is unanswered: this notification waits for it.
  const reading = fs.ok("cat slow");
  await new Promise((resolve) => setTimeout(resolve, 500));
  await fs.tell("invalidateInode", 3, 0, 0);
  const other = await fs.bash("cat $M/a; echo z >$M/new");
  assert.equal(other.out, "x\n");
  assert.ok(other.ms < 2000, `others took ${other.ms} ms`);
  assert.equal(await reading, "y");
  assert.equal(await fs.line(), true);
});

mountTest(
  "mount: INVAL_ENTRY waits for an operation in its directory, an epoch and attributes do not",
  async () => {
    await using fs = await MountedMemory.start({ timeoutMs: 3_600_000, delayMs: 1_000 });
    const making = fs.bash("true >$M/b", 20);
    await untilAsked(fs, "CREATE", 1);
    const startMs = performance.now();
    await fs.tell("invalidateEntry", 1, "a");
    assert.equal(typeof await fs.command("incrementEpoch"), "boolean");
    assert.equal(await fs.command("invalidateInode", 1, -1, 0), true);
    const tookMs = performance.now() - startMs;
    assert.ok(tookMs < 500, `${tookMs} ms`);
    assert.equal(await fs.line(), false, "nothing was there, but it had to wait to see that");
    assert.ok(performance.now() - startMs > 500);
    await making;
  },
);

mountTest(
  "mount: an epoch voids names that are on their way, but those that come with a listing",
  async () => {
    await using fs = await MountedMemory.start({ timeoutMs: 3_600_000, delayMs: 300 });
    const { hasIncrementEpoch } = await fs.command("features") as { hasIncrementEpoch: boolean };
    if (!hasIncrementEpoch) return console.log("skipped: the kernel has no epochs");
    await fs.ok("true >a", 20);
    const cases: readonly [operation: string, script: string, name: string, isVoid: boolean][] = [
      ["LOOKUP", "stat $M/a", "a", true],
      ["CREATE", "true >$M/b", "b", true],
      ["MKDIR", "mkdir $M/c", "c", true],
      ["LINK", "ln $M/a $M/d", "d", true],
      // It gets the epoch of when the kernel takes it: who answers a listing must not have been told meanwhile that
      // something in it is old.
      ["READDIRPLUS", "ls -U $M", "a", false],
    ];
    for (const [operation, script, name, isVoid] of cases) {
      await fs.command("incrementEpoch");
      if (operation === "LINK") await fs.bash("stat $M/a", 20);
      const count = (await countsOf(fs))[operation] ?? 0;
      const running = fs.bash(script, 20);
      await untilAsked(fs, operation, count + 1);
      await fs.command("incrementEpoch");
      assert.equal((await running).code, 0, script);
      const lookups = (await countsOf(fs)).LOOKUP!;
      await fs.bash(`stat $M/${name}`, 20);
      assert.equal((await countsOf(fs)).LOOKUP! - lookups, isVoid ? 1 : 0, operation);
    }
  },
);

mountTest("mount: abort frees whoever waits, ends the session and leaves nothing behind", async () => {
  await using fs = await MountedMemory.start({ slowMs: 30_000 });
  await fs.ok("echo x >slow");
  const reading = fs.bash("cat $M/slow");
  await new Promise((resolve) => setTimeout(resolve, 300));
  if (!await abortConnection(fs.deviceMinor)) return console.log("skipped: fusectl is not mounted");
  assert.notEqual((await reading).code, 0);
  assert.deepEqual((await fs.line() as { ended: boolean }).ended, true);
  assert.equal((await fs.child.status).success, true);
  assert.equal(await clearDeadMount(fs.mountpoint), true);
  assert.equal(await findMount(fs.mountpoint), undefined);
  assert.equal(await abortConnection(fs.deviceMinor), false);
});

mountTest(
  "mount: a mount whose process was killed is found dead and cleared, a live one is left alone",
  async () => {
    await using fs = await MountedMemory.start();
    assert.equal(await clearDeadMount(fs.mountpoint), false);
    assert.ok(await findMount(fs.mountpoint));
    fs.child.kill("SIGKILL");
    await fs.child.status;
    await assert.rejects(
      mountFuse({ mountpoint: fs.mountpoint, source: "x", allowNonEmpty: true }),
      /dead mount/,
    );
    assert.equal(await clearDeadMount(fs.mountpoint), true);
    assert.equal(await findMount(fs.mountpoint), undefined);
  },
);

mountTest("mount: unmounting a busy mount is EBUSY, lazily it works, and the session ends", async () => {
  await using fs = await MountedMemory.start();
  assert.equal(await raiseReadAhead(fs.deviceNumber, 1024), true);
  assert.equal(await Deno.readTextFile(`/sys/class/bdi/${fs.deviceNumber}/read_ahead_kb`), "1024\n");
  const user = new Deno.Command("bash", {
    args: ["-c", 'cd "$1"; echo in; read -r _', "bash", fs.mountpoint],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const output = user.stdout.getReader();
  await output.read();
  await assert.rejects(unmountFuse(fs.mountpoint), (error) => isErrno(error, "EBUSY"));
  await unmountFuse(fs.mountpoint, { lazy: true });
  assert.equal(await findMount(fs.mountpoint), undefined);
  await user.stdin.close();
  await output.cancel();
  await user.status;
  assert.deepEqual(await fs.line(), { ended: true, pending: 0 });
});

mountTest("mount: sockets are served while requests never cease", async () => {
  await using fs = await MountedMemory.start();
  await fs.ok("head -c 50000000 /dev/zero >f");
  const { port } = await fs.command("echo") as { port: number };
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  connection.setNoDelay(true);
  const load = fs.ok(
    "for i in 1 2 3 4; do dd if=f of=/dev/null bs=4k iflag=direct status=none & done; wait",
    40,
  );
  let isLoaded = true;
  void load.finally(() => isLoaded = false).catch(() => {});
  await new Promise((resolve) => setTimeout(resolve, 200));
  const times: number[] = [];
  while (isLoaded && times.length < 300) {
    const startMs = performance.now();
    await connection.write(new Uint8Array(10));
    await connection.read(new Uint8Array(10));
    times.push(performance.now() - startMs);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await load;
  times.sort((a, b) => a - b);
  const median = times[times.length >> 1]!;
  console.log(
    `${times.length} echoes: median ${median.toFixed(2)} ms, longest ${times.at(-1)!.toFixed(2)} ms`,
  );
  assert.ok(times.length > 20);
  assert.ok(median < 15, `median ${median} ms`);
});

mountTest("mount: who serves does not wait for the kernel while work goes on step by step", async () => {
  await using fs = await MountedMemory.start();
  await fs.ok("echo x >f");
  const load = fs.ok("for i in $(seq 150); do cat f; sleep 0.005; done >/dev/null", 40);
  const { waits, between } = await fs.command("steps") as { waits: number; between: number };
  await load;
  assert.ok(waits > 50, `it waited ${waits} times`);
  assert.equal(between, 0);
});

mountTest("mount: a file opened for passthrough is read from its backing file", async () => {
  const directory = await Deno.makeTempDir({ dir: "/var/tmp" });
  try {
    await using fs = await MountedMemory.start({ passthroughStackDepth: 2 });
    const features = await fs.command("features") as { hasPassthrough: boolean };
    if (!features.hasPassthrough) return console.log("skipped: the kernel offers no passthrough");
    await Deno.writeTextFile(`${directory}/backing`, "from the backing file\n");
    await fs.ok("echo xxxxxxxxxxxxxxxxxxxxx >a");
    const { backingId } = await fs.command("back", 2, `${directory}/backing`) as { backingId: number };
    assert.ok(backingId > 0, `backing id ${backingId}`);
    assert.equal(await fs.ok("cat a"), "from the backing file");
    await fs.ok("printf FROM 1<>a");
    assert.equal(await Deno.readTextFile(`${directory}/backing`), "FROM the backing file\n");
    assert.deepEqual(await fs.command("unback", 2), { closed: 0 });
    assert.equal(await fs.ok("cat a"), "x".repeat(21));
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

mountTest("mount: wrong mount points are refused with a reason", async () => {
  const directory = await Deno.makeTempDir();
  await using fs = await MountedMemory.start();
  try {
    await Deno.writeTextFile(`${directory}/file`, "");
    await Deno.symlink(fs.mountpoint, `${directory}/link`);
    const refused: [string, RegExp, string][] = [
      [`${directory}/absent`, /does not exist/, "ENOENT"],
      [`${directory}/file`, /is not a directory/, "ENOTDIR"],
      [directory, /is not empty/, "ENOTEMPTY"],
      [fs.mountpoint, /already a mount point/, "EBUSY"],
      [`${directory}/link`, /already a mount point/, "EBUSY"],
    ];
    for (const [mountpoint, message, errno] of refused) {
      await assert.rejects(mountFuse({ mountpoint, source: "x" }), (error: Error & { errno?: string }) => {
        assert.match(error.message, message);
        assert.equal(error.errno, errno);
        return true;
      });
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
});

mountTest("mount: fusermount passes the descriptor to us, and its failure is told", async () => {
  const directory = await Deno.makeTempDir();
  const source = new URL("./fake_fusermount.c", import.meta.url).pathname;
  try {
    const compiled = await new Deno.Command("cc", { args: ["-o", `${directory}/fusermount3`, source] })
      .output();
    assert.ok(compiled.success, new TextDecoder().decode(compiled.stderr));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return console.log("skipped: no C compiler");
    throw error;
  }
  const oldPath = Deno.env.get("PATH")!;
  const path = `${directory}:${oldPath}`;
  try {
    await using fs = await MountedMemory.start({ useFusermount: true }, { PATH: path });
    assert.equal(await fs.ok("echo x >a; cat a"), "x");
    Deno.env.set("PATH", path);
    const mountpoint = await Deno.makeTempDir();
    await assert.rejects(
      mountFuse({ mountpoint, source: "refuse", useFusermount: true }),
      /mounting refused on purpose/,
    );
    await Deno.remove(mountpoint);
    await unmountFuse(fs.mountpoint, { useFusermount: true });
    assert.deepEqual(await fs.line(), { ended: true, pending: 0 });
  } finally {
    Deno.env.set("PATH", oldPath);
    await Deno.remove(directory, { recursive: true });
  }
});
