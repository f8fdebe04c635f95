/**
 * `mfs doctor`: looks at this machine, at directories that are to be volumes, and at a cluster as it is seen from here, and
 * says of each what is wrong and what to do. It changes nothing, but for a file in each volume's directory that it makes and
 * removes (doctor_disk.ts). Each check is bounded in time, and one that fails does not keep the others from being made.
 */

import { VERSION } from "../../base/version.ts";
import { connect } from "../../wire/client.ts";
import { helloOf } from "../../wire/hello.ts";
import type { DataserverStatus, StatusReply } from "../../wire/messages/nameserver.ts";
import { checkVolume, FREE_SHARE_GOOD } from "./doctor_disk.ts";
import type { Finding } from "./finding.ts";
import { fetchStatus } from "./status.ts";
import { isOurs, listMounts } from "./mounts.ts";
import { EXIT_FAILURE, messageOf, printLine } from "./process.ts";
import { duration, size } from "./units.ts";

/** Linux 5.4 speaks FUSE 7.31, the oldest that we speak; with 6.9 came reads that pass us by (passthrough). */
const KERNEL_MIN = [5, 4] as const;
const KERNEL_FULL = [6, 9] as const;
const OPEN_FILES_GOOD = 65_536;
const OPEN_FILES_MIN = 4_096;
const SKEW_WARNING_MS = 500;
const SKEW_PROBLEM_MS = 30_000;
const READ_AHEAD_GOOD_KIB = 512;
const CONNECT_MS = 5_000;
const AT_ONCE = 16;
const FUSERMOUNT_DIRECTORIES = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];

export interface DoctorResult {
  /** The worst of all. */
  readonly state: Finding["state"];
  readonly findings: readonly Finding[];
}

export interface DoctorOptions {
  /** Absent: no cluster is looked at. */
  readonly nameserver?: string;
  readonly volumes: readonly string[];
}

export async function doctor({ nameserver, volumes }: DoctorOptions): Promise<DoctorResult> {
  const findings = [
    kernel(),
    fuseDevice(),
    await fusermount(),
    userAllowOther(),
    openFiles(),
    ...readAhead(),
  ];
  for (const dir of volumes) findings.push(...await checkVolume(dir));
  if (nameserver !== undefined) findings.push(...await cluster(nameserver));
  const states = findings.map(({ state }) => state);
  const state = (["problem", "warning"] as const).find((one) => states.includes(one)) ?? "ok";
  return { state, findings };
}

function kernel(): Finding {
  const subject = "kernel";
  const release = readText("/proc/sys/kernel/osrelease") ?? "";
  const [major = 0, minor = 0] = release.split(".").map((part) => parseInt(part));
  const isBefore = ([a, b]: readonly [number, number]) => major < a || major === a && minor < b;
  const text = `Linux ${release}`;
  if (isBefore(KERNEL_MIN)) {
    const advice = `mounts need Linux ${KERNEL_MIN.join(".")}: upgrade the kernel`;
    return { subject, state: "problem", text, advice };
  }
  if (isBefore(KERNEL_FULL)) {
    const advice = `from Linux ${
      KERNEL_FULL.join(".")
    } on the kernel reads replicas of its own machine by itself`;
    return { subject, state: "warning", text: `${text}: without FUSE passthrough`, advice };
  }
  return { subject, state: "ok", text };
}

function fuseDevice(): Finding {
  const subject = "/dev/fuse";
  try {
    Deno.openSync(subject, { read: true, write: true }).close();
    return { subject, state: "ok", text: "can be opened" };
  } catch (error) {
    const advice = error instanceof Deno.errors.NotFound
      ? `"modprobe fuse"; in a container give it the device /dev/fuse`
      : `"chmod 666 /dev/fuse", or mount as root`;
    return { subject, state: "problem", text: `cannot be opened: ${messageOf(error)}`, advice };
  }
}

async function fusermount(): Promise<Finding> {
  const subject = "fusermount3";
  const path = (Deno.env.get("PATH") ?? "").split(":").filter((dir) => dir !== "");
  for (const dir of [...path, ...FUSERMOUNT_DIRECTORIES]) {
    const program = `${dir}/${subject}`;
    const found = await Deno.stat(program).catch(() => null);
    if (found === null || !found.isFile) continue;
    if (((found.mode ?? 0) & 0o4000) !== 0) return { subject, state: "ok", text: program };
    return {
      subject,
      state: "warning",
      text: `${program} is not setuid root: ordinary users can't mount`,
      advice: `"chmod u+s ${program}"`,
    };
  }
  const text = "not found: ordinary users can't mount";
  const advice = `install the package fuse3`;
  return { subject, state: Deno.uid() === 0 ? "warning" : "problem", text, advice };
}

function userAllowOther(): Finding {
  const subject = "user_allow_other";
  const isSet = /^\s*user_allow_other\s*$/m.test(readText("/etc/fuse.conf") ?? "");
  if (isSet) return { subject, state: "ok", text: "set in /etc/fuse.conf" };
  if (Deno.uid() === 0) return { subject, state: "ok", text: "not set in /etc/fuse.conf: root needs it not" };
  return {
    subject,
    state: "warning",
    text: "not set in /etc/fuse.conf: what you mount nobody else can use",
    advice: "add the line user_allow_other to /etc/fuse.conf, or mount as root",
  };
}

function openFiles(): Finding {
  const subject = "open files";
  const limit = /^Max open files\s+\S+\s+(\S+)/m.exec(readText("/proc/self/limits") ?? "")?.[1] ?? "unknown";
  const files = limit === "unlimited" ? Infinity : Number(limit);
  const text = `at most ${limit} of one process`;
  if (files >= OPEN_FILES_GOOD) return { subject, state: "ok", text };
  const advice = `LimitNOFILE=${OPEN_FILES_GOOD} in the service, or "ulimit -Hn ${OPEN_FILES_GOOD}"`;
  return { subject, state: files < OPEN_FILES_MIN ? "problem" : "warning", text, advice };
}

/** Of mounts that are there. */
function readAhead(): Finding[] {
  return listMounts().filter(isOurs).map(({ mountpoint, deviceNumber }) => {
    const subject = `read-ahead of ${mountpoint}`;
    const file = `/sys/class/bdi/${deviceNumber}/read_ahead_kb`;
    const kib = Number(readText(file) ?? NaN);
    if (Number.isNaN(kib)) return { subject, state: "warning", text: "unknown", advice: `is /sys mounted?` };
    const text = `${kib} KiB`;
    if (kib >= READ_AHEAD_GOOD_KIB) return { subject, state: "ok", text };
    const advice = `mount as root, or as root "echo 4096 > ${file}"`;
    return { subject, state: "warning", text: `${text}: long reads are slow`, advice };
  });
}

async function cluster(nameserver: string): Promise<Finding[]> {
  const subject = `nameserver ${nameserver}`;
  let status: StatusReply;
  let time: Finding;
  try {
    status = await fetchStatus(nameserver);
    time = await clock(nameserver);
  } catch (error) {
    const advice = "is it running, does it --listen on that address, and does a firewall let it through?";
    return [{ subject, state: "problem", text: messageOf(error), advice }];
  }
  const findings: Finding[] = [version(subject, status.version), time];
  const { dataservers, missing, underReplicated, freeBytes, totalBytes } = status;
  if (missing > 0) {
    findings.push({
      subject: "blocks",
      state: "problem",
      text: `${missing} have no replica that is alive`,
      advice: `start servers that are away again; "mfs fsck" names the files`,
    });
  } else if (underReplicated > 0) {
    const text = `${underReplicated} have too few replicas`;
    findings.push({
      subject: "blocks",
      state: "warning",
      text,
      advice: `"mfs status" shows how repair goes on`,
    });
  }
  const text = `${size(freeBytes)} free of ${size(totalBytes)}`;
  findings.push(
    freeBytes >= totalBytes * FREE_SHARE_GOOD && freeBytes > 0
      ? { subject: "space", state: "ok", text }
      : { subject: "space", state: "problem", text, advice: "add a volume or a dataserver, or delete files" },
  );
  for (let at = 0; at < dataservers.length; at += AT_ONCE) {
    const some = dataservers.slice(at, at + AT_ONCE);
    findings.push(...(await Promise.all(some.map((one) => dataserver(one, status.clusterId)))).flat());
  }
  return findings;
}

function version(subject: string, theirs: string | undefined): Finding {
  const text = `answers, version ${theirs ?? "unknown"}`;
  if (theirs === VERSION) return { subject, state: "ok", text };
  return {
    subject,
    state: "warning",
    text: `${text}, and this is ${VERSION}`,
    advice: "upgrade the older one",
  };
}

/** The nameserver's against ours: times of files are made by either. */
async function clock(nameserver: string): Promise<Finding> {
  const startMs = performance.now();
  const { channel, reply } = await connect(nameserver, {
    hello: helloOf("admin", "", "doctor"),
    expectRole: "nameserver",
    timeoutMs: CONNECT_MS,
  });
  const tookMs = performance.now() - startMs;
  channel.close();
  if (reply.nowMs === undefined) {
    const text = "the nameserver does not tell its time";
    return { subject: "clock", state: "warning", text, advice: "upgrade it" };
  }
  // It was read at some time during the exchange.
  return judgeClock(Math.abs(Date.now() - tookMs / 2 - reply.nowMs), tookMs);
}

/** `skewMs` was measured with an exchange that took `tookMs`. */
export function judgeClock(skewMs: number, tookMs: number): Finding {
  const subject = "clock";
  const seconds = (ms: number) => (ms / 1000).toFixed(2);
  const text = `${seconds(skewMs)} s off the nameserver's, give or take ${seconds(tookMs / 2)} s`;
  const certainMs = skewMs - tookMs / 2;
  if (certainMs <= SKEW_WARNING_MS) return { subject, state: "ok", text };
  const state = certainMs > SKEW_PROBLEM_MS ? "problem" : "warning";
  return { subject, state, text, advice: "run an NTP client (chrony, systemd-timesyncd) on both machines" };
}

async function dataserver(server: DataserverStatus, clusterId: string): Promise<Finding[]> {
  const { node, host, address, alive, lastHeartbeatSeconds, volumes } = server;
  const subject = `dataserver ${node} (${host}, ${address})`;
  if (!alive) {
    const text = `silent for ${duration(lastHeartbeatSeconds)}`;
    return [{
      subject,
      state: "problem",
      text,
      advice: `start it again, or "mfs decommission ${node}" and then "mfs forget ${node}"`,
    }];
  }
  const failed = volumes.flatMap(({ path, failed }): Finding[] =>
    failed === undefined ? [] : [{
      subject: `volume ${path} of ${host}`,
      state: "problem",
      text: failed,
      advice: "replace the disk, and give its directory again, empty",
    }]
  );
  try {
    const { channel, reply } = await connect(address, {
      hello: helloOf("admin", clusterId, "doctor"),
      expectRole: "dataserver",
      timeoutMs: CONNECT_MS,
    });
    channel.close();
    return [version(subject, reply.program), ...failed];
  } catch (error) {
    const advice =
      "the nameserver hears of it, and this machine can't reach it: check its --listen and firewalls";
    return [{ subject, state: "problem", text: messageOf(error), advice }, ...failed];
  }
}

function readText(path: string): string | undefined {
  try {
    return Deno.readTextFileSync(path).trim();
  } catch {
    return undefined; // what can't be read is not known, which the checks say
  }
}

/** For people: a line for each. */
export function formatDoctor({ state, findings }: DoctorResult): string {
  const lines = findings.map(({ subject, state, text, advice }) =>
    `${state.padEnd(7)}  ${subject}: ${text}${advice === undefined || state === "ok" ? "" : `: ${advice}`}`
  );
  const count = (wanted: Finding["state"]) => findings.filter(({ state }) => state === wanted).length;
  const end = state === "ok" ? "all is well" : `problems: ${count("problem")}, warnings: ${count("warning")}`;
  return [...lines, end].join("\n");
}

export interface DoctorFlags {
  readonly nameserver?: string;
  readonly volume?: readonly string[];
  readonly json?: boolean;
}

/** The command; ends with EXIT_FAILURE when there is a problem. */
export async function doctorCommand({ nameserver, volume = [], json = false }: DoctorFlags): Promise<void> {
  const result = await doctor({ volumes: volume, ...nameserver === undefined ? {} : { nameserver } });
  printLine(json ? JSON.stringify(result) : formatDoctor(result));
  if (result.state === "problem") Deno.exit(EXIT_FAILURE);
}
