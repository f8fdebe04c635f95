/**
 * An executable without `deno compile`: a shell script (self_extracting.sh) and, after it, an archive of the installed
 * Deno, the sources and their packages. The same content gives the same bytes, whose hash names the directory to
 * which it unpacks itself.
 */

import { HOST_TARGET, sha256Of, type Target } from "./base_binary.ts";
import { installedPackages, needlessPaths } from "./packages.ts";

const SOURCES = ["main.ts", "base", "wire", "fs", "roles"];
/** As wide as the number of bytes of the script may get: it is filled in when the length is fixed. */
const OFFSET_DIGITS = 8;

export interface SelfExtractingOptions {
  readonly root: string;
  readonly target: Target;
  readonly output: string;
}

/** Writes the executable. Only for machines like this one: it carries the Deno that runs this. */
export async function makeSelfExtracting({ root, target, output }: SelfExtractingOptions): Promise<void> {
  if (target !== HOST_TARGET) {
    throw new Error(`no base binary for ${target} can be had, and the installed Deno is for ${HOST_TARGET}`);
  }
  const dir = await Deno.makeTempDir();
  try {
    const app = `${dir}/content/mfs`;
    await Deno.mkdir(app, { recursive: true });
    for (const name of SOURCES) await run("cp", ["-R", `${root}/${name}`, app]);
    await installPackages(root, app, target);
    await Deno.copyFile(Deno.execPath(), `${dir}/content/deno`);
    await Deno.chmod(`${dir}/content/deno`, 0o755);
    const archive = `${dir}/archive.tar.gz`;
    await pack(`${dir}/content`, archive);
    await Deno.writeTextFile(output, header(await version(root), await sha256Of(archive)));
    const file = await Deno.open(output, { append: true });
    await (await Deno.open(archive)).readable.pipeTo(file.writable);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

/**
 * node_modules beside the sources, and a configuration by which Deno takes packages from there and asks for nothing
 * else: neither a registry nor what npm's configuration of the user says matters then.
 */
async function installPackages(root: string, app: string, target: Target): Promise<void> {
  const config = JSON.parse(await Deno.readTextFile(`${root}/deno.json`));
  await Deno.copyFile(`${root}/deno.json`, `${app}/deno.json`);
  await Deno.copyFile(`${root}/deno.lock`, `${app}/deno.lock`);
  await run(Deno.execPath(), ["install", "--quiet", "--frozen", "--node-modules-dir=auto"], app);
  const modules = `${app}/node_modules`;
  for (const path of needlessPaths(installedPackages(modules), target)) {
    await Deno.remove(path, { recursive: true });
  }
  // Times of the installation, of no use, and never twice the same.
  await Deno.remove(`${modules}/.deno/.setup-cache.bin`).catch(() => {});
  await Deno.remove(`${modules}/.deno/.deno.lock`).catch(() => {});
  const dependencies: Record<string, string> = {};
  for (const specifier of Object.values(config.imports as Record<string, string>)) {
    const [, name, exact] = /^npm:((?:@[^/]+\/)?[^@/]+)@([^/]+)/.exec(specifier)!;
    dependencies[name!] = exact!;
  }
  const { name, version, imports } = config;
  const runtime = { name, version, nodeModulesDir: "manual", lock: false, imports };
  await Deno.writeTextFile(`${app}/deno.json`, JSON.stringify(runtime));
  await Deno.writeTextFile(`${app}/package.json`, JSON.stringify({ private: true, dependencies }));
  await Deno.remove(`${app}/deno.lock`);
}

/** All of `dir` as a .tar.gz that depends on nothing but its content. */
async function pack(dir: string, archive: string): Promise<void> {
  const plain = archive.replace(/\.gz$/, "");
  await run("tar", [
    ...["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--mode=go-w,a+rX"],
    ...["-cf", plain, "-C", dir, "."],
  ]);
  await run("gzip", ["-n", "-6", plain]);
}

function header(version: string, hash: string): string {
  const template = Deno.readTextFileSync(new URL("./self_extracting.sh", import.meta.url))
    .replace("@VERSION@", version)
    .replace("@HASH@", hash.slice(0, 32));
  const length = new TextEncoder().encode(template).length - "@OFFSET@".length + OFFSET_DIGITS;
  // A number with leading zeros would be octal in $((...)).
  return template.replace("@OFFSET@", `${length}`.padEnd(OFFSET_DIGITS));
}

async function version(root: string): Promise<string> {
  return JSON.parse(await Deno.readTextFile(`${root}/deno.json`)).version;
}

async function run(program: string, args: readonly string[], cwd?: string): Promise<void> {
  const command = new Deno.Command(program, {
    args: [...args],
    ...(cwd === undefined ? {} : { cwd }),
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  });
  const { success, stderr } = await command.output();
  if (!success) throw new Error(`${program}: ${new TextDecoder().decode(stderr).trim()}`);
}
