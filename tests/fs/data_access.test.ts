/** Accesses to data and the leases that they run under: waiting, being served, and giving back. */

import assert from "node:assert/strict";
import { pagesOf } from "../../fs/data_access.ts";
import type { Handle } from "../../fs/files.ts";
import type { Access, OpenFile } from "../../fs/inode.ts";
import { FsError, isErrno } from "../../wire/errno.ts";
import type { LeaseMode } from "../../wire/messages/inode.ts";
import {
  accessOf,
  acquireReply,
  blockOf,
  gate,
  INO,
  inodeReply,
  know,
  nameOf,
  opened,
  PATIENT,
  quiet,
  READ_ONLY,
  recall,
  startClient,
  type TestClient,
  time,
  watch,
  type Watched,
  WRITING,
} from "./client.ts";
import type { Interruptible } from "../../fs/interruptible.ts";

const PAGE = 4096;
const READ = accessOf(0, PAGE);
const WRITE = accessOf(0, PAGE, { isWrite: true, isPaged: false });
const WRITEBACK = accessOf(0, PAGE, { isWrite: true, isWriteback: true });
/** seek and the like. */
const LOOK = accessOf(0, Infinity, { isPaged: false });
const BLOCKS = [blockOf(1, 0, 16_384 * PAGE)];

interface Under {
  readonly client: TestClient;
  readonly handle: Handle;
  readonly file: OpenFile;
}

/** A file that is open for writing, under a lease. */
async function startUnder(lease: LeaseMode): Promise<Under> {
  const client = startClient();
  const handle = await opened(client, lease === "read" ? READ_ONLY : WRITING, { size: 64 * PAGE }, {
    blocks: BLOCKS,
  });
  const { file } = handle;
  if (lease === "none") await recall(client, { keep: "none" }).promise;
  client.kernel.taken();
  client.events.length = 0;
  client.nameserver.asked.length = 0;
  return { client, handle, file };
}

/** An access that is under way, once it may be, until `end`. */
class Running {
  hasBegun = false;
  readonly #going = gate();
  readonly #watched: Watched<void>;

  constructor({ client, file }: Under, access: Access, interrupt: Interruptible) {
    this.#watched = watch(client.access.use(file, { ...access }, interrupt, () => {
      this.hasBegun = true;
      return this.#going.opened;
    }));
  }

  get state() {
    return this.#watched.state;
  }

  get error() {
    return this.#watched.error;
  }

  end(): Promise<void> {
    return this.#going.open();
  }
}

function begin(under: Under, access: Access, interrupt: Interruptible = PATIENT): Running {
  return new Running(under, access, interrupt);
}

Deno.test("pages: whole ones", () => {
  assert.deepEqual(pagesOf(0, 1), { start: 0, end: PAGE });
  assert.deepEqual(pagesOf(PAGE - 1, 2), { start: 0, end: 2 * PAGE });
  assert.deepEqual(pagesOf(PAGE, PAGE), { start: PAGE, end: 2 * PAGE });
});

// ---- waiting for a lease

Deno.test("access: under a lease that allows it, it begins at once", async () => {
  for (
    const [lease, access] of [["read", READ], ["read", LOOK], ["write", READ], ["write", WRITE]] as const
  ) {
    const under = await startUnder(lease);
    const running = begin(under, access);
    assert.ok(running.hasBegun);
    await running.end();
    assert.equal(running.state, "done");
    assert.deepEqual(under.client.nameserver.asked, []);
    assert.equal(
      under.file.inode.hasPages,
      access.isPaged,
      "what the kernel has pages of afterwards is noted",
    );
    assert.equal(under.file.accesses.size, 0);
  }
});

Deno.test("access: one question for all that wait, which then run", async () => {
  const under = await startUnder("none");
  const { nameserver } = under.client;
  const running = [READ, READ, LOOK].map((access) => begin(under, access));
  const call = await nameserver.next("acquire");
  assert.deepEqual(call.request, { ino: INO, mode: "read" });
  assert.equal(nameserver.calls.length, 1);
  assert.ok(running.every(({ hasBegun }) => !hasBegun));
  assert.equal(under.file.held.size, 3);
  await call.answer(acquireReply(INO, "read", { version: 2, size: PAGE }, { blocks: BLOCKS }));
  assert.ok(running.every(({ hasBegun }) => hasBegun));
  assert.equal(under.file.held.size, 0);
  for (const one of running) await one.end();
  assert.deepEqual(nameserver.asked, ["acquire"]);
});

Deno.test("access: what the question brought too little for asks again", async () => {
  const under = await startUnder("none");
  const { nameserver } = under.client;
  const reading = begin(under, READ);
  const writing = begin(under, WRITE);
  await nameserver.answer("acquire", acquireReply(INO, "read", { version: 2 }));
  assert.deepEqual([reading.hasBegun, writing.hasBegun], [true, false]);
  const call = await nameserver.next("acquire");
  assert.equal(call.request.mode, "write");
  await call.answer(acquireReply(INO, "write", { version: 2 }));
  assert.ok(writing.hasBegun);
  for (const one of [reading, writing]) await one.end();
  assert.deepEqual(nameserver.asked, ["acquire", "acquire"]);
});

Deno.test("access: a question that fails is told to all that wait, and the next asks anew", async () => {
  const under = await startUnder("none");
  const { nameserver } = under.client;
  const running = [begin(under, READ), begin(under, READ)];
  await (await nameserver.next("acquire")).fail(new FsError("ENOENT", "gone"));
  assert.ok(running.every(({ error }) => isErrno(error, "ENOENT")));
  const again = begin(under, READ);
  await nameserver.answer("acquire", acquireReply(INO, "read", { version: 2 }));
  assert.ok(again.hasBegun);
  await again.end();
});

Deno.test("access: an interrupt ends the wait of who was interrupted, whatever it is for", async () => {
  const waits: [string, (under: Under) => Promise<Access>][] = [
    ["a lease", async () => READ],
    ["a valid session", async ({ client }) => {
      client.session.isValid = false;
      return READ;
    }],
    ["the end of a revocation", async (under) => {
      Object.assign(under.file.inode, { lease: "write", attributesKnown: true, hasPages: true });
      under.client.kernel.holds = (message) => message.startsWith("pages");
      recall(under.client, { keep: "none" });
      await quiet();
      return WRITE;
    }],
    ["a lease, to write back", async () => WRITEBACK],
  ];
  for (const [what, prepare] of waits) {
    const under = await startUnder("none");
    const access = await prepare(under);
    const giveUp = new AbortController();
    const given = begin(under, access, giveUp);
    const patient = begin(under, access);
    await quiet();
    giveUp.abort();
    await quiet();
    assert.ok(isErrno(given.error, "EINTR"), what);
    assert.deepEqual([patient.state, patient.hasBegun], ["waits", false], what);
    assert.equal(under.file.held.size, 1, what);
  }
});

Deno.test("access: a lease that came in a reply to before the session was lost does not count", async () => {
  const under = await startUnder("none");
  const { nameserver, recalls } = under.client;
  const running = begin(under, READ);
  const call = await nameserver.next("acquire");
  await recalls.lost();
  await call.answer(acquireReply(INO, "read", { version: 2 }));
  assert.equal(running.hasBegun, false);
  await nameserver.answer("acquire", acquireReply(INO, "read", { version: 2 }));
  assert.ok(running.hasBegun);
  await running.end();
});

Deno.test("access: while the session is not valid nothing begins, and what was held goes on when it is again", async () => {
  const under = await startUnder("write");
  const { session, nameserver } = under.client;
  session.isValid = false;
  const running = [READ, WRITE, WRITEBACK].map((access) => begin(under, access));
  await quiet();
  assert.ok(running.every(({ hasBegun }) => !hasBegun));
  session.revive();
  await quiet();
  assert.ok(running.every(({ hasBegun }) => hasBegun));
  for (const one of running) await one.end();
  assert.deepEqual(nameserver.asked, [], "the lease was there all the time");
});

Deno.test("acquire: brings the blocks, as far as they are all", async () => {
  for (const blocksComplete of [true, false]) {
    const under = await startUnder("none");
    const { file } = under;
    const running = begin(under, READ);
    const blocks = [blockOf(1, 0, PAGE), blockOf(2, 2 * PAGE, PAGE)];
    const reply = acquireReply(INO, "read", { version: 2 }, { blocks, blocksComplete });
    await under.client.nameserver.answer("acquire", reply);
    assert.equal(file.blocks.knows(0, 3 * PAGE), true);
    assert.equal(file.blocks.knows(3 * PAGE, 3 * PAGE + 1), blocksComplete);
    await running.end();
  }
});

Deno.test("acquire: from READ to WRITE our blocks stay, as some may be newer than the answer", async () => {
  const under = await startUnder("read");
  const mine = blockOf(9, 32_768 * PAGE, PAGE);
  under.file.blocks.put(mine);
  const running = begin(under, WRITE);
  await under.client.nameserver.answer(
    "acquire",
    acquireReply(INO, "write", { size: 64 * PAGE }, { blocks: [] }),
  );
  assert.ok(running.hasBegun);
  assert.equal(under.file.blocks.at(32_768 * PAGE), mine);
  assert.deepEqual(under.client.kernel.taken(), []);
  await running.end();
});

Deno.test("acquire: pages that we held under READ go when another's mapping was written back meanwhile", async () => {
  const under = await startUnder("read");
  const { nameserver, kernel } = under.client;
  under.file.inode.hasPages = true;
  kernel.holds = (message) => message.startsWith("pages");
  const running = begin(under, { ...WRITE, start: 5 * PAGE, end: 6 * PAGE });
  const written = { version: 2, mtime: time(9), size: 64 * PAGE };
  await nameserver.answer("acquire", acquireReply(INO, "write", written));
  assert.ok(running.hasBegun, "not waited for: it may hold one of them");
  assert.deepEqual(kernel.taken(), [`pages ${INO} 0+`]);
  await running.end();
  while (kernel.held.length > 0) await kernel.held[0]!.release();
});

// ---- giving back

Deno.test("recall right behind the reply: those that waited for the lease are served first", async () => {
  const under = await startUnder("none");
  const { client, file } = under;
  const running = [READ, READ].map((access) => begin(under, access));
  const call = await client.nameserver.next("acquire");
  void call.answer(acquireReply(INO, "read", { version: 2 }));
  const recalled = recall(client, { keep: "none" }); // handled in the same turn as the answer
  await quiet();
  assert.ok(running.every(({ hasBegun }) => hasBegun));
  assert.deepEqual([recalled.state, file.inode.lease], ["waits", "read"]);
  await running[0]!.end();
  await quiet();
  assert.equal(recalled.state, "waits");
  await running[1]!.end();
  await quiet();
  assert.deepEqual([recalled.state, file.inode.lease], ["done", "none"]);
  assert.deepEqual(client.kernel.taken().at(-1), `attributes ${INO}`);
});

Deno.test("recall of WRITE that leaves READ: writes end, what is written is committed, and nothing of the kernel's goes", async () => {
  const under = await startUnder("write");
  const { client, file } = under;
  const { nameserver, kernel, events } = client;
  file.inode.hasPages = true;
  const writing = begin(under, WRITE);
  const recalled = recall(client, { keep: "read" });
  await quiet();
  const reading = begin(under, READ);
  const late = begin(under, WRITE);
  assert.deepEqual([reading.hasBegun, late.hasBegun], [true, false], "a reader may go on, a writer waits");
  await reading.end();
  file.wrote(10, time(5), 0);
  assert.equal(recalled.state, "waits");
  await writing.end();
  const commit = await nameserver.next("commit");
  await quiet();
  // The report left before the acknowledgement, so that the server has it first.
  assert.deepEqual([recalled.state, recalled.value], ["done", { open: ["write"] }]);
  assert.deepEqual([file.inode.lease, file.inode.isFresh, file.inode.hasPages], ["read", false, true]);
  assert.equal(file.isUnflushed, false);
  await commit.answer(
    inodeReply(INO, "write", { version: 2, size: 64 * PAGE, mtime: time(5), ctime: time(5) }),
  );
  assert.deepEqual(
    [file.inode.lease, file.inode.attributes.version],
    ["read", 2],
    "an old answer grants nothing",
  );
  // The time of change became another than was shown.
  assert.deepEqual(kernel.taken().filter((what) => what.startsWith("pages")), []);
  await quiet();
  assert.deepEqual(
    events.filter((event) => !event.startsWith("attributes")),
    ["commit", "acquire"],
    "the writer asks for its next turn",
  );
  await nameserver.answer("acquire", acquireReply(INO, "write", { version: 3, mtime: time(5) }));
  assert.ok(late.hasBegun);
  await late.end();
});

Deno.test("recall over a connection that has just come up: is acknowledged when the report has left on it", async () => {
  const under = await startUnder("write");
  const { client, file } = under;
  const connected = gate();
  client.session.connected = connected.opened;
  file.wrote(10, time(5), 0);
  const recalled = recall(client, { keep: "read" });
  await quiet();
  assert.equal(recalled.state, "waits");
  assert.deepEqual([client.nameserver.asked, file.inode.lease], [[], "write"]);
  await connected.open();
  const commit = await client.nameserver.next("commit");
  assert.deepEqual([recalled.state, file.inode.lease], ["done", "read"]);
  await commit.answer(inodeReply(INO, "none", { version: 2, size: 10, mtime: time(5) }));
});

Deno.test("lost session: what waits for a connection to be reported is not reported in another session", async () => {
  const under = await startUnder("write");
  const { client, handle } = under;
  const { nameserver, recalls, files, session } = client;
  await acceptWrite(under);
  await quiet();
  const connected = gate();
  session.connected = connected.opened;
  const flushing = watch(files.flush(handle));
  await quiet();
  await recalls.lost();
  await connected.open();
  assert.ok(isErrno(flushing.error, "EIO"));
  assert.deepEqual(nameserver.asked, []);
});

Deno.test("recall of all: waits for accesses in flight, reports, and acknowledges when the kernel has nothing", async () => {
  const under = await startUnder("write");
  const { client, file } = under;
  const { nameserver, kernel, events } = client;
  file.inode.hasPages = true;
  const running = [READ, WRITE, LOOK].map((access) => begin(under, access));
  const recalled = recall(client, { keep: "none" });
  await quiet();
  assert.deepEqual(kernel.taken(), [`pages ${INO} 0+`], "it waits for what is under way as well");
  file.wrote(10, time(5), 0);
  for (const one of running) {
    assert.equal(nameserver.calls.length, 0);
    await one.end();
  }
  await nameserver.answer(
    "commit",
    inodeReply(INO, "write", { version: 2, size: 64 * PAGE, mtime: time(5), ctime: time(5) }),
  );
  await quiet();
  assert.deepEqual(recalled.value, { open: ["write"] });
  assert.deepEqual([file.inode.lease, file.inode.isFresh, file.inode.hasPages], ["none", false, false]);
  assert.deepEqual(events, [`pages ${INO} 0+`, "commit", `attributes ${INO}`]);
  assert.equal(file.blocks.knows(0, 1), false);
});

Deno.test("recall of all: what was accepted but not sent yet is sent and committed first", async () => {
  const under = await startUnder("write");
  const { client, file } = under;
  const { dataservers, nameserver, events } = client;
  const sent = gate();
  dataservers.onWrite = () => sent.opened;
  await client.files.write(
    under.handle,
    0,
    new Uint8Array(10),
    { append: false, isWriteback: false, killSuidGid: false },
    PATIENT,
  );
  const recalled = recall(client, { keep: "none" });
  await quiet();
  assert.deepEqual([recalled.state, nameserver.calls.length], ["waits", 0]);
  await sent.open();
  const commit = await nameserver.next("commit");
  assert.deepEqual(commit.request.written, [], "it was known to hold data");
  const { mtime } = commit.request;
  await commit.answer(inodeReply(INO, "write", { version: 2, size: 64 * PAGE, mtime, ctime: mtime }));
  await quiet();
  assert.equal(recalled.state, "done");
  assert.equal(file.isUnflushed, false);
  assert.deepEqual(events, ["data 1 0+10", "commit", `attributes ${INO}`]);
});

Deno.test("recall: one during which the session is lost leaves no lease, though it was to keep one", async () => {
  const under = await startUnder("write");
  const { client, file } = under;
  const sent = gate();
  client.dataservers.onWrite = () => sent.opened;
  const how = { append: false, isWriteback: false, killSuidGid: false };
  await client.files.write(under.handle, 0, new Uint8Array(10), how, PATIENT);
  const recalled = recall(client, { keep: "read" });
  await quiet();
  await client.recalls.lost();
  await quiet();
  assert.deepEqual([recalled.state, file.inode.lease], ["done", "none"]);
  await sent.open();
  assert.equal(file.inode.lease, "none", "others may change the file, and nobody tells us");
});

Deno.test("recall of all: paged reads that come meanwhile are served, and their pages go in a round of their own", async () => {
  const under = await startUnder("read");
  const { client, file } = under;
  const { kernel } = client;
  file.inode.hasPages = true;
  kernel.holds = (message) => message.startsWith("pages");
  const recalled = recall(client, { keep: "none" });
  await quiet();
  assert.deepEqual(kernel.held.map(({ message }) => message), [`pages ${INO} 0+`]);
  const one = begin(under, accessOf(PAGE, 2 * PAGE));
  const two = begin(under, accessOf(8 * PAGE, 10 * PAGE));
  const look = begin(under, LOOK);
  assert.deepEqual(
    [one.hasBegun, two.hasBegun, look.hasBegun],
    [true, true, false],
    "nobody's page waits for it",
  );
  for (const read of [one, two]) await read.end();
  await kernel.held[0]!.release();
  assert.deepEqual(kernel.held.map(({ message }) => message), [
    `pages ${INO} ${PAGE}+${PAGE}`,
    `pages ${INO} ${8 * PAGE}+${2 * PAGE}`,
  ]);
  await kernel.held[0]!.release();
  assert.equal(recalled.state, "waits");
  await kernel.held[0]!.release();
  assert.equal(recalled.state, "done");
  assert.deepEqual([file.inode.lease, file.inode.hasPages], ["none", false]);
  assert.equal(look.hasBegun, false);
  await client.nameserver.answer("acquire", acquireReply(INO, "read", { version: 2 }));
  assert.ok(look.hasBegun);
  await look.end();
});

Deno.test("recall of all: after some rounds new reads are held, but those that the kernel waits for", async () => {
  const under = await startUnder("read");
  const { client } = under;
  const { kernel } = client;
  under.file.inode.hasPages = true;
  kernel.holds = (message) => message.startsWith("pages");
  const recalled = recall(client, { keep: "none" });
  await quiet();
  const page = (at: number) => accessOf(at * PAGE, (at + 1) * PAGE);
  for (const at of [1, 2]) {
    const served = begin(under, page(at));
    assert.ok(served.hasBegun, `round ${at}`);
    await served.end();
    await kernel.held[0]!.release();
  }
  // The third round takes page 2 away.
  assert.deepEqual(kernel.held.map(({ message }) => message), [`pages ${INO} ${2 * PAGE}+${PAGE}`]);
  const held = begin(under, page(9));
  const waitedFor = begin(under, accessOf(2 * PAGE, 4 * PAGE)); // locked by a read-ahead of two pages
  assert.deepEqual([held.hasBegun, waitedFor.hasBegun], [false, true]);
  const beside = begin(under, page(3)); // its page is locked by the other, which is served
  assert.equal(beside.hasBegun, true);
  for (const one of [waitedFor, beside]) await one.end();
  await kernel.held[0]!.release();
  assert.deepEqual(kernel.held.map(({ message }) => message), [
    `pages ${INO} ${2 * PAGE}+${2 * PAGE}`,
    `pages ${INO} ${3 * PAGE}+${PAGE}`,
  ]);
  assert.equal(held.hasBegun, false);
  // The kernel may be waiting for the very page of one that is held: then it goes on.
  const lockedNow = begin(under, accessOf(3 * PAGE, 4 * PAGE));
  assert.ok(lockedNow.hasBegun);
  await lockedNow.end();
  while (kernel.held.length > 0) await kernel.held[0]!.release();
  assert.equal(recalled.state, "done");
  assert.equal(held.hasBegun, false, "it waits for the next lease");
  await client.nameserver.answer("acquire", acquireReply(INO, "read", { version: 2 }));
  assert.ok(held.hasBegun);
  await held.end();
});

Deno.test("recall of all: a read that was held is served when the kernel comes to wait for its page", async () => {
  const under = await startUnder("read");
  const { client } = under;
  const { kernel } = client;
  under.file.inode.hasPages = true;
  kernel.holds = (message) => message.startsWith("pages");
  const recalled = recall(client, { keep: "none" });
  await quiet();
  for (const at of [1, 2]) {
    await begin(under, accessOf(at * PAGE, (at + 1) * PAGE)).end();
    await kernel.held[0]!.release();
  }
  const held = begin(under, accessOf(5 * PAGE, 6 * PAGE));
  const bridge = begin(under, accessOf(2 * PAGE, 6 * PAGE));
  assert.deepEqual([held.hasBegun, bridge.hasBegun], [false, true]);
  await bridge.end();
  assert.ok(held.hasBegun, "its page is among those that go next");
  await kernel.held[0]!.release();
  assert.equal(kernel.held.length, 0, "in flight it is waited for");
  await held.end();
  assert.deepEqual(kernel.held.map(({ message }) => message), [
    `pages ${INO} ${2 * PAGE}+${4 * PAGE}`,
    `pages ${INO} ${5 * PAGE}+${PAGE}`,
  ]);
  while (kernel.held.length > 0) await kernel.held[0]!.release();
  assert.equal(recalled.state, "done");
});

Deno.test("recall of all: writeback of a mapping is served under READ, and committed before the acknowledgement", async () => {
  const under = await startUnder("read");
  const { client, file } = under;
  const { kernel, nameserver } = client;
  file.inode.hasPages = true;
  const blocked = begin(under, WRITEBACK); // the mapping is written back without WRITE
  await quiet();
  assert.equal(blocked.hasBegun, false);
  assert.equal((await nameserver.next("acquire")).request.mode, "write");
  kernel.holds = (message) => message.startsWith("pages");
  const recalled = recall(client, { keep: "none" });
  await quiet();
  assert.ok(blocked.hasBegun, "the kernel waits for it before its page goes");
  const another = begin(under, { ...WRITEBACK, start: 7 * PAGE, end: 8 * PAGE });
  assert.ok(another.hasBegun);
  file.wrote(8 * PAGE, time(5), 0);
  for (const one of [blocked, another]) await one.end();
  await kernel.held[0]!.release();
  await quiet();
  const commit = nameserver.calls.find(({ method }) => method === "commit")!;
  await commit.answer(
    inodeReply(INO, "read", { version: 2, size: 64 * PAGE, mtime: time(5), ctime: time(5) }),
  );
  assert.equal(recalled.state, "waits", "the pages written back are still there");
  while (kernel.held.length > 0) await kernel.held[0]!.release();
  assert.equal(recalled.state, "done");
  assert.equal(file.inode.lease, "none");
});

Deno.test("recall of all: writeback is served however many rounds there were", async () => {
  const under = await startUnder("write");
  const { kernel } = under.client;
  under.file.inode.hasPages = true;
  kernel.holds = (message) => message.startsWith("pages");
  const recalled = recall(under.client, { keep: "none" });
  await quiet();
  for (let round = 1; round < 8; round++) {
    const written = begin(under, { ...WRITEBACK, start: round * PAGE, end: (round + 1) * PAGE });
    assert.ok(written.hasBegun, `round ${round}`);
    await written.end();
    await kernel.held[0]!.release();
  }
  await kernel.held[0]!.release();
  assert.equal(recalled.state, "done");
});

Deno.test("recall of all: of a closed file pages and attributes go, of one without pages only the attributes", async () => {
  for (const hasPages of [true, false]) {
    const client = startClient();
    const inode = know(client, INO);
    inode.hasPages = hasPages;
    await recall(client, { keep: "none" }).promise;
    assert.deepEqual(client.kernel.taken(), [hasPages ? `pages ${INO} 0+` : `attributes ${INO}`]);
    assert.deepEqual([inode.lease, inode.isFresh, inode.hasPages], ["none", false, false]);
  }
});

Deno.test("recalls of one file run one after the other", async () => {
  const under = await startUnder("write");
  const { client, file } = under;
  const writing = begin(under, WRITE);
  const first = recall(client, { keep: "read" });
  const second = recall(client, { keep: "none" });
  await quiet();
  assert.deepEqual([first.state, second.state], ["waits", "waits"]);
  await writing.end();
  await quiet();
  assert.deepEqual([first.state, second.state, file.inode.lease], ["done", "done", "none"]);
});

Deno.test("a recall never gives more than was held", async () => {
  const under = await startUnder("none");
  // Sent when the server still took this client for a writer; an answer that says "none" came before it.
  await recall(under.client, { keep: "read" }).promise;
  assert.equal(under.file.inode.lease, "none");
});

Deno.test("recall of WRITE: what can't be committed is lost, which is logged and told once", async () => {
  const under = await startUnder("write");
  const { client, file, handle } = under;
  const { files, log, nameserver } = client;
  file.wrote(10, time(5), 0);
  const recalled = recall(client, { keep: "read" });
  await (await nameserver.next("commit")).fail(new FsError("ENOSPC", "full"));
  await quiet();
  assert.equal(recalled.state, "done", "others don't wait for a client that can't store what it has");
  assert.match(log.filter(({ level }) => level === "error").map(({ message }) => message).join(), /is lost/);
  file.dirty = false;
  await assert.rejects(files.flush(handle), (error) => isErrno(error, "ENOSPC"));
  await files.flush(handle);
});

// ---- the session is lost

/** A write that was accepted, and hangs on its way to the dataserver. */
async function acceptWrite({ client, handle }: Under, offset = 0): Promise<void> {
  const how = { append: false, isWriteback: false, killSuidGid: false };
  await client.files.write(handle, offset, new Uint8Array(10), how, PATIENT);
}

Deno.test("lost session: what was accepted but not sent is not sent any more; told once, by fsync or close, and logged", async () => {
  for (const tell of ["flush", "fsync"] as const) {
    const under = await startUnder("write");
    const { client, file, handle } = under;
    const { files, session, dataservers, recalls, log } = client;
    session.isValid = false; // so that it waits for the session before it is sent
    const accepting = acceptWriteAnyway(under);
    await quiet();
    assert.deepEqual(dataservers.writes, []);
    await recalls.lost();
    session.revive();
    await accepting;
    await quiet();
    assert.deepEqual(dataservers.writes, [], "another may have the file by now");
    assert.deepEqual([file.isUnflushed, file.size], [false, 64 * PAGE]);
    assert.equal(log.filter(({ level, message }) => level === "error" && /is lost/.test(message)).length, 1);
    const telling = watch(files[tell](handle));
    if (tell === "fsync") {
      // Without a lease others may have written: its size, and what there is of blocks, are asked for.
      await client.nameserver.answer("getattr", inodeReply(INO, "none", { size: 64 * PAGE }));
      await client.nameserver.answer("blocks", { blocks: [], end: Number.MAX_SAFE_INTEGER });
      await client.nameserver.answer("sync", { ok: true });
    }
    await quiet();
    assert.ok(isErrno(telling.error, "EIO"), tell);
    const again = watch(files[tell](handle));
    if (tell === "fsync") {
      await client.nameserver.answer("getattr", inodeReply(INO, "none", { size: 64 * PAGE }));
      await client.nameserver.answer("sync", { ok: true });
    }
    await quiet();
    assert.equal(again.state, "done", "once");
  }
});

/** As acceptWrite, though the session is not valid: its lease was seen valid just before. */
async function acceptWriteAnyway({ client, file }: Under): Promise<void> {
  await client.writer.write(file, 0, new Uint8Array(10), false);
}

Deno.test("lost session: one that is on its way to a dataserver ends there, and is not committed", async () => {
  const under = await startUnder("write");
  const { client, handle } = under;
  const { dataservers, recalls, nameserver, files } = client;
  const sent = gate();
  dataservers.onWrite = () => sent.opened;
  await acceptWrite(under);
  await recalls.lost();
  await sent.open();
  await quiet();
  await assert.rejects(files.flush(handle), (error) => isErrno(error, "EIO"));
  await files.flush(handle);
  assert.deepEqual(nameserver.asked, []);
});

Deno.test("lost session: a commit that waits to be sent again is not", async () => {
  const under = await startUnder("write");
  const { client, handle, file } = under;
  const { nameserver, recalls, files } = client;
  await acceptWrite(under);
  await quiet();
  const flushing = watch(files.flush(handle));
  const call = await nameserver.next("commit");
  await recalls.lost();
  await call.fail(
    new FsError("EIO", "the session ended while a change was under way; it may have been made"),
  );
  assert.ok(isErrno(flushing.error, "EIO"));
  assert.equal(file.isUnflushed, false);
  assert.deepEqual(nameserver.asked, ["commit"]);
});

Deno.test("lost session: what waits for a lease asks anew, and blocks are asked for again", async () => {
  const under = await startUnder("read");
  const { client, file } = under;
  const { nameserver, recalls, kernel } = client;
  await recalls.lost();
  assert.equal(file.blocks.knows(0, 1), false);
  assert.deepEqual(kernel.taken(), ["epoch", `attributes ${INO}`]);
  const reading = begin(under, READ);
  await nameserver.answer("acquire", acquireReply(INO, "read", { version: 2 }, { blocks: BLOCKS }));
  assert.ok(reading.hasBegun);
  await reading.end();
});

Deno.test("lost session: pages go at once, but those that an access waits with", async () => {
  const under = await startUnder("read");
  const { client, file } = under;
  const { recalls, kernel, session } = client;
  file.inode.hasPages = true;
  session.isValid = false;
  begin(under, accessOf(2 * PAGE, 4 * PAGE));
  await quiet();
  await recalls.lost();
  assert.deepEqual(kernel.taken(), [
    "epoch",
    `attributes ${INO}`,
    `pages ${INO} 0+${2 * PAGE}`,
    `pages ${INO} ${4 * PAGE}+`,
  ]);
});

Deno.test("lost session: a recall that was under way ends with it, and is answered", async () => {
  const under = await startUnder("write");
  const { client, file } = under;
  const { recalls, kernel } = client;
  file.inode.hasPages = true;
  kernel.holds = (message) => message.startsWith("pages");
  const recalled = recall(client, { keep: "none" });
  await quiet();
  const lost = watch(recalls.lost());
  while (kernel.held.length > 0) await kernel.held[0]!.release();
  await quiet();
  assert.deepEqual([lost.state, recalled.state], ["done", "done"]);
  assert.equal(file.revocation, null);
});

Deno.test("lost session: a read that a recall waits for is served under a lease of the next one", async () => {
  const under = await startUnder("read");
  const { client, file } = under;
  const { nameserver, recalls, kernel } = client;
  const reading = begin(under, READ);
  kernel.holds = (message) => message.startsWith("pages");
  const recalled = recall(client, { keep: "none" });
  await quiet();
  assert.deepEqual(kernel.held.map(({ message }) => message), [`pages ${INO} 0+`]);
  const lost = watch(recalls.lost());
  await quiet();
  assert.equal(recalled.state, "done", "what it waits for may need a lease that others are to give back");
  assert.deepEqual(
    kernel.held.map(({ message }) => message),
    [`pages ${INO} 0+`, `pages ${INO} ${PAGE}+`],
    "it may not have come to the other pages",
  );
  await reading.end();
  assert.equal(reading.state, "waits", "what it has read is from before");
  await nameserver.answer("acquire", acquireReply(INO, "read", { version: 2 }, { blocks: BLOCKS }));
  assert.equal(reading.state, "done");
  while (kernel.held.length > 0) await kernel.held[0]!.release();
  await quiet();
  assert.equal(lost.state, "done");
  assert.deepEqual([file.revocation, file.inode.lease, file.inode.hasPages], [null, "read", true]);
});

Deno.test("xattrs and names are not the data's business: a recall of attributes waits for no access", async () => {
  const under = await startUnder("write");
  const writing = begin(under, WRITE);
  const recalled = recall(under.client, { keep: "write", attributes: true, names: [nameOf("a")] });
  await quiet();
  assert.equal(recalled.state, "done");
  await writing.end();
});

Deno.test(
  "recall of WRITE that leaves READ: the writeback of a mapping that comes meanwhile is waited for as well",
  async () => {
    const under = await startUnder("write");
    const writing = begin(under, WRITE);
    const recalled = recall(under.client, { keep: "read" });
    await quiet();
    const back = begin(under, WRITEBACK);
    await writing.end();
    await quiet();
    assert.ok(
      !(back.hasBegun && back.state === "waits" && recalled.state === "done"),
      "acknowledged while it is written",
    );
  },
);

Deno.test(
  "lost session: what waits without a page of the kernel's keeps none from going",
  async () => {
    const under = await startUnder("read");
    const { client, file } = under;
    const { recalls, kernel, session } = client;
    file.inode.hasPages = true;
    session.isValid = false;
    begin(under, LOOK);
    begin(under, WRITE);
    await quiet();
    await recalls.lost();
    assert.deepEqual(kernel.taken(), ["epoch", `attributes ${INO}`, `pages ${INO} 0+`]);
  },
);

Deno.test("lost session: the pages of a read that was under way go when it ends", async () => {
  const under = await startUnder("read");
  const { recalls, kernel } = under.client;
  const reading = begin(under, accessOf(2 * PAGE, 4 * PAGE));
  await recalls.lost();
  kernel.taken();
  await reading.end();
  await quiet();
  if (reading.state === "done") assert.deepEqual(kernel.taken(), [`pages ${INO} ${2 * PAGE}+${2 * PAGE}`]);
});

Deno.test(
  "lost session: a write that waits for room in the window is not sent under no lease",
  async () => {
    const under = await startUnder("write");
    const { client, handle } = under;
    const { dataservers, recalls } = client;
    const sent = gate();
    dataservers.onWrite = () => sent.opened;
    const how = { append: false, isWriteback: false, killSuidGid: false };
    const half = new Uint8Array(5 * 1024 * 1024);
    await client.files.write(handle, 0, half, how, PATIENT);
    const waiting = watch(client.files.write(handle, half.length, half, how, PATIENT));
    await quiet();
    assert.equal(waiting.state, "waits");
    await recalls.lost();
    const before = dataservers.writes.length;
    await sent.open();
    await quiet();
    const { calls } = client.nameserver;
    if (calls[0]?.method === "blocks") await calls[0].answer({ blocks: BLOCKS, end: 16_384 * PAGE });
    await quiet();
    assert.deepEqual([dataservers.writes.length, under.file.inode.lease], [before, "none"]);
  },
);

Deno.test("recall behind another: a file that is closed meanwhile and opened again is not read under what it takes", async () => {
  const under = await startUnder("write");
  const { client, handle, file } = under;
  const { files, kernel, nameserver } = client;
  const writing = begin(under, WRITE);
  const first = recall(client, { keep: "read" });
  await quiet();
  const closing = files.close(handle);
  file.inode.hasPages = true;
  kernel.holds = (message) => message.startsWith("pages");
  const second = recall(client, { keep: "none" });
  await quiet();
  await writing.end();
  await closing;
  assert.deepEqual([first.state, second.state], ["done", "waits"]);
  const opening = watch(Promise.resolve(files.open(INO, READ_ONLY, PATIENT)));
  await quiet();
  assert.equal(opening.state, "waits", "it asks for a lease");
  await kernel.held[0]!.release();
  assert.equal(second.state, "done");
  await nameserver.answer("acquire", acquireReply(INO, "read", { version: 2 }));
  assert.equal(opening.state, "done");
});

// ---- in the same turn of the event loop

/** Steps of the program until what waits for something has gone on, and some more. */
const STEPS_MAX = 12;

Deno.test("revoke: what reads or writes pages in any step before the lease has gone is waited for, and its pages go", async () => {
  for (const access of [READ, WRITEBACK]) {
    for (let steps = 0; steps <= STEPS_MAX; steps++) {
      const under = await startUnder("read");
      const { kernel, nameserver } = under.client;
      under.file.inode.hasPages = true;
      kernel.holds = (message) => message.startsWith("pages");
      const recalled = recall(under.client, { keep: "none" });
      await quiet();
      kernel.holds = () => false;
      const dropped = kernel.held[0]!.release();
      for (let i = 0; i < steps; i++) await Promise.resolve();
      const reading = begin(under, access);
      const { hasBegun } = reading;
      if (hasBegun) kernel.taken();
      await dropped;
      if (hasBegun) {
        assert.equal(recalled.state, "waits", `${steps} steps`);
        await reading.end();
        assert.ok(kernel.taken().some((message) => message.startsWith("pages")), `${steps} steps`);
      }
      assert.equal(recalled.state, "done", `${steps} steps`);
      if (hasBegun) continue;
      await nameserver.answer("acquire", acquireReply(INO, "write", { version: 2 }));
      await reading.end();
    }
  }
});
