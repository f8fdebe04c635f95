/**
 * `scripts/package`: executables for each target that can be built, a tarball of each, a Debian package of each, and
 * SHA256SUMS. The same sources give the same bytes: times are SOURCE_DATE_EPOCH, or that of the last commit.
 */

import { Command, CommanderError, Option } from "commander";
import { HOST_TARGET, sha256Of, type Target } from "./base_binary.ts";
import { compile, ROOT } from "./compile.ts";
import { install, type InstalledFile, installedFiles } from "./layout.ts";

const ARCHITECTURES: Record<Target, { readonly name: string; readonly debian: string }> = {
  "x86_64-unknown-linux-gnu": { name: "x86_64", debian: "amd64" },
  "aarch64-unknown-linux-gnu": { name: "aarch64", debian: "arm64" },
};

/** "none" is for tests: quick. */
export type Compression = "none" | "gzip" | "xz";

export interface PackageOptions {
  readonly executable: string;
  readonly target: Target;
  readonly version: string;
  /** Seconds since 1970, of all files. */
  readonly epoch: number;
  readonly output: string;
  readonly compression: Compression;
}

/** mfs-VERSION-linux-ARCH.tar.gz: one directory, in it the files as they are installed. Returns its path. */
export async function makeTarball(options: PackageOptions): Promise<string> {
  const { executable, target, version, epoch, output, compression } = options;
  const name = `mfs-${version}-linux-${ARCHITECTURES[target].name}`;
  return await inTemporary(async (dir) => {
    const files = await installedFiles(executable, target === HOST_TARGET);
    await install([...files, license("LICENSE")], `${dir}/${name}`);
    const plain = `${dir}/${name}.tar`;
    await run("tar", [
      ...["--sort=name", `--mtime=@${epoch}`, "--owner=0", "--group=0", "--numeric-owner"],
      ...["--mode=u+rwX,go+rX,go-w", "-cf", plain, "-C", dir, name],
    ]);
    await run("gzip", ["-n", compression === "none" ? "-1" : "-6", plain]);
    await Deno.copyFile(`${plain}.gz`, `${output}/${name}.tar.gz`);
    return `${output}/${name}.tar.gz`;
  });
}

/** mfs_VERSION_ARCH.deb. Returns its path. */
export async function makeDeb(options: PackageOptions): Promise<string> {
  const { executable, target, version, epoch, output, compression } = options;
  const architecture = ARCHITECTURES[target].debian;
  return await inTemporary(async (dir) => {
    const files = await installedFiles(executable, target === HOST_TARGET);
    const tree = `${dir}/tree`;
    await install([...files, license("usr/share/doc/mfs/copyright")], tree);
    await install(controlFiles(files, version, architecture, await kibibytes(tree)), tree);
    // Of what dpkg-deb packs it takes the times as they are, if they are not later.
    await run("find", [tree, "-exec", "touch", "--no-dereference", `--date=@${epoch}`, "{}", "+"]);
    const deb = `${output}/mfs_${version}_${architecture}.deb`;
    await run("dpkg-deb", ["--root-owner-group", `-Z${compression}`, "--build", tree, deb], {
      SOURCE_DATE_EPOCH: String(epoch),
    });
    return deb;
  });
}

function license(path: string): InstalledFile {
  return { path, content: { file: `${ROOT}/LICENSE` }, mode: 0o644 };
}

function controlFiles(
  files: readonly InstalledFile[],
  version: string,
  architecture: string,
  kibibytes: number,
): InstalledFile[] {
  const text = (name: string, lines: readonly string[]): InstalledFile => ({
    path: `DEBIAN/${name}`,
    content: new TextEncoder().encode(lines.join("\n") + "\n"),
    mode: 0o644,
  });
  const script = (name: string): InstalledFile => ({
    path: `DEBIAN/${name}`,
    content: { file: `${ROOT}/scripts/release/debian/${name}` },
    mode: 0o755,
  });
  const configuration = files.filter(({ isConfiguration }) => isConfiguration).map(({ path }) => `/${path}`);
  return [
    text("control", [
      "Package: mfs",
      `Version: ${version}`,
      `Architecture: ${architecture}`,
      "Maintainer: MaggieFS maintainers <maintainers@maggiefs.invalid>",
      `Installed-Size: ${kibibytes}`,
      // What Deno's binaries ask for.
      "Depends: libc6 (>= 2.27), libgcc-s1",
      "Recommends: fuse3",
      "Section: admin",
      "Priority: optional",
      "Description: distributed POSIX file system",
      " MaggieFS keeps the files of one directory tree on the disks of many machines, each",
      " block on several of them, and shows the tree on every machine as a mounted file",
      " system. This package has its one program, services for systemd, and the helper of",
      " mount(8). It starts nothing by itself.",
    ]),
    text("conffiles", configuration),
    ...["postinst", "prerm", "postrm"].map(script),
  ];
}

/** As Debian counts Installed-Size: each file in whole KiB, and one for each directory or link. */
async function kibibytes(tree: string): Promise<number> {
  let sum = 0;
  for await (const entry of Deno.readDir(tree)) {
    const path = `${tree}/${entry.name}`;
    if (entry.isDirectory) sum += 1 + await kibibytes(path);
    else sum += entry.isSymlink ? 1 : Math.ceil((await Deno.stat(path)).size / 1024);
  }
  return sum;
}

async function inTemporary<T>(body: (dir: string) => Promise<T>): Promise<T> {
  const dir = await Deno.makeTempDir();
  try {
    return await body(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

async function run(program: string, args: readonly string[], env: Record<string, string> = {}) {
  const command = new Deno.Command(program, { args: [...args], env, stdin: "null", stderr: "piped" });
  const { success, stdout, stderr } = await command.output();
  if (!success) throw new Error(`${program}: ${new TextDecoder().decode(stderr).trim()}`);
  return new TextDecoder().decode(stdout).trim();
}

/** SOURCE_DATE_EPOCH, or the time of the last commit; seconds. */
async function sourceEpoch(): Promise<number> {
  const given = Deno.env.get("SOURCE_DATE_EPOCH");
  if (given !== undefined && !/^\d{1,12}$/.test(given)) throw new Error("SOURCE_DATE_EPOCH is not a number");
  return Number(given ?? await run("git", ["-C", ROOT, "log", "-1", "--format=%ct"]));
}

async function main(): Promise<void> {
  const program = new Command("scripts/package")
    .description("Makes tarballs, Debian packages and SHA256SUMS of this version.")
    .option("--output <dir>", "where to put them", `${ROOT}/dist`)
    .addOption(
      new Option("--compression <how>", "of the Debian package: xz is a third smaller and takes a minute")
        .choices(["xz", "gzip"]).default("xz"),
    )
    .exitOverride();
  try {
    program.parse(Deno.args, { from: "user" });
    await packageAll(program.opts<{ output: string; compression: Compression }>());
  } catch (error) {
    if (error instanceof CommanderError) Deno.exit(error.exitCode === 0 ? 0 : 2);
    console.error(`package: ${error instanceof Error ? error.message : error}`);
    Deno.exit(1);
  }
}

async function packageAll(options: { readonly output: string; readonly compression: Compression }) {
  const { output, compression } = options;
  const { version } = JSON.parse(await Deno.readTextFile(`${ROOT}/deno.json`)) as { version: string };
  const epoch = await sourceEpoch();
  await Deno.mkdir(output, { recursive: true });
  const made: string[] = [];
  for (const target of Object.keys(ARCHITECTURES) as Target[]) {
    const executable = `${output}/mfs-${ARCHITECTURES[target].name}`;
    try {
      console.log(await compile({ target, output: executable }));
    } catch (error) {
      // What this machine is can always be built.
      if (target === HOST_TARGET) throw error;
      console.log(`${target}: left out: ${error instanceof Error ? error.message : error}`);
      continue;
    }
    const of = { executable, target, version, epoch, output, compression };
    made.push(await makeTarball(of), await makeDeb(of));
    await Deno.remove(executable);
  }
  const sums = await Promise.all(
    made.map(async (file) => `${await sha256Of(file)}  ${file.replace(/.*\//, "")}\n`),
  );
  await Deno.writeTextFile(`${output}/SHA256SUMS`, sums.join(""));
  for (const file of made) console.log(`${file}: ${((await Deno.stat(file)).size / 1e6).toFixed(1)} MB`);
}

if (import.meta.main) await main();
