/** Builds probe.c once a test process, on the local disk. */

import { hasProgram, sh } from "./command.ts";

const SOURCE = decodeURIComponent(new URL("./probe.c", import.meta.url).pathname);
let building: Promise<string> | undefined;

export const hasCompiler = hasProgram("gcc");

/** The path of the built program. */
export function probe(): Promise<string> {
  building ??= build();
  return building;
}

async function build(): Promise<string> {
  const dir = Deno.makeTempDirSync({ prefix: "mfs-probe-" });
  globalThis.addEventListener("unload", () => Deno.removeSync(dir, { recursive: true }));
  await sh(`gcc -O1 -w -o ${dir}/probe ${SOURCE}`);
  return `${dir}/probe`;
}
