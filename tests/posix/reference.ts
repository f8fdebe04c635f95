/** An ext4 to compare a mount with: one of its own in an image, or a directory on a disk that has one. */

import { run, sh } from "../harness/command.ts";
import { forgetCleanUp, trackCleanUp } from "../harness/scratch.ts";

export interface Reference {
  readonly dir: string;
  readonly isExt4: boolean;
  remove(): Promise<void>;
}

/** A directory on a disk, on ext4 if there is any: the scratch directory's disk, else that of /var/tmp. */
export async function referenceDirectory(scratch: string): Promise<Reference> {
  const isExt4 = async (dir: string) => /^ext[234]|^ext2\/ext3$/.test(await sh(`stat -f -c %T ${dir}`));
  const beside = `${scratch}/reference`;
  Deno.mkdirSync(beside, { mode: 0o755 });
  if (await isExt4(beside)) return { dir: beside, isExt4: true, remove: async () => {} }; // goes with the scratch
  try {
    const dir = Deno.makeTempDirSync({ dir: "/var/tmp", prefix: "mfs-test-" });
    if (await isExt4(dir)) {
      Deno.chmodSync(dir, 0o755);
      return { dir, isExt4: true, remove: () => Deno.remove(dir, { recursive: true }) };
    }
    Deno.removeSync(dir);
  } catch {
    // No such place, or not for us.
  }
  return { dir: beside, isExt4: false, remove: async () => {} };
}

/**
 * A new ext4 in an image of `mib` MiB under `scratch`, mounted as a file system for everything is: with devices and
 * setuid, whatever the machine's disks are mounted with. Without loop devices (or root) a directory of the machine's.
 */
export async function referenceImage(scratch: string, mib: number, inodes: number): Promise<Reference> {
  const [image, dir] = [`${scratch}/ext4.img`, `${scratch}/ext4`];
  const script =
    `truncate -s ${mib}M ${image}; mkfs.ext4 -q -F -b 4096 -I 256 -N ${inodes} -E nodiscard ${image}
    mkdir ${dir}; mount -o loop,dev,suid,exec,relatime ${image} ${dir}`;
  const { code } = await run("bash", ["-eu", "-c", script], { timeoutMs: 30_000 });
  if (code !== 0) return await referenceDirectory(scratch);
  const remove = async () => {
    forgetCleanUp(remove);
    await run("umount", ["-l", "--", dir], { timeoutMs: 10_000 });
    await Deno.remove(image);
  };
  trackCleanUp(remove);
  return { dir, isExt4: true, remove };
}
