/** Times of access: which reads are told, how the next one is made to reach us, and how long a reader waits. */

import assert from "node:assert/strict";
import { FsError } from "../../wire/errno.ts";
import { S_IFDIR } from "../../wire/messages/inode.ts";
import { FakeClock } from "../base/fake_clock.ts";
import { INO, inodeReply, know, OTHER, quiet, ROOT, startClient, time, watch } from "./client.ts";
import { OpenFile } from "../../fs/inode.ts";

const NOW = new FakeClock().now().seconds;
/** Read since the last change. */
const LATE = { atime: time(NOW - 1), mtime: time(NOW - 5), ctime: time(NOW - 5) };
const WAIT_MS = 100;

function start(...parameters: Parameters<typeof startClient>) {
  const client = startClient(...parameters);
  const inode = know(client, INO, "read", { size: 10 });
  const file = inode.file = new OpenFile(inode);
  return { ...client, inode, file };
}

/** What the nameserver says after it was told. */
const noted = (version = 2) => ({ inodes: [inodeReply(INO, "read", { size: 10, version, ...LATE })] });

Deno.test("access times: the first read after a change is told, the next is not", async () => {
  const { accessTimes, nameserver, inode } = start("relatime");
  const reading = watch(accessTimes.accessed(inode)!);
  const again = watch(accessTimes.accessed(inode)!);
  await quiet();
  assert.deepEqual([reading.state, again.state], ["waits", "waits"]);
  assert.deepEqual(nameserver.asked, ["accessed"], "one question for both");
  await nameserver.answer("accessed", noted());
  await reading.promise;
  await again.promise;
  assert.equal(accessTimes.accessed(inode), undefined);
  inode.attributes = { ...inode.attributes, ctime: LATE.atime };
  assert.ok(accessTimes.isDue(inode), "as after a change of the mode in the same moment");
});

Deno.test("access times: a day after the last one the next is told", () => {
  const { accessTimes, inode, session } = start("relatime");
  const { seconds } = session.now();
  const at = (atime: number) => {
    inode.attributes = {
      ...inode.attributes,
      atime: time(atime),
      mtime: time(atime - 9),
      ctime: time(atime - 9),
    };
    return accessTimes.isDue(inode);
  };
  assert.deepEqual([at(seconds - 86_399), at(seconds - 86_400)], [false, true]);
});

Deno.test("access times: what was written here and is not reported yet counts", () => {
  const { accessTimes, inode, file, clock } = start("relatime");
  inode.attributes = { ...inode.attributes, ...LATE };
  assert.equal(accessTimes.isDue(inode), false);
  file.wrote(1, time(NOW), clock.monotonicMs());
  assert.equal(accessTimes.isDue(inode), true);
});

Deno.test("access times: off says nothing, nodiratime nothing of directories", () => {
  const off = start("off");
  assert.equal(off.accessTimes.accessed(off.inode), undefined);
  assert.deepEqual(off.accessTimes.opened(off.file), { isDirect: false, keepsPages: true });
  const files = startClient("strict", false);
  const directory = know(files, ROOT, "read", { mode: S_IFDIR | 0o755 });
  assert.equal(files.accessTimes.accessed(directory), undefined);
  assert.notEqual(files.accessTimes.accessed(know(files, OTHER)), undefined);
});

Deno.test("access times: an open of what is due brings the next read to us", async () => {
  const { accessTimes, inode, file, nameserver, kernel } = start("relatime");
  inode.hasPages = true;
  assert.deepEqual(accessTimes.opened(file), { isDirect: false, keepsPages: false });
  inode.attributes = { ...inode.attributes, size: 0 };
  assert.deepEqual(accessTimes.opened(file), { isDirect: true, keepsPages: true }, "of nothing to read");
  inode.attributes = { ...inode.attributes, size: 1e9 };
  const { noted: opening, ...large } = accessTimes.opened(file);
  assert.deepEqual(large, { isDirect: false, keepsPages: true });
  await nameserver.answer("accessed", noted());
  await opening;
  assert.deepEqual(kernel.taken(), [`attributes ${INO}`], "no answer to a read makes the kernel ask");
  inode.attributes = { ...inode.attributes, size: 10 };
  assert.deepEqual(accessTimes.opened(file), { isDirect: false, keepsPages: true });
  const strict = start("strict");
  assert.equal(strict.accessTimes.opened(strict.file).isDirect, true);
});

Deno.test("access times: strict tells each read, and each after it was made", async () => {
  const { accessTimes, nameserver, inode } = start("strict");
  const first = accessTimes.accessed(inode)!;
  const second = accessTimes.accessed(inode)!;
  await nameserver.answer("accessed", noted());
  await nameserver.answer("accessed", noted(3));
  await first;
  await second;
  assert.deepEqual(nameserver.asked, ["accessed", "accessed"]);
});

Deno.test("access times: nobody waits long, nor while something is taken away; the kernel asks again afterwards", async () => {
  for (const why of ["slow", "recall", "failure"] as const) {
    const { accessTimes, nameserver, inode, file, clock, kernel } = start("relatime");
    const reading = watch(accessTimes.accessed(inode)!);
    await quiet();
    assert.equal(reading.state, "waits");
    if (why === "slow") await clock.advance(WAIT_MS);
    else if (why === "failure") await nameserver.calls[0]!.fail(new FsError("EIO", "gone"));
    else {
      file.revocation = {
        keep: "none",
        touched: [],
        invalidating: [],
        isHolding: false,
        ended: quiet(),
        end() {},
      };
      file.wake();
    }
    await quiet();
    assert.equal(reading.state, "done", why);
    if (why === "failure") continue;
    assert.deepEqual(kernel.taken(), []);
    await nameserver.answer("accessed", noted());
    assert.deepEqual(kernel.taken(), [`attributes ${INO}`], why);
    assert.equal(file.waiters.size, 0);
  }
});

Deno.test("access times: what waits to be told is bounded, and goes out in few messages", async () => {
  const client = startClient("relatime");
  const { accessTimes, nameserver } = client;
  const count = 5_000;
  const waiting: (Promise<void> | undefined)[] = [];
  for (let i = 0; i < count; i++) waiting.push(accessTimes.accessed(know(client, (100 + i) as typeof INO)));
  const told = waiting.filter((one) => one !== undefined).length;
  assert.ok(told < count && told >= 4_096, `${told}`);
  await quiet();
  assert.equal(nameserver.asked.length, 4, "at once");
  let answered = 0;
  while (nameserver.asked.length > answered) {
    answered++;
    await nameserver.answer("accessed", { inodes: [] });
  }
  await Promise.all(waiting);
  assert.ok(answered <= 4 + 16, `${answered} messages`);
});
