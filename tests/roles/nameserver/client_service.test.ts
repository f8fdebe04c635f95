import assert from "node:assert/strict";
import { bytesKey, bytesOf, textOf } from "../../../base/bytes.ts";
import { type Random, randomInt } from "../../../base/random.ts";
import { isErrno } from "../../../wire/errno.ts";
import { asBlockId, type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import { S_IFDIR, S_IFLNK, S_IFREG } from "../../../wire/messages/inode.ts";
import type { NAMESERVER } from "../../../wire/messages/nameserver.ts";
import type { RequestOf } from "../../../wire/service.ts";
import { settle } from "../../base/fake_clock.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";
import { checkNamespace } from "./consistency.ts";
import { addDataservers, makeService, ServiceClient, startService, withoutDirectories } from "./service.ts";

const credentials = { uid: 0, gid: 0 };
const name = bytesOf;
const S_IFIFO = 0o010000;

// ---- listing

/** Lists a directory page by page; `between` runs after each page. */
async function list(
  client: ServiceClient,
  ino: InodeId,
  limit: () => number,
  between: () => Promise<void>,
): Promise<string[]> {
  const names: string[] = [];
  let cookie = 2;
  for (;;) {
    const { entries, end } = await client.call("readDirectory", {
      ino,
      cookie,
      limit: limit(),
      withInodes: false,
    });
    for (const entry of entries) {
      assert.ok(entry.cookie > cookie, "cookies grow");
      cookie = entry.cookie;
      names.push(textOf(entry.name));
    }
    if (end) return names;
    await between();
  }
}

/** Random changes of the directory that leave the names in `still` alone. */
async function disturb(
  random: Random,
  client: ServiceClient,
  still: ReadonlySet<string>,
  touched: Set<string>,
) {
  const names = [...Array(60).keys()].map((i) => `n${i}`).filter((other) => !still.has(other));
  for (let i = randomInt(random, 6); i > 0; i--) {
    const [a, b] = [pick(random, names), pick(random, names)];
    touched.add(a).add(b);
    const parent = ROOT_INODE;
    const changes = [
      () =>
        client.call("make", {
          retry: client.tag(),
          parent,
          name: name(a),
          credentials,
          mode: S_IFDIR | 0o755,
        }),
      () => client.call("remove", { retry: client.tag(), parent, name: name(a), directory: true }),
      () =>
        client.call("rename", {
          retry: client.tag(),
          parent,
          name: name(a),
          newParent: parent,
          newName: name(b),
          flags: pick(random, [0, 1, 2]),
        }),
    ];
    await pick(random, changes)().catch((error) =>
      assert.ok(isErrno(error, "ENOENT") || isErrno(error, "EEXIST"))
    );
  }
}

seededTest("listing: what stays comes once, whatever comes and goes meanwhile", async (random) => {
  const service = await makeService();
  const client = await ServiceClient.connect(service, "c");
  await disturb(random, client, new Set(), new Set());
  for (let round = 0; round < 60; round++) {
    const touched = new Set<string>();
    const before = [...checkNamespace(service.journal).entries.get(ROOT_INODE)?.keys() ?? []];
    const still = new Set(before.filter(() => chance(random, 0.6)));
    const names = await list(
      client,
      ROOT_INODE,
      () => 1 + randomInt(random, 7),
      () => disturb(random, client, still, touched),
    );
    for (const kept of before.filter((other) => !touched.has(other))) {
      assert.equal(names.filter((other) => other === kept).length, 1, `${kept} comes once`);
    }
    const rest = names.filter((other) => !touched.has(other));
    assert.equal(new Set(rest).size, rest.length, "nothing comes twice");
    assert.ok(names.every((other) => before.includes(other) || touched.has(other)));
    await disturb(random, client, new Set(), new Set());
    await disturb(random, client, new Set(), new Set());
  }
});

seededTest("listing: a position leads to the same place again, and survives its entry", async (random) => {
  const service = await makeService();
  const client = await ServiceClient.connect(service, "c");
  for (let i = 0; i < 40; i++) await client.create(`f${i}`);
  const read = async (cookie: number, limit: number) =>
    (await client.call("readDirectory", { ino: ROOT_INODE, cookie, limit, withInodes: chance(random, 0.5) }))
      .entries;
  const all = await read(2, 4096);
  for (let i = 0; i < 40; i++) {
    const at = randomInt(random, all.length);
    const rest = await read(all[at]!.cookie, 4096);
    assert.deepEqual(
      rest.map((entry) => bytesKey(entry.name)),
      all.slice(at + 1).map((entry) => bytesKey(entry.name)),
    );
  }
  await client.remove("f20");
  const after = await read(all.find((entry) => textOf(entry.name) === "f20")!.cookie, 1);
  assert.equal(textOf(after[0]!.name), "f21");
});

Deno.test("listing: ends, and tells each file, though every file that it has told is renamed to and fro", async () => {
  const service = await makeService();
  const client = await ServiceClient.connect(service, "c");
  const names = Array.from({ length: 30 }, (_, i) => `f${i}`);
  for (const each of names) await client.create(each);
  const parent = ROOT_INODE;
  const rename = (from: string, to: string) =>
    client.call("rename", {
      retry: client.tag(),
      parent,
      name: name(from),
      newParent: parent,
      newName: name(to),
      flags: 0,
    });
  const seen: string[] = [];
  for (let cookie = 2;;) {
    const { entries, end } = await client.call("readDirectory", {
      ino: parent,
      cookie,
      limit: 1,
      withInodes: false,
    });
    for (const entry of entries) {
      seen.push(textOf(entry.name));
      cookie = entry.cookie;
      await rename(seen.at(-1)!, "elsewhere");
      await rename("elsewhere", seen.at(-1)!);
    }
    if (end) break;
    assert.ok(seen.length <= names.length, "it goes on and on");
  }
  assert.deepEqual(seen, names);
  // A name that is replaced is where it was.
  await rename("f3", "f7");
  const { entries } = await client.call("readDirectory", {
    ino: parent,
    cookie: 2,
    limit: 99,
    withInodes: false,
  });
  assert.deepEqual(entries.map((entry) => textOf(entry.name)), names.filter((each) => each !== "f3"));
});

Deno.test("listing: a file is ENOTDIR, what is gone ENOENT, a strange limit is put right", async () => {
  const service = await makeService();
  const client = await ServiceClient.connect(service, "c");
  const ino = await client.create("f");
  const read = (dir: InodeId, limit: number) =>
    client.call("readDirectory", { ino: dir, cookie: 0, limit, withInodes: false });
  await assert.rejects(read(ino, 10), (error) => isErrno(error, "ENOTDIR"));
  await assert.rejects(read(999 as InodeId, 10), (error) => isErrno(error, "ENOENT"));
  for (const limit of [0, -5, 1e9]) assert.equal((await read(ROOT_INODE, limit)).entries.length, 1);
});

// ---- changes that are sent again

type Change = {
  readonly [Name in keyof typeof NAMESERVER.methods]?: Omit<
    RequestOf<typeof NAMESERVER["methods"][Name]>,
    "retry"
  >;
};

/** Every kind of change, in an order in which each is possible. */
function changes(file: InodeId): readonly Change[] {
  const parent = ROOT_INODE;
  const one = name("one");
  const x = name("user.x");
  return [
    { make: { parent, name: one, credentials, mode: S_IFDIR | 0o755 } },
    { make: { parent, name: name("link"), credentials, mode: S_IFLNK | 0o777, target: name("t") } },
    { create: { parent, name: name("new"), credentials, mode: 0o600, exclusive: true, write: true } },
    { setattr: { ino: file, mode: 0o600 } },
    { allocateBlock: { ino: file, offset: 5000, host: "a", avoid: [] } },
    {
      commit: {
        ino: file,
        size: 6000,
        mtime: { seconds: 1, nanoseconds: 2 },
        written: [],
        durable: true,
        killSuidGid: false,
      },
    },
    { setattr: { ino: file, size: 4500 } },
    { punch: { ino: file, offset: 0, length: 10_000 } },
    { setXattr: { ino: file, name: x, value: x, flags: 1 } },
    { removeXattr: { ino: file, name: x } },
    { link: { ino: file, parent, name: name("second") } },
    { rename: { parent, name: name("second"), newParent: parent, newName: name("third"), flags: 1 } },
    { rename: { parent, name: one, newParent: parent, newName: name("link"), flags: 2 } },
    { rename: { parent, name: one, newParent: parent, newName: name("third"), flags: 0 } },
    { remove: { parent, name: name("third"), directory: false } },
    { remove: { parent, name: name("link"), directory: true } },
  ];
}

Deno.test("retries: every change that is sent again is made once and answered alike, also after a restart", async () => {
  let service = await makeService();
  await addDataservers(service);
  let client = await ServiceClient.connect(service, "c");
  const file = await client.create("file");
  for (const change of changes(file)) {
    const [method, fields] = Object.entries(change)[0]! as [keyof typeof NAMESERVER.methods, object];
    const request = { ...fields, retry: client.tag() } as never;
    const first = await client.call(method, request) as Record<string, unknown>;
    const records = service.journal.list();
    const again = await client.call(method, request) as Record<string, unknown>;
    // What may be cached is decided anew; the rest of the answer is the same.
    const decidedAnew = { lease: undefined, directory: undefined };
    assert.deepEqual(
      withoutDirectories({ ...again, ...decidedAnew }),
      withoutDirectories({ ...first, ...decidedAnew }),
      method,
    );
    assert.deepEqual(service.journal.list(), records, `${method} changed nothing the second time`);
    service = await makeService(service);
    await addDataservers(service);
    const { peer } = client;
    const tag = client.tag().sequence;
    client = await ServiceClient.connect(service, "c");
    while (client.tag().sequence < tag);
    peer.close();
    const later = await client.call(method, request) as Record<string, unknown>;
    assert.deepEqual(
      withoutDirectories({ ...later, ...decidedAnew }),
      withoutDirectories({ ...first, ...decidedAnew }),
      `${method} after a restart`,
    );
    checkNamespace(service.journal);
  }
});

Deno.test("changes: without a session none is made", async () => {
  const service = await makeService();
  const stranger = new ServiceClient(service);
  for (const change of changes(ROOT_INODE)) {
    const [method, fields] = Object.entries(change)[0]! as [keyof typeof NAMESERVER.methods, object];
    const request = { ...fields, retry: { slot: 0, sequence: 1 } } as never;
    await assert.rejects(stranger.call(method, request), (error) => isErrno(error, "ESHUTDOWN"), method);
  }
  checkNamespace(service.journal);
});

// ---- create

Deno.test("create: without O_EXCL opens the file that is there, and says so", async () => {
  const service = await makeService();
  const [a, b] = [await ServiceClient.connect(service, "a"), await ServiceClient.connect(service, "b")];
  const ino = await a.create("f");
  const request = {
    parent: ROOT_INODE,
    name: name("f"),
    credentials,
    mode: 0o600,
    exclusive: false,
    write: false,
  };
  const reply = await b.call("create", { ...request, retry: b.tag() });
  assert.deepEqual([reply.created, reply.attributes.ino, reply.lease], [false, ino, "read"]);
  assert.deepEqual([reply.directory, reply.isShared], ["read", false]);
  assert.equal(reply.attributes.mode & 0o777, 0o644);
  await assert.rejects(
    b.call("create", { ...request, retry: b.tag(), exclusive: true }),
    (error) => isErrno(error, "EEXIST"),
  );
});

Deno.test("create: what another has made meanwhile is opened only by who certainly may, and only a file", async () => {
  const { clients: [a, b] } = await startService("a", "b");
  const open = (entry: string, uid: number, write: boolean) =>
    b.call("create", {
      ...{ retry: b.tag(), parent: ROOT_INODE, name: name(entry), credentials: { uid, gid: 5 } },
      ...{ mode: 0o600, exclusive: false, write },
    }).then(({ created }) => created, (error) => error.errno);
  const make = (entry: string, mode: number, more: { readonly target?: Uint8Array } = {}) =>
    a.call("make", {
      ...{ retry: a.tag(), parent: ROOT_INODE, name: name(entry), mode, umask: 0, ...more },
      credentials: { uid: 7, gid: 7 },
    });
  await make("f", S_IFREG | 0o640);
  assert.deepEqual([await open("f", 0, true), await open("f", 7, true)], [false, false]);
  assert.deepEqual([await open("f", 8, false), await open("f", 8, true)], ["ESTALE", "ESTALE"]);
  const { attributes: { ino } } = await make("g", S_IFREG | 0o646);
  assert.deepEqual([await open("g", 8, false), await open("g", 8, true)], [false, "ESTALE"]);
  await a.call("setXattr", { retry: a.tag(), ino, name: name("user.x"), value: name("v"), flags: 0 });
  assert.deepEqual([await open("g", 8, false), await open("g", 0, false)], ["ESTALE", false]);
  await make("dir", S_IFDIR | 0o777);
  await make("fifo", S_IFIFO | 0o666);
  await make("link", S_IFLNK | 0o777, { target: name("f") });
  const found = await Promise.all(["dir", "fifo", "link"].map((entry) => open(entry, 0, true)));
  assert.deepEqual(found, ["EISDIR", "ESTALE", "ESTALE"]);
});

seededTest("create: of many who create one name exclusively one succeeds", async (random) => {
  const service = await makeService();
  const clients = await Promise.all([...Array(5).keys()].map((i) => ServiceClient.connect(service, `c${i}`)));
  for (let round = 0; round < 50; round++) {
    if (chance(random, 0.5)) service.journal.hold();
    const attempts = clients.map((client) => client.create(`f${round}`).then(() => 1, () => 0));
    await settle();
    service.journal.release();
    assert.equal((await Promise.all(attempts)).reduce<number>((sum, n) => sum + n, 0), 1);
  }
});

// ---- blocks

Deno.test("blocks: what an open and a page of the map do not hold is fetched by the next", async () => {
  const service = await makeService();
  await addDataservers(service);
  const client = await ServiceClient.connect(service, "c");
  const ino = await client.create("f", ROOT_INODE, true);
  const count = 700;
  for (let i = 0; i < count; i++) {
    await client.call("allocateBlock", { retry: client.tag(), ino, offset: i * 2048, host: "a", avoid: [] });
  }
  const opened = await client.call("acquire", { ino, mode: "write" });
  assert.deepEqual([opened.blocks.length, opened.blocksComplete], [64, false]);
  const starts: number[] = [];
  for (let offset = 0; offset < count * 2048;) {
    const { blocks, end } = await client.call("blocks", { ino, offset, length: count * 2048 - offset });
    assert.ok(end > offset);
    starts.push(...blocks.map(({ start }) => start));
    offset = end;
  }
  assert.deepEqual(starts, [...Array(count).keys()].map((i) => i * 2048));
  assert.ok(opened.blocks.every(({ replicas }) => replicas.length === 2 && replicas[0]!.host === "a"));
});

Deno.test("blocks: a failed replica leaves with a higher generation, and the report may be repeated", async () => {
  const service = await makeService();
  await addDataservers(service);
  const client = await ServiceClient.connect(service, "c");
  const ino = await client.create("f", ROOT_INODE, true);
  const { block } = await client.call("allocateBlock", {
    retry: client.tag(),
    ino,
    offset: 0,
    host: "a",
    avoid: [],
  });
  const failed = [block.replicas[1]!.volume];
  const report = { ino, start: 0, block: block.id, generation: block.generation, failed };
  const replies = await Promise.all(
    [1, 2, 3].map(() => client.call("replicaFailed", report)),
  );
  for (const reply of replies) {
    assert.equal(reply.block.generation, block.generation + 1);
    assert.deepEqual(reply.block.replicas.map(({ volume }) => volume), [block.replicas[0]!.volume]);
  }
  const { deletions } = checkNamespace(service.journal);
  assert.deepEqual([...deletions], [`${failed[0]}/${block.id}`]);
  await assert.rejects(
    client.call("replicaFailed", { ...report, block: asBlockId(99) }),
    (error) => isErrno(error, "ENOENT"),
  );
});

Deno.test("blocks: a report of all replicas is refused, and leaves the block as it is", async () => {
  const service = await makeService();
  await addDataservers(service);
  const client = await ServiceClient.connect(service, "c");
  const ino = await client.create("f", ROOT_INODE, true);
  const { block } = await client.call("allocateBlock", {
    retry: client.tag(),
    ino,
    offset: 0,
    host: "a",
    avoid: [],
  });
  const volumes = block.replicas.map(({ volume }) => volume);
  const report = { ino, start: 0, block: block.id, generation: block.generation };
  await assert.rejects(
    client.call("replicaFailed", { ...report, failed: volumes }),
    (error) => isErrno(error, "EAGAIN"),
  );
  const { blocks: [now] } = await client.call("blocks", { ino, offset: 0, length: 1 });
  assert.equal(now!.generation, block.generation);
  assert.deepEqual(now!.replicas.map(({ volume }) => volume), volumes);
});

Deno.test("sync: all that was answered before is on disk", async () => {
  const service = await makeService();
  const client = await ServiceClient.connect(service, "c");
  await client.create("f");
  await client.call("sync", {});
  assert.ok((service.journal.durablePositions.at(-1) ?? 0) >= service.journal.position);
});

Deno.test("after a restart a listing of names and a file without one wait for all clients, as everything does", async () => {
  const { service, clients: [a] } = await startService("a", "b");
  await a.mkdir("d");
  const restarted = await makeService(service);
  const again = await ServiceClient.connect(restarted, "a");
  const how = { parent: ROOT_INODE, credentials: { uid: 0, gid: 0 }, mode: 0o600, linkable: false };
  let done = 0;
  const waiting = [
    again.call("readDirectory", { ino: ROOT_INODE, cookie: 0, limit: 9, withInodes: false }),
    again.call("createUnnamed", { retry: { slot: 90, sequence: 1 }, ...how }),
  ].map((one: Promise<unknown>) => one.finally(() => done++));
  await settle();
  assert.equal(done, 0);
  await ServiceClient.connect(restarted, "b");
  await Promise.all(waiting);
});
