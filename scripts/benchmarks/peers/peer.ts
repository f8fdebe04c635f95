/**
 * What MaggieFS is compared with: a file system that a program of this folder sets up under a directory, on the same disk
 * as all others, and takes away again.
 */

import { listMounts } from "../../../roles/admin/mounts.ts";
import { hasProgram } from "../../../roles/admin/bench/programs.ts";

export interface Peer {
  /** Where its files are. */
  readonly dir: string;
  /** Processes of it; those that they have started count as well. */
  readonly pids: readonly number[];
  /** One line on how it is set up. */
  readonly note: string;
  /** Ends all its processes. Its mounts are gone by then. */
  stop(): Promise<void>;
}

export interface PeerKind {
  readonly name: string;
  /** Programs that it takes, with the Debian package of each. */
  readonly programs: Readonly<Record<string, string>>;
  /** Sets it up in an empty directory. What was started is stopped again when that fails. */
  start(base: string): Promise<Peer>;
}

/** The packages that are missing for `kinds`, once each. */
export function missingPackages(kinds: readonly PeerKind[]): readonly string[] {
  const missing = new Set<string>();
  for (const { programs } of kinds) {
    for (const [program, debianPackage] of Object.entries(programs)) {
      if (!hasProgram(program)) missing.add(debianPackage);
    }
  }
  return [...missing];
}

export function isMounted(path: string): boolean {
  return listMounts().some(({ mountpoint }) => mountpoint === path);
}

/** Stops all, the last one first, whatever fails. */
export async function stopAll(parts: readonly { stop(): Promise<void> }[]): Promise<void> {
  for (const part of [...parts].reverse()) await part.stop().catch(() => {});
}
