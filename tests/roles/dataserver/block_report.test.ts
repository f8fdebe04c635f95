/** Block reports when something is in their way: what a volume has is heard from nobody else. */

import { deepEqual, equal } from "node:assert/strict";
import { systemDisk } from "../../../roles/dataserver/disk.ts";
import { FsError } from "../../../wire/errno.ts";
import { asBlockId, type VolumeId } from "../../../wire/ids.ts";
import { connectTo, FakeRegistry, GENERATION, pattern, start, until, withDirectory } from "./harness.ts";

async function write(server: Parameters<typeof connectTo>[0], volume: VolumeId, block: number) {
  using client = await connectTo(server);
  const at = { block: asBlockId(block), generation: GENERATION, volume, chain: [] };
  await client.call.writeBlock({ ...at, offset: 0, create: true, body: pattern(1000, block) });
}

Deno.test("block report: one that is refused is sent again, and does not hold up those of other volumes", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const asked: VolumeId[] = [];
    let refusals = 2;
    registry.answerReport = ({ volume }) => {
      asked.push(volume);
      if (volume === asked[0] && refusals-- > 0) {
        throw new FsError("EIO", "the nameserver can't read its disk");
      }
      return { stale: [], unknown: [] };
    };
    await using server = await start(registry, [`${directory}/a`, `${directory}/b`]);
    const [first, second] = server.volumes.map(({ volume }) => volume);
    await until(() => asked.length === 4, "the report of the first volume is sent until it is taken");
    deepEqual(asked, [first, second, first, first]);
    equal(registry.registrations.length, 1);
  }));

Deno.test("block report: a replica that can't be kept aside does not hold up the report of what comes after it", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    let isBroken = false;
    const disk: typeof systemDisk = {
      ...systemDisk,
      rename: async (from, to) => {
        if (isBroken && to.includes("/trash/1.")) throw new FsError("EIO", `${from}: I/O error`);
        return await systemDisk.rename(from, to);
      },
    };
    await using server = await start(registry, [`${directory}/a`], { disk });
    const { volume } = server.volumes[0]!;
    for (const block of [1, 2]) await write(server, volume, block);
    isBroken = true;
    const reports = registry.reports.length;
    registry.answerReport = ({ replicas }) => ({ stale: [], unknown: replicas.map(({ block }) => block) });
    await registry.restart();
    await until(() => registry.reports.length > reports, "the report that follows the registration");
    const kept = () =>
      [...Deno.readDirSync(`${directory}/a/trash`)].some(({ name }) => name.startsWith("2."));
    await until(kept, "the other is kept aside");
  }));

Deno.test("block report: what the nameserver can't tell of yet is reported by itself until it can", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    await using server = await start(registry, [`${directory}/a`]);
    const { volume } = server.volumes[0]!;
    for (const block of [1, 2]) await write(server, volume, block);
    const asked: string[] = [];
    registry.answerReport = ({ from, to, replicas }) => {
      asked.push(`${from} ${replicas.map(({ block }) => block)}`);
      const isSettled = asked.length > 2;
      if (isSettled && to === 3) return { stale: [], unknown: [asBlockId(2)] };
      return { stale: [], unknown: [], again: [asBlockId(2)] };
    };
    await registry.restart();
    const kept = () =>
      [...Deno.readDirSync(`${directory}/a/trash`)].some(({ name }) => name.startsWith("2."));
    await until(kept, "it is kept aside when it is said to be unknown");
    deepEqual(asked, ["0 1,2", "2 2", "2 2"]);
  }));

Deno.test("block report: that of a single replica, which has changed since, is sent until it is taken", () =>
  withDirectory(async (directory) => {
    await using registry = new FakeRegistry();
    const isAsked = Promise.withResolvers<void>();
    const mayGoOn = Promise.withResolvers<void>();
    let isHeld = false;
    const disk: typeof systemDisk = {
      ...systemDisk,
      syncData: async (fd, path) => {
        await systemDisk.syncData(fd, path);
        if (!isHeld) return;
        isAsked.resolve();
        await mayGoOn.promise;
      },
    };
    await using source = await start(registry, [`${directory}/a`]);
    await using other = new FakeRegistry();
    await using target = await start(other, [`${directory}/b`], { disk });
    await write(source, source.volumes[0]!.volume, 1);
    isHeld = true;
    const { volume } = target.volumes[0]!;
    const from = { node: source.node, volume: source.volumes[0]!.volume, address: source.address };
    const request = { volume, block: asBlockId(1), generation: GENERATION, source: from };
    other.pushes().copyReplica(request).catch(() => {}); // who asked is gone
    await isAsked.promise;
    const reports = other.reports.length;
    await other.restart();
    await until(() => other.reports.length > reports, "the report that follows the registration");
    let refusals = 1;
    let taken = 0;
    other.answerReport = ({ to }) => {
      if (to === 2 && refusals-- > 0) throw new FsError("EIO", "the nameserver can't read its disk");
      if (to === 2) taken++;
      return { stale: [], unknown: [] };
    };
    mayGoOn.resolve();
    await until(() => taken === 1, "a report of the replica as it is now");
  }));
