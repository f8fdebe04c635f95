/**
 * A client that is stopped while it holds what others want: they wait for its session's time and no longer, a waiting
 * process can be killed, and what the stopped client could not store is told to who wrote it.
 */

import assert from "node:assert/strict";
import { sh, sleep, within } from "../harness/command.ts";
import { RoleCluster } from "../harness/role_cluster.ts";

/** The session's TTL, a look for silent sessions, and what a loaded machine takes. */
const TTL_MS_MAX = 10_000 + 4_000;
const KILL_MS_MAX = 2_000;

/** Writes past the end, then waits for a line on stdin, then says what fsync(2) and another write with fsync answer. */
const WRITER = `
import os, sys
f = os.open(sys.argv[1], os.O_RDWR)
os.pwrite(f, b'lost', 5)
print('written', flush=True)
sys.stdin.readline()
for data in (None, b'kept'):
  try:
    if data: os.pwrite(f, data, 0)
    os.fsync(f)
    print('ok', flush=True)
  except OSError as error:
    print(os.strerror(error.errno), flush=True)
`;

function spawn(
  program: string,
  args: readonly string[],
  stdin: "piped" | "null" = "null",
): Deno.ChildProcess {
  return new Deno.Command(program, {
    args: [...args],
    stdin,
    stdout: "piped",
    stderr: "null",
    detached: true,
  }).spawn();
}

/** A function that gives the next line of a stream. */
function linesOf(stream: ReadableStream<Uint8Array>): () => Promise<string | undefined> {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  return async () => {
    for (;;) {
      const at = text.indexOf("\n");
      if (at >= 0) {
        const line = text.slice(0, at);
        text = text.slice(at + 1);
        return line;
      }
      const { value } = await reader.read();
      if (value === undefined) return undefined;
      text += value;
    }
  };
}

Deno.test({
  name: "a client that is stopped: others wait for its TTL, can be killed, and it hears of what it lost",
  ignore: Deno.uid() !== 0,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    const cluster = await RoleCluster.start({ mounts: 2 });
    try {
      const [mount1, mount2] = cluster.mountpoints as [string, string];
      await sh(`printf first > ${mount1}/file; timeout 10 cat ${mount2}/file`);
      const writer = spawn("timeout", ["90", "python3", "-c", WRITER, `${mount1}/file`], "piped");
      const said = linesOf(writer.stdout);
      const input = writer.stdin.getWriter();
      assert.equal(await within(10_000, "the writer", said()), "written");

      const goOn = Promise.withResolvers<void>();
      const stopped = cluster.pause("mount1", 40, () => goOn.promise);
      try {
        const startMs = performance.now();
        const reader = spawn("cat", [`${mount2}/file`]);
        const victim = spawn("cat", [`${mount2}/file`]);
        await sleep(1_500);
        // Both wait for the recall; the one that is killed ends at once, though the other goes on waiting.
        victim.kill("SIGKILL");
        await within(
          KILL_MS_MAX,
          "the end of a process that was killed while it waited for a recall",
          victim.status,
        );
        const { stdout } = await within(TTL_MS_MAX, "a look at what a silent client holds", reader.output());
        assert.ok(performance.now() - startMs > 3_000, "it waited for the session's time");
        assert.equal(new TextDecoder().decode(stdout), "first", "what was not flushed is not there");
        // Nor does it show up when the file grows over it.
        await sh(`truncate -s 12 ${mount2}/file`);
        assert.equal(
          await sh(`timeout 10 od -An -c ${mount2}/file | tr -d ' \n'`),
          "first" + "\\0".repeat(7),
        );
        await sh(`printf second > ${mount2}/file`);
      } finally {
        goOn.resolve();
        await stopped;
      }
      await input.write(new TextEncoder().encode("\n"));
      // Told once; then the handle works again, on top of what the other has written.
      assert.equal(await within(30_000, "the writer's fsync", said()), "Input/output error");
      assert.equal(await within(30_000, "the writer's second fsync", said()), "ok");
      assert.equal(await sh(`timeout 10 cat ${mount2}/file`), "keptnd");
      assert.match(cluster.log(20_000), /written data/);
      await writer.status;
      await input.close().catch(() => {}); // it has ended
    } catch (error) {
      console.log(cluster.log(6_000));
      throw error;
    } finally {
      await cluster.discard();
    }
  },
});

/** Says by a file elsewhere that it begins, makes a file that must not be there yet, and says under how many names it is then. */
const MAKER = `
import os, sys
open(sys.argv[2], 'w').close()
f = os.open(sys.argv[1], os.O_CREAT | os.O_EXCL | os.O_RDWR)
print('made', os.fstat(f).st_nlink, flush=True)
`;

Deno.test({
  name:
    "a client that is stopped before it hears that its file was made: removed meanwhile, it is not made again",
  ignore: Deno.uid() !== 0,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    const cluster = await RoleCluster.start({ mounts: 2 });
    const goOn = [Promise.withResolvers<void>(), Promise.withResolvers<void>()] as const;
    const stopped: Promise<void>[] = [];
    try {
      const [mount1, mount2] = cluster.mountpoints as [string, string];
      await sh(`mkdir ${mount1}/d; timeout 10 ls ${mount2}/d; ! timeout 10 test -e ${mount2}/d/file`);
      // The creation waits for the second mount, and is answered when the first is stopped.
      stopped.push(cluster.pause("mount2", 40, () => goOn[1].promise));
      const begun = `${cluster.scratch}/begun`;
      const maker = spawn("timeout", ["60", "python3", "-c", MAKER, `${mount1}/d/file`, begun]);
      await sh(`until [ -e ${begun} ]; do sleep 0.02; done`);
      await sleep(700);
      stopped.push(cluster.pause("mount1", 40, () => goOn[0].promise));
      await sleep(100);
      goOn[1].resolve();
      await stopped[0];
      await sh(`cd ${mount2}/d; timeout 20 test -e file; timeout 20 rm file; ! test -e file`, {
        timeoutMs: 50_000,
      });
      goOn[0].resolve();
      await stopped[1];
      const { stdout } = await within(20_000, "the end of the creation", maker.output());
      assert.equal(new TextDecoder().decode(stdout), "made 0\n");
      await sh(`! timeout 10 test -e ${mount2}/d/file`);
    } catch (error) {
      console.log(cluster.log(6_000));
      throw error;
    } finally {
      for (const { resolve } of goOn) resolve();
      await Promise.allSettled(stopped);
      await cluster.discard();
    }
  },
});
