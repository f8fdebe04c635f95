/**
 * How long programs wait when one of three dataservers dies or hangs, on a cluster of real processes with two replicas of
 * each block: `scripts/bench-failover --help`.
 *
 * fio writes and reads (past the page cache) for some seconds; in the middle the dataserver on the mount's own host, which
 * is the first replica of all that is written and read, gets a signal. Beside it the same without a fault, as these
 * machines have pauses of their own. Then how soon repair begins, and its rate.
 */

import { Command } from "commander";
import { fetchStatus } from "../../roles/admin/status.ts";
import { INLINE_LIMIT_DEFAULT } from "../../roles/nameserver/inline_data.ts";
import { Cluster } from "../../tests/harness/cluster.ts";
import { run, sh, sleep } from "../../tests/harness/command.ts";
import { number } from "./arguments.ts";

interface Options {
  readonly seconds: number;
  readonly blocks: number;
  readonly json: boolean;
}

type Fault = "none" | "kill -9" | "SIGSTOP";

interface Result {
  readonly fault: Fault;
  readonly errors: number;
  readonly writeMaxMs: number;
  readonly syncMaxMs: number;
  readonly readMaxMs: number;
  readonly writeMiBs: number;
  readonly readMiBs: number;
}

function parse(args: readonly string[]): Options {
  return new Command("scripts/bench-failover")
    .description("How long readers and writers wait when a dataserver dies or hangs, and how fast repair is.")
    .option("--seconds <n>", "how long programs run for each fault", number(8, 3600), 16)
    .option("--blocks <n>", "how many blocks are repaired", number(50, 1_000_000), 5_000)
    .option("--json", "print JSON and nothing else", false)
    .parse([...args], { from: "user" }).opts<Options>();
}

interface FioJob {
  readonly jobname: string;
  readonly error: number;
  readonly read: FioSide;
  readonly write: FioSide;
  readonly sync: { readonly lat_ns?: { readonly max: number } };
}

interface FioSide {
  readonly bw_bytes: number;
  readonly clat_ns: { readonly max: number };
}

async function measure(fault: Fault, { seconds }: Options): Promise<Result> {
  const cluster = await Cluster.start({
    mode: "roles",
    dataservers: 3,
    replication: 2,
    nameserverFlags: ["--dead-after", "2"],
  });
  try {
    const { mountpoint, scratch } = cluster;
    const time = ["--time_based", `--runtime=${seconds}`];
    await sh(`head -c 256M /dev/urandom > ${mountpoint}/read`, { timeoutMs: 120_000 });
    const fio = run("fio", [
      ...["--output-format=json", `--output=${scratch}/fio.json`, `--directory=${mountpoint}`],
      ...[
        "--name=write",
        "--filename=write",
        "--rw=write",
        "--bs=256k",
        "--size=256M",
        "--rate=32M",
        ...time,
      ],
      ...["--name=fsync", "--filename=fsync", "--rw=write", "--bs=16k", "--size=16M", "--fsync=1", ...time],
      ...[
        "--name=read",
        "--filename=read",
        "--rw=randread",
        "--bs=64k",
        "--size=256M",
        "--direct=1",
        ...time,
      ],
    ], { timeoutMs: (seconds + 120) * 1000 });
    await sleep((seconds / 2) * 1000);
    const pid = cluster.pidOf("dataserver1");
    if (fault !== "none") Deno.kill(pid, fault === "SIGSTOP" ? "SIGSTOP" : "SIGKILL");
    const { code, stderr } = await fio;
    if (fault === "SIGSTOP") Deno.kill(pid, "SIGCONT");
    const { jobs } = JSON.parse(await Deno.readTextFile(`${scratch}/fio.json`)) as { jobs: FioJob[] };
    const job = (name: string) => jobs.find(({ jobname }) => jobname === name)!;
    const errors = jobs.filter(({ error }) => error !== 0).length;
    if (code !== 0 && errors === 0) throw new Error(`fio: ${stderr}`);
    const ms = (ns: number | undefined) => Math.round((ns ?? 0) / 1e6);
    const mib = ({ bw_bytes }: FioSide) => Math.round(bw_bytes / 2 ** 20);
    return {
      fault,
      errors,
      writeMaxMs: Math.max(ms(job("write").write.clat_ns.max), ms(job("fsync").write.clat_ns.max)),
      syncMaxMs: ms(job("fsync").sync.lat_ns?.max),
      readMaxMs: ms(job("read").read.clat_ns.max),
      writeMiBs: mib(job("write").write),
      readMiBs: mib(job("read").read),
    };
  } finally {
    await cluster.discard();
  }
}

interface RepairResult {
  readonly blocks: number;
  readonly deadAfterSeconds: number;
  readonly firstCopyMs: number;
  readonly copies: number;
  readonly perSecond: number;
}

/** Many small blocks, of files that are just too large to be kept with their inodes; one dataserver dies. */
async function measureRepair(blocks: number): Promise<RepairResult> {
  const deadAfterSeconds = 2;
  const cluster = await Cluster.start({
    mode: "roles",
    dataservers: 3,
    replication: 2,
    nameserverFlags: ["--dead-after", String(deadAfterSeconds)],
  });
  try {
    await sh(
      `cd ${cluster.mountpoint}
      for d in $(seq 0 49); do
        mkdir d$d
        for f in $(seq 1 ${Math.ceil(blocks / 50)}); do head -c ${
        2 * INLINE_LIMIT_DEFAULT
      } /dev/urandom > d$d/$f; done
      done`,
      { timeoutMs: 300_000 },
    );
    const { blocks: stored } = await fetchStatus(cluster.nameserver);
    if (stored < blocks) throw new Error(`${stored} blocks are there, not ${blocks}`);
    const startMs = performance.now();
    await cluster.kill("dataserver2");
    let firstMs: number | undefined;
    let lastMs = startMs;
    let copies = 0;
    // Blocks are counted every few seconds: a count from before says that nothing is missing.
    let isCounted = false;
    for (;;) {
      const status = await fetchStatus(cluster.nameserver);
      const nowMs = performance.now();
      if (status.repair.copied > copies) {
        firstMs ??= nowMs;
        lastMs = nowMs;
        copies = status.repair.copied;
      }
      isCounted ||= status.underReplicated > 0;
      if (firstMs !== undefined && isCounted && status.underReplicated === 0) {
        return {
          blocks: status.blocks,
          deadAfterSeconds,
          firstCopyMs: Math.round(firstMs - startMs),
          copies,
          perSecond: Math.round(copies / ((lastMs - firstMs) / 1000)),
        };
      }
      if (nowMs - startMs > 300_000) throw new Error("repair has not ended within 300 s");
      await sleep(100);
    }
  } finally {
    await cluster.discard();
  }
}

const options = parse(Deno.args);
const results: Result[] = [];
for (const fault of ["none", "kill -9", "SIGSTOP"] as const) {
  const result = await measure(fault, options);
  results.push(result);
  if (options.json) continue;
  const { errors, writeMaxMs, syncMaxMs, readMaxMs, writeMiBs, readMiBs } = result;
  console.log(
    `${
      fault.padEnd(8)
    } ${errors} errors; longest write ${writeMaxMs} ms, fsync ${syncMaxMs} ms, read ${readMaxMs} ms; ` +
      `${writeMiBs} MiB/s written, ${readMiBs} MiB/s read`,
  );
}
const repair = await measureRepair(options.blocks);
if (options.json) console.log(JSON.stringify({ results, repair }));
else {
  console.log(
    `repair   of ${repair.blocks} blocks, dead after ${repair.deadAfterSeconds} s: first copy ${repair.firstCopyMs} ms ` +
      `after kill -9, ${repair.copies} copies, ${repair.perSecond}/s`,
  );
}
Deno.exit(0);
