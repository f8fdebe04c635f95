/** The descriptors of block files: closed once and not used after that, as their numbers are other files' then. */

import { deepEqual, equal } from "node:assert/strict";
import { type Disk, systemDisk } from "../../../roles/dataserver/disk.ts";
import { asBlockId } from "../../../wire/ids.ts";
import { connectTo, FakeRegistry, GENERATION, pattern, start, until, withDirectory } from "./harness.ts";

/** The system's; notes what is done with a descriptor that is not open. A sync of a checksum file waits until `go`. */
function watchedDisk() {
  const open = new Set<number>();
  const bad: string[] = [];
  const gate = Promise.withResolvers<void>();
  const state = { isSyncing: false };
  const check = (fd: number, what: string) => void (open.has(fd) || bad.push(`${what} of ${fd}`));
  const disk: Disk = {
    ...systemDisk,
    open: async (path, flags) => {
      const fd = await systemDisk.open(path, flags);
      open.add(fd);
      return fd;
    },
    close: (fd) => {
      check(fd, "close");
      if (open.delete(fd)) systemDisk.close(fd);
    },
    syncData: async (fd, path) => {
      check(fd, `sync of ${path}`);
      if (path.endsWith(".crc")) {
        state.isSyncing = true;
        await gate.promise;
      }
      if (open.has(fd)) await systemDisk.syncData(fd, path);
    },
  };
  return { disk, open, bad, state, go: gate.resolve };
}

Deno.test("a replica that is deleted while it is being finalized is closed once", () =>
  withDirectory(async (directory) => {
    const { disk, open, bad, state, go } = watchedDisk();
    await using registry = new FakeRegistry();
    {
      await using server = await start(registry, [`${directory}/v`], { disk });
      using client = await connectTo(server);
      const { volume } = server.volumes[0]!;
      const block = asBlockId(1);
      await client.call.writeBlock({
        ...{ block, generation: GENERATION, volume, chain: [], create: true },
        ...{ offset: 0, body: pattern(1000, 1) },
      });
      await until(() => state.isSyncing, "its checksums are written to the disk");
      await registry.pushes().deleteBlocks({ volume, blocks: [block] });
      await until(() => registry.deleted.length === 1, "it is deleted");
      go();
    }
    deepEqual(bad, []);
    equal(open.size, 0, "nothing is left open");
  }));
