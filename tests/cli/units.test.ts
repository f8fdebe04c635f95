/** Small parts of roles/admin and roles/singlenode on their own. */

import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { resolveMountpoint } from "../../roles/admin/mounts.ts";
import { messageOf } from "../../roles/admin/process.ts";
import { lines } from "../../roles/admin/self.ts";
import { Progress } from "../../roles/admin/progress.ts";
import { formatStatus } from "../../roles/admin/status.ts";
import { parsePeriod, size } from "../../roles/admin/units.ts";
import { openLayout } from "../../roles/singlenode/layout.ts";
import type { StatusReply } from "../../wire/messages/nameserver.ts";

async function inTemporary(body: (dir: string) => Promise<void>): Promise<void> {
  const dir = Deno.realPathSync(await Deno.makeTempDir());
  try {
    await body(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

const format = (dir: string) => Deno.mkdir(dir);

Deno.test("status: sizes have three digits and a unit", () => {
  const shown = [0, 1023, 1024, 1536, 150 * 1024, 5 * 2 ** 30].map(size);
  assertEquals(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "150 KiB", "5.0 GiB"]);
});

Deno.test("status: the page names dead dataservers and what is wrong", () => {
  const status = {
    clusterId: "c",
    version: "1",
    startedSecondsAgo: 5,
    inodes: 1,
    blocks: 2,
    replicas: 3,
    underReplicated: 1,
    missing: 0,
    pendingDeletions: 0,
    sessions: 0,
    leases: 0,
    misplaced: 4,
    repair: { waiting: 7, running: 2, walking: true, copied: 3, copiedBytes: 3 * 1024, failed: 0 },
    residentBytes: 0,
    dataservers: [
      { node: 1, host: "a", address: "a:1", alive: true, lastHeartbeatSeconds: 1, volumes: [] },
      {
        ...{ node: 2, host: "b", rack: "r7", address: "b:1", alive: false, lastHeartbeatSeconds: 300 },
        ...{ state: "decommissioning", maintenanceSeconds: 3 * 3600, volumes: [] },
      },
    ],
  } as unknown as StatusReply;
  const page = formatStatus(status);
  assertMatch(page, /1 of 2 alive/);
  assertMatch(page, / r7 .*silent for 5 min, decommissioning, maintenance for 3 h/);
  assertMatch(page, /4 blocks misplaced/);
  assertMatch(page, /1 blocks under-replicated/);
  assertMatch(page, /7 blocks wait, 2 are being copied; looking at blocks; 3 replicas \(3.0 KiB\) made/);
});

Deno.test("units: a time is a whole number with a unit", () => {
  assertEquals(["90s", "30m", "2h", "1d"].map(parsePeriod), [90, 1_800, 7_200, 86_400]);
  for (const text of ["", "h", "0h", "-1h", "1.5h", "2x", "2hh", " 2h", "1234567s"]) {
    assertEquals(parsePeriod(text), undefined, text);
  }
});

Deno.test("errors: a message is one line", () => {
  assertEquals(messageOf(new Error("a\n  b\n")), "a b");
  assertEquals(messageOf(undefined), "undefined");
  assertEquals(messageOf(new Error("")), "unknown error");
});

Deno.test("lines: cut wherever the stream is", async () => {
  const bytes = new TextEncoder().encode("one\ntwo ü\nrest");
  for (let at = 0; at <= bytes.length; at++) {
    const stream = ReadableStream.from([bytes.slice(0, at), bytes.slice(at)]);
    const found: string[] = [];
    for await (const line of lines(stream)) found.push(line);
    assertEquals(found, ["one", "two ü", "rest"]);
  }
});

Deno.test("mount points: directories are resolved, the last name is not looked at", () =>
  inTemporary(async (dir) => {
    await Deno.mkdir(`${dir}/real`);
    await Deno.symlink(`${dir}/real`, `${dir}/link`);
    assertEquals(resolveMountpoint(`${dir}/link/mnt/`), `${dir}/real/mnt`);
    assertEquals(resolveMountpoint(`${dir}/link`), `${dir}/link`);
    assertEquals(resolveMountpoint("/"), "/");
  }));

Deno.test("singlenode layout: one singlenode a directory, and it comes back as large as it was", () =>
  inTemporary(async (dir) => {
    const first = await openLayout({ dir: `${dir}/c`, dataservers: 4, volumes: 2 }, format);
    assertEquals(first.dataservers.length, 4);
    assertEquals(first.dataservers[3], [`${dir}/c/dataserver4/volume1`, `${dir}/c/dataserver4/volume2`]);
    assertEquals(first.mountpoint, `${dir}/c/mnt`);
    await first.close();
    const second = await openLayout({ dir: `${dir}/c` }, () => Promise.reject(new Error("formatted again")));
    assertEquals(second.dataservers, first.dataservers);
    await second.close();
    await assertRejects(
      () => openLayout({ dir: `${dir}/c`, dataservers: 3 }, format),
      Error,
      "leave data behind",
    );
    const larger = await openLayout({ dir: `${dir}/c`, dataservers: 5 }, format);
    assertEquals(larger.dataservers.map((volumes) => volumes.length), [2, 2, 2, 2, 1]);
    await larger.close();
  }));

Deno.test("singlenode layout: a directory with other things in it is refused and left alone", () =>
  inTemporary(async (dir) => {
    await Deno.writeTextFile(`${dir}/precious`, "x");
    await assertRejects(() => openLayout({ dir }, format), Error, "precious");
    assertEquals(Deno.readTextFileSync(`${dir}/precious`), "x");
    await Deno.remove(`${dir}/precious`);
    await Deno.mkdir(`${dir}/dataserver1`);
    await assertRejects(() => openLayout({ dir }, format), Error, "nameserver/ is missing");
  }));

Deno.test("singlenode layout: a temporary directory goes with it", async () => {
  const layout = await openLayout({}, format);
  assert(layout.isTemporary);
  await layout.close();
  await assertRejects(() => Deno.stat(layout.dir), Deno.errors.NotFound);
});

Deno.test("singlenode layout: what a killed temporary cluster left is removed by the next", async () => {
  const gone = new Deno.Command("true").spawn();
  await gone.status;
  const leave = async (dir: string) => {
    await Deno.mkdir(`${dir}/dataserver1/volume1`, { recursive: true });
    await Deno.writeTextFile(`${dir}/lock`, `${gone.pid}\n`);
  };
  const dead = await Deno.makeTempDir({ prefix: "mfs-singlenode-" });
  await leave(dead);
  // The same, but its lock is still held.
  const held = await openLayout({}, format);
  await leave(held.dir);
  const next = await openLayout({}, format);
  await assertRejects(() => Deno.stat(dead), Deno.errors.NotFound);
  assert(Deno.statSync(held.dir).isDirectory);
  await next.close();
  await held.close();
});

Deno.test("progress: one line on a terminal, written over and taken away; a line now and then elsewhere", () => {
  let nowMs = 0;
  const shown: string[] = [];
  const progress = (isTerminal: boolean) =>
    new Progress({
      label: "checked",
      unit: "blocks",
      isTerminal,
      nowMs: () => nowMs,
      write: (text) => shown.push(text),
    });
  const onTerminal = progress(true);
  for (let done = 0; done <= 100; done += 50, nowMs += 1000) onTerminal.update(done, 200);
  onTerminal.end();
  const last = "checked: 100 blocks of 200 blocks, [##########..........] 50%, 50 blocks/s, 2 s left";
  assertEquals(shown.at(-2)!.trim(), last);
  assertEquals(shown.at(-1), `\r${" ".repeat(last.length)}\r`);
  assert(shown.every((text) => !text.includes("\n")));
  shown.length = 0;
  const elsewhere = progress(false);
  for (let done = 0; done < 25; done++, nowMs += 1000) elsewhere.update(done, 50);
  elsewhere.end();
  assertEquals(shown.length, 3);
  assert(shown.every((text) => text.endsWith("\n")));
  assertEquals(shown[1], "checked: 10 blocks of 50 blocks, 20%, 1 blocks/s, 40 s left\n");
});
