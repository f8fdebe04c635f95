/** ext4 as what a mount is compared with: in a file, as a loop device. */

import { run } from "./command.ts";

/** Mounts one at `${dir}/ext4`; undefined: this machine has no loop devices. Goes with `removeExt4`. */
export async function makeExt4(dir: string): Promise<string | undefined> {
  const mountpoint = `${dir}/ext4`;
  const { code } = await run("bash", [
    "-c",
    // Large inodes, for times with nanoseconds, and blocks for symlinks of 4095 bytes.
    `truncate -s 64M ${dir}/image && mkfs.ext4 -q -F -I 256 -b 4096 ${dir}/image && mkdir ${mountpoint} && mount -o loop ${dir}/image ${mountpoint}`,
  ]);
  return code === 0 ? mountpoint : undefined;
}

export async function removeExt4(dir: string): Promise<void> {
  await run("umount", [`${dir}/ext4`]);
}
