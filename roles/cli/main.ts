/** Parses the command line, runs the command, and ends the process with its exit code. */

import { CommanderError } from "commander";
import {
  EXIT_USAGE,
  exitOnUncaughtErrors,
  exitWith,
  messageOf,
  printLine,
  UsageError,
} from "../admin/process.ts";
import { MOUNT_HELPER, programArguments } from "../admin/self.ts";
import { program } from "./flags.ts";
import "./servers.ts";
import "./mounts.ts";
import "./operation.ts";

/** The command that the arguments name, for messages. */
function commandName(): string {
  const [first] = programArguments();
  return program.commands.some((candidate) => candidate.name() === first) ? first! : "usage";
}

export async function main(): Promise<never> {
  const what = commandName();
  exitOnUncaughtErrors(what);
  const args = programArguments();
  if (args[0] === MOUNT_HELPER) {
    const { runMountHelper } = await import("../admin/mount_helper.ts");
    const { checkMountOptions } = await import("../singlenode/assembly.ts");
    await runMountHelper(args.slice(1), checkMountOptions);
  }
  try {
    await program.parseAsync([...args], { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) exitWith(what, error);
    if (error.exitCode === 0) Deno.exit(0);
    if (error.code === "commander.help") {
      printLine(program.helpInformation().trimEnd(), Deno.stderr);
      Deno.exit(EXIT_USAGE);
    }
    const hint = what === "usage" ? "mfs --help" : `mfs ${what} --help`;
    exitWith(what, new UsageError(`${messageOf(error).replace(/^error: /, "")} (see ${hint})`));
  }
  Deno.exit(0);
}
