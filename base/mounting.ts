/** Tells the mounts of a file system apart, as the kernel shows them. */

/** File systems that have a directory for each that is mounted, by device, below /sys/fs. */
const IN_SYSFS = ["ext4", "xfs", "f2fs"];

/** Names the run of the machine and the mount of the file system that `path` lies in, where the kernel tells mounts apart. */
export function systemMounting(path: string): string {
  return `${machineRun()} ${mountOf(path)}`;
}

let run: string | undefined;

/** Names this run of the machine, from its start to its stop, among those of all machines. */
export function machineRun(): string {
  return run ??= Deno.readTextFileSync("/proc/sys/kernel/random/boot_id").trim();
}

/** The inode of a directory that the kernel makes for a file system as it is mounted: another one each time. */
function mountOf(path: string): number {
  try {
    const { dev } = Deno.statSync(path);
    // makedev(3), the other way round.
    const major = Math.floor(dev / 2 ** 8) & 0xfff;
    const minor = (dev & 0xff) | (Math.floor(dev / 2 ** 12) & 0xfff00);
    const device = Deno.realPathSync(`/sys/dev/block/${major}:${minor}`);
    const name = device.slice(device.lastIndexOf("/") + 1);
    for (const type of IN_SYSFS) {
      const { ino } = statOf(`/sys/fs/${type}/${name}`) ?? {};
      if (ino !== undefined && ino !== null) return ino;
    }
  } catch {
    // No block device, as tmpfs; or there is no sysfs.
  }
  return 0;
}

function statOf(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.statSync(path);
  } catch {
    return undefined;
  }
}
