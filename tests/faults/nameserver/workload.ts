/**
 * Random operations on a namespace, the same for the same seed on any journal: the program under test runs them on
 * a real one, the test on one in memory, to know what must be there after each.
 */

import { bytesOf, EMPTY_BYTES, textOf } from "../../../base/bytes.ts";
import type { Clock } from "../../../base/clock.ts";
import { type Random, randomBytes, randomInt, SeededRandom } from "../../../base/random.ts";
import { allocateBlock } from "../../../roles/nameserver/block_operations.ts";
import type { Journal } from "../../../roles/nameserver/journal.ts";
import { metaKey } from "../../../roles/nameserver/keys.ts";
import { Namespace } from "../../../roles/nameserver/namespace.ts";
import * as operations from "../../../roles/nameserver/operations.ts";
import { isDirectory } from "../../../roles/nameserver/records.ts";
import type { Transaction } from "../../../roles/nameserver/transaction.ts";
import { setXattr } from "../../../roles/nameserver/xattrs.ts";
import { FsError } from "../../../wire/errno.ts";
import { asSessionId, asVolumeId, type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import { S_IFDIR, S_IFREG } from "../../../wire/messages/inode.ts";
import { chance, pick } from "../../base/seeded.ts";

const NUMBER = metaKey("operation");
const BLOCK_BYTES = 1 << 20;

/** The number of the last operation that a journal holds; 0: none. */
export function lastOperation(journal: Journal): number {
  const value = journal.get(NUMBER);
  return value === undefined ? 0 : Number(textOf(value));
}

export class Workload {
  readonly #namespace: Namespace;
  readonly #random: Random;
  readonly #directories: InodeId[] = [ROOT_INODE];
  /** Number of the last operation that was begun. */
  number: number;

  private constructor(namespace: Namespace, seed: number, number: number) {
    this.#namespace = namespace;
    this.#random = new SeededRandom(seed);
    this.number = number;
  }

  /** Goes on with what the journal holds; makes the root of an empty one. */
  static async start(journal: Journal, seed: number): Promise<Workload> {
    // Time that says which operation it is: the same on every journal.
    let workload: Workload | undefined = undefined;
    const clock: Clock = {
      monotonicMs: () => 0,
      now: () => ({ seconds: (workload as Workload | undefined)?.number ?? 0, nanoseconds: 0 }),
      sleep: () => Promise.resolve(),
    };
    const namespace = await Namespace.load(journal, clock);
    const number = lastOperation(journal);
    if (number === 0) {
      const owner = { uid: 0, gid: 0 };
      await namespace.change((tx) => {
        operations.makeRoot(tx, 2, owner);
        tx.put(NUMBER, bytesOf("1"));
      }, true);
    }
    return workload = new Workload(namespace, seed, Math.max(1, number));
  }

  /** Begins the next operation; resolves when it is written, or on disk. It may change nothing but the number. */
  async next(durable = false): Promise<void> {
    this.number++;
    let tx = this.#namespace.begin();
    try {
      this.#operation(tx);
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      tx = this.#namespace.begin(); // what is refused leaves nothing
    }
    tx.put(NUMBER, bytesOf(String(this.number)));
    const position = tx.commit();
    const { journal } = this.#namespace;
    await (durable ? journal.durable(position) : journal.written(position));
  }

  #operation(tx: Transaction): void {
    const random = this.#random;
    const parent = pick(random, this.#directories);
    const name = bytesOf(`name${randomInt(random, 12)}`);
    const credentials = { uid: 1000, gid: 100 };
    const roll = random.next();
    if (roll < 0.35) {
      const isDir = chance(random, 0.2);
      const mode = isDir ? S_IFDIR | 0o755 : S_IFREG | 0o644;
      const made = operations.make(tx, parent, name, { credentials, mode, rdev: 0, target: EMPTY_BYTES });
      if (isDir && this.#directories.length < 20) this.#directories.push(made.ino);
      return;
    }
    if (roll < 0.5) {
      const isRmdir = chance(random, 0.2);
      const sessions = !isRmdir && chance(random, 0.2) ? [asSessionId(1 + randomInt(random, 3))] : [];
      return void operations.remove(tx, parent, name, isRmdir, sessions);
    }
    const other = pick(random, this.#directories);
    const otherName = bytesOf(`name${randomInt(random, 12)}`);
    if (roll < 0.65) return void operations.rename(tx, parent, name, other, otherName, 0, []);
    const inode = operations.lookup(tx, parent, name);
    if (inode === undefined || isDirectory(inode)) throw new FsError("ENOENT", "no file of that name");
    if (roll < 0.7) return void operations.link(tx, inode.ino, other, otherName);
    if (roll < 0.9) {
      const offset = randomInt(random, 20) * BLOCK_BYTES;
      operations.grow(tx, inode, offset + 1 + randomInt(random, BLOCK_BYTES));
      const first = 1 + randomInt(random, 4);
      return void allocateBlock(
        tx,
        inode,
        offset,
        BLOCK_BYTES,
        () => [asVolumeId(first), asVolumeId(first + 1)],
      );
    }
    if (roll < 0.95) {
      const size = randomInt(random, 20 * BLOCK_BYTES);
      return void operations.setAttributes(tx, { ino: inode.ino, size, retry: { slot: 0, sequence: 0 } });
    }
    // Now and then one that takes many blocks of the log.
    const size = chance(random, 0.2) ? 40_000 : 200;
    setXattr(tx, inode, bytesOf(`user.${randomInt(random, 3)}`), randomBytes(random, size), 0);
  }
}
