/** Which files are installed, and where: the same in a tarball and in a Debian package. */

import { ROOT } from "./compile.ts";
import { exists } from "./base_binary.ts";

export interface InstalledFile {
  /** From the root of the machine, without a slash before. */
  readonly path: string;
  readonly content: Uint8Array | { readonly file: string } | { readonly link: string };
  readonly mode: number;
  /** dpkg asks before it replaces what an administrator has changed. */
  readonly isConfiguration?: boolean;
}

/** What the program says about itself, if this version of it does, and where that goes. */
const SELF_DESCRIBED = [
  { args: ["man"], path: "usr/share/man/man1/mfs.1.gz", isCompressed: true },
  { args: ["completion", "bash"], path: "usr/share/bash-completion/completions/mfs" },
  { args: ["completion", "zsh"], path: "usr/share/zsh/vendor-completions/_mfs" },
  { args: ["completion", "fish"], path: "usr/share/fish/vendor_completions.d/mfs.fish" },
] as const;

/** Everything but what only Debian has. `runsHere`: the executable is for this machine, and can be asked. */
export async function installedFiles(executable: string, runsHere: boolean): Promise<InstalledFile[]> {
  const files: InstalledFile[] = [
    { path: "usr/bin/mfs", content: { file: executable }, mode: 0o755 },
    // mount(8) looks in /sbin only.
    { path: "sbin/mount.mfs", content: { link: "/usr/bin/mfs" }, mode: 0o777 },
    { path: "sbin/mount.fuse.mfs", content: { link: "/usr/bin/mfs" }, mode: 0o777 },
    fromRepository("README.md", "usr/share/doc/mfs/README.md"),
    fromRepository("scripts/systemd/sysusers.conf", "usr/lib/sysusers.d/mfs.conf"),
    fromRepository("scripts/systemd/tmpfiles.conf", "usr/lib/tmpfiles.d/mfs.conf"),
  ];
  for (const name of namesIn("scripts/systemd")) {
    if (!name.endsWith(".service")) continue;
    files.push(fromRepository(`scripts/systemd/${name}`, `lib/systemd/system/${name}`));
  }
  for (const name of namesIn("scripts/release/etc")) {
    files.push({
      ...fromRepository(`scripts/release/etc/${name}`, `etc/mfs/${name}`),
      isConfiguration: true,
    });
  }
  for (const { args, path, ...how } of runsHere ? SELF_DESCRIBED : []) {
    const said = await ask(executable, args);
    if (said === undefined) continue;
    const content = "isCompressed" in how ? await gzip(said) : said;
    files.push({ path, content, mode: 0o644 });
  }
  return files;
}

function fromRepository(source: string, path: string): InstalledFile {
  return { path, content: { file: `${ROOT}/${source}` }, mode: 0o644 };
}

function namesIn(dir: string): string[] {
  return [...Deno.readDirSync(`${ROOT}/${dir}`)].map(({ name }) => name).sort();
}

/** What `mfs ARGS...` prints; undefined: it does not know that. */
async function ask(executable: string, args: readonly string[]): Promise<Uint8Array | undefined> {
  const { success, stdout } = await new Deno.Command(executable, {
    args: [...args],
    stdin: "null",
    stderr: "null",
  }).output();
  return success && stdout.length > 0 ? stdout : undefined;
}

/** As `gzip -n`: without a time, so the same for the same bytes. */
async function gzip(bytes: Uint8Array): Promise<Uint8Array> {
  const stream = new Blob([bytes.slice()]).stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Writes the files below `dir`. */
export async function install(files: readonly InstalledFile[], dir: string): Promise<void> {
  for (const { path, content, mode } of files) {
    const target = `${dir}/${path}`;
    await Deno.mkdir(target.replace(/\/[^/]*$/, ""), { recursive: true, mode: 0o755 });
    if (exists(target)) throw new Error(`two files are ${path}`);
    if ("link" in content) {
      await Deno.symlink(content.link, target);
      continue;
    }
    if ("file" in content) await Deno.copyFile(content.file, target);
    else await Deno.writeFile(target, content);
    await Deno.chmod(target, mode);
  }
}
