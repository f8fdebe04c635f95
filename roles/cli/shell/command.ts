/** `mfs shell`: connects as the user that it runs as, and runs a line, a script or a terminal session. */

import * as libc from "../../../base/libc.ts";
import { createLogger } from "../../../base/log.ts";
import { tcpDialer } from "../../../wire/dialer.ts";
import { interruptible } from "../../admin/interrupt.ts";
import { EXIT_FAILURE, messageOf, printLine } from "../../admin/process.ts";
import { startClient } from "../../mount/client.ts";
import { linesOf, Shell } from "./shell.ts";

export interface ShellFlags {
  readonly nameserver: string;
  readonly host: string;
  readonly rack: string;
  /** Lines to run. */
  readonly c?: string;
}

/** Ends with EXIT_FAILURE and one line at the first failure of a script. */
export async function shellCommand(flags: ShellFlags): Promise<void> {
  const { nameserver, host, rack, c } = flags;
  const umask = Deno.umask();
  const client = await startClient({
    nameserver,
    host,
    rack,
    log: createLogger("shell", { json: false, level: "error" }),
    dialer: tcpDialer,
    user: { uid: libc.geteuid(), gid: libc.getegid() },
    groups: groupsOfCaller(),
    umask,
  });
  let failed;
  try {
    const shell = new Shell({ nameserver, client });
    if (c === undefined && Deno.stdin.isTerminal()) {
      const { runOnTerminal } = await import("./terminal.ts");
      await runOnTerminal(shell);
    } else {
      const lines = c?.split("\n") ?? linesOf(Deno.stdin.readable);
      failed = await interruptible((signal) => shell.runScript(lines, signal));
    }
  } finally {
    await client[Symbol.asyncDispose]();
  }
  if (failed === undefined) return;
  printLine(`mfs: shell: ${failed.line}: ${messageOf(failed.error)}`, Deno.stderr);
  Deno.exit(EXIT_FAILURE);
}

/** Supplementary groups of this process. proc(5). */
function groupsOfCaller(): number[] {
  const [, groups = ""] = /^Groups:(.*)$/m.exec(Deno.readTextFileSync("/proc/self/status")) ?? [];
  return (groups.match(/\d+/g) ?? []).map(Number);
}
