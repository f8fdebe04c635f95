/**
 * What is mounted on this machine, from /proc/self/mountinfo, without ever touching a mount itself: its daemon
 * may be dead or hang, and then a stat of the mount point would hang as well.
 */

export interface MountEntry {
  readonly mountpoint: string;
  /** Such as "fuse.mfs" or "ext4". */
  readonly type: string;
  readonly source: string;
}

/** All mounts of this mount namespace, later ones last. */
export function listMounts(): readonly MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of Deno.readTextFileSync("/proc/self/mountinfo").split("\n")) {
    // proc(5): id parent major:minor root mountpoint options [optional ...] - type source superOptions
    const separator = line.indexOf(" - ");
    if (separator < 0) continue;
    const mountpoint = unescape(line.slice(0, separator).split(" ")[4] ?? "");
    const [type = "", source = ""] = line.slice(separator + 3).split(" ");
    entries.push({ mountpoint, type, source: unescape(source) });
  }
  return entries;
}

/** Mountinfo writes space, tab, newline and backslash as three octal digits. */
function unescape(text: string): string {
  if (!text.includes("\\")) return text;
  const bytes: number[] = [];
  const source = new TextEncoder().encode(text);
  for (let i = 0; i < source.length; i++) {
    const octal = source[i] === 0x5c
      ? /^[0-7]{3}/.exec(String.fromCharCode(...source.subarray(i + 1, i + 4)))
      : null;
    if (octal === null) {
      bytes.push(source[i]!);
    } else {
      bytes.push(parseInt(octal[0], 8));
      i += 3;
    }
  }
  return new TextDecoder().decode(new Uint8Array(bytes));
}

/** The absolute path without symbolic links in its directories; the last name is not looked at. */
export function resolveMountpoint(path: string): string {
  const absolute = path.startsWith("/") ? path : `${Deno.cwd()}/${path}`;
  const parts = absolute.split("/").filter((part) => part !== "" && part !== ".");
  const name = parts.pop();
  if (name === undefined) return "/";
  const parent = "/" + parts.join("/");
  if (name === "..") return Deno.realPathSync(absolute);
  try {
    const resolved = Deno.realPathSync(parent);
    return resolved === "/" ? `/${name}` : `${resolved}/${name}`;
  } catch {
    return parent === "/" ? `/${name}` : `${parent}/${name}`;
  }
}

/** What is mounted on `path` (the topmost mount, if several lie on each other). */
export function findMount(path: string): MountEntry | undefined {
  const mounts = listMounts();
  const exact = resolveMountpoint(path);
  const found = mounts.findLast((mount) => mount.mountpoint === exact);
  if (found !== undefined) return found;
  try {
    // Not a mount itself, so that following it as a symbolic link cannot hang on one we know.
    const target = Deno.readLinkSync(exact);
    const linked = resolveMountpoint(
      target.startsWith("/") ? target : `${exact.slice(0, exact.lastIndexOf("/"))}/${target}`,
    );
    return mounts.findLast((mount) => mount.mountpoint === linked);
  } catch {
    return undefined;
  }
}
