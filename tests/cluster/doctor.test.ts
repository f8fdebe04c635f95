/** `mfs doctor` against clusters, directories and limits that are well, and that are not. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { mfs, withCluster } from "../harness/cluster.ts";
import { eventually, run, sh, within } from "../harness/command.ts";
import { MFS } from "../harness/process.ts";
import { makeScratch, removeScratch } from "../harness/scratch.ts";
import { type DoctorResult, judgeClock } from "../../roles/admin/doctor.ts";
import type { Finding } from "../../roles/admin/finding.ts";
import { fetchStatus } from "../../roles/admin/status.ts";

function test(name: string, fn: () => Promise<void>, ignore = false): void {
  const body = () => within(120_000, name, fn());
  Deno.test({ name: `doctor: ${name}`, ignore, sanitizeOps: false, sanitizeResources: false, fn: body });
}

/** What it finds; the exit code is that of the worst. */
async function doctor(...args: string[]): Promise<readonly Finding[]> {
  const { code, stdout, stderr } = await mfs(["doctor", "--json", ...args], 60_000);
  const { state, findings }: DoctorResult = JSON.parse(stdout);
  assertEquals([code, stderr], [state === "problem" ? 1 : 0, ""], stdout);
  assertEquals(state === "problem", findings.some((one) => one.state === "problem"));
  for (const one of findings) assertEquals(one.state === "ok", one.advice === undefined, one.subject);
  return findings;
}

function of(findings: readonly Finding[], subject: string): readonly Finding[] {
  return findings.filter((one) => one.subject.startsWith(subject));
}

test("a cluster that is well, and one with a server that is dead or hangs", () =>
  withCluster({ mode: "roles", nameserverFlags: ["--dead-after", "2"] }, async (cluster) => {
    const { nameserver, mountpoint } = cluster;
    const well = await doctor("--nameserver", nameserver);
    assertEquals(of(well, "dataserver ").map(({ state }) => state), ["ok", "ok", "ok"]);
    for (const subject of ["kernel", "/dev/fuse", "nameserver ", "clock", `read-ahead of ${mountpoint}`]) {
      assertEquals(of(well, subject).map(({ state }) => state), ["ok"], subject);
    }
    assertMatch(of(well, "clock")[0]!.text, /^0\.\d\d s off the nameserver's/);

    if (Deno.uid() === 0) {
      await sh(`echo 128 > /sys/class/bdi/$(mountpoint -d ${mountpoint})/read_ahead_kb`);
      assertEquals(of(await doctor(), `read-ahead of ${mountpoint}`)[0]!.state, "warning");
    }

    // It hangs: the nameserver does not know yet, and we can't reach it.
    await sh(`kill -STOP ${cluster.pidOf("dataserver3")}`);
    const hangs = of(await doctor("--nameserver", nameserver), "dataserver 3 ");
    assertEquals(hangs.map(({ state }) => state), ["problem"]);
    await cluster.kill("dataserver2");
    await eventually(20_000, "two are known to be away", async () => {
      const { dataservers } = await fetchStatus(nameserver);
      return dataservers.filter(({ alive }) => !alive).length === 2;
    });
    const text = await mfs(["doctor", "--nameserver", nameserver], 60_000);
    assertEquals(text.code, 1);
    assertMatch(
      text.stdout,
      /^problem {2}dataserver 2 \(node2, .*\): silent for .*: start it again, or "mfs dec/m,
    );
    assertMatch(text.stdout, /^ok {7}dataserver 1 \(node1, .*\): answers, version/m);
    await sh(`kill -CONT ${cluster.pidOf("dataserver3")}`);

    await cluster.kill("nameserver");
    const gone = of(await doctor("--nameserver", nameserver), "nameserver ");
    assertEquals([gone.length, gone[0]!.state], [1, "problem"]);
    assertMatch(gone[0]!.text, /connection refused/);
  }));

test("directories for volumes: nothing is left in them, and what is wrong is said", async () => {
  const dir = makeScratch();
  try {
    await sh(`mkdir ${dir}/good; echo > ${dir}/file`);
    const good = await doctor("--volume", `${dir}/good`);
    const own = of(good, `volume ${dir}/good`);
    assertEquals(own.map(({ text }) => /writes|fsync|holes|free of|mounted on/.exec(text)![0]), [
      ...["mounted on", "free of", "writes", "fsync", "holes"],
    ]);
    assert(own.every(({ state }) => state !== "problem"));
    assertEquals([...Deno.readDirSync(`${dir}/good`)], []);

    const bad = await doctor("--volume", `${dir}/none`, "--volume", `${dir}/file`);
    assertEquals(of(bad, "volume ").map(({ state }) => state), ["problem", "problem"]);
  } finally {
    await removeScratch(dir);
  }
});

test("volumes that are small, read-only or on no disk", async () => {
  const dir = makeScratch();
  try {
    await sh(`cd ${dir}; mkdir small frozen
      mount -t tmpfs -o size=8m none small
      mount -t tmpfs -o ro,size=1g none frozen`);
    try {
      const found = await doctor("--volume", `${dir}/small`, "--volume", `${dir}/frozen`);
      const small = of(found, `volume ${dir}/small`);
      assertEquals(small.map(({ state }) => state), ["warning", "problem"]);
      assertMatch(small[0]!.text, /^tmpfs/);
      assertMatch(small[1]!.advice!, /make room/);
      assertMatch(of(found, `volume ${dir}/frozen`).at(-1)!.text, /cannot be used: Read-only/);
    } finally {
      await sh(`umount ${dir}/small ${dir}/frozen`);
    }
  } finally {
    await removeScratch(dir);
  }
}, Deno.uid() !== 0);

test("few open files are a problem, and wrong usage is refused", async () => {
  const env = { DENO: Deno.execPath(), NO_COLOR: "1" };
  const few = await run("sh", ["-c", `ulimit -n 1000; exec ${MFS} doctor`], { env });
  assertEquals(few.code, 1, few.stderr);
  assertMatch(few.stdout, /^problem {2}open files: at most 1000 of one process: LimitNOFILE=/m);
  for (const args of [["--nameserver", "x"], ["--nonsense"], ["extra"]]) {
    const { code, stdout, stderr } = await mfs(["doctor", ...args]);
    assertEquals([code, stdout], [2, ""]);
    assertMatch(stderr, /^mfs: doctor: [^\n]+\n$/);
  }
});

test("a clock is judged by what is certain of it", () => {
  assertEquals(judgeClock(400, 10).state, "ok");
  assertEquals(judgeClock(3_000, 10).state, "warning");
  assertEquals(judgeClock(3_000, 6_000).state, "ok");
  assertEquals(judgeClock(40_000, 10).state, "problem");
  return Promise.resolve();
});
