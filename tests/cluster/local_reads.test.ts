/**
 * Replicas that a mount reads from their files, while what becomes of them is up to others: another mount writes to the file,
 * cuts it, and the replica is taken away, all under one open descriptor.
 */

import { assert, assertEquals } from "@std/assert";
import { eventually, run } from "../harness/command.ts";
import { RoleCluster } from "../harness/role_cluster.ts";
import type { ReadCounters } from "../../wire/messages/nameserver.ts";

const SIZE = 4_000_000;

/** Keeps a file open, and says what is in it: a letter and a count for each run of equal bytes, as often as a line comes. */
const READER = `
import itertools, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
for line in sys.stdin:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    runs, at = [], 0
    while part := os.pread(fd, 100_000, at):
        at += len(part)
        for byte, run in itertools.groupby(part):
            count = len(list(run))
            if runs and runs[-1][0] == byte: runs[-1][1] += count
            else: runs.append([byte, count])
    print(" ".join(f"{chr(byte) if byte else '0'}{count}" for byte, count in runs), flush=True)
`;

class Reader implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #lines: ReadableStreamDefaultReader<string>;
  #text = "";

  constructor(path: string) {
    this.#child = new Deno.Command("python3", {
      args: ["-c", READER, path],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    this.#writer = this.#child.stdin.getWriter();
    this.#lines = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  async read(): Promise<string> {
    await this.#writer.write(new TextEncoder().encode("\n"));
    while (!this.#text.includes("\n")) this.#text += (await this.#lines.read()).value ?? "gone\n";
    const [line, ...rest] = this.#text.split("\n");
    this.#text = rest.join("\n");
    return line!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#writer.abort().catch(() => {});
    await this.#lines.cancel().catch(() => {});
    await this.#child.status;
  }
}

Deno.test({
  name: "local reads: a replica's file is read while it is the block's, and what others do is seen at once",
  sanitizeOps: false,
  sanitizeResources: false,
  fn: () => RoleCluster.with({ mounts: 2, dataservers: 3, replication: 2 }, 100_000, body),
});

async function body(cluster: RoleCluster): Promise<void> {
  const [here, there] = cluster.mountpoints as [string, string];
  const write = async (script: string) => {
    const { code, stderr } = await run("sh", ["-c", script], { timeoutMs: 20_000, cwd: there });
    assertEquals(code, 0, stderr);
  };
  const fill = (letter: string, file = "file") =>
    write(`head -c ${SIZE} /dev/zero | tr '\\0' ${letter} | dd of=${file} bs=1M conv=notrunc status=none`);
  /** As of the mount's last renewal. */
  const counted = async (): Promise<ReadCounters> => {
    const { sessions } = await cluster.status();
    return sessions.find(({ mountpoint }) => mountpoint === here)?.counters?.reads ??
      { cached: 0, disk: 0, served: 0 };
  };
  /** Reads until that goes past the dataservers: the replica has come to rest, and was located. */
  const locally = async (reader: Reader, expected: string) => {
    let before = await counted();
    await eventually(30_000, "reads of a replica's file", async () => {
      assertEquals(await reader.read(), expected);
      await new Promise((resolve) => setTimeout(resolve, 500));
      const now = await counted();
      const isLocal = now.cached + now.disk > before.cached + before.disk;
      before = now;
      return isLocal;
    });
  };

  await fill("a");
  await using reader = new Reader(`${here}/file`);
  await locally(reader, `a${SIZE}`);

  await fill("b");
  assertEquals(await reader.read(), `b${SIZE}`);
  await write(`truncate -s 1000000 file && truncate -s ${SIZE} file`);
  assertEquals(await reader.read(), `b1000000 0${SIZE - 1_000_000}`);
  await locally(reader, `b1000000 0${SIZE - 1_000_000}`);

  // The file that is open here is deleted, and another takes its place.
  const moved = await cluster.mfs(["decommission", "node1", "--nameserver", cluster.nameserver], 60_000);
  assertEquals(moved.code, 0, moved.stderr);
  assertEquals(await reader.read(), `b1000000 0${SIZE - 1_000_000}`);
  await fill("c");
  assertEquals(await reader.read(), `c${SIZE}`);

  await write(`rm file && head -c 10 /dev/zero | tr '\\0' e > file`);
  assertEquals(await reader.read(), `c${SIZE}`, "what is open stays as it was");
  const { cached, disk, refused } = await counted();
  assert(cached + disk > 0 && refused === undefined);
}
