import assert from "node:assert/strict";
import { bytesKey, bytesOf, EMPTY_BYTES } from "../../../base/bytes.ts";
import { type Random, randomInt } from "../../../base/random.ts";
import * as operations from "../../../roles/nameserver/operations.ts";
import { isErrno } from "../../../wire/errno.ts";
import { asInodeId, type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import {
  FILE_BYTES_MAX,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFREG,
  S_ISGID,
  S_ISUID,
} from "../../../wire/messages/inode.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";
import { checkNamespace, type Snapshot } from "./consistency.ts";
import { makeDirectory, makeFile, makeWorld, reopen, type World } from "./harness.ts";
import { isDir, type Node, type Outcome, TreeModel } from "./tree_model.ts";

const NAMES = ["a", "b", "c", "d", "e\u00e9", "f"];
const retry = { slot: 0, sequence: 0 };

/** Runs the same operation on both and compares how it ends. */
class Twin {
  world: World;
  readonly model: TreeModel;
  /** Every node that ever was, so that operations also meet what is gone. */
  readonly nodes: Node[];

  constructor(world: World) {
    this.world = world;
    this.model = new TreeModel(world.clock.now());
    this.nodes = [this.model.root];
  }

  async #both<T>(
    what: string,
    expected: Outcome,
    run: Parameters<World["namespace"]["change"]>[0],
  ): Promise<T | undefined> {
    const { journal, namespace } = this.world;
    const before = journal.position;
    let errno = "";
    let value: unknown;
    try {
      value = await namespace.change(run);
    } catch (error) {
      errno = (error as { errno?: string }).errno ?? String(error);
      assert.equal(journal.position, before, `${what}: a failed operation leaves nothing`);
    }
    assert.ok(
      expected.includes(errno),
      `${what}: ${errno || "success"}, expected ${expected.join(" or ") || "?"}`,
    );
    return value as T | undefined;
  }

  #dir(random: Random): Node {
    if (chance(random, 0.06)) return pick(random, this.nodes);
    return pick(random, [...this.model.living()].filter(isDir));
  }

  #existingName(random: Random, parent: Node): string {
    const names = [...parent.entries.keys()];
    return names.length > 0 && chance(random, 0.8) ? pick(random, names) : pick(random, NAMES);
  }

  async step(random: Random): Promise<void> {
    await this.world.clock.advance(1 + randomInt(random, 1500));
    const { model } = this;
    model.now = this.world.clock.now();
    const parent = this.#dir(random);
    const roll = random.next();
    if (roll < 0.35) return await this.#make(random, parent);
    if (roll < 0.42) {
      const node = chance(random, 0.1)
        ? pick(random, this.nodes)
        : pick(random, [...model.living()].filter((other) => !isDir(other)).concat(model.root));
      const name = pick(random, NAMES);
      const expected = model.link(node, parent, name);
      const ino = asInodeId(node.ino);
      await this.#both(
        `link ${node.ino} ${parent.ino}/${name}`,
        expected,
        (tx) => operations.link(tx, ino, asInodeId(parent.ino), bytesOf(name)),
      );
    } else if (roll < 0.6) {
      const name = this.#existingName(random, parent);
      const isRmdir = chance(random, 0.5);
      const expected = model.remove(parent, name, isRmdir);
      await this.#both(
        `${isRmdir ? "rmdir" : "unlink"} ${parent.ino}/${name}`,
        expected,
        (tx) => operations.remove(tx, asInodeId(parent.ino), bytesOf(name), isRmdir, []),
      );
    } else if (roll < 0.9) {
      const to = chance(random, 0.4) ? parent : this.#dir(random);
      const name = this.#existingName(random, parent);
      const newName = chance(random, 0.5) ? this.#existingName(random, to) : pick(random, NAMES);
      const flags = pick(random, [0, 0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 8]);
      const owner = { uid: randomInt(random, 5), gid: randomInt(random, 5) };
      let whiteout: Node | undefined;
      const expected = model.rename(parent, name, to, newName, flags, owner, (node) => whiteout = node);
      const [from, target] = [asInodeId(parent.ino), asInodeId(to.ino)];
      await this.#both(
        `rename ${parent.ino}/${name} ${to.ino}/${newName} flags ${flags}`,
        expected,
        (tx) => void operations.rename(tx, from, bytesOf(name), target, bytesOf(newName), flags, [], owner),
      );
      if (whiteout === undefined) return;
      const found = await this.world.namespace.look((tx) => operations.lookup(tx, from, bytesOf(name)));
      assert.equal(found?.rdev, 0);
      (whiteout as Node).ino = found.ino;
      this.nodes.push(whiteout);
    } else {
      const node = chance(random, 0.1) ? pick(random, this.nodes) : pick(random, [...model.living()]);
      const change = {
        ...(chance(random, 0.4) ? { mode: randomInt(random, 0o10000) } : {}),
        ...(chance(random, 0.3) ? { uid: randomInt(random, 5) } : {}),
        ...(chance(random, 0.3) ? { gid: randomInt(random, 5) } : {}),
        ...(chance(random, 0.3) ? { size: randomInt(random, 1e9) } : {}),
      };
      const expected = model.setattr(node, change);
      await this.#both(
        `setattr ${node.ino} ${JSON.stringify(change)}`,
        expected,
        (tx) => operations.setAttributes(tx, { retry, ino: asInodeId(node.ino), ...change }),
      );
    }
  }

  async #make(random: Random, parent: Node): Promise<void> {
    const name = pick(random, NAMES);
    const mode = pick(random, [S_IFREG, S_IFDIR, S_IFDIR, S_IFLNK, S_IFIFO]) | randomInt(random, 0o10000);
    const [uid, gid] = [randomInt(random, 5), randomInt(random, 5)];
    const target = (mode & 0o170000) === S_IFLNK ? "t".repeat(1 + randomInt(random, 50)) : "";
    let made: Node | undefined;
    const expected = this.model.make(parent, name, mode, uid, gid, target, (node) => made = node);
    const inode = await this.#both<{ ino: number }>(
      `make ${parent.ino}/${name} mode ${mode.toString(8)}`,
      expected,
      (tx) =>
        operations.make(tx, asInodeId(parent.ino), bytesOf(name), {
          credentials: { uid, gid },
          mode,
          rdev: 0,
          target: bytesOf(target),
        }),
    );
    if (made === undefined) return;
    made.ino = inode!.ino;
    this.nodes.push(made);
  }

  /** The whole database against the whole model. */
  compare(): Snapshot {
    const snapshot = checkNamespace(this.world.journal);
    const living = this.model.living();
    assert.deepEqual(
      [...snapshot.inodes.keys()].sort((a, b) => a - b),
      [...living].map(({ ino }) => ino).sort((a, b) => a - b),
      "the same inodes",
    );
    for (const node of living) {
      const inode = snapshot.inodes.get(node.ino)!;
      const { mode, uid, gid, nlink, size, target, mtime, ctime } = node;
      const entries = isDir(node) ? node.entries.size : 0;
      assert.deepEqual(
        {
          mode: inode.mode,
          uid: inode.uid,
          gid: inode.gid,
          nlink: inode.nlink,
          size: inode.size,
          target: new TextDecoder().decode(inode.target),
          mtime: inode.mtime,
          ctime: inode.ctime,
          entries: inode.entries,
        },
        { mode, uid, gid, nlink, size, target, mtime, ctime, entries },
        `inode ${node.ino}`,
      );
      if (!isDir(node)) continue;
      assert.equal(inode.parent, node.parent.ino);
      assert.deepEqual(
        [...snapshot.entries.get(node.ino) ?? []].map(([name, { ino }]) => [name, ino]).sort(),
        [...node.entries].map(([name, { ino }]) => [bytesKey(bytesOf(name)), ino]).sort(),
      );
    }
    return snapshot;
  }
}

/** An inode that a client could see to have changed has a higher version. */
function assertVersionsGrow(before: Snapshot, after: Snapshot): void {
  for (const [ino, inode] of after.inodes) {
    const old = before.inodes.get(ino);
    if (old === undefined) continue;
    const { version: _, ...fields } = inode;
    const { version: __, ...oldFields } = old;
    try {
      assert.deepEqual(fields, oldFields);
    } catch {
      assert.ok(inode.version > old.version, `inode ${ino} changed and kept its version`);
    }
    assert.ok(inode.version >= old.version);
  }
}

seededTest(
  "namespace: random operations agree with a tree in memory: errnos, tree, links, times",
  async (random) => {
    for (let round = 0; round < 4; round++) {
      const twin = new Twin(await makeWorld());
      let before = twin.compare();
      for (let i = 0; i < 900; i++) {
        await twin.step(random);
        if (chance(random, 0.3)) {
          const after = twin.compare();
          assertVersionsGrow(before, after);
          before = after;
        }
        if (chance(random, 0.01)) twin.world = await reopen(twin.world);
      }
      twin.compare();
    }
  },
);

const DIR = { credentials: { uid: 0, gid: 0 }, mode: S_IFDIR | 0o755, rdev: 0, target: EMPTY_BYTES };

Deno.test("namespace: names that no directory may hold are refused by every operation", async () => {
  const { namespace } = await makeWorld();
  await namespace.change((tx) => makeFile(tx, "f"));
  const f = bytesOf("f");
  const bad: [Uint8Array, "EINVAL" | "ENAMETOOLONG"][] = [
    [EMPTY_BYTES, "EINVAL"],
    [bytesOf("."), "EINVAL"],
    [bytesOf(".."), "EINVAL"],
    [bytesOf("a/b"), "EINVAL"],
    [bytesOf("/"), "EINVAL"],
    [new Uint8Array([0x61, 0, 0x62]), "EINVAL"],
    [new Uint8Array(256).fill(0x61), "ENAMETOOLONG"],
  ];
  for (const [name, errno] of bad) {
    const refused = (run: Parameters<typeof namespace.change>[0]) =>
      assert.rejects(namespace.change(run), (error) => isErrno(error, errno), `${name}`);
    await refused((tx) => operations.make(tx, ROOT_INODE, name, DIR));
    // ".." is a question that file handles ask.
    if (name.length !== 2) await refused((tx) => operations.lookup(tx, ROOT_INODE, name));
    await refused((tx) => operations.link(tx, operations.lookup(tx, ROOT_INODE, f)!.ino, ROOT_INODE, name));
    await refused((tx) => operations.remove(tx, ROOT_INODE, name, false, []));
    await refused((tx) => operations.rename(tx, ROOT_INODE, f, ROOT_INODE, name, 0, []));
    await refused((tx) => operations.rename(tx, ROOT_INODE, name, ROOT_INODE, f, 0, []));
  }
});

Deno.test("namespace: any other bytes are a name, up to 255 of them", async () => {
  const { namespace, journal } = await makeWorld();
  const names = [
    new Uint8Array(255).fill(0xff),
    bytesOf("..."),
    bytesOf(". "),
    new Uint8Array([0xfe]),
    bytesOf("\n"),
  ];
  for (let byte = 1; byte < 256; byte++) {
    if (byte !== 0x2e && byte !== 0x2f && byte !== 0xfe && byte !== 0x0a) names.push(new Uint8Array([byte]));
  }
  for (const name of names) {
    const { ino } = await namespace.change((tx) => operations.make(tx, ROOT_INODE, name, DIR));
    assert.equal((await namespace.look((tx) => operations.lookup(tx, ROOT_INODE, name)))?.ino, ino);
  }
  checkNamespace(journal);
});

Deno.test("namespace: symlink targets are 1 to 4095 bytes", async () => {
  const { namespace } = await makeWorld();
  const make = (name: string, length: number) =>
    namespace.change((tx) =>
      operations.make(tx, ROOT_INODE, bytesOf(name), {
        ...DIR,
        mode: S_IFLNK | 0o777,
        target: new Uint8Array(length).fill(0xff),
      })
    );
  await assert.rejects(make("a", 0), (error) => isErrno(error, "ENOENT"));
  await assert.rejects(make("a", 4096), (error) => isErrno(error, "ENAMETOOLONG"));
  assert.equal((await make("a", 4095)).size, 4095);
});

Deno.test("namespace: sizes that no file has are EFBIG", async () => {
  const { namespace } = await makeWorld();
  const { ino } = await namespace.change((tx) => makeFile(tx, "f"));
  const resize = (size: number) =>
    namespace.change((tx) => operations.setAttributes(tx, { retry, ino, size }));
  for (const size of [-1, 0.5, NaN, Infinity, FILE_BYTES_MAX + 1]) {
    await assert.rejects(
      resize(size),
      (error) => isErrno(error, "EFBIG") || isErrno(error, "EINVAL"),
      `${size}`,
    );
  }
  assert.equal((await resize(FILE_BYTES_MAX)).size, FILE_BYTES_MAX);
});

Deno.test("namespace: a write takes setuid off, and setgid where the group may execute", async () => {
  const { namespace } = await makeWorld();
  const { ino } = await namespace.change((tx) => makeFile(tx, "f"));
  for (
    const [before, after] of [[0o6755, 0o755], [0o6745, 0o2745], [0o2775, 0o775], [0o1644, 0o1644]] as const
  ) {
    await namespace.change((tx) => operations.setAttributes(tx, { retry, ino, mode: before }));
    const inode = await namespace.change((tx) =>
      operations.setAttributes(tx, { retry, ino, killSuidGid: true })
    );
    assert.equal(inode.mode & 0o7777, after, before.toString(8));
  }
  const { ino: dir } = await namespace.change((tx) => makeDirectory(tx, "d"));
  const directory = await namespace.change((tx) =>
    operations.setAttributes(tx, { retry, ino: dir, mode: 0o6755, killSuidGid: true })
  );
  assert.equal(directory.mode & (S_ISUID | S_ISGID), S_ISUID | S_ISGID);
});

Deno.test("namespace: times are set to what is said or to now", async () => {
  const { namespace, clock } = await makeWorld();
  const { ino } = await namespace.change((tx) => makeFile(tx, "f"));
  const past = { seconds: -5, nanoseconds: 999_999_999 };
  await clock.advance(10_000);
  const inode = await namespace.change((tx) =>
    operations.setAttributes(tx, { retry, ino, atime: past, mtime: "now" })
  );
  assert.deepEqual([inode.atime, inode.mtime, inode.ctime], [past, clock.now(), clock.now()]);
});

Deno.test("namespace: the parent of a directory is found as '..', also after it was moved", async () => {
  const { namespace } = await makeWorld();
  const make = (name: string) =>
    namespace.change((tx) => operations.make(tx, ROOT_INODE, bytesOf(name), DIR).ino);
  const [a, b] = [await make("a"), await make("b")];
  const parentOf = async (ino: InodeId) =>
    (await namespace.look((tx) => operations.lookup(tx, ino, bytesOf(".."))))?.ino;
  assert.equal(await parentOf(a), ROOT_INODE);
  await namespace.change((tx) => operations.rename(tx, ROOT_INODE, bytesOf("a"), b, bytesOf("c"), 0, []));
  assert.equal(await parentOf(a), b);
  const { ino } = await namespace.change((tx) => makeFile(tx, "f"));
  await assert.rejects(
    async () => await namespace.look((tx) => operations.lookup(tx, ino, bytesOf(".."))),
    (error) => isErrno(error, "ENOTDIR"),
  );
});

Deno.test("namespace: a directory has as many subdirectories as there is room for, and counts them", async () => {
  const { namespace, journal } = await makeWorld();
  const { ino } = await namespace.change((tx) => {
    const parent = operations.make(tx, ROOT_INODE, bytesOf("many"), DIR);
    for (let i = 0; i < 65_010; i++) operations.make(tx, parent.ino, bytesOf(`d${i}`), DIR);
    return parent;
  });
  const moved = await namespace.change((tx) => operations.make(tx, ROOT_INODE, bytesOf("one more"), DIR));
  await namespace.change((tx) =>
    operations.rename(tx, ROOT_INODE, bytesOf("one more"), ino, bytesOf("moved"), 0, [])
  );
  assert.equal((await namespace.look((tx) => tx.inode(ino))).nlink, 2 + 65_011);
  assert.equal((await namespace.look((tx) => tx.inode(moved.ino))).parent, ino);
  checkNamespace(journal);
});

Deno.test("namespace: a file has at most 65,000 names", async () => {
  const { namespace, journal } = await makeWorld();
  const { ino } = await namespace.change((tx) => makeFile(tx, "f"));
  await namespace.change((tx) => {
    for (let i = 1; i < 65_000; i++) operations.link(tx, ino, ROOT_INODE, bytesOf(`l${i}`));
  });
  await assert.rejects(
    namespace.change((tx) => operations.link(tx, ino, ROOT_INODE, bytesOf("one more"))),
    (error) => isErrno(error, "EMLINK"),
  );
  checkNamespace(journal);
});
