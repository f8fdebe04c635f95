/**
 * Compares what dataservers have on their disks with what the nameserver says of it, while all are stopped: every replica
 * that a block lists is there, of the block's generation, with the same bytes as the others and with right checksums; and
 * nothing else is there.
 */

import { Buffer } from "node:buffer";
import { crc32 } from "node:zlib";
import { ClassicLevel } from "classic-level";
import { bucketOf } from "../../roles/dataserver/volume_directory.ts";
import { systemDisk } from "../../roles/dataserver/disk.ts";
import { getU64, TABLE_DELETION, TABLE_EXTENTS, tableRange } from "../../roles/nameserver/keys.ts";
import { decodeExtents, type Extent } from "../../roles/nameserver/records.ts";
import type { BlockId, VolumeId } from "../../wire/ids.ts";
import { COPY_GENERATION } from "../../wire/messages/dataserver.ts";

const CHUNK_BYTES = 64 * 1024;
/** Which replicas are doubtful is not asked. */
const ANY_LIFE = 1;
const PAGE = 1000;
const PROBLEMS_MAX = 50;

interface Found {
  /** Without .blk and .crc. */
  readonly path: string;
  readonly generation: number;
  /** In bytes, of the data file. */
  readonly length: number;
}

export interface ReplicaComparison {
  readonly blocks: number;
  readonly replicas: number;
  readonly problems: readonly string[];
}

/** `nameserver`: its directory. A block that nobody has written to may have fewer replicas than `replication`. */
export async function compareReplicas(
  nameserver: string,
  volumes: readonly string[],
  replication: number,
): Promise<ReplicaComparison> {
  const { extents, deletions } = await namespaceOf(nameserver);
  const onDisk = new Map<VolumeId, Map<BlockId, Found>>();
  for (const path of volumes) {
    const { volume, label } = JSON.parse(await Deno.readTextFile(`${path}/volume.json`));
    onDisk.set(volume, await replicasOf(path, label));
  }
  const problems: string[] = [];
  let replicas = 0;
  for (const extent of extents) {
    const { block, volumes } = extent;
    const listed = volumes.map((volume) => onDisk.get(volume)?.get(block));
    for (const volume of volumes) onDisk.get(volume)?.delete(block);
    const found = listed.filter((replica) => replica !== undefined);
    replicas += found.length;
    const what = !extent.written
      ? compare(found)
      : volumes.length !== replication
      ? `${volumes.length} replicas, not ${replication}`
      : found.length !== volumes.length
      ? `${found.length} of ${volumes.length} replicas are there`
      : wrongGeneration(extent, found) ?? compare(found);
    if (what !== undefined) {
      problems.push(
        `block ${block}: ${what} (volumes ${volumes}; ${found.map(({ path }) => path).join(", ")})`,
      );
    }
  }
  for (const [volume, left] of onDisk) {
    for (const [block, { generation }] of left) {
      // What is left of a copy that came to nothing goes when its dataserver registers again.
      if (generation === COPY_GENERATION) continue;
      const pending = deletions.has(`${volume}/${block}`) ? "is still to be deleted" : "nobody lists";
      problems.push(
        `block ${block}: volume ${volume} has a replica of generation ${generation} that ${pending}`,
      );
    }
  }
  return { blocks: extents.length, replicas, problems: problems.slice(0, PROBLEMS_MAX) };
}

interface Namespace {
  readonly extents: readonly Extent[];
  /** "volume/block". */
  readonly deletions: ReadonlySet<string>;
}

async function namespaceOf(nameserver: string): Promise<Namespace> {
  const level = new ClassicLevel<Uint8Array, Uint8Array>(`${nameserver}/db`, {
    keyEncoding: "view",
    valueEncoding: "view",
    createIfMissing: false,
  });
  await level.open();
  const extents: Extent[] = [];
  const deletions = new Set<string>();
  try {
    const [gte, lt] = tableRange(TABLE_EXTENTS);
    for await (const value of level.values({ gte, lt })) extents.push(...decodeExtents(value));
    const [first, end] = tableRange(TABLE_DELETION);
    for await (const key of level.keys({ gte: first, lt: end })) {
      deletions.add(`${getU64(key, 1)}/${getU64(key, 9)}`);
    }
  } finally {
    await level.close();
  }
  return { extents, deletions };
}

async function replicasOf(volume: string, label: string): Promise<Map<BlockId, Found>> {
  const records = await systemDisk.openRecords(`${volume}/meta`, label, ANY_LIFE);
  const found = new Map<BlockId, Found>();
  try {
    for (let from = 0;;) {
      const page = await records.page(from, PAGE);
      for (const { block, record: { generation, length } } of page) {
        found.set(block, { path: `${volume}/${bucketOf(block)}/${block}`, generation, length });
      }
      if (page.length < PAGE) return found;
      from = page.at(-1)!.block + 1;
    }
  } finally {
    await records.close();
  }
}

function wrongGeneration({ generation }: Extent, found: readonly Found[]): string | undefined {
  const generations = found.map((replica) => replica.generation);
  return generations.every((each) => each === generation)
    ? undefined
    : `generations ${generations.join(" and ")}, not ${generation}`;
}

/** Bytes past the end of a file read as zeros: a replica may be shorter than another. */
function compare(found: readonly Found[]): string | undefined {
  const [first, ...others] = found.map(({ path }) => readFile(`${path}.blk`));
  for (const other of others) {
    const at = differsAt(first!, other);
    if (at !== undefined) return `replicas differ from byte ${at} on`;
  }
  for (const { path, length } of found) {
    const bad = badChunk(`${path}.blk`, `${path}.crc`, length);
    if (bad !== undefined) return bad;
  }
  return undefined;
}

function readFile(path: string): Uint8Array {
  try {
    return Deno.readFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return new Uint8Array(0);
    throw error;
  }
}

function differsAt(a: Uint8Array, b: Uint8Array): number | undefined {
  const common = Math.min(a.length, b.length);
  const isSame = Buffer.compare(a.subarray(0, common), b.subarray(0, common)) === 0;
  const longer = a.length > b.length ? a : b;
  if (isSame && longer.subarray(common).every((byte) => byte === 0)) return undefined;
  for (let at = 0; at < longer.length; at++) {
    if ((a[at] ?? 0) !== (b[at] ?? 0)) return at;
  }
  return undefined;
}

/** A clean stop has finalized every replica, so that its length and crcs count. */
function badChunk(dataPath: string, crcPath: string, length: number): string | undefined {
  const data = readFile(dataPath);
  if (data.length !== length) return `${dataPath} has ${data.length} bytes, not ${length}`;
  const crcs = readFile(crcPath);
  const view = new DataView(crcs.buffer, crcs.byteOffset, crcs.byteLength);
  for (let at = 0, i = 0; at < length; at += CHUNK_BYTES, i++) {
    if (4 * i + 4 > crcs.length) return `${crcPath} is too short`;
    if (view.getUint32(4 * i, true) !== crc32(data.subarray(at, at + CHUNK_BYTES))) {
      return `${dataPath}: chunk ${i} is not that of its checksum`;
    }
  }
  return undefined;
}
