/** Checks of a file system that changes all the time, and that is damaged nowhere: they find nothing. */

import assert from "node:assert/strict";
import { type Random, randomInt } from "../../../base/random.ts";
import {
  allocateBlock,
  extendBlock,
  markWritten,
  punchExtents,
} from "../../../roles/nameserver/block_operations.ts";
import { extentsIn } from "../../../roles/nameserver/extents.ts";
import { deletionKey, getU64, TABLE_DELETION, tableRange } from "../../../roles/nameserver/keys.ts";
import * as operations from "../../../roles/nameserver/operations.ts";
import { type Extent, isDirectory } from "../../../roles/nameserver/records.ts";
import { setXattr } from "../../../roles/nameserver/xattrs.ts";
import { fsck } from "../../../roles/admin/fsck.ts";
import { FsError } from "../../../wire/errno.ts";
import { asBlockId, type InodeId, ROOT_INODE, type SessionId } from "../../../wire/ids.ts";
import { settle } from "../../base/fake_clock.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";
import { checkNamespace } from "./consistency.ts";
import { BLOCK_BYTES, type FsckWorld, kindsOf, makeFsckWorld, name, replicaOf } from "./fsck_world.ts";
import { makeDirectory, makeFile } from "./harness.ts";
import { REPLICATION, ServiceClient } from "./service.ts";

const NAMES = ["a", "b", "c", "d", "e"];

class Changes {
  readonly #world: FsckWorld;
  readonly #random: Random;
  #directories: InodeId[] = [ROOT_INODE];
  #files: InodeId[] = [];
  #clients: ServiceClient[] = [];
  #count = 0;

  constructor(world: FsckWorld, random: Random) {
    this.#world = world;
    this.#random = random;
  }

  /** One change; what the tree refuses is none. */
  async step(): Promise<void> {
    try {
      await this.#step();
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
    }
  }

  async #step(): Promise<void> {
    const random = this.#random;
    const { namespace, leaseserver } = this.#world;
    const parent = () => pick(random, this.#directories);
    const called = () => name(pick(random, NAMES));
    const roll = random.next();
    if (roll < 0.1) {
      this.#directories.push(
        (await namespace.change((tx) => makeDirectory(tx, pick(random, NAMES), parent()))).ino,
      );
    } else if (roll < 0.25) {
      this.#files.push((await namespace.change((tx) => makeFile(tx, pick(random, NAMES), parent()))).ino);
    } else if (roll < 0.3 && this.#files.length > 0) {
      await namespace.change((tx) => void operations.link(tx, pick(random, this.#files), parent(), called()));
    } else if (roll < 0.45) await this.#rename(parent(), called(), parent(), called());
    else if (roll < 0.55) await this.#remove(parent(), called());
    else if (roll < 0.8 && this.#files.length > 0) await this.#data(pick(random, this.#files));
    else if (roll < 0.85) {
      this.#clients.push(await ServiceClient.connect(this.#world, `c${this.#count++}`));
    } else if (roll < 0.9 && this.#clients.length > 0) {
      // Not waited for: what it held goes little by little.
      const at = randomInt(random, this.#clients.length);
      leaseserver.sessions.end(this.#clients.splice(at, 1)[0]!.session, "done");
    } else await this.#delete();
    const tx = namespace.begin();
    this.#directories = this.#directories.filter((ino) => tx.findInode(ino) !== undefined);
    this.#files = this.#files.filter((ino) => tx.findInode(ino) !== undefined);
  }

  #openIn(): SessionId[] {
    const sessions = this.#world.leaseserver.sessions;
    return this.#clients.filter((client) => chance(this.#random, 0.4) && sessions.isAlive(client.session))
      .map(({ session }) => session);
  }

  async #remove(parent: InodeId, entry: Uint8Array): Promise<void> {
    const { namespace } = this.#world;
    await namespace.change((tx) => {
      const target = operations.lookup(tx, parent, entry);
      if (target === undefined) return;
      const openIn = isDirectory(target) ? [] : this.#openIn();
      const inode = operations.remove(tx, parent, entry, isDirectory(target), openIn);
      if (inode.nlink === 0 && openIn.length > 0) namespace.noteOrphan(inode.ino, openIn);
    });
  }

  async #rename(from: InodeId, old: Uint8Array, to: InodeId, entry: Uint8Array): Promise<void> {
    const { namespace } = this.#world;
    await namespace.change((tx) => {
      const target = operations.lookup(tx, to, entry);
      const openIn = target === undefined || isDirectory(target) ? [] : this.#openIn();
      const { replaced } = operations.rename(
        tx,
        from,
        old,
        to,
        entry,
        chance(this.#random, 0.3) ? 2 : 0,
        openIn,
      );
      if (replaced?.nlink === 0 && openIn.length > 0) namespace.noteOrphan(replaced.ino, openIn);
    });
  }

  async #data(ino: InodeId): Promise<void> {
    const { namespace, registry, volumes, recovery } = this.#world;
    const random = this.#random;
    const roll = random.next();
    const offset = randomInt(random, 6) * BLOCK_BYTES + randomInt(random, BLOCK_BYTES);
    if (roll < 0.4) {
      const extent = await namespace.change((tx) =>
        allocateBlock(tx, tx.inode(ino), offset, BLOCK_BYTES, () => registry.place(REPLICATION, "", []))
      );
      await settle();
      for (const volume of volumes) {
        if (extent.volumes.includes(volume.volume)) volume.replicas.set(extent.block, replicaOf(extent));
      }
      await settle();
      await namespace.change((tx) => {
        const inode = tx.change(tx.inode(ino));
        operations.grow(tx, inode, offset + 1);
        markWritten(tx, inode, [extent]);
      });
    } else if (roll < 0.6) {
      await namespace.change((tx) => operations.setAttributes(tx, { ino, size: offset } as never));
    } else if (roll < 0.7) {
      await namespace.change((tx) => punchExtents(tx, tx.inode(ino), offset, offset + 3 * BLOCK_BYTES));
    } else if (roll < 0.8) {
      await namespace.change((tx) => {
        const inode = tx.inode(ino);
        const last: Extent | undefined = extentsIn(tx, inode, 0, Infinity, Infinity).at(-1);
        if (last !== undefined) extendBlock(tx, inode, last.start + last.length, last.block, BLOCK_BYTES);
      });
    } else if (roll < 0.9) {
      await namespace.change((tx) => void setXattr(tx, tx.inode(ino), name("user.x"), name("x"), 0));
    } else {
      const tx = namespace.begin();
      const extent = extentsIn(tx, tx.inode(ino), 0, Infinity, 1)[0];
      if (extent === undefined) return;
      await recovery.replicasFailed(ino, extent.start, extent.block, extent.generation, []);
    }
  }

  /** As dataservers do that are told of deletions. */
  async #delete(): Promise<void> {
    const { journal, volumes } = this.#world;
    for (const [key] of journal.list(tableRange(TABLE_DELETION))) {
      const block = asBlockId(getU64(key, 9));
      const volume = volumes.find((one) => one.volume === getU64(key, 1))!;
      volume.replicas.delete(block);
      await settle();
      journal.append([[deletionKey(volume.volume, block), null]]);
    }
  }
}

/** What a check reads and hears takes its time. */
function slowDown(world: FsckWorld, random: Random): void {
  const wait = async () => {
    for (let i = randomInt(random, 4); i >= 0; i--) await settle();
  };
  const { journal } = world;
  const snapshot = journal.snapshot.bind(journal);
  journal.snapshot = () => {
    const taken = snapshot();
    const scan: typeof taken.scan = async (range, limit) => {
      await wait();
      return await taken.scan(range, limit);
    };
    return {
      get: (key) => taken.get(key),
      scan,
      read: (from) => taken.read(from),
      close: () => taken.close(),
    };
  };
  for (const volume of world.volumes) volume.onList = wait;
}

seededTest("fsck: a file system that changes all the time is clean", async (random) => {
  for (let round = 0; round < 4; round++) {
    const world = await makeFsckWorld();
    slowDown(world, random);
    const changes = new Changes(world, random);
    for (let i = 0; i < 80; i++) await changes.step();
    for (let i = 0; i < 4; i++) {
      let isDone = false;
      const running = fsck({
        ...{ nameserver: "n:1", dialer: world.dialer, isQuiet: true },
        ...chance(random, 0.5) ? { verifyBytesPerSecond: 1e9 } : {},
      }).finally(() => isDone = true);
      running.catch(() => {});
      let steps = 0;
      for (let quiet = 0; !isDone;) {
        // When nothing more comes of it, time goes on.
        if (steps < 150) {
          steps++;
          await changes.step();
        } else if (++quiet % 10 === 0) await world.clock.advance(100);
        await settle();
        for (const { node } of world.registry.status()) world.registry.heartbeat(node as never, []);
      }
      const result = await running;
      assert.deepEqual(kindsOf(result), [], JSON.stringify(result.problems));
      assert.deepEqual(result.strays, []);
      assert.deepEqual(result.unchecked, []);
    }
    checkNamespace(world.journal);
  }
});
