/**
 * Names, links, special files, handles and times, on real mounts: the scripts in names/ say the same on a mount as on
 * ext4, and two mounts of a cluster see the same at once, also over a restart of the nameserver.
 */

import assert from "node:assert/strict";
import { eventually, run, sh, within } from "../harness/command.ts";
import { makeExt4, removeExt4 } from "../harness/ext4.ts";
import { RoleCluster } from "../harness/role_cluster.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";
import { SmallCluster } from "./small_cluster_process.ts";

const HERE = decodeURIComponent(new URL("./names/", import.meta.url).pathname);
const BLOCK_BYTES = 100_000;
const LIMIT_MS = 60_000;
const test = { ignore: Deno.uid() !== 0, sanitizeOps: false, sanitizeResources: false } as const;
const SEED = Number(Deno.env.get("MFS_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 31));

function python(script: string, ...args: readonly string[]): Promise<string> {
  return sh(`timeout 50 python3 -B ${HERE}${script} ${args.join(" ")} 2>&1`, { timeoutMs: LIMIT_MS });
}

/** What a script says in an empty directory. */
async function transcript(script: string, dir: string): Promise<string[]> {
  Deno.mkdirSync(dir);
  const { stdout } = await run("bash", ["-c", `timeout 50 python3 -B ${HERE}${script} ${dir} 2>&1`], {
    timeoutMs: LIMIT_MS,
  });
  return stdout.split("\n");
}

Deno.test({
  ...test,
  name: "names: what calls answer, and which times they change, is as on ext4",
  async fn(t) {
    const dir = makeScratch();
    const ext4 = await makeExt4(dir);
    try {
      if (ext4 === undefined) return console.log("not compared: there is no loop device for ext4");
      await using cluster = await SmallCluster.start("local", BLOCK_BYTES);
      for (const script of ["namespace.py", "times.py", "removed.py"]) {
        const compare = async () => {
          const [here, there] = await Promise.all([
            transcript(script, `${cluster.mountpoints[0]}/${script}`),
            transcript(script, `${ext4}/${script}`),
          ]);
          assert.ok(there.length > 70 && !there.join("\n").includes("Traceback"), there.slice(-9).join("\n"));
          assert.deepEqual(here, there);
        };
        await t.step({ name: script, sanitizeOps: false, sanitizeResources: false, fn: compare });
      }
      await cluster.stop();
    } finally {
      await removeExt4(dir);
      await removeScratch(dir);
    }
  },
});

Deno.test({
  ...test,
  name: "names: two mounts see handles, unnamed and removed files, and times of access alike",
  async fn(t) {
    await using cluster = await SmallCluster.start("tcp", BLOCK_BYTES);
    for (const check of ["handles", "unnamed", "removed", "relatime"]) {
      const fn = async () => {
        assert.equal(await python("two_mounts.py", check, ...cluster.mountpoints), "ok");
      };
      await t.step({ name: check, sanitizeOps: false, sanitizeResources: false, fn });
    }
    await t.step({
      name: `positions in a directory while entries come and go, seed ${SEED}`,
      sanitizeOps: false,
      sanitizeResources: false,
      fn: async () => {
        assert.equal(await python("positions.py", ...cluster.mountpoints, String(SEED)), "ok");
      },
    });
    await cluster.stop();
  },
});

Deno.test({
  ...test,
  name: "names: strictatime notes each read; noatime and nodiratime none; a read-only mount changes nothing",
  async fn() {
    {
      await using cluster = await SmallCluster.start("local", BLOCK_BYTES, [
        "strictatime",
        "noatime,nodiratime",
      ]);
      assert.equal(await python("two_mounts.py", "strict", ...cluster.mountpoints), "ok");
      await cluster.stop();
    }
    await using cluster = await SmallCluster.start("local", BLOCK_BYTES, ["", "ro"]);
    const [here, there] = cluster.mountpoints;
    await sh(`timeout 20 bash -c 'echo text > ${here}/f; mkdir ${here}/d; ln -s f ${here}/l'`);
    const before = await sh(`timeout 20 stat ${here}/f ${here}/d`);
    assert.equal(await sh(`timeout 20 cat ${there}/f; timeout 20 ls ${there}/d`), "text");
    const changes = [
      ...["touch f", "touch new", "chmod 600 f", "chown 1 f", "ln f g", "ln -s f k", "mkdir e", "rmdir d"],
      ...["rm f", "mv f g", "truncate -s 0 f", "mkfifo p", "mknod n c 1 3", "setfattr -n user.a -v b f"],
      ...["fallocate -l 10 f", "cp f g", "python3 -c \"import os; os.open('.', os.O_TMPFILE | os.O_RDWR)\""],
    ];
    for (const change of changes) {
      const { code, stderr } = await run("timeout", ["20", "bash", "-c", `cd ${there} && ${change}`]);
      assert.ok(code !== 0 && stderr.includes("Read-only file system"), `${change}: ${code} ${stderr}`);
    }
    assert.equal(await sh(`timeout 20 stat ${here}/f ${here}/d`), before);
    await cluster.stop();
  },
});

Deno.test({
  ...test,
  name: "names: what has no name stays open on two mounts while the nameserver is killed and restarted",
  async fn() {
    const cluster = await RoleCluster.start({ mounts: 2, dataservers: 1, replication: 1 });
    const holders: Holder[] = [];
    try {
      const [here, there] = cluster.mountpoints as [string, string];
      const inodes = async () => (await cluster.status()).inodes;
      await sh(`timeout 20 bash -c 'echo shared > ${here}/shared; mkdir ${here}/dir'`);
      for (const [i, mountpoint] of [here, there].entries()) {
        holders.push(new Holder(mountpoint, `holder${i}`));
      }
      for (const holder of holders) assert.equal(await holder.line(), "ready");
      await sh(`timeout 20 bash -c 'rm ${here}/shared; rmdir ${there}/dir'`);
      await cluster.restartNameserver();
      for (const holder of holders) {
        await holder.go();
        assert.equal(await holder.line(), "looked");
      }
      for (const holder of holders) {
        await holder.go();
        assert.equal(await holder.line(), "shared holder0 holder1");
      }
      for (const holder of holders) await holder.ended();
      assert.equal(await sh(`timeout 20 cat ${there}/holder0 ${here}/holder1`), "holder0holder1");
      // The root and the two that got names.
      await eventually(20_000, "all else gone", async () => await inodes() === 3);
      const { code, stdout } = await cluster.mfs(["fsck", "--nameserver", cluster.nameserver]);
      assert.equal(code, 0, stdout);
      await cluster.stop();
    } catch (error) {
      console.error(cluster.log());
      throw error;
    } finally {
      for (const holder of holders) holder.kill();
      await cluster.discard();
    }
  },
});

/** names/holder.py on a mount. */
class Holder {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #output: ReadableStreamDefaultReader<string>;
  #text = "";

  constructor(mountpoint: string, name: string) {
    this.#child = new Deno.Command("python3", {
      args: ["-B", `${HERE}holder.py`, mountpoint, name],
      stdin: "piped", // it ends with us
      stdout: "piped",
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#output = this.#child.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  async line(): Promise<string> {
    for (;;) {
      const end = this.#text.indexOf("\n");
      if (end >= 0) {
        const line = this.#text.slice(0, end);
        this.#text = this.#text.slice(end + 1);
        return line;
      }
      const { value, done } = await within(LIMIT_MS, "a line of a holder", this.#output.read());
      if (done) throw new Error(`the holder ended: ${this.#text}`);
      this.#text += value;
    }
  }

  async go(): Promise<void> {
    await this.#input.write(new Uint8Array([0x0a]));
  }

  async ended(): Promise<void> {
    const { code } = await within(LIMIT_MS, "the end of a holder", this.#child.status);
    assert.equal(code, 0);
  }

  kill(): void {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    this.#input.abort().catch(() => {});
    this.#output.cancel().catch(() => {});
  }
}
