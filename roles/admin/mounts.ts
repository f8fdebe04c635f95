/**
 * What is mounted on this machine, from /proc/self/mountinfo, without ever touching a mount itself: its daemon
 * may be dead or hang, and then a stat of the mount point would hang as well.
 */

import { type MountInfo, parseMountinfo } from "../../base/mountinfo.ts";

/** All mounts of this mount namespace, later ones last. */
export function listMounts(): readonly MountInfo[] {
  return parseMountinfo(Deno.readTextFileSync("/proc/self/mountinfo"));
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
export function findMount(path: string): MountInfo | undefined {
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

/** It is a mount of MaggieFS. */
export function isOurs(mount: MountInfo): boolean {
  return /^fuse\.(mfs|maggiefs)$/.test(mount.type) ||
    (mount.type === "fuse" && /^(mfs|maggiefs)/.test(mount.source));
}
