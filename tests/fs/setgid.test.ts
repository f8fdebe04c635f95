/** Setgid without the right to execute, under writes of who is not in the group. */

import assert from "node:assert/strict";
import type { AttributeChanges, FileSystemHandlers, RequestContext } from "../../fs/kernel/handlers.ts";
import { withForeignSetgid } from "../../fs/setgid.ts";
import { ERRNO } from "../../wire/errno.ts";
import { INO, inodeReply, know, OTHER, PATIENT, quiet, startClient } from "./client.ts";

const CONTEXT: RequestContext = { uid: 7, gid: 8, pid: 4711, signal: PATIENT.signal };
const GROUPS = [20, 21];
const MARKED = 0o102767;

/** The changes by `context` that a file of such a mode and group meets, with what each had to wait for. */
async function changes(mode: number, gid: number, context = CONTEXT) {
  const client = startClient();
  know(client, INO, "write", { mode, gid });
  know(client, OTHER, "read", { mode: MARKED, gid });
  const done: string[] = [];
  const noted = (name: string) => () => {
    done.push(name);
    return 0;
  };
  const names = ["setattr", "open", "write", "fallocate", "copyFileRange", "getattr"];
  const inner = Object.fromEntries(names.map((name) => [name, noted(name)])) as FileSystemHandlers;
  const asked: number[] = [];
  const groupsOf = (tid: number) => {
    asked.push(tid);
    return Promise.resolve(GROUPS);
  };
  const handlers = withForeignSetgid(inner, { ...client, groupsOf }) as Required<FileSystemHandlers>;
  const size: AttributeChanges = { size: 0, killSuidGid: true };
  const how = { openFlags: 1, fromPageCache: false, killSuidGid: true };
  const calls: Record<string, () => unknown> = {
    write: () => handlers.write(context, INO, 1, 0, new Uint8Array(1), how),
    truncate: () => handlers.setattr(context, INO, size),
    open: () => handlers.open(context, INO, 0, true),
    fallocate: () => handlers.fallocate(context, INO, 1, 0, 10, 0),
    copy: () =>
      handlers.copyFileRange(
        context,
        { nodeid: OTHER, fh: 2, offset: 0 },
        { nodeid: INO, fh: 1, offset: 0 },
        9,
      ),
    privilegedWrite: () =>
      handlers.write(context, INO, 1, 0, new Uint8Array(1), { ...how, killSuidGid: false }),
    chown: () => handlers.setattr(context, INO, { uid: 9, killSuidGid: true }),
    getattr: () => handlers.getattr(context, INO, undefined),
  };
  const taken: Record<string, number | "at once"> = {};
  for (const [name, call] of Object.entries(calls)) {
    done.length = 0;
    const running = call();
    if (!(running instanceof Promise)) {
      assert.equal(done.length, 1);
      taken[name] = "at once";
      continue;
    }
    await quiet();
    const sent = client.nameserver.calls.find(({ method }) => method === "setattr");
    if (sent !== undefined) {
      assert.deepEqual(done, [], `${name} comes after`);
      const { mode: left } = sent.request as { mode: number };
      await client.nameserver.answer("setattr", inodeReply(INO, "write", { mode, gid }));
      taken[name] = left;
    }
    await running;
    assert.equal(done.length, 1);
  }
  return { taken, asked };
}

Deno.test("setgid: goes before a change by who is not in the group, and by nothing else", async () => {
  const { taken, asked } = await changes(MARKED, 99);
  assert.deepEqual(taken, {
    ...{ write: 0o767, truncate: 0o767, open: 0o767, fallocate: 0o767, copy: 0o767 },
    ...{ privilegedWrite: "at once", chown: "at once", getattr: "at once" },
  });
  assert.ok(asked.every((tid) => tid === CONTEXT.pid));
});

Deno.test("setgid: setuid goes with it, the sticky bit stays", async () => {
  assert.equal((await changes(0o107666, 99)).taken["write"], 0o1666);
});

Deno.test("setgid: stays for the group's members, supplementary ones as well", async () => {
  const own = await changes(MARKED, CONTEXT.gid);
  assert.deepEqual([own.taken["write"], own.asked], [undefined, []]);
  assert.equal((await changes(MARKED, GROUPS[1]!)).taken["write"], undefined);
});

Deno.test("setgid: nobody is asked about files without it, or with the right to execute", async () => {
  for (const mode of [0o100767, 0o102777, 0o104767, 0o042767]) {
    const { taken, asked } = await changes(mode, 99);
    assert.ok(Object.values(taken).every((what) => what === "at once"), mode.toString(8));
    assert.deepEqual(asked, []);
  }
});

Deno.test("setgid: chown that leaves both owners takes bits off one's own file, and is refused for another's", async () => {
  const nothing: AttributeChanges = { killSuidGid: true };
  const chown = async (mode: number, gid: number, uid: number): Promise<unknown> => {
    const client = startClient();
    know(client, INO, "write", { mode, gid, uid: 7 });
    const inner: FileSystemHandlers = { setattr: () => -ERRNO.EXDEV };
    const handlers = withForeignSetgid(inner, { ...client, groupsOf: () => Promise.resolve(GROUPS) });
    const running = handlers.setattr!({ ...CONTEXT, uid }, INO, nothing);
    await quiet();
    if (client.nameserver.calls.some(({ method }) => method === "setattr")) {
      await client.nameserver.answer("setattr", inodeReply(INO, "write", { mode, gid }));
    }
    return await running;
  };
  for (const mode of [0o104644, 0o102755, 0o106755, MARKED]) {
    assert.equal(await chown(mode, 99, 9), -ERRNO.EPERM, mode.toString(8));
    assert.equal(await chown(mode, 99, 7), -ERRNO.EXDEV, "its owner's");
    assert.equal(await chown(mode, 99, 0), -ERRNO.EXDEV, "root's");
  }
  assert.equal(await chown(MARKED, GROUPS[0]!, 9), -ERRNO.EXDEV, "nothing goes, as a member asks");
  assert.equal(await chown(0o042755, 99, 9), -ERRNO.EXDEV, "nothing goes off a directory");
  assert.equal(await chown(0o100644, 99, 9), -ERRNO.EXDEV);
});
