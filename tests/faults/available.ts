/** What the fault harness needs of a machine. */

import { hasProgram, run } from "../harness/command.ts";

const PROGRAMS = ["ip", "tc", "nsenter", "mount", "mkfs.ext4", "e2fsck", "findmnt", "gcc"];

/** What is missing, in words; undefined: nothing. */
export async function whatIsMissing(): Promise<string | undefined> {
  if (Deno.uid() !== 0) return "root";
  const missing = PROGRAMS.filter((program) => !hasProgram(program));
  if (missing.length > 0) return missing.join(", ");
  try {
    Deno.statSync("/dev/fuse");
  } catch {
    return "/dev/fuse";
  }
  // A machine that is a container itself may not let us.
  const name = `mfs-test-${Deno.pid}-probe`;
  const { code } = await run("ip", ["netns", "add", name]);
  await run("ip", ["netns", "delete", name]);
  return code === 0 ? undefined : "network namespaces";
}

/** Of the kernel: a shaper of traffic, for slow networks; and loop devices, for broken file systems. */
export async function missingKinds(): Promise<string[]> {
  const missing: string[] = [];
  const name = `mfs-test-${Deno.pid}-probe`;
  await run("ip", ["netns", "add", name]);
  const shaper = await run("ip", [
    ...["netns", "exec", name, "tc", "qdisc", "add", "dev", "lo", "root", "tbf"],
    ...["rate", "1mbit", "burst", "64k", "latency", "500ms"],
  ]);
  await run("ip", ["netns", "delete", name]);
  if (shaper.code !== 0) missing.push("slow");
  if ((await run("losetup", ["-f"])).code !== 0) missing.push("readonly");
  return missing;
}
