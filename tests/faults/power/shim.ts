/** Builds shim.c once a test process, and says how to run a program under it. */

import { hasProgram, sh } from "../../harness/command.ts";

const SOURCE = decodeURIComponent(new URL("./shim.c", import.meta.url).pathname);
let building: Promise<string> | undefined;

export const hasCompiler = hasProgram("gcc");

function library(): Promise<string> {
  building ??= build();
  return building;
}

async function build(): Promise<string> {
  const dir = Deno.makeTempDirSync({ prefix: "mfs-power-" });
  globalThis.addEventListener("unload", () => Deno.removeSync(dir, { recursive: true }));
  await sh(`gcc -shared -fPIC -O1 -w -o ${dir}/shim.so ${SOURCE} -ldl -lpthread`);
  return `${dir}/shim.so`;
}

/**
 * The environment in which a program, and what it starts, records to `logFile` what it does below `dir` (which
 * exists). The log must lie elsewhere.
 */
export async function recordingEnvironment(dir: string, logFile: string): Promise<Record<string, string>> {
  return {
    LD_PRELOAD: await library(),
    MFS_POWER_DIR: Deno.realPathSync(dir),
    MFS_POWER_LOG: logFile,
  };
}
