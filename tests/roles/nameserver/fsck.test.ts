/** Each kind of damage is made on purpose, found by path, and repaired where that is promised. */

import assert from "node:assert/strict";
import { EMPTY_BYTES } from "../../../base/bytes.ts";
import type { FsckResult } from "../../../roles/admin/fsck.ts";
import { extentAt } from "../../../roles/nameserver/extents.ts";
import {
  deletionKey,
  entryKey,
  extentsKey,
  inlineKey,
  inodeKey,
  orderKey,
  orphanKey,
  replicaKey,
  TABLE_ORPHAN,
  tableRange,
  xattrsKey,
} from "../../../roles/nameserver/keys.ts";
import { commitInline, findInline } from "../../../roles/nameserver/inline_data.ts";
import * as operations from "../../../roles/nameserver/operations.ts";
import {
  decodeEntry,
  encodeEntry,
  encodeExtents,
  encodeInode,
  encodeNumbers,
  encodeOrder,
  encodeReplica,
  type Extent,
  type InodeRecord,
} from "../../../roles/nameserver/records.ts";
import { Totals } from "../../../roles/nameserver/totals.ts";
import { setXattr } from "../../../roles/nameserver/xattrs.ts";
import { asBlockId, asInodeId, asSessionId, type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import { S_IFREG } from "../../../wire/messages/inode.ts";
import type { FsckProblem } from "../../../wire/messages/fsck.ts";
import { checkNamespace } from "./consistency.ts";
import {
  damage,
  type FsckWorld,
  kindsOf,
  makeFsckWorld,
  name,
  replicaOf,
  runFsck,
  writeFile,
} from "./fsck_world.ts";
import { FakePeer } from "./fake_peer.ts";
import { makeDirectory } from "./harness.ts";
import { ServiceClient } from "./service.ts";

interface Tree {
  readonly world: FsckWorld;
  readonly d: InodeId;
  readonly sub: InodeId;
  /** /d/f, of two blocks. */
  readonly f: InodeId;
  /** /d/sub/g, with an extended attribute. */
  readonly g: InodeId;
  /** /h and /d/h2. */
  readonly h: InodeId;
  /** Unlinked and open. */
  readonly orphan: InodeId;
  readonly client: ServiceClient;
}

async function makeTree(): Promise<Tree> {
  const world = await makeFsckWorld();
  const { namespace } = world;
  const client = await ServiceClient.connect(world, "client");
  const d = (await namespace.change((tx) => makeDirectory(tx, "d"))).ino;
  const sub = (await namespace.change((tx) => makeDirectory(tx, "sub", d))).ino;
  const f = await writeFile(world, "f", d, 2);
  const g = await writeFile(world, "g", sub);
  const h = await writeFile(world, "h");
  const orphan = await writeFile(world, "orphan");
  await namespace.change((tx) => void operations.link(tx, h, d, name("h2")));
  await namespace.change((tx) => void setXattr(tx, tx.inode(g), name("user.x"), name("x"), 0));
  await client.open(orphan);
  await namespace.change((tx) => {
    operations.remove(tx, ROOT_INODE, name("orphan"), false, [client.session]);
    namespace.noteOrphan(orphan, [client.session]);
  });
  return { world, d, sub, f, g, h, orphan, client };
}

function inodeOf({ world }: Tree, ino: InodeId): InodeRecord {
  return world.namespace.begin().inode(ino);
}

function extentOf(tree: Tree, ino: InodeId, offset = 0): Extent {
  const tx = tree.world.namespace.begin();
  return extentAt(tx, tx.inode(ino), offset)!;
}

function cookieOf({ world }: Tree, parent: InodeId, entry: string): number {
  return decodeEntry(world.journal.get(entryKey(parent, name(entry)))!).cookie;
}

/** Changes an inode's record behind the back of everybody. */
function spoil(tree: Tree, ino: InodeId, change: Partial<InodeRecord>): void {
  damage(tree.world, [inodeKey(ino), encodeInode({ ...inodeOf(tree, ino), ...change })]);
}

function spoilExtents(tree: Tree, ino: InodeId, change: (extents: Extent[]) => Extent[]): void {
  const { pages } = inodeOf(tree, ino);
  const extents = tree.world.namespace.begin().page(ino, pages[0]!.page);
  damage(tree.world, [extentsKey(ino, pages[0]!.page), encodeExtents(change([...extents]))]);
}

/** A file of five bytes in the root, which are kept beside its inode. */
function makeSmall({ world }: Tree, at: string): Promise<InodeId> {
  return world.namespace.change((tx) => {
    const what = { credentials: { uid: 0, gid: 0 }, mode: S_IFREG | 0o644, rdev: 0, target: EMPTY_BYTES };
    const inode = operations.make(tx, ROOT_INODE, name(at), what);
    const report = {
      retry: { slot: 0, sequence: 1 },
      mtime: tx.now,
      written: [],
      durable: false,
      killSuidGid: false,
    };
    const inline = [{ offset: 0, length: 5 }];
    commitInline(tx, inode, { ...report, ino: inode.ino, size: 5, inline, body: name("small") }, 4096);
    operations.grow(tx, inode, 5);
    return inode.ino;
  });
}

interface Damage {
  readonly what: string;
  readonly make: (tree: Tree) => void | Promise<void>;
  /** By the check that other tests use. */
  readonly isSeenByOther?: boolean;
  /** As kindsOf. */
  readonly found: readonly string[];
  /** What is left after a repair; absent: nothing, and all is as it should be. */
  readonly left?: readonly string[];
  /** What must be so after it. */
  readonly then?: (tree: Tree, result: FsckResult) => void;
}

const GONE_INODE = asInodeId(900);

const DAMAGES: readonly Damage[] = [
  {
    what: "a name that leads to no inode, of which nothing is left",
    make: ({ world, d, sub: _ }) =>
      damage(
        world,
        [entryKey(d, name("x")), encodeEntry({ ino: GONE_INODE, type: 8, cookie: 500 })],
        [orderKey(d, 500), encodeOrder({ ino: GONE_INODE, type: 8, name: name("x") })],
      ),
    found: ["entry /d/x", "links /d"],
  },
  {
    what: "an inode whose record is lost keeps its name and its blocks",
    make: ({ world, f }) => damage(world, [inodeKey(f), null]),
    found: ["entry /d/f", "index", "index", "index", "index", "page", "total"],
    left: ["entry /d/f", "index", "index", "index", "index", "page"],
  },
  {
    what: "a record that can't be read",
    make: ({ world, f }) => damage(world, [inodeKey(f), new Uint8Array([1, 2])]),
    found: ["record", "record /d/f"],
    left: ["record", "record /d/f"],
  },
  {
    what: "a name of another type than its inode",
    make: (tree) =>
      damage(
        tree.world,
        [
          entryKey(tree.d, name("f")),
          encodeEntry({ ino: tree.f, type: 10, cookie: cookieOf(tree, tree.d, "f") }),
        ],
        [
          orderKey(tree.d, cookieOf(tree, tree.d, "f")),
          encodeOrder({ ino: tree.f, type: 10, name: name("f") }),
        ],
      ),
    found: ["entry /d/f"],
  },
  {
    what: "a directory that says that it is elsewhere",
    make: (tree) => spoil(tree, tree.sub, { parent: ROOT_INODE }),
    found: ["entry /d/sub"],
  },
  {
    what: "a name that is not listed",
    make: (tree) => damage(tree.world, [orderKey(tree.d, cookieOf(tree, tree.d, "f")), null]),
    found: ["order /d/f"],
  },
  {
    what: "a listed entry that is no name any more",
    make: (tree) => damage(tree.world, [entryKey(tree.d, name("f")), null]),
    found: ["links /d", "nameless", "order /d/f"],
    then: (tree) =>
      assert.equal(operations.lookup(tree.world.namespace.begin(), tree.d, name("f"))?.ino, tree.f),
  },
  {
    what: "an entry that is listed twice",
    make: ({ world, d, f }) =>
      damage(world, [orderKey(d, 501), encodeOrder({ ino: f, type: 8, name: name("f") })]),
    found: ["order /d/f"],
  },
  {
    what: "names in a directory that is not there",
    make: ({ world }) =>
      damage(
        world,
        [entryKey(GONE_INODE, name("y")), encodeEntry({ ino: asInodeId(901), type: 8, cookie: 502 })],
        [orderKey(GONE_INODE, 502), encodeOrder({ ino: asInodeId(901), type: 8, name: name("y") })],
      ),
    found: ["entry", "order"],
  },
  {
    what: "a file that lost its names goes to lost+found",
    make: (tree) =>
      damage(
        tree.world,
        [orderKey(tree.sub, cookieOf(tree, tree.sub, "g")), null],
        [entryKey(tree.sub, name("g")), null],
      ),
    found: ["links /d/sub", "nameless"],
    then: ({ world, g }) => {
      const tx = world.namespace.begin();
      const lost = operations.lookup(tx, ROOT_INODE, name("lost+found"))!;
      assert.equal(operations.lookup(tx, lost.ino, name(`#${g}`))?.ino, g);
    },
  },
  {
    what: "a directory that lost its name goes to lost+found with what is in it",
    make: (tree) =>
      damage(
        tree.world,
        [orderKey(tree.d, cookieOf(tree, tree.d, "sub")), null],
        [entryKey(tree.d, name("sub")), null],
      ),
    found: ["links /d", "links /d", "nameless"],
    then: ({ world, g, sub }) => {
      const tx = world.namespace.begin();
      const lost = operations.lookup(tx, ROOT_INODE, name("lost+found"))!;
      assert.equal(operations.lookup(tx, lost.ino, name(`#${sub}`))?.ino, sub);
      assert.equal(operations.lookup(tx, sub, name("g"))?.ino, g);
    },
  },
  {
    what: "an unlinked inode that nobody is noted to have open",
    make: (tree) => damage(tree.world, [orphanKey(tree.client.session, tree.orphan), null]),
    found: ["nameless"],
    then: (tree) => assert.ok(tree.world.journal.get(orphanKey(tree.client.session, tree.orphan))),
  },
  {
    what: "too many and too few links of a file",
    make: (tree) => {
      spoil(tree, tree.h, { nlink: 5 });
      spoil(tree, tree.g, { nlink: 3 });
    },
    found: ["links /d/sub/g", "links /h"],
  },
  {
    what: "wrong counts of a directory",
    make: (tree) => spoil(tree, tree.d, { nlink: 9, entries: 1 }),
    found: ["links /d", "links /d"],
  },
  {
    what: "directories whose parents lead in a circle",
    make: (tree) => {
      spoil(tree, tree.d, { parent: tree.sub });
    },
    found: ["entry /d", "unreachable", "unreachable"],
    then: (tree) => assert.equal(inodeOf(tree, tree.d).parent, ROOT_INODE),
  },
  {
    what: "blocks that lie on each other",
    make: (tree) => spoilExtents(tree, tree.f, ([a, b]) => [{ ...a!, length: 1500, allocated: 8 }, b!]),
    found: ["extents /d/f", "extents /d/f"],
    left: ["extents /d/f"],
  },
  {
    what: "a page of the block map that begins elsewhere",
    make: (tree) =>
      spoil(tree, tree.f, { pages: [{ first: 7, page: inodeOf(tree, tree.f).pages[0]!.page }] }),
    found: ["extents /d/f", "index /d/f", "index /d/f"],
  },
  {
    what: "a page of the block map that is not there",
    make: (tree) => damage(tree.world, [extentsKey(tree.g, inodeOf(tree, tree.g).pages[0]!.page), null]),
    found: ["extents /d/sub/g", "index /d/sub/g", "index /d/sub/g", "total", "total"],
    left: ["extents /d/sub/g", "index /d/sub/g", "index /d/sub/g"],
  },
  {
    what: "a page that its file does not refer to",
    make: (tree) => {
      const extent = { ...extentOf(tree, tree.f), block: asBlockId(800), volumes: [] };
      damage(tree.world, [extentsKey(tree.f, 77), encodeExtents([extent])]);
    },
    found: ["page /d/f", "total"],
    left: ["page /d/f"],
  },
  {
    what: "a wrong number of bytes with blocks",
    make: (tree) => spoil(tree, tree.f, { allocatedBytes: 5 }),
    found: ["extents /d/f"],
  },
  {
    what: "a replica that the index lacks",
    make: (tree) => {
      const { block, volumes } = extentOf(tree, tree.f, 1024);
      damage(tree.world, [replicaKey(volumes[1]!, block), null]);
    },
    found: ["index /d/f"],
  },
  {
    what: "a replica in the index under another file",
    make: (tree) => {
      const { block, volumes } = extentOf(tree, tree.f);
      damage(tree.world, [replicaKey(volumes[0]!, block), encodeReplica(tree.g, 0)]);
    },
    found: ["index /d/f", "index /d/sub/g"],
  },
  {
    what: "a replica in the index that its block does not list",
    make: (tree) => {
      const { block, start, volumes } = extentOf(tree, tree.f);
      const other = tree.world.volumes.find(({ volume }) => !volumes.includes(volume))!.volume;
      damage(tree.world, [replicaKey(other, block), encodeReplica(tree.f, start)]);
    },
    found: ["index /d/f"],
    then: (tree) => {
      const { block, volumes } = extentOf(tree, tree.f);
      const other = tree.world.volumes.find(({ volume }) => !volumes.includes(volume))!.volume;
      assert.ok(tree.world.journal.get(deletionKey(other, block)), "it is to be deleted");
    },
  },
  {
    what: "a deletion of a replica in use",
    make: (tree) => {
      const { block, volumes } = extentOf(tree, tree.f);
      damage(tree.world, [deletionKey(volumes[0]!, block), encodeNumbers([1])]);
    },
    found: ["deletion /d/f"],
  },
  {
    what: "extended attributes that are lost, not known of, or of nobody",
    make: (tree) => {
      damage(
        tree.world,
        [xattrsKey(tree.g), null],
        [xattrsKey(tree.f), tree.world.journal.get(xattrsKey(tree.g))!],
        [xattrsKey(GONE_INODE), new Uint8Array([0x80])],
      );
    },
    found: ["xattrs", "xattrs /d/f", "xattrs /d/sub/g"],
  },
  {
    what: "data of small files whose inodes are not there, do not know of it, or are shorter than it",
    make: async (tree) => {
      const [unknown, short] = [await makeSmall(tree, "unknown"), await makeSmall(tree, "short")];
      damage(tree.world, [inlineKey(GONE_INODE), name("rest")]);
      spoil(tree, unknown, { inlineBytes: 0 });
      spoil(tree, short, { inlineBytes: 2, size: 1 });
    },
    found: ["inline", "inline /short", "inline /short", "inline /unknown", "total", "total"],
    then: ({ world }) => {
      const tx = world.namespace.begin();
      for (const at of ["short", "unknown"]) {
        const inode = operations.lookup(tx, ROOT_INODE, name(at))!;
        assert.deepEqual([inode.size, findInline(tx, inode)], [5, name("small")]);
      }
      assert.deepEqual(findInline(tx, tx.inode(GONE_INODE)), name("rest"));
    },
  },
  {
    what: "data of small files that is lost, or that is in blocks as well",
    make: async (tree) => {
      damage(tree.world, [inlineKey(await makeSmall(tree, "lost")), null]);
      damage(tree.world, [inlineKey(tree.g), name("small")]);
      spoil(tree, tree.g, { inlineBytes: 5 });
    },
    found: ["inline /d/sub/g", "inline /lost"],
    left: ["inline /d/sub/g", "inline /lost"],
  },
  {
    what: "unlinked inodes of a client that is gone, that are not there, or that have a name",
    make: (tree) =>
      damage(
        tree.world,
        [orphanKey(asSessionId(77), tree.orphan), new Uint8Array(0)],
        [orphanKey(tree.client.session, GONE_INODE), new Uint8Array(0)],
        [orphanKey(tree.client.session, tree.f), new Uint8Array(0)],
      ),
    isSeenByOther: false,
    found: ["orphan", "orphan", "orphan /d/f"],
    then: (tree) => assert.equal(inodeOf(tree, tree.orphan).nlink, 0, "its client still has it open"),
  },
  {
    what: "wrong totals",
    make: (tree) => {
      // As the running server has them.
      for (const total of ["inodes", "blocks", "replicas"] as const) {
        tree.world.namespace.totals.add(total, 7);
      }
      tree.world.namespace.totals.saveTo({ put: (key, value) => damage(tree.world, [key, value]) });
    },
    found: ["total", "total", "total"],
    then: (tree) => assert.ok(tree.world.journal.get(Totals.key)),
  },
];

Deno.test("fsck: a tree without damage is clean, also with unlinked files and several names", async () => {
  const tree = await makeTree();
  const result = await runFsck(tree.world, { verifyBytesPerSecond: 1e9 });
  assert.deepEqual([kindsOf(result), result.unchecked, result.strays], [[], [], []]);
  assert.deepEqual([result.status, result.inodes, result.blocks], ["clean", 7, 5]);
});

for (const { what, make, isSeenByOther = true, found, left = [], then } of DAMAGES) {
  Deno.test(`fsck: ${what}`, async () => {
    const tree = await makeTree();
    await make(tree);
    if (isSeenByOther) assert.throws(() => checkNamespace(tree.world.journal));
    assert.deepEqual(kindsOf(await runFsck(tree.world)), [...found].sort());
    const result = await runFsck(tree.world, { repairWaitMs: 0 });
    assert.deepEqual(kindsOf(result), [...left].sort());
    for (const { repair } of [...result.problems, ...result.repaired]) {
      assert.ok(repair, "it says what was done");
    }
    if (left.length === 0) {
      assert.equal(result.status, "clean");
      checkNamespace(tree.world.journal);
    }
    then?.(tree, result);
  });
}

// ---- replicas

Deno.test("fsck: what volumes do not have as their blocks say is found by path", async () => {
  const tree = await makeTree();
  const { world, f, g, h } = tree;
  const on = (ino: InodeId, i: number, offset = 0) => {
    const extent = extentOf(tree, ino, offset);
    return { extent, volume: world.volumes.find(({ volume }) => volume === extent.volumes[i])! };
  };
  const lost = on(f, 0);
  lost.volume.replicas.delete(lost.extent.block);
  const noFile = on(f, 1, 1024);
  noFile.volume.replicas.get(noFile.extent.block)!.fileBytes = -1;
  const stale = on(g, 0);
  stale.volume.replicas.get(stale.extent.block)!.generation = 0;
  const cut = on(h, 1);
  cut.volume.replicas.get(cut.extent.block)!.fileBytes = 3;
  const stray = world.volumes.find(({ volume }) => !stale.extent.volumes.includes(volume))!;
  stray.replicas.set(stale.extent.block, replicaOf(stale.extent));
  const result = await runFsck(world);
  assert.deepEqual(kindsOf(result), ["corrupt /h", "lost /d/f", "lost /d/f", "stale /d/sub/g"].sort());
  assert.deepEqual(result.strays.map(({ block, volume }) => [block, volume]), [[
    stale.extent.block,
    stray.volume,
  ]]);
  const below = await runFsck(world, { path: name("/d/sub") });
  assert.deepEqual(kindsOf(below), ["stale /d/sub/g"]);
});

Deno.test("fsck: what a client has written for a file that it is still to tell of is no stray", async () => {
  const tree = await makeTree();
  const { world, client, f } = tree;
  const [volume] = world.volumes;
  const place = () => [volume!.volume];
  const [reserved] = await world.namespace.reserved.reserve(client.session, 1, [], place);
  volume!.replicas.set(reserved!.block, replicaOf(extentOf(tree, f)));
  assert.deepEqual((await runFsck(world)).strays, []);
  await world.namespace.reserved.reserve(client.session, 1, [reserved!.block], place);
  assert.deepEqual((await runFsck(world)).strays.map(({ block }) => block), [reserved!.block]);
});

Deno.test("fsck: too few, too many, none, and two replicas on one host", async () => {
  const tree = await makeTree();
  const { world, f, g } = tree;
  const { volumes } = extentOf(tree, g);
  const others = world.volumes.map(({ volume }) => volume).filter((volume) => !volumes.includes(volume));
  spoilExtents(tree, g, ([extent]) => [{ ...extent!, volumes: [...volumes, ...others] }]);
  const { block } = extentOf(tree, g);
  damage(world, [replicaKey(others[0]!, block), encodeReplica(g, 0)]);
  world.volumes.find(({ volume }) => volume === others[0])!.replicas.set(block, replicaOf(extentOf(tree, g)));
  const kinds = kindsOf(await runFsck(world, { path: name("/d/sub") }));
  assert.deepEqual(kinds, ["over-replicated /d/sub/g"]);
  const [first, second] = extentOf(tree, f).volumes;
  world.volumes.find(({ volume }) => volume === first)!.peer.close();
  await world.clock.advance(0);
  assert.ok(kindsOf(await runFsck(world, { path: name("/d/f") })).includes("under-replicated /d/f"));
  world.volumes.find(({ volume }) => volume === second)!.peer.close();
  await world.clock.advance(0);
  assert.ok(kindsOf(await runFsck(world, { path: name("/d/f") })).includes("missing /d/f"));
});

Deno.test("fsck: two replicas on one host", async () => {
  const world = await makeFsckWorld(["a", "b"]);
  await writeFile(world, "f");
  const [a, b] = world.volumes;
  // The dataserver has been given the other one's label.
  await world.registry.register({
    label: "1",
    host: "a",
    address: "b:1",
    volumes: [{ label: "1.v", path: "/v", totalBytes: 1e9, freeBytes: 1e9, volume: b!.volume }],
  }, b!.peer);
  assert.ok(a!.volume !== b!.volume);
  assert.deepEqual(kindsOf(await runFsck(world)), ["misplaced /f"]);
});

Deno.test("fsck: all replicas in one rack, once there is another; Repair is told of it", async () => {
  const world = await makeFsckWorld(["a", "b", "c"]);
  const ino = await writeFile(world, "f");
  const { volumes } = extentAt(world.namespace.begin(), world.namespace.begin().inode(ino), 0)!;
  const give = async (i: number, rack: string) => {
    const { host, volume, peer } = world.volumes[i]!;
    await world.registry.register({
      label: `${i}`,
      host,
      rack,
      address: `${host}:1`,
      volumes: [{ label: `${i}.v`, path: "/v", totalBytes: 1e9, freeBytes: 1e9, volume }],
    }, peer);
  };
  for (const i of [0, 1, 2]) await give(i, "r1");
  assert.deepEqual(kindsOf(await runFsck(world)), []);
  await give(world.volumes.findIndex(({ volume }) => !volumes.includes(volume)), "r2");
  const { waiting } = world.repair.status();
  const result = await runFsck(world, { repairWaitMs: 1_000 });
  assert.deepEqual(kindsOf(result), ["misplaced /f"]);
  assert.match(result.problems[0]!.detail, /all its replicas in rack r1/);
  assert.equal(world.repair.status().waiting, waiting + 1);
});

Deno.test("fsck: a volume that is away is said not to be checked, unless no block speaks of it", async () => {
  const world = await makeFsckWorld(["a", "b", "c"]);
  const ino = await writeFile(world, "f");
  const tx = world.namespace.begin();
  const { volumes } = extentAt(tx, tx.inode(ino), 0)!;
  world.volumes.find(({ volume }) => !volumes.includes(volume))!.peer.close();
  await world.clock.advance(0);
  assert.equal((await runFsck(world)).status, "clean");
  const used = world.volumes.find(({ volume }) => volumes.includes(volume))!;
  used.onList = () => Promise.reject(new Error("broken"));
  const result = await runFsck(world);
  assert.deepEqual([result.status, kindsOf(result)], ["unchecked", []]);
  assert.match(result.unchecked[0]!, /volume \d of [abc]: broken/);
});

Deno.test("fsck: replicas that hold different bytes, and corrupt ones, are found when they are read", async () => {
  const tree = await makeTree();
  const { world, f, g } = tree;
  const differing = extentOf(tree, f);
  world.volumes.find(({ volume }) => volume === differing.volumes[0])!.replicas.get(differing.block)!.digest =
    "other";
  const rotten = extentOf(tree, g);
  world.volumes.find(({ volume }) => volume === rotten.volumes[0])!.replicas.get(rotten.block)!.corrupt =
    "rot";
  assert.deepEqual(kindsOf(await runFsck(world)), []);
  const result = await runFsck(world, { verifyBytesPerSecond: 1e9 });
  assert.deepEqual(kindsOf(result), ["corrupt /d/sub/g", "differing /d/f"]);
  assert.ok(result.verifiedBytes > 0);
});

Deno.test("fsck: a replica that changes between the two questions is no problem", async () => {
  const tree = await makeTree();
  const { world, f } = tree;
  const { block, generation, volumes } = extentOf(tree, f);
  for (const volume of world.volumes) {
    if (!volumes.includes(volume.volume)) continue;
    // It has its new generation before the block says so, as in any change of replicas.
    volume.replicas.get(block)!.generation = generation + 1;
    volume.onList = async () => {
      volume.onList = () => {};
      if (extentOf(tree, f).generation === generation) {
        await world.recovery.replicasFailed(f, 0, block, generation, []);
      }
    };
  }
  assert.deepEqual(kindsOf(await runFsck(world)), []);
});

Deno.test("fsck: replicas that change with each question are not taken for wrong ones", async () => {
  const tree = await makeTree();
  const { world, f } = tree;
  for (const volume of world.volumes) {
    // After what it answers was put together.
    volume.onList = async () => {
      const { block, generation, volumes } = extentOf(tree, f);
      if (volumes.includes(volume.volume)) await world.recovery.replicasFailed(f, 0, block, generation, []);
    };
  }
  const result = await runFsck(world);
  assert.deepEqual([kindsOf(result), result.status], [[], "unchecked"]);
  assert.match(result.unchecked[0]!, /change all the time/);
});

Deno.test("fsck: what is kept for a client that ends just now is no problem", async () => {
  const { world, client } = await makeTree();
  const { namespace, journal, leaseserver } = world;
  await writeFile(world, "other");
  await namespace.change((tx) => {
    const { ino } = operations.remove(tx, ROOT_INODE, name("other"), false, [client.session]);
    namespace.noteOrphan(ino, [client.session]);
  });
  journal.hold();
  leaseserver.sessions.end(client.session, "done");
  assert.equal(journal.list(tableRange(TABLE_ORPHAN)).length, 1, "one has gone, the other waits for it");
  assert.deepEqual(kindsOf(await runFsck(world)), []);
  journal.release();
});

Deno.test("fsck: what has changed since it was found is not repaired by what was found", async () => {
  const tree = await makeTree();
  const { world, h } = tree;
  spoil(tree, h, { nlink: 5 });
  const { context } = new FakePeer();
  const { fsck: id } = await world.admin.fsckStart({}, context);
  const problems: FsckProblem[] = [];
  for (;;) {
    const step = await world.admin.fsckNext({ fsck: id }, context);
    problems.push(...step.problems);
    if (step.phase === "done") break;
  }
  assert.deepEqual(problems.map(({ kind }) => kind), ["links"]);
  await world.namespace.change((tx) => void operations.link(tx, h, ROOT_INODE, name("h3")));
  const { outcomes } = await world.admin.fsckRepair({ problems }, context);
  assert.deepEqual(outcomes.map(({ outcome }) => outcome), ["gone"]);
  assert.equal(inodeOf(tree, h).nlink, 6, "as it was counted then would be wrong now");
  assert.equal((await runFsck(world, { repairWaitMs: 0 })).status, "clean");
  assert.equal(inodeOf(tree, h).nlink, 3);
});

Deno.test("fsck: a check ends with its connection, and there are two at most", async () => {
  const { world } = await makeTree();
  const [a, b] = [new FakePeer(), new FakePeer()];
  const { fsck: id } = await world.admin.fsckStart({}, a.context);
  await world.admin.fsckStart({}, a.context);
  await assert.rejects(async () => await world.admin.fsckStart({}, b.context), /2 checks are under way/);
  a.close();
  await world.clock.advance(0);
  await assert.rejects(async () => await world.admin.fsckNext({ fsck: id }, a.context), /has ended/);
  await world.admin.fsckStart({}, b.context);
});

Deno.test("fsck: names that are no text, deep trees and long listings are walked", async () => {
  const world = await makeFsckWorld();
  const odd = new Uint8Array([0xff, 0x0a, 0x5c]);
  let at = ROOT_INODE;
  for (let depth = 0; depth < 60; depth++) {
    at = (await world.namespace.change((tx) => makeDirectory(tx, "d", at))).ino;
  }
  for (let i = 0; i < 600; i++) await world.namespace.change((tx) => makeDirectory(tx, `x${i}`, at));
  const ino = await writeFile(world, "f", at);
  await world.namespace.change((tx) => void operations.rename(tx, at, name("f"), at, odd, 0, []));
  damage(world, [inodeKey(ino), encodeInode({ ...world.namespace.begin().inode(ino), nlink: 2 })]);
  const result = await runFsck(world);
  assert.deepEqual(result.problems.map(({ path }) => path), [`${"/d".repeat(60)}/\\xff\\x0a\\\\`]);
  assert.equal(result.inodes, 662);
});
