import assert from "node:assert/strict";
import { bytesKey, bytesOf, copyBytes } from "../../../base/bytes.ts";
import { saveFile } from "../../../base/durable_files.ts";
import { silentLogger as log } from "../../../base/log.ts";
import { type Random, randomBytes, randomInt } from "../../../base/random.ts";
import { AutoBackup, type AutoBackupSettings } from "../../../roles/nameserver/auto_backup.ts";
import { BackupReader, encodeBackup } from "../../../roles/nameserver/backup_file.ts";
import { backupOf, Backups } from "../../../roles/nameserver/backups.ts";
import { allocateBlock, markWritten } from "../../../roles/nameserver/block_operations.ts";
import { LevelJournal, type Write } from "../../../roles/nameserver/journal.ts";
import { deletionKey, type Key, retryKey, sessionKey, TABLE_INODE } from "../../../roles/nameserver/keys.ts";
import { databasePath, readIdentity } from "../../../roles/nameserver/layout.ts";
import { Namespace } from "../../../roles/nameserver/namespace.ts";
import * as operations from "../../../roles/nameserver/operations.ts";
import { restoreNameserver } from "../../../roles/nameserver/restore.ts";
import { isErrno } from "../../../wire/errno.ts";
import { asBlockId, asSessionId, asVolumeId, ROOT_INODE } from "../../../wire/ids.ts";
import { FakeClock } from "../../base/fake_clock.ts";
import { seededTest } from "../../base/seeded.ts";
import { lastOperation, Workload } from "../../faults/nameserver/workload.ts";
import { checkNamespace } from "./consistency.ts";
import { FakePeer } from "./fake_peer.ts";
import { makeFile, makeWorld, type World } from "./harness.ts";
import { MemoryJournal } from "./memory_journal.ts";

const HEAD = { clusterId: "c1", layout: 1, timeMs: 1_700_000_000_000, program: "0.1.0" };

async function withDirectory(run: (dir: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir({ prefix: "mfs_backup_" });
  try {
    await run(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

async function bytesOfBackup(journal: MemoryJournal): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const part of encodeBackup(journal.snapshot(), HEAD)) parts.push(part);
  return new Uint8Array(await new Blob(parts as Uint8Array<ArrayBuffer>[]).arrayBuffer());
}

async function readAll(file: string): Promise<Map<string, string>> {
  await using reader = await BackupReader.open(file);
  assert.deepEqual(reader.head, HEAD);
  const records = new Map<string, string>();
  for await (const page of reader.pages()) {
    for (const [key, value] of page) records.set(bytesKey(key), bytesKey(copyBytes(value)));
  }
  return records;
}

const contentOf = (journal: MemoryJournal) =>
  new Map(journal.list().map(([key, value]) => [bytesKey(key), bytesKey(copyBytes(value))]));

seededTest("backup: a file holds every record, and no part of it passes for a whole one", async (random) => {
  await withDirectory(async (dir) => {
    const journal = new MemoryJournal();
    for (let i = 0; i < 35; i++) {
      const size = [0, 10, 3000][randomInt(random, 3)]!;
      journal.append([[randomBytes(random, 1 + randomInt(random, 20)), randomBytes(random, size)]]);
    }
    const file = `${dir}/file`;
    const bytes = await bytesOfBackup(journal);
    await Deno.writeFile(file, bytes);
    assert.deepEqual(await readAll(file), contentOf(journal));
    const spoilt = [
      bytes.subarray(0, 5),
      bytes.subarray(0, bytes.length - 1),
      new Uint8Array([...bytes, 0]),
      ...Array.from({ length: 60 }, () => bytes.subarray(0, randomInt(random, bytes.length))),
      ...Array.from({ length: 60 }, () => {
        const changed = bytes.slice();
        changed[randomInt(random, bytes.length)]! ^= 1 + randomInt(random, 255);
        return changed;
      }),
    ];
    for (const wrong of spoilt) {
      await Deno.writeFile(file, wrong);
      await assert.rejects(
        readAll(file),
        (error) => isErrno(error, "EINVAL") || error instanceof assert.AssertionError,
      );
    }
    await assert.rejects(BackupReader.open(`${dir}/none`), (error) => isErrno(error, "ENOENT"));
  });
});

seededTest(
  "backup: it is of the instant at which it began, whatever is written meanwhile",
  async (random: Random) => {
    await withDirectory(async (dir) => {
      const journal = await LevelJournal.open(`${dir}/db`, { createIfMissing: true, onFailure: assert.fail });
      const seed = randomInt(random, 1_000_000);
      const workload = await Workload.start(journal, seed);
      for (let i = 0; i < 300; i++) await workload.next();
      const { number } = workload;
      const pieces = backupOf(journal, "c1", new FakeClock());
      const first = await pieces.next(); // the head: the snapshot was taken before it
      for (let i = 0; i < 300; i++) await workload.next();
      const rest = async function* () {
        yield first.value as Uint8Array;
        for await (const piece of pieces) {
          yield piece;
          for (let i = 0; i < 30; i++) await workload.next();
        }
      };
      await saveFile(`${dir}/backup`, rest(), { overwrite: false });
      await journal.close();
      await restoreNameserver(`${dir}/backup`, `${dir}/restored`, { force: false });
      const found = await load(`${dir}/restored`);
      assert.equal(lastOperation(found), number);
      checkNamespace(found);
      const twin = new MemoryJournal();
      const same = await Workload.start(twin, seed);
      while (same.number < number) await same.next();
      const files = (journal: MemoryJournal) =>
        journal.list().filter(([key]) => key[0] === TABLE_INODE).map(([key]) => bytesKey(key));
      const orphans = files(twin).filter((ino) => !files(found).includes(ino));
      for (const ino of files(found)) assert.ok(files(twin).includes(ino), `${ino} came after the backup`);
      assert.ok(orphans.length < files(twin).length / 2);
    });
  },
);

async function load(dir: string): Promise<MemoryJournal> {
  const journal = await LevelJournal.open(databasePath(dir), {
    createIfMissing: false,
    onFailure: assert.fail,
  });
  const records = await journal.scan([new Uint8Array([0]), new Uint8Array([0xff])], 1_000_000);
  const found = new MemoryJournal();
  found.append(records.map(([key, value]): Write => [copyBytes(key), copyBytes(value)]));
  await journal.close();
  return found;
}

const volumes = () => [asVolumeId(1), asVolumeId(2)];

/** A file of 100 bytes with a written block and one that was never written to; and things that must not come back. */
async function makeUsed(): Promise<World> {
  const world = await makeWorld();
  const session = asSessionId(7);
  await world.namespace.change((tx) => {
    const file = makeFile(tx, "file");
    operations.grow(tx, file, 100);
    const written = allocateBlock(tx, file, 0, 4096, volumes);
    markWritten(tx, file, [written]);
    allocateBlock(tx, file, 4096, 4096, volumes);
    makeFile(tx, "open");
    operations.remove(tx, ROOT_INODE, bytesOf("open"), false, [session]);
    tx.put(sessionKey(session), bytesOf("a session"));
    tx.put(retryKey(session, 0), bytesOf("an answer"));
    tx.put(deletionKey(asVolumeId(3), asBlockId(1)), new Uint8Array(8));
  });
  return world;
}

Deno.test("restore: what another life of the cluster did is never taken for something else", async () => {
  await withDirectory(async (dir) => {
    const world = await makeUsed();
    const file = `${dir}/backup`;
    await Deno.writeFile(file, await bytesOfBackup(world.journal));
    const restored = await restoreNameserver(file, `${dir}/new`, { force: false });
    assert.deepEqual(restored, { clusterId: "c1", timeMs: HEAD.timeMs, inodes: 2, blocks: 1 });
    assert.deepEqual(await readIdentity(`${dir}/new`), { clusterId: "c1" });
    const found = await load(`${dir}/new`);
    const { inodes, extents, deletions } = checkNamespace(found);
    assert.deepEqual([inodes.size, deletions.size], [2, 0]);
    const left = [...extents.values()].flat().map(({ length, generation }) => [length, generation]);
    assert.deepEqual(left, [[100, 1]], "cut at the file's end, else as it was");
    const tables = new Set(found.list().map(([key]) => key[0]));
    for (const gone of [0x15, 0x17, 0x18, 0x19]) assert.ok(!tables.has(gone), `table ${gone} is empty`);

    const namespace = await Namespace.load(found, world.clock);
    for (const counter of ["inode", "block", "cookie"] as const) {
      assert.ok(namespace.ids.next(counter) > 2 ** 40, counter);
    }
    assert.ok(namespace.ids.next("volume") > 100_000 && namespace.ids.next("volume") < 2 ** 31);
    assert.ok(namespace.ids.generationAfter(1) > 1_000_000);
    const again = namespace.ids.generationAfter(namespace.ids.generationAfter(1));
    assert.equal(again, namespace.ids.generationAfter(1) + 1);

    // A second restoration, of a backup of this one, goes on still further.
    await Deno.writeFile(file, await bytesOfBackup(found));
    await restoreNameserver(file, `${dir}/new`, { force: true });
    const second = await Namespace.load(await load(`${dir}/new`), world.clock);
    assert.ok(second.ids.next("inode") > 2 ** 41);
    assert.ok(second.ids.generationAfter(1) > again + 1_000_000);
  });
});

Deno.test("restore: touches nothing unless the backup is whole and the directory free", async () => {
  await withDirectory(async (dir) => {
    const { journal } = await makeUsed();
    const bytes = await bytesOfBackup(journal);
    const file = `${dir}/backup`;
    await Deno.writeFile(file, bytes);
    const there = `${dir}/there`;
    await restoreNameserver(file, there, { force: false });
    const before = contentOf(await load(there));
    await assert.rejects(
      restoreNameserver(file, there, { force: false }),
      (error) => isErrno(error, "EEXIST"),
    );
    const changed = bytes.slice();
    changed[bytes.length - 40]! ^= 1;
    for (const wrong of [changed, bytes.subarray(0, bytes.length - 20), bytesOf("something else")]) {
      await Deno.writeFile(file, wrong);
      await assert.rejects(
        restoreNameserver(file, there, { force: true }),
        (error) => isErrno(error, "EINVAL"),
      );
      await assert.rejects(
        restoreNameserver(file, `${dir}/no`, { force: false }),
        (error) => isErrno(error, "EINVAL"),
      );
    }
    assert.deepEqual(contentOf(await load(there)), before);
    await assert.rejects(Deno.stat(`${dir}/no`), Deno.errors.NotFound);
  });
});

Deno.test("backups: one is let go when it was read, with its connection, and when nobody reads; four at most", async () => {
  const { journal, namespace, clock } = await makeUsed();
  let open = 0;
  const counted = Object.assign(Object.create(namespace) as Namespace, {
    journal: Object.assign(Object.create(journal) as MemoryJournal, {
      snapshot: () => {
        open++;
        const snapshot = journal.snapshot();
        return { read: (from: Key) => snapshot.read(from), close: () => Promise.resolve(void open--) };
      },
    }),
  });
  const backups = new Backups({ clusterId: "c1", namespace: counted, clock, log });
  const stopping = new AbortController();
  const running = backups.run(stopping.signal);
  const { backupOpen, backupRead } = backups.handlers;
  const peer = new FakePeer();
  const first = await backupOpen({}, peer.context);
  const parts: Uint8Array[] = [];
  for (let page = 0;; page++) {
    const { body, isLast } = await backupRead({ backup: first.backup, page }, peer.context);
    if (isLast) break;
    parts.push(body);
  }
  assert.equal(open, 0);
  await assert.rejects(
    async () => await backupRead({ backup: first.backup, page: 0 }, peer.context),
    (error) => isErrno(error, "ESTALE"),
  );
  const held = await Promise.all([1, 2, 3, 4].map(() => backupOpen({}, peer.context)));
  assert.equal(open, 4);
  await assert.rejects(async () => await backupOpen({}, peer.context), (error) => isErrno(error, "EBUSY"));
  await assert.rejects(
    async () => await backupRead({ backup: held[0]!.backup, page: 1 }, peer.context),
    (error) => isErrno(error, "EINVAL"),
  );
  await clock.advance(50_000);
  await backupRead({ backup: held[0]!.backup, page: 0 }, peer.context);
  await clock.advance(20_000);
  assert.equal(open, 1, "the one that is read stays");
  peer.close();
  await peer.closed;
  await clock.advance(1);
  assert.equal(open, 0);
  await backupOpen({}, new FakePeer().context);
  stopping.abort();
  await running;
  assert.equal(open, 0);
});

Deno.test("automatic backups: one each time, the newest are kept, and a failure shows until it is over", async () => {
  await withDirectory(async (scratch) => {
    const { journal, clock } = await makeUsed();
    const dir = `${scratch}/backups`;
    let settings: AutoBackupSettings | undefined = { dir, everyMs: 3_600_000, keep: 3 };
    const automatic = new AutoBackup({
      ...{ settings: () => settings, clusterId: "0123456789abcdef", journal, clock, log },
    });
    await Deno.mkdir(dir);
    await Deno.writeTextFile(`${dir}/mfs-fedcba98-20200101T000000Z.backup`, "another cluster's");
    await Deno.writeTextFile(`${dir}/mfs-01234567-20200101T000000Z.backup.partial`, "a killed one's");
    const stopping = new AbortController();
    const running = automatic.run(stopping.signal);
    const settle = async (ms: number) => {
      await clock.advance(ms);
      // What it does with files takes real time.
      for (let i = 0; i < 20; i++) {
        await new Promise((resolve) => setTimeout(resolve, 5));
        await clock.advance(0);
      }
    };
    const names = () => [...Deno.readDirSync(dir)].map(({ name }) => name).sort();
    await settle(0);
    assert.equal(names().length, 2, "the first at once");
    const [, oldest] = [automatic.status()!.lastFile, names()[0]!];
    for (let i = 0; i < 4; i++) await settle(3_600_000);
    assert.equal(names().length, 4, "three of ours, and the other's");
    assert.ok(!names().includes(oldest) && names().includes("mfs-fedcba98-20200101T000000Z.backup"));
    assert.ok(automatic.status()!.lastSecondsAgo! < 3600 && automatic.status()!.error === undefined);
    const last = automatic.status()!.lastFile!;
    assert.ok(names().includes(last));
    await using reader = await BackupReader.open(`${dir}/${last}`);
    for await (const page of reader.pages()) assert.ok(page.length > 0);

    // The directory's place is taken away.
    await Deno.rename(dir, `${dir}.gone`);
    await Deno.writeTextFile(dir, "a file");
    await settle(3_600_000);
    assert.notEqual(automatic.status()!.error, undefined);
    await Deno.remove(dir);
    await Deno.rename(`${dir}.gone`, dir);
    await settle(300_000);
    assert.equal(automatic.status()!.error, undefined);
    assert.equal(names().length, 4);
    assert.ok(automatic.status()!.lastFile! > last);

    // Others count at once: another place, fewer of them, none.
    const other = `${scratch}/other`;
    settings = { dir: other, everyMs: 60_000, keep: 1 };
    await settle(2_000);
    assert.equal([...Deno.readDirSync(other)].length, 1);
    for (let i = 0; i < 3; i++) await settle(60_000);
    assert.equal([...Deno.readDirSync(other)].length, 1);
    assert.notEqual(automatic.status()!.lastFile, undefined);
    settings = undefined;
    const [kept] = [...Deno.readDirSync(other)];
    await settle(3_600_000);
    assert.equal(automatic.status(), undefined);
    assert.deepEqual([...Deno.readDirSync(other)].map(({ name }) => name), [kept!.name]);
    settings = { dir: other, everyMs: 60_000, keep: 1 };
    await settle(2_000);
    assert.notEqual([...Deno.readDirSync(other)][0]!.name, kept!.name, "it goes on");
    stopping.abort();
    await running;
  });
});
