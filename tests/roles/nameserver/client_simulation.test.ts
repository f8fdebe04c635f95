/** Many clients of the whole service at once: what they keep is at every moment what the nameserver would answer. */

import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { type Random, randomInt } from "../../../base/random.ts";
import * as operations from "../../../roles/nameserver/operations.ts";
import { type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import { settle } from "../../base/fake_clock.ts";
import { chance, pick, seededTest } from "../../base/seeded.ts";
import { Schedule } from "../leaseserver/schedule.ts";
import { ABSENT, CachingClient, isExpected } from "./caching_client.ts";
import { checkNamespace } from "./consistency.ts";
import { endLingering, makeService, type Service, ServiceClient } from "./service.ts";

const NAMES = ["a", "b", "c"];

interface World {
  readonly random: Random;
  readonly service: Service;
  readonly schedule: Schedule;
  readonly directories: readonly InodeId[];
  readonly clients: readonly CachingClient[];
}

/** Something that an application does with a name that it has picked. */
async function step({ random, directories }: World, client: CachingClient): Promise<void> {
  const place = (): readonly [InodeId, string] => [pick(random, directories), pick(random, NAMES)];
  const [parent, name] = place();
  const roll = random.next();
  if (roll < 0.2) await client.lookup(parent, name);
  else if (roll < 0.25) await client.list(pick(random, directories));
  else if (roll < 0.3) await client.getattr(pick(random, directories));
  else if (roll < 0.33) {
    await client.setattr(pick(random, directories), { mode: 0o700 + randomInt(random, 64) });
  } else if (roll < 0.5) await useFile(random, client, await client.lookup(parent, name));
  else if (roll < 0.7) {
    const write = chance(random, 0.5);
    const ino = await client.create(parent, name, chance(random, 0.3), write);
    await work(random, client, ino, write);
  } else if (roll < 0.85) await client.unlink(parent, name);
  else if (roll < 0.95) {
    const to = place();
    await client.rename([parent, name], to, chance(random, 0.2) ? 2 : 0);
  } else {
    const ino = await client.lookup(...place());
    if (ino !== ABSENT) await client.link(ino, parent, name);
  }
}

async function useFile(random: Random, client: CachingClient, ino: InodeId): Promise<void> {
  if (ino === ABSENT) return;
  const roll = random.next();
  if (roll < 0.3) return await client.getattr(ino);
  if (roll < 0.45) return await client.setattr(ino, { mode: 0o600 + randomInt(random, 64) });
  if (roll < 0.55) return await client.setattr(ino, { size: randomInt(random, 9) });
  const write = chance(random, 0.5);
  await client.open(ino, write);
  await work(random, client, ino, write);
}

/** Uses a file that is open, and closes it. */
async function work(random: Random, client: CachingClient, ino: InodeId, write: boolean): Promise<void> {
  for (let i = randomInt(random, 4); i > 0; i--) {
    if (write) await client.append(ino);
    else await client.getattr(ino);
  }
  await client.close(ino, write);
}

async function application(world: World, client: CachingClient, steps: number): Promise<void> {
  const { random, schedule } = world;
  for (let i = 0; i < steps; i++) {
    try {
      await step(world, client);
    } catch (error) {
      if (!isExpected(error)) throw error;
    }
    if (chance(random, 0.2)) await client.release(() => chance(random, 0.2));
    if (chance(random, 0.3)) await schedule.delay();
  }
}

/** Compares what each client would show without asking with what the nameserver has. */
function assertExact({ service, clients, directories }: World): void {
  const tx = service.namespace.begin();
  for (const client of clients) {
    const who = `session ${client.rpc.session}`;
    for (const [ino, inode] of client.inodes) {
      if (inode.opened > 0) {
        assert.ok(tx.findInode(ino) !== undefined, `${who} has ${ino} open, and it is gone`);
      }
      if (inode.lease === "none") continue;
      const now = tx.findInode(ino);
      // What is gone nobody can ask for.
      if (
        now !== undefined && inode.attributes !== null && inode.changing === 0 && client.changingUnknown === 0
      ) {
        assert.equal(inode.attributes.version, now.version, `${who} keeps attributes of ${ino}`);
      }
      if (!directories.includes(ino)) continue;
      for (const [name, kept] of inode.names) {
        const found = operations.lookup(tx, ino, bytesOf(name))?.ino ?? ABSENT;
        assert.equal(kept, found, `${who} keeps "${name}" of ${ino}`);
      }
    }
  }
  const written = new Map<InodeId, number>();
  for (const client of clients) {
    for (const [ino, { lease }] of client.inodes) {
      if (lease === "write") written.set(ino, (written.get(ino) ?? 0) + 1);
    }
  }
  for (const [ino, count] of written) {
    assert.equal(count, 1, `WRITE on ${ino}`);
    const readers = clients.filter(({ inodes }) => inodes.get(ino)?.lease === "read");
    assert.equal(readers.length, 0, `READ beside WRITE on ${ino}`);
  }
}

async function simulate(random: Random): Promise<void> {
  const service = await makeService();
  const schedule = new Schedule(random, service.clock);
  const setUp = await ServiceClient.connect(service, "set up");
  const directories = [ROOT_INODE, await setUp.mkdir("d")];
  service.leaseserver.sessions.end(setUp.session, "done");
  const clients: CachingClient[] = [];
  for (let i = 2 + randomInt(random, 3); i > 0; i--) {
    clients.push(await CachingClient.connect(service, schedule, `c${i}`));
  }
  const world: World = { random, service, schedule, directories, clients };
  const { sessions } = service.leaseserver;
  const tick = () => {
    for (const { peer } of clients) sessions.of(peer);
    assertExact(world);
    if (chance(random, 0.1)) service.journal.hold();
    else if (chance(random, 0.3)) service.journal.release();
  };
  const working = clients.flatMap((client) => [1, 2].map(() => application(world, client, 20)));
  await schedule.run(Promise.all(working), tick);
  service.journal.release();
  await schedule.run(Promise.all(clients.map((client) => client.release(() => true))), tick);
  service.journal.release();
  await settle();
  await endLingering(service);
  const { inodes } = checkNamespace(service.journal);
  for (const { ino, nlink } of inodes.values()) {
    assert.ok(nlink > 0, `${ino} is left, though nobody has it open`);
  }
}

seededTest("service: what many clients keep is at every moment what the nameserver has", async (random) => {
  for (let round = 0; round < 40; round++) await simulate(random);
});
