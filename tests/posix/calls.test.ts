/**
 * How many calls to the nameserver, and requests of the kernel, an operation takes: the table in fs/README.md. Counted on
 * a mount of a small cluster over TCP, while nobody else works; programs are children with a time limit.
 */

import assert from "node:assert/strict";
import { sh } from "../harness/command.ts";
import { type MountCounters, SmallCluster } from "./small_cluster_process.ts";

/** Calls that no operation waits for. */
const BACKGROUND = new Set([
  "renew",
  "release",
  "openSession",
  "reclaim",
  "defer",
  "reserveInodes",
  "reserveBlocks",
]);
/** Changes of names are told that late at most. */
const DEFERRED_MS = 100;
const FILES = 20;
const BLOCK_BYTES = 1 << 20;
const LIMIT_MS = 30_000;
/** A file that was closed keeps its write lease for a second or so, for whoever opens it again at once. */
const WRITE_LEASE_KEPT_MS = 2_500;

type Counts = Readonly<Record<string, number>>;

function difference(before: Counts, after: Counts): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const [name, count] of Object.entries(after)) {
    const more = count - (before[name] ?? 0);
    if (more > 0 && !BACKGROUND.has(name)) counts[name] = more;
  }
  return counts;
}

interface Taken extends MountCounters {
  /** Batches of changes that were told: those of the script, if it waits for that, as a close does. */
  readonly deferred: number;
}

/** What a script on a mount took: `$m` is the mount point. Python, so that nothing but what it says is asked. */
async function taken(cluster: SmallCluster, script: string, mount = 0): Promise<Taken> {
  const program = `import os, sys\nm = ${JSON.stringify(cluster.mountpoints[mount])}\n${script}`;
  await new Promise((resolve) => setTimeout(resolve, 2 * DEFERRED_MS)); // what came before is told
  const before = (await cluster.counters())[mount]!;
  await sh(`timeout 20 python3 - <<'END'\n${program}\nEND`, { timeoutMs: LIMIT_MS });
  const after = (await cluster.counters())[mount]!;
  return {
    kernel: difference(before.kernel, after.kernel),
    calls: difference(before.calls, after.calls),
    deferred: (after.calls["defer"] ?? 0) - (before.calls["defer"] ?? 0),
  };
}

/** As `taken`, for a script about file number i, run for each of FILES: what one of them took. */
async function each(cluster: SmallCluster, body: string, mount = 0): Promise<Taken> {
  const indented = body.trim().split("\n").map((line) => `  ${line}`).join("\n");
  const all = await taken(cluster, `for i in range(${FILES}):\n${indented}`, mount);
  const per = (counts: Counts) =>
    Object.fromEntries(Object.entries(counts).map(([name, count]) => [name, count / FILES]));
  return { kernel: per(all.kernel), calls: per(all.calls), deferred: all.deferred / FILES };
}

Deno.test({
  name: "calls: what operations cost one client alone",
  ignore: Deno.uid() !== 0,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn(t) {
    await using cluster = await SmallCluster.start("tcp", BLOCK_BYTES);
    const step = (name: string, fn: () => Promise<void>) =>
      t.step({ name, fn, sanitizeOps: false, sanitizeResources: false });
    // The second one asks for numbers for inodes.
    await taken(cluster, "os.mkdir(m + '/d'); os.stat(m + '/d'); os.mkdir(m + '/d/d')");
    await taken(cluster, "os.rmdir(m + '/d/d')");

    await step(
      "create, write, close of a small file in a directory of ours: one call, at close",
      async () => {
        const { calls: { commit = 0, ...others }, deferred } = await each(
          cluster,
          "f = os.open(f'{m}/d/f{i}', os.O_CREAT | os.O_EXCL | os.O_WRONLY)\nos.write(f, b'x' * 4000)\nos.close(f)",
        );
        // It is told by itself when the program takes so long that its name was told before.
        assert.ok(deferred <= 1 && commit <= 3 / FILES, `${deferred} ${commit}`);
        assert.deepEqual(others, {});
      },
    );

    await step(
      "open and read of what we have just written: none, and the time of access is told later",
      async () => {
        const { calls, kernel, deferred } = await each(
          cluster,
          "f = os.open(f'{m}/d/f{i}', os.O_RDONLY)\nassert os.read(f, 5000) == b'x' * 4000\nos.close(f)",
        );
        assert.deepEqual(calls, {});
        assert.ok(deferred < 0.5, `${deferred}`);
        assert.equal(kernel["READ"], 1);
      },
    );

    await step("once more: the kernel has its pages, and asks for open and release only", async () => {
      const { calls, kernel } = await each(
        cluster,
        "f = os.open(f'{m}/d/f{i}', os.O_RDONLY)\nassert os.read(f, 5000) == b'x' * 4000\nos.close(f)",
      );
      assert.deepEqual(calls, {});
      assert.deepEqual(kernel, { OPEN: 1, RELEASE: 1 });
    });

    await step("stat of what is known: no call, and no request", async () => {
      await each(cluster, "os.stat(f'{m}/d/f{i}')");
      const { calls, kernel } = await each(cluster, "for _ in range(50): os.stat(f'{m}/d/f{i}')");
      assert.deepEqual(calls, {});
      // Time-outs end with the session's, so that a look may fall behind one.
      assert.ok((kernel["LOOKUP"] ?? 0) <= 2, JSON.stringify(kernel));
    });

    await step("a name that is absent: known from the listing, and then by the kernel", async () => {
      const script = "try: os.stat(f'{m}/d/absent{i}')\nexcept FileNotFoundError: pass";
      assert.deepEqual((await each(cluster, script)).calls, {});
      const { calls, kernel } = await each(cluster, script);
      assert.deepEqual([calls, kernel], [{}, {}]);
    });

    await step(
      "listing: one reading fills the kernel's cache, the next ones ask for opendir only",
      async () => {
        await taken(cluster, `assert len(os.listdir(m + '/d')) == ${FILES}`);
        await taken(cluster, `assert len(os.listdir(m + '/d')) == ${FILES}`);
        const { calls, kernel } = await each(cluster, `assert len(os.listdir(m + '/d')) == ${FILES}`);
        assert.deepEqual([calls, kernel], [{}, { OPENDIR: 1, RELEASEDIR: 1 }]);
      },
    );

    await step("xattrs and symlinks: what is not there costs nothing, what is there once", async () => {
      await taken(cluster, "open(m + '/x', 'w').close()");
      await each(cluster, "os.setxattr(m + '/x', f'user.{i}', b'v')\nos.symlink('target', f'{m}/s{i}')");
      assert.deepEqual((await each(cluster, "os.listxattr(f'{m}/d/f1')")).calls, {});
      await taken(cluster, "os.stat(m + '/x')");
      const get = "assert os.getxattr(m + '/x', f'user.{i}') == b'v'";
      assert.deepEqual((await each(cluster, get)).calls, { getXattr: 1 });
      assert.deepEqual((await each(cluster, get)).calls, {});
      const link = await each(cluster, "assert os.readlink(f'{m}/s{i}') == 'target'");
      assert.deepEqual(link.calls, {});
      assert.deepEqual((await each(cluster, "assert os.readlink(f'{m}/s{i}') == 'target'")).calls, {});
    });

    await step("reopening for writing and overwriting: acquire and commit", async () => {
      await new Promise((resolve) => setTimeout(resolve, WRITE_LEASE_KEPT_MS));
      const { calls } = await each(
        cluster,
        "f = os.open(f'{m}/d/f{i}', os.O_WRONLY)\nos.pwrite(f, b'y' * 4000, 0)\nos.close(f)",
      );
      assert.deepEqual(calls, { acquire: 1, commit: 1 });
    });

    await step("O_TRUNC and writing: setattr and commit", async () => {
      // A lease that is given back just when the file is opened again would be asked for once more.
      await new Promise((resolve) => setTimeout(resolve, WRITE_LEASE_KEPT_MS));
      const { calls } = await each(
        cluster,
        "f = os.open(f'{m}/d/f{i}', os.O_WRONLY | os.O_TRUNC)\nos.write(f, b'z' * 4000)\nos.close(f)",
      );
      assert.deepEqual(calls, { setattr: 1, commit: 1 });
    });

    const larger = (name: string, body: string) =>
      step(name, async () => {
        const script =
          `f = os.open(f'{m}/d/${body.length}-{i}', os.O_CREAT | os.O_WRONLY)\n${body}\nos.close(f)`;
        const { calls, deferred } = await each(cluster, script);
        // Some may be told of before they have data.
        const { allocateBlock = 0, commit = 0, ...others } = calls;
        assert.deepEqual(others, {});
        const isFew = deferred <= 1 + 6 / FILES && allocateBlock + commit <= 6 / FILES;
        assert.ok(isFew, `${deferred} defer, ${commit} commit, ${allocateBlock} allocateBlock`);
      });
    const write = "os.write(f, b'l' * 5000)";
    // Blocks are asked for when files follow each other.
    await each(cluster, `f = os.open(f'{m}/d/first{i}', os.O_CREAT | os.O_WRONLY)\n${write}\nos.close(f)`);
    await larger("a larger file: one call as well, with a block that was there before", write);
    const set = "os.utime(f, (1, 1))\nos.fchmod(f, 0o640)";
    await larger("the same with times and mode set before the close", `${write}\n${set}`);

    await step("many small writes of one open file: one commit", async () => {
      const { calls } = await taken(
        cluster,
        "f = os.open(m + '/d/f0', os.O_WRONLY | os.O_APPEND)\nfor i in range(500): os.write(f, b'a' * 10)\nos.close(f)",
      );
      assert.equal(calls["commit"], 1);
      assert.ok((calls["acquire"] ?? 0) <= 1, JSON.stringify(calls));
    });

    await step(
      "chmod, rename, mkdir, symlink, rmdir, unlink where we are alone: told later, in batches",
      async () => {
        // What is open, or was closed just now, is asked about.
        await new Promise((resolve) => setTimeout(resolve, WRITE_LEASE_KEPT_MS));
        const { calls, deferred } = await taken(
          cluster,
          `
for i in range(${FILES}):
  os.chmod(f'{m}/d/f{i}', 0o600)
  os.rename(f'{m}/d/f{i}', f'{m}/d/g{i}')
  os.mkdir(f'{m}/d/e{i}')
  os.symlink('x', f'{m}/d/l{i}')
  os.rmdir(f'{m}/d/e{i}')
  os.unlink(f'{m}/d/l{i}')
os.fsync(os.open(m + '/d', os.O_RDONLY))`,
        );
        assert.deepEqual(calls, { sync: 1 });
        // Every 50 ms.
        assert.ok(deferred >= 1 && deferred <= FILES, `${deferred}`);
      },
    );

    await step("link, and unlink of a file that has another name: told later as well", async () => {
      const linked = (await each(cluster, "os.link(f'{m}/d/g{i}', f'{m}/d/h{i}')")).calls;
      assert.deepEqual(linked, {});
      assert.deepEqual((await each(cluster, "os.unlink(f'{m}/d/g{i}')")).calls, {});
    });

    await step("another client: a name, its file and its blocks come with one lookup", async () => {
      const { calls } = await each(
        cluster,
        "f = os.open(f'{m}/d/h{i}', os.O_RDONLY)\nos.read(f, 5000)\nos.close(f)",
        1,
      );
      // Once for the directory, and perhaps for the root that was changed since; what is another's can't be read ahead.
      const { lookup, getattr = 0, readDirectory = 0, accessed = 0, ...others } = calls;
      assert.deepEqual([lookup, others], [1 + 1 / FILES, {}]);
      assert.ok(getattr <= 1 / FILES && readDirectory <= 1 / FILES && accessed <= 1, JSON.stringify(calls));
    });

    await step(
      "another client: a listing brings attributes, leases and blocks of all its files",
      async () => {
        await taken(cluster, "os.mkdir(m + '/e')");
        await each(
          cluster,
          "f = os.open(f'{m}/e/f{i}', os.O_CREAT | os.O_WRONLY)\nos.write(f, b'x')\nos.close(f)",
        );
        await new Promise((resolve) => setTimeout(resolve, WRITE_LEASE_KEPT_MS));
        const { calls } = await taken(
          cluster,
          `for e in os.scandir(m + '/e'):\n  f = os.open(e.path, os.O_RDONLY)\n  assert os.read(f, 9) == b'x'\n  os.close(f)`,
          1,
        );
        const { readDirectory = 0, lookup = 0, getattr = 0, accessed = 0, ...others } = calls;
        assert.deepEqual(others, {});
        assert.ok(accessed <= FILES / 2, `${accessed}`);
        // The directory itself, and the root that was changed since.
        assert.ok(lookup <= 1 && getattr <= 1 && readDirectory <= 3, JSON.stringify(calls));
      },
    );

    await step("a file with chattr +S: each write is on disk when it returns, and reported so", async () => {
      const open = "import fcntl, struct\nf = os.open(m + '/synced', os.O_CREAT | os.O_WRONLY)\n";
      const writes = "for i in range(5): os.pwrite(f, b'x' * 100, 0)\n";
      assert.equal((await taken(cluster, open + writes)).calls["commit"], 1);
      const setFlags = "fcntl.ioctl(f, 0x40086602, struct.pack('i', 8))\n";
      const { calls } = await taken(cluster, open + setFlags + writes);
      assert.ok((calls["commit"] ?? 0) >= 5, JSON.stringify(calls));
    });

    await cluster.stop();
  },
});
