/**
 * Backing files for FUSE passthrough (Linux 6.9, root): the kernel then reads and writes them without asking
 * us. Rules: fuse.md, section 6; above all, one id an inode, closed only after its last RELEASE.
 */

import * as libc from "../../base/libc.ts";
import { BACKING_MAP, DEV_IOC_BACKING_CLOSE, DEV_IOC_BACKING_OPEN } from "./protocol.ts";

/**
 * Registers the open regular file `fileFd` with the connection of `fuseFd`: a backing id above 0, or -errno
 * (EPERM: not negotiated or not root; ELOOP: its file system is stacked too deep).
 */
export function openBacking(fuseFd: number, fileFd: number): number {
  const map = new Uint8Array(BACKING_MAP.bytes);
  new DataView(map.buffer).setInt32(BACKING_MAP.fd, fileFd, true);
  return libc.ioctl(fuseFd, DEV_IOC_BACKING_OPEN, map);
}

/** 0 or -errno. */
export function closeBacking(fuseFd: number, backingId: number): number {
  const argument = new Uint8Array(4);
  new DataView(argument.buffer).setInt32(0, backingId, true);
  return libc.ioctl(fuseFd, DEV_IOC_BACKING_CLOSE, argument);
}
