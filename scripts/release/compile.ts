/**
 * `scripts/compile`: makes the executable, by `deno compile`; where no base binary for that can be had, one that
 * carries the whole Deno and unpacks itself. Says which of the two it was. tests/release/ runs the outcome.
 */

import { Command, CommanderError, Option } from "commander";
import { type BaseBinary, findBaseBinary, HOST_TARGET, type Target } from "./base_binary.ts";
import { cachedPackages, needlessPaths } from "./packages.ts";
import { makeSelfExtracting } from "./self_extracting.ts";

export const ROOT = decodeURIComponent(new URL("../..", import.meta.url).pathname).replace(/\/$/, "");
const TARGETS: readonly Target[] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];
/** Modules that are loaded by URL, and so are seen by nothing that follows imports. */
const WORKERS = ["roles/admin/bench/random_reader.ts"];

export interface CompileOptions {
  readonly target: Target;
  /** The executable to make; replaced at once when it is whole. */
  readonly output: string;
  /** The self-extracting one also where the other could be made. */
  readonly selfExtracting?: boolean;
}

/** Makes the executable. Returns what was made, in a sentence; throws when nothing can be made for the target. */
export async function compile({ target, output, selfExtracting }: CompileOptions): Promise<string> {
  await Deno.mkdir(output.replace(/[^/]*$/, "") || ".", { recursive: true });
  const base: BaseBinary = selfExtracting
    ? { missing: "asked for by --self-extracting" }
    : await findBaseBinary(ROOT, target);
  // A name of its own beside the output, so that a program that runs from there is never written over. Deno
  // keeps the file's name inside: that must be the same each time.
  const temporary = await Deno.makeTempDir({ dir: output.replace(/[^/]*$/, "") || "." });
  try {
    const made = `${temporary}/mfs`;
    if ("missing" in base) await makeSelfExtracting({ root: ROOT, target, output: made });
    else await denoCompile(target, made, base.env);
    await Deno.chmod(made, 0o755);
    await Deno.rename(made, output);
  } finally {
    await Deno.remove(temporary, { recursive: true });
  }
  const megabytes = Math.round((await Deno.stat(output)).size / 1e6);
  const how = "missing" in base
    ? `self-extracting, from the installed Deno; no base binary for deno compile: ${base.missing}`
    : `by deno compile; base binary: ${base.from}`;
  return `${output}: ${megabytes} MB, ${target}, ${how}`;
}

async function denoCompile(target: Target, output: string, env: Readonly<Record<string, string>>) {
  const needless = needlessPaths(cachedPackages(await registryDirectory()), target);
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["compile", "--quiet", "--no-check", "--no-prompt", "--allow-all", "--frozen"],
      ...["--config", `${ROOT}/deno.json`, "--target", target, "--output", output],
      ...WORKERS.flatMap((worker) => ["--include", `${ROOT}/${worker}`]),
      ...needless.flatMap((path) => ["--exclude", path]),
      `${ROOT}/scripts/release/executable.ts`,
    ],
    env: { NO_COLOR: "1", ...env },
    stdin: "null",
    stderr: "piped",
  }).output();
  if (!success) throw new Error(`deno compile: ${new TextDecoder().decode(stderr).trim()}`);
}

/** Where Deno keeps the packages of the registry: NAME/VERSION/... */
async function registryDirectory(): Promise<string> {
  const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["info", "--json"] }).output();
  const { npmCache } = JSON.parse(new TextDecoder().decode(stdout)) as { npmCache: string };
  const [registry, ...others] = [...Deno.readDirSync(npmCache)].filter(({ isDirectory }) => isDirectory);
  if (registry === undefined || others.length > 0) throw new Error(`not one registry in ${npmCache}`);
  return `${npmCache}/${registry.name}`;
}

export function asTarget(text: string): Target {
  const found = TARGETS.find((target) => target === text);
  if (found === undefined) throw new Error(`target ${text}: known are ${TARGETS.join(", ")}`);
  return found;
}

async function main(): Promise<void> {
  const program = new Command("scripts/compile")
    .description("Makes one executable of MaggieFS, which needs neither Deno nor this directory.")
    .addOption(new Option("--target <target>", "for which machines").choices(TARGETS).default(HOST_TARGET))
    .option("--output <file>", "the executable to make", `${ROOT}/dist/mfs`)
    .option("--self-extracting", "carry the whole Deno, also where deno compile would do")
    .exitOverride();
  try {
    program.parse(Deno.args, { from: "user" });
    console.log(await compile(program.opts<CompileOptions>()));
  } catch (error) {
    if (error instanceof CommanderError) Deno.exit(error.exitCode === 0 ? 0 : 2);
    console.error(`compile: ${error instanceof Error ? error.message : error}`);
    Deno.exit(1);
  }
}

if (import.meta.main) await main();
