/**
 * Every command of OPERATIONS.md as it stands, on three machines: namespaces of processes, mounts, names and networks. What is
 * said there of a whole cluster's life is what happens here.
 */

import { assert, assertEquals } from "@std/assert";
import { run, sh } from "../harness/command.ts";
import { Networks } from "../harness/networks.ts";
import { MFS } from "../harness/process.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";

const here = (path: string) => decodeURIComponent(new URL(path, import.meta.url).pathname);
const MACHINE = here("./machine.sh");
const UNITS = here("../../scripts/systemd");
const GUIDE = here("../../OPERATIONS.md");
const BLOCK_MS_MAX = 120_000;

interface Block {
  readonly machines: readonly string[];
  readonly commands: string;
  readonly line: number;
}

function blocksOf(text: string): readonly Block[] {
  return [...text.matchAll(/^```sh\n# on ([m\d ]+)\n([^]*?)^```$/gm)].map((match) => ({
    machines: match[1]!.split(" "),
    commands: match[2]!,
    line: text.slice(0, match.index).split("\n").length + 1,
  }));
}

/** A machine that runs until it is stopped, with all that runs on it. */
class Machine {
  readonly #child: Deno.ChildProcess;
  /** The first process in its namespaces. */
  readonly #pid: number;

  private constructor(child: Deno.ChildProcess, pid: number) {
    this.#child = child;
    this.#pid = pid;
  }

  static async start(networks: Networks, number: number, dir: string): Promise<Machine> {
    const [program, ...enter] = networks.enter(number);
    const child = new Deno.Command(program, {
      args: [
        ...enter,
        ...["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"],
        ...["bash", MACHINE, dir, `m${number}`, MFS, UNITS],
      ],
      env: { DENO: Deno.execPath(), NO_COLOR: "1" },
      stdin: "null",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    const { value } = await reader.read();
    assertEquals(value, "up\n");
    void reader.cancel();
    const children = await Deno.readTextFile(`/proc/${child.pid}/task/${child.pid}/children`);
    return new Machine(child, Number(children.trim()));
  }

  run(commands: string) {
    const enter = ["-t", String(this.#pid), "--mount", "--uts", "--pid", "--net", "--", "bash", "-eu", "-c"];
    return run("nsenter", [...enter, `cd /; ${commands}`], { timeoutMs: BLOCK_MS_MAX });
  }

  async stop(): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#child.status;
  }
}

Deno.test({
  name: "operations guide: each command does what it says, on three machines",
  ignore: Deno.uid() !== 0,
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    const blocks = blocksOf(await Deno.readTextFile(GUIDE));
    assert(blocks.length > 10);
    const scratch = makeScratch();
    const networks = await Networks.make(3);
    const machines = new Map<string, Machine>();
    try {
      for (const number of [1, 2, 3]) {
        await sh(`mkdir -p ${scratch}/m${number}`);
        machines.set(`m${number}`, await Machine.start(networks, number, `${scratch}/m${number}`));
      }
      for (const { machines: names, commands, line } of blocks) {
        for (const name of names) {
          const done = await machines.get(name)!.run(commands).catch((error) => ({
            code: -1,
            stdout: "",
            stderr: `${error}`,
          }));
          if (done.code === 0) continue;
          const status = await machines.get("m1")!.run("mfs status --nameserver 10.77.0.1:7400").catch((
            error,
          ) => error);
          const logs = await sh(`tail -n 8 ${scratch}/m*/log/*.err`);
          throw new Error(
            `OPERATIONS.md:${line} on ${name}:\n${done.stdout}${done.stderr}\n${
              status.stdout ?? status
            }\n${logs}`,
          );
        }
      }
    } finally {
      for (const machine of machines.values()) await machine.stop();
      await networks.remove();
      await removeScratch(scratch);
    }
  },
});
