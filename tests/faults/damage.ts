/**
 * What a disk may do to a dataserver: its volumes on file systems that can be filled or broken, and damage to what lies on
 * them while nobody uses it. Needs root.
 */

import { randomInt, type SeededRandom } from "../../base/random.ts";
import { systemDisk } from "../../roles/dataserver/disk.ts";
import type { ReplicaEntry } from "../../roles/dataserver/replica_records.ts";
import { bucketOf } from "../../roles/dataserver/volume_directory.ts";
import { sh } from "../harness/command.ts";

/** Of each kind of file system; sparse, so that nothing is used before it is written. */
const VOLUME_MIB = 2048;
const FULL_TRIES = 100;
const DAMAGED_MAX = 6;
const REPLICAS_MAX = 10_000;
/** Which replicas are doubtful is not asked. */
const ANY_LIFE = 1;

/** Dataserver 1 gets a tmpfs that can be filled, dataserver 2 an ext4 that can be broken, the others a plain directory. */
export async function prepareVolume(path: string, dataserver: number): Promise<void> {
  if (dataserver === 1) await sh(`mount -t tmpfs -o size=${VOLUME_MIB}M,mode=755 mfs-test ${path}`);
  if (dataserver === 2) {
    await sh(`truncate -s ${VOLUME_MIB}M ${path}.img
      mkfs.ext4 -q -F ${path}.img
      mount -o loop,errors=remount-ro ${path}.img ${path}
      rmdir ${path}/lost+found`);
  }
}

/** Of a tmpfs: nothing more fits, or again as much as before. */
export async function setFull(path: string, full: boolean): Promise<void> {
  if (!full) return void await sh(`mount -o remount,size=${VOLUME_MIB}M ${path}`);
  // The kernel refuses less than what is used, and that grows while it is asked for.
  await sh(`for i in {1..${FULL_TRIES}}; do
      used=$(df --output=used -k ${path} | tail -n 1)
      ! mount -o remount,size=$((used))k ${path} 2> ${path}.full || exit 0
    done
    cat ${path}.full >&2
    exit 1`);
}

/** Of an ext4: from now on every write is refused with EROFS; what was not yet on the disk is lost. */
export async function breakFileSystem(path: string): Promise<void> {
  await sh(`device=$(findmnt -n -o SOURCE ${path})
    echo broken by a test > /sys/fs/ext4/$(basename $device)/trigger_fs_error`);
}

/** As after a reboot and fsck, while its dataserver is dead. */
export async function mendFileSystem(path: string): Promise<void> {
  // Mounts of this machine let go of the files that they read once they see that the dataserver is gone.
  await sh(`for i in {1..50}; do
      ! umount ${path} || break
      sleep 0.1
    done
    e2fsck -fy ${path}.img > ${path}.fsck 2>&1 || [ $? -le 2 ] || { cat ${path}.fsck; exit 1; }
    mount -o loop,errors=remount-ro ${path}.img ${path}
    rm -rf ${path}/lost+found`);
}

/** A new disk: nothing is there any more. */
export async function wipe(path: string): Promise<void> {
  await sh(`find ${path} -mindepth 1 -delete`);
}

export interface DamagedReplica {
  readonly block: number;
  readonly generation: number;
  readonly length: number;
}

export interface Damage {
  readonly what: readonly string[];
  /** Those that may not be what they were. */
  readonly replicas: readonly DamagedReplica[];
}

/** Tears replicas of a volume whose dataserver is dead: bytes that flip, files that end early or are gone. */
export async function tearReplicas(path: string, random: SeededRandom): Promise<Damage> {
  const page = [...await replicasOf(path)];
  const what: string[] = [];
  const replicas: DamagedReplica[] = [];
  for (let i = 1 + randomInt(random, DAMAGED_MAX); i > 0 && page.length > 0; i--) {
    const [{ block, record }] = page.splice(randomInt(random, page.length), 1) as [typeof page[0]];
    // Of one that was being written when its process died, the bytes in the file are all there is.
    if (record.state !== "finalized" || record.length === 0) continue;
    const file = `${path}/${bucketOf(block)}/${block}.${randomInt(random, 4) === 0 ? "crc" : "blk"}`;
    what.push(`${tearFile(file, random)} of block ${block}`);
    replicas.push({ block, generation: record.generation, length: record.length });
  }
  return { what, replicas };
}

/** Tears the log of a volume's database: any of its replicas may be forgotten, or be taken for an older one. */
export async function tearDatabase(path: string, random: SeededRandom): Promise<Damage> {
  const replicas = (await replicasOf(path)).map(({ block, record: { generation, length } }) => ({
    block,
    generation,
    length,
  }));
  const logs = [...Deno.readDirSync(`${path}/meta`)].filter(({ name }) => name.endsWith(".log"));
  return { what: logs.map(({ name }) => tearFile(`${path}/meta/${name}`, random)), replicas };
}

/** Of a copy of the database: opening it would leave nothing in its log to tear. */
async function replicasOf(path: string): Promise<readonly ReplicaEntry[]> {
  const { label } = JSON.parse(await Deno.readTextFile(`${path}/volume.json`)) as { label: string };
  const copy = await Deno.makeTempDir({ dir: `${path}/..`, prefix: "meta-" });
  await sh(`cp -r ${path}/meta/. ${copy}`);
  try {
    const records = await systemDisk.openRecords(copy, label, ANY_LIFE);
    return await records.page(0, REPLICAS_MAX).finally(() => records.close());
  } finally {
    await Deno.remove(copy, { recursive: true });
  }
}

function tearFile(path: string, random: SeededRandom): string {
  const name = path.slice(path.lastIndexOf("/") + 1);
  const { size } = Deno.statSync(path);
  switch (size === 0 ? 3 : randomInt(random, 8)) {
    case 0:
    case 1: {
      const at = randomInt(random, size);
      Deno.truncateSync(path, at);
      return `${name} cut at ${at}`;
    }
    case 2:
      Deno.removeSync(path);
      return `${name} removed`;
    default: {
      if (size === 0) return `${name} is empty`;
      const at = randomInt(random, size);
      const file = Deno.openSync(path, { read: true, write: true });
      const byte = new Uint8Array(1);
      file.seekSync(at, Deno.SeekMode.Start);
      file.readSync(byte);
      byte[0]! ^= 1 << randomInt(random, 8);
      file.seekSync(at, Deno.SeekMode.Start);
      file.writeSync(byte);
      file.close();
      return `${name} bit flipped at ${at}`;
    }
  }
}
