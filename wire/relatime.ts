/** When reading an inode changes its time of access, as Linux has it for "relatime": decided alike by client and server. */

import { type Timespec, timespecCompare } from "../base/clock.ts";

const DAY_SECONDS = 24 * 60 * 60;

/** The last access was before the last change, or a day ago. */
export function isAccessDue(
  { atime, mtime, ctime }: { readonly atime: Timespec; readonly mtime: Timespec; readonly ctime: Timespec },
  now: Timespec,
): boolean {
  return timespecCompare(mtime, atime) >= 0 || timespecCompare(ctime, atime) >= 0 ||
    now.seconds - atime.seconds >= DAY_SECONDS;
}
