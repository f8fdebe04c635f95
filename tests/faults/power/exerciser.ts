/** Does to the directory given what our programs do to files, by each of the ways in which they do it. */

import { ClassicLevel } from "classic-level";
import * as libc from "../../../base/libc.ts";

const dir = Deno.args[0]!;
const bytes = (size: number, fill: number) => new Uint8Array(size).fill(fill);

// Deno's own calls.
Deno.mkdirSync(`${dir}/a/b`, { recursive: true });
await Deno.mkdir(`${dir}/trash`);
Deno.writeTextFileSync(`${dir}/a/text.new`, "hello\n");
await Deno.rename(`${dir}/a/text.new`, `${dir}/a/text`);
await Deno.writeTextFile(`${dir}/a/text`, "more\n", { append: true });
Deno.writeFileSync(`${dir}/there`, bytes(10, 9));
using file = Deno.openSync(`${dir}/a/b/file`, { create: true, read: true, write: true });
file.writeSync(bytes(5000, 1));
file.seekSync(100, Deno.SeekMode.Start);
file.writeSync(bytes(10, 2));
file.syncDataSync();
file.truncateSync(3000);
file.truncateSync(6000);
await file.sync();
Deno.copyFileSync(`${dir}/a/b/file`, `${dir}/copy`);
Deno.linkSync(`${dir}/copy`, `${dir}/second`);
Deno.chdir(dir);
Deno.renameSync("copy", "a/copy");
Deno.mkdirSync("gone/deep", { recursive: true });
Deno.writeTextFileSync("gone/deep/x", "x");
Deno.removeSync("gone", { recursive: true });
Deno.renameSync("a/b", "b");

// libc by FFI, on this thread and on the pool.
const fd = await libc.openAsync(`${dir}/replica`, libc.O_RDWR | libc.O_CREAT | libc.O_EXCL, 0o644);
libc.pwrite(fd, bytes(200_000, 3), 0);
await libc.pwriteAsync(fd, bytes(100_000, 4), 150_000);
libc.fallocate(fd, libc.FALLOC_FL_PUNCH_HOLE | libc.FALLOC_FL_KEEP_SIZE, 8192, 8192);
await libc.fdatasyncAsync(fd);
await libc.ftruncateAsync(fd, 240_000);
libc.writev(fd, [bytes(10, 5), bytes(20, 6)]);
await libc.syncfsAsync(fd);
libc.close(fd);

// LevelDB: stdio and threads of its own.
const level = new ClassicLevel(`${dir}/db`, { writeBufferSize: 64 * 1024 });
await level.open();
for (let i = 0; i < 200; i++) {
  await level.batch([{ type: "put", key: `k${i % 50}`, value: "v".repeat(2000) }], { sync: i % 10 === 0 });
}
await level.close();
