import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { randomBytes, randomInt } from "../../../base/random.ts";
import { LevelJournal } from "../../../roles/nameserver/journal.ts";
import { crc32c, endOfRecord, readRecords } from "../../../roles/nameserver/leveldb_log.ts";
import { logName, logNumbers } from "../../../roles/nameserver/log_files.ts";
import { cutLogsAtGap } from "../../../roles/nameserver/log_recovery.ts";
import { isErrno } from "../../../wire/errno.ts";
import { seededTest } from "../../base/seeded.ts";

Deno.test("leveldb log: checksums are CRC-32C", () => {
  assert.equal(crc32c(bytesOf("123456789")), 0xe3069283); // the check value of every catalogue
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa); // RFC 3720, B.4
});

async function withLog(sizes: readonly number[], run: (db: string, log: Uint8Array) => Promise<void>) {
  const dir = await Deno.makeTempDir({ prefix: "mfs_log_" });
  try {
    const journal = await LevelJournal.open(`${dir}/db`, { createIfMissing: true, onFailure: () => {} });
    for (const [i, size] of sizes.entries()) {
      await journal.written(journal.append([[bytesOf(`k${i}`), new Uint8Array(size).fill(1 + i % 250)]]));
    }
    await Deno.mkdir(`${dir}/copy`);
    for (const { name } of Deno.readDirSync(`${dir}/db`)) {
      await Deno.copyFile(`${dir}/db/${name}`, `${dir}/copy/${name}`);
    }
    await journal.close();
    await run(
      `${dir}/copy`,
      await Deno.readFile(`${dir}/copy/${logName(logNumbers(`${dir}/copy`).at(-1)!)}`),
    );
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

seededTest(
  "leveldb log: what LevelDB writes is read record by record, and up to the first that is damaged",
  async (random) => {
    // Records that end near the bound of a block, where its last bytes are filled up.
    const sizes = [
      10,
      32_700,
      ...Array.from({ length: 8 }, (_, i) => 32_690 + i),
      100_000,
      5,
      randomInt(random, 70_000),
    ];
    await withLog(sizes, async (db, log) => {
      const records = [...readRecords(log)];
      assert.equal(records.length, sizes.length);
      assert.equal(endOfRecord(records.at(-1)!), log.length);
      for (const [i, record] of records.entries()) {
        assert.ok(record.data.length >= sizes[i]! + 12);
        assert.equal(endOfRecord(record) <= (records[i + 1]?.offset ?? log.length), true);
      }
      for (let round = 0; round < 200; round++) {
        const at = randomInt(random, log.length);
        const isDamaged = round % 2 === 0;
        const broken = isDamaged ? log.slice() : log.slice(0, at);
        if (isDamaged) broken[at]! ^= 1 + randomInt(random, 255);
        const found = [...readRecords(broken)];
        const whole = records.filter((record) => endOfRecord(record) <= at).length;
        // Bytes that fill a block up belong to no record.
        assert.ok(
          found.length === whole || found.length === records.length,
          `${found.length} of ${whole} at ${at}`,
        );
        for (const [i, record] of found.entries()) assert.deepEqual(record.data, records[i]!.data);
      }
      assert.deepEqual([...readRecords(randomBytes(random, 5000))], []);

      // The third record is lost: what is behind it would be there without it.
      assert.equal(await cutLogsAtGap(db), null, "a log without a gap is left alone");
      const name = logName(logNumbers(db).at(-1)!);
      const gap = log.slice();
      gap.fill(0, records[2]!.offset, records[3]!.offset);
      await Deno.writeFile(`${db}/${name}`, gap);
      const cut = await cutLogsAtGap(db);
      assert.deepEqual(cut, { bytes: log.length - endOfRecord(records[1]!), batches: 0, kept: `${db}.cut` });
      assert.deepEqual(await Deno.readFile(`${db}.cut/${name}`), gap);
      const journal = await LevelJournal.open(db, { createIfMissing: false, onFailure: () => {} });
      const there = await journal.scan([bytesOf("k"), bytesOf("l")], 100);
      assert.equal(there.length, 2);
      await assert.rejects(
        LevelJournal.open(db, { createIfMissing: false, onFailure: () => {} }),
        (error) => isErrno(error, "EBUSY"),
      );
      await journal.close();
    });
  },
);

Deno.test("leveldb log: a MANIFEST whose last edit is torn loses it, one that is damaged before is refused", async () => {
  await withLog([10, 20], async (db) => {
    const name = (await Deno.readTextFile(`${db}/CURRENT`)).trimEnd();
    const whole = await Deno.readFile(`${db}/${name}`);
    const edits = [...readRecords(whole)];
    assert.ok(edits.length >= 2);
    // As a power cut leaves an edit whose pages did not reach the disk.
    const torn = new Uint8Array(whole.length + 60);
    torn.set(whole);
    torn.set(whole.subarray(0, 7), whole.length);
    await Deno.writeFile(`${db}/${name}`, torn);
    assert.deepEqual(await cutLogsAtGap(db), { bytes: 60, batches: 0, kept: `${db}.cut` });
    assert.deepEqual(await Deno.readFile(`${db}.cut/${name}`), torn);
    assert.deepEqual(await Deno.readFile(`${db}/${name}`), whole);

    const damaged = whole.slice();
    damaged[edits[0]!.offset + 8]! ^= 1;
    await Deno.writeFile(`${db}/${name}`, damaged);
    assert.equal(await cutLogsAtGap(db), null);
    assert.deepEqual(await Deno.readFile(`${db}/${name}`), damaged);
    const open = () => LevelJournal.open(db, { createIfMissing: false, onFailure: () => {} });
    await assert.rejects(open(), /checksum mismatch\): restore it from a backup/);

    await Deno.writeFile(`${db}/${name}`, torn);
    const journal = await open();
    const there = await journal.scan([bytesOf("k"), bytesOf("l")], 100);
    assert.equal(there.length, 2);
    await journal.close();
  });
});
