/**
 * The base binary of `deno compile`, Deno's runtime without its tools: from DENORT_BIN; else by Deno's own download; else
 * from ../shared/denort beside the project, whose content is checked against what is known of it here.
 */

export type Target = "x86_64-unknown-linux-gnu" | "aarch64-unknown-linux-gnu";

export const HOST_TARGET: Target = `${Deno.build.arch}-unknown-linux-gnu`;

/** What may lie in ../shared/denort as NAME.xz, by target. sha256 of what is unpacked. */
const SHARED: Partial<Record<Target, { readonly name: string; readonly sha256: string }>> = {
  "x86_64-unknown-linux-gnu": {
    name: "denort-2.6.10-x86_64-unknown-linux-gnu",
    sha256: "1b136202dc147212ad0b129de0c10eb5f17060917c9754c7921cd68f764ad2e2",
  },
};

/** A download that takes longer is given up. */
const DOWNLOAD_MS_MAX = 120_000;

export type BaseBinary =
  | { readonly from: string; readonly env: Readonly<Record<string, string>> }
  | { readonly missing: string };

/** How `deno compile` gets its base binary for `target`: what to put in its environment; or why it gets none. */
export async function findBaseBinary(root: string, target: Target): Promise<BaseBinary> {
  const given = Deno.env.get("DENORT_BIN");
  if (given) return { from: `DENORT_BIN (${given})`, env: {} };
  const problem = await download(target);
  if (problem === undefined) return { from: "Deno's own download", env: {} };
  const shared = SHARED[target];
  const packed = `${root}/../shared/denort/${shared?.name}.xz`;
  if (shared === undefined || !exists(packed)) {
    return { missing: `${problem}; DENORT_BIN is not set; and ../shared/denort has none for ${target}` };
  }
  const file = await unpack(packed, `${cacheDirectory()}/${shared.name}`, shared.sha256);
  return { from: `../shared/denort/${shared.name}.xz`, env: { DENORT_BIN: file } };
}

/** Why Deno cannot download its base binary for `target`; undefined: it has it now, for this and later times. */
async function download(target: Target): Promise<string | undefined> {
  const dir = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${dir}/empty.ts`, "");
    const { success, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["compile", "--no-config", "--target", target, "--output", `${dir}/empty`, `${dir}/empty.ts`],
      env: { NO_COLOR: "1" },
      stdin: "null",
      stdout: "null",
      stderr: "piped",
      signal: AbortSignal.timeout(DOWNLOAD_MS_MAX),
    }).output();
    if (success) return undefined;
    const said = new TextDecoder().decode(stderr).trim().split("\n");
    const why = said.at(-1)?.replace(/^\s*\d+: /, "") || `not within ${DOWNLOAD_MS_MAX / 1000} s`;
    return `Deno cannot download it (${why})`;
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

/** `packed` as the executable `file`, unless it is there. Safe when two do it at once: a rename makes one count. */
async function unpack(packed: string, file: string, sha256: string): Promise<string> {
  if (exists(file) && await sha256Of(file) === sha256) return file;
  await Deno.mkdir(cacheDirectory(), { recursive: true });
  const temporary = await Deno.makeTempFile({ dir: cacheDirectory() });
  try {
    const output = await Deno.open(temporary, { write: true });
    const xz = new Deno.Command("xz", { args: ["-dc", packed], stdin: "null", stdout: "piped" }).spawn();
    await xz.stdout.pipeTo(output.writable);
    if (!(await xz.status).success) throw new Error(`${packed} cannot be unpacked`);
    const found = await sha256Of(temporary);
    if (found !== sha256) {
      throw new Error(`${packed} is not what it should be: sha256 ${found}, not ${sha256}`);
    }
    await Deno.chmod(temporary, 0o755);
    await Deno.rename(temporary, file);
  } finally {
    await Deno.remove(temporary).catch(() => {});
  }
  return file;
}

export async function sha256Of(file: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", await Deno.readFile(file));
  return new Uint8Array(digest).toHex();
}

/** Where scripts/deno keeps what it has fetched; it has put Deno's own directory there. */
function cacheDirectory(): string {
  const { MFS_CACHE, XDG_CACHE_HOME, HOME } = Deno.env.toObject();
  return MFS_CACHE || (XDG_CACHE_HOME ? `${XDG_CACHE_HOME}/mfs` : `${HOME}/.cache/mfs`);
}

export function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
