/** A nameserver whose disk fills up: what is refused, and what is not. */

import assert from "node:assert/strict";
import { bytesOf } from "../../../base/bytes.ts";
import { silentLogger } from "../../../base/log.ts";
import { Room } from "../../../roles/nameserver/room.ts";
import { isErrno } from "../../../wire/errno.ts";
import type { NAMESERVER, RetryTag } from "../../../wire/messages/nameserver.ts";
import type { Handlers } from "../../../wire/service.ts";
import { FakeClock } from "../../base/fake_clock.ts";
import { FakePeer } from "./fake_peer.ts";

const MIB = 2 ** 20;
const DISK = 10_000 * MIB;

/** Handlers that note what reaches them, behind a room; `applied` are changes that are known. */
function start() {
  const clock = new FakeClock();
  const disk: { totalBytes: number; availableBytes: number } = { totalBytes: DISK, availableBytes: DISK };
  const served: string[] = [];
  const applied: RetryTag[] = [];
  const names = ["create", "remove", "commit", "getattr"];
  const inner = Object.fromEntries(names.map((name) => [name, () => void served.push(name)]));
  const room = new Room({ clock, log: silentLogger, space: () => disk });
  const handlers = room.guard(
    inner as unknown as Handlers<typeof NAMESERVER>,
    ({ slot, sequence }) => applied.some((tag) => tag.slot === slot && tag.sequence === sequence),
  ) as unknown as Record<string, (request: unknown, context: unknown) => unknown>;
  const retry = { slot: 3, sequence: 7 };
  /** Which of them are served with so much free. */
  const servedWith = async (availableBytes: number) => {
    disk.availableBytes = availableBytes;
    await clock.advance(1_000);
    served.length = 0;
    for (const name of names) {
      const request = name === "getattr" ? { ino: 1 } : { retry, name: bytesOf("f") };
      try {
        handlers[name]!(request, new FakePeer().context);
      } catch (error) {
        assert.ok(isErrno(error, "ENOSPC"), String(error));
      }
    }
    return [...served];
  };
  return { disk, applied, retry, servedWith };
}

Deno.test("room: first what makes the tree larger is refused, then every change; all are taken again with room", async () => {
  const { servedWith } = start();
  const all = ["create", "remove", "commit", "getattr"];
  assert.deepEqual(await servedWith(DISK), all);
  assert.deepEqual(await servedWith(64 * MIB), all);
  assert.deepEqual(await servedWith(64 * MIB - 1), ["remove", "commit", "getattr"]);
  assert.deepEqual(await servedWith(32 * MIB - 1), ["getattr"]);
  assert.deepEqual(await servedWith(40 * MIB), ["remove", "commit", "getattr"]);
  assert.deepEqual(await servedWith(DISK), all);
});

Deno.test("room: of a small disk a part is left", async () => {
  const { disk, servedWith } = start();
  disk.totalBytes = 80 * MIB;
  assert.deepEqual(await servedWith(21 * MIB), ["create", "remove", "commit", "getattr"]);
  assert.deepEqual(await servedWith(19 * MIB), ["remove", "commit", "getattr"]);
  assert.deepEqual(await servedWith(9 * MIB), ["getattr"]);
});

Deno.test("room: a change that was applied is answered again, whatever is left", async () => {
  const { applied, retry, servedWith } = start();
  applied.push({ ...retry });
  assert.deepEqual(await servedWith(0), ["create", "remove", "commit", "getattr"]);
  applied[0] = { ...retry, sequence: retry.sequence - 1 };
  assert.deepEqual(await servedWith(0), ["getattr"]);
});
