import assert from "node:assert/strict";
import { silentLogger } from "../../base/log.ts";
import type { Blocks } from "../../fs/blocks.ts";
import type { ClusterSession } from "../../fs/cluster_session.ts";
import { FileSystem } from "../../fs/file_system.ts";
import type { Reader } from "../../fs/reader.ts";
import type { Writer } from "../../fs/writer.ts";
import { asInodeId, type InodeId } from "../../wire/ids.ts";
import type { LeaseMode } from "../../wire/messages/inode.ts";
import type { OpenReply, RetryTag } from "../../wire/messages/nameserver.ts";
import { FakeClock, settle } from "../base/fake_clock.ts";

const INO = asInodeId(5);
const interrupt = { signal: new AbortController().signal };
const READ_ONLY = { write: false, truncate: false, killSuidGid: false };
const ZERO = { seconds: 0, nanoseconds: 0 };

function openReply(lease: LeaseMode): OpenReply {
  return {
    lease,
    blocks: [],
    blocksComplete: true,
    attributes: {
      ino: INO,
      mode: 0o100644,
      uid: 0,
      gid: 0,
      nlink: 1,
      size: 0,
      allocatedBytes: 0,
      atime: ZERO,
      mtime: ZERO,
      ctime: ZERO,
      btime: ZERO,
      rdev: 0,
      replication: 1,
      version: 1,
    },
  };
}

/** A file system whose calls to the nameserver are answered when the test says so. */
function start() {
  const calls: { readonly method: string; readonly answer: (reply: unknown) => void }[] = [];
  const nameserver = new Proxy({}, {
    get: (_target, method: string) => () => new Promise((resolve) => calls.push({ method, answer: resolve })),
  });
  const released: InodeId[] = [];
  const session = {
    nameserver,
    change: (send: (retry: RetryTag) => Promise<unknown>) => send({ slot: 0, sequence: 1 }),
    releaseLeases: async (inodes: readonly InodeId[]) => void released.push(...inodes),
    now: () => ZERO,
  } as unknown as ClusterSession;
  const writer = { commit: () => Promise.resolve() } as unknown as Writer;
  const fs = new FileSystem({
    session,
    blocks: {} as Blocks,
    reader: {} as Reader,
    writer,
    clock: new FakeClock(),
    log: silentLogger,
    invalidate: () => {},
  });
  return { fs, calls, released };
}

Deno.test("file system: handles of one inode share one file, whose release is told after the last", async () => {
  const { fs, calls, released } = start();
  const opening = [1, 2].map(() => fs.open(INO, READ_ONLY, interrupt));
  await settle();
  for (const { answer } of calls) answer(openReply("read"));
  const [one, two] = await Promise.all(opening);
  assert.equal(one!.file, two!.file);
  assert.equal(one!.file.handles, 2);
  await fs.close(one!.file);
  assert.equal(fs.openFile(INO), one!.file);
  await fs.close(two!.file);
  assert.equal(fs.openFile(INO), undefined);
  await fs.finish();
  assert.deepEqual(released, [INO]);
});

Deno.test("file system: a recall takes the lease and what is known with it", async () => {
  const { fs, calls } = start();
  const opening = fs.open(INO, READ_ONLY, interrupt);
  await settle();
  calls[0]!.answer(openReply("read"));
  const { file } = await opening;
  assert.ok(file.isFresh);
  assert.deepEqual(await fs.recall({ ino: INO, keep: "none", removed: false }), { open: true });
  assert.deepEqual([file.lease, file.isFresh], ["none", false]);
});

Deno.test("file system: a recall right behind the answer to an open is not lost", async () => {
  const { fs, calls } = start();
  const opening = fs.open(INO, READ_ONLY, interrupt);
  await settle();
  // Both frames came in one piece: the answer's promise is resolved, and the push is handled in the same turn.
  calls[0]!.answer(openReply("read"));
  const recalled = fs.recall({ ino: INO, keep: "none", removed: false });
  const { file } = await opening;
  await recalled;
  assert.equal(file.isFresh, false, "another is about to change the inode: nothing of it may be cached");
});

Deno.test("file system: asked right behind the answer to an open, it says that the file is open", async () => {
  const { fs, calls } = start();
  const opening = fs.open(INO, READ_ONLY, interrupt);
  await settle();
  calls[0]!.answer(openReply("read"));
  const answer = fs.recall({ ino: INO, keep: "read", removed: true });
  await opening;
  assert.deepEqual(await answer, { open: true }, "or the inode is removed under an open file");
});

Deno.test("file system: a recall never gives more than was held", async () => {
  const { fs, calls } = start();
  const opening = fs.open(INO, READ_ONLY, interrupt);
  await settle();
  calls[0]!.answer(openReply("none"));
  const { file } = await opening;
  // Sent when the server still took this client for a writer; an answer that says "none" came before it.
  await fs.recall({ ino: INO, keep: "read", removed: false });
  assert.equal(file.lease, "none");
});

Deno.test("file system: of two opens at once the later answer counts", async () => {
  const { fs, calls } = start();
  const opening = [
    fs.open(INO, READ_ONLY, interrupt),
    fs.open(INO, { ...READ_ONLY, write: true }, interrupt),
  ];
  await settle();
  // Another reads the file: as soon as this client writes, nobody may cache.
  calls[0]!.answer(openReply("read"));
  await settle();
  calls[1]!.answer(openReply("none"));
  const [{ file }] = await Promise.all(opening) as [Awaited<typeof opening[0]>, unknown];
  assert.deepEqual([file.handles, file.lease], [2, "none"]);
});

Deno.test("file system: a create that opens a file which is open here takes over what may be cached", async () => {
  const { fs, calls } = start();
  const opening = fs.open(INO, READ_ONLY, interrupt);
  await settle();
  calls[0]!.answer(openReply("read"));
  const { file } = await opening;
  const request = {
    parent: asInodeId(1),
    name: new Uint8Array([97]),
    credentials: { uid: 0, gid: 0 },
    mode: 0o600,
    exclusive: false,
    write: true,
  };
  const creating = fs.create(request, { truncate: false }, interrupt);
  await settle();
  calls[1]!.answer({ ...openReply("none"), created: false });
  await creating;
  assert.deepEqual([file.handles, file.lease], [2, "none"]);
});

Deno.test("file system: a release is not told while another open of the inode is under way", async () => {
  const { fs, calls, released } = start();
  const opening = [1, 2].map(() => fs.open(INO, READ_ONLY, interrupt));
  await settle();
  calls[0]!.answer(openReply("read"));
  const first = await opening[0]!;
  await fs.close(first.file);
  await fs.finish(); // as the background does every second
  assert.deepEqual(released, [], "the second open is registered with the server already");
  calls[1]!.answer(openReply("read"));
  await fs.close((await opening[1]!).file);
  await fs.finish();
  assert.deepEqual(released, [INO]);
});
