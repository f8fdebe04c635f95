/** What becomes of a problem that is to be repaired. */

import type { FsckRepaired } from "../../wire/messages/fsck.ts";

export const GONE: FsckRepaired = { outcome: "gone", message: "it is not so any more" };

export function repaired(message: string): FsckRepaired {
  return { outcome: "repaired", message };
}

export function refused(message: string): FsckRepaired {
  return { outcome: "refused", message };
}
