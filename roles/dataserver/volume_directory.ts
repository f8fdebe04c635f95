/**
 * A volume's directory: what must be in it, and its identity in `volume.json`.
 * Owns: volume.json and the names of everything below the directory. Never changes a directory that it does not
 * recognise.
 */

import { bytesOf } from "../../base/bytes.ts";
import { randomHexId } from "../../base/random.ts";
import { asFsError, FsError } from "../../wire/errno.ts";
import { asNodeId, asVolumeId, type NodeId, type VolumeId } from "../../wire/ids.ts";
import type { Disk } from "./disk.ts";

const FORMAT = 1;
const IDENTITY_FILE = "volume.json";
const BUCKETS = 256;

/** What volume.json holds. */
export interface VolumeIdentity {
  readonly format: number;
  /** Random, made with the volume. */
  readonly label: string;
  /** Random, of the dataserver that the volume was made by. */
  readonly nodeLabel: string;
  /** These three are absent until the first registration. */
  readonly clusterId?: string;
  readonly volume?: VolumeId;
  readonly node?: NodeId;
}

/** A volume that can't be used now, such as a missing disk: the others may go on without it. */
export class VolumeUnavailable extends FsError {}

/** Recognises the directory, or makes it when it is absent or empty; throws FsError with one clear sentence. */
export async function openVolumeDirectory(
  disk: Disk,
  path: string,
  nodeLabel: string,
): Promise<VolumeIdentity> {
  const names = await namesIn(disk, path);
  let identity: VolumeIdentity;
  if (names.includes(IDENTITY_FILE)) {
    identity = parseIdentity(path, await readText(disk, `${path}/${IDENTITY_FILE}`));
    if (identity.volume !== undefined && !names.includes("meta")) {
      throw new FsError(
        "EINVAL",
        `volume ${path} has lost its meta/ directory: restore it, or clear ${path}`,
      );
    }
  } else {
    const foreign = names.filter((name) => name !== `${IDENTITY_FILE}.tmp` && name !== "lost+found");
    if (foreign.length > 0) {
      throw new FsError(
        "ENOTEMPTY",
        `${path} is not empty and holds no ${IDENTITY_FILE}: it is no MaggieFS volume; give an empty directory`,
      );
    }
    identity = { format: FORMAT, label: randomHexId(), nodeLabel };
  }
  try {
    await disk.makeDirectory(path);
    if (!names.includes(IDENTITY_FILE)) await writeIdentity(disk, path, identity);
    for (const name of ["blocks", "trash", "meta"]) {
      await disk.makeDirectory(`${path}/${name}`);
    }
    for (let i = 0; i < BUCKETS; i++) {
      await disk.makeDirectory(`${path}/blocks/${bucketName(i)}`);
    }
    // Before anything in them is called durable.
    await disk.syncDirectory(`${path}/blocks`);
    await disk.syncDirectory(path);
    if (names.length === 0) await disk.syncDirectory(parentOf(path));
  } catch (error) {
    throw new VolumeUnavailable(asFsError(error, "open volume").errno, `volume ${path}: ${messageOf(error)}`);
  }
  return identity;
}

/** Says nothing of a disk. */
const PASSING: readonly string[] = ["EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EINTR"];

/** Why the directory at `path` is not the one that was opened, or undefined. */
export async function lostDirectory(
  disk: Disk,
  path: string,
  { label }: VolumeIdentity,
): Promise<string | undefined> {
  try {
    const found = parseIdentity(path, await readText(disk, `${path}/${IDENTITY_FILE}`));
    return found.label === label ? undefined : `${path} is another volume than it was`;
  } catch (error) {
    const { errno, message } = asFsError(error, "watch");
    return PASSING.includes(errno) ? undefined : message;
  }
}

/** Replaces volume.json, atomically and durably. */
export async function writeIdentity(disk: Disk, path: string, identity: VolumeIdentity): Promise<void> {
  await disk.replaceFile(path, IDENTITY_FILE, bytesOf(JSON.stringify(identity, null, 2) + "\n"));
}

/** The directories of block files, relative to the volume. */
export function* bucketNames(): Generator<string> {
  for (let i = 0; i < BUCKETS; i++) yield `blocks/${bucketName(i)}`;
}

export function bucketOf(block: number): string {
  return `blocks/${bucketName(block % BUCKETS)}`;
}

function bucketName(index: number): string {
  return index.toString(16).padStart(2, "0");
}

async function namesIn(disk: Disk, path: string): Promise<string[]> {
  try {
    return await disk.names(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotADirectory) {
      throw new FsError("ENOTDIR", `volume ${path} is not a directory`);
    }
    const mayBeMade = error instanceof Deno.errors.NotFound && await exists(disk, parentOf(path));
    if (!mayBeMade) {
      throw new VolumeUnavailable(
        asFsError(error, "open volume").errno,
        `volume ${path}: ${messageOf(error)}`,
      );
    }
    return [];
  }
}

async function exists(disk: Disk, directory: string): Promise<boolean> {
  try {
    await disk.names(directory);
    return true;
  } catch {
    return false; // whatever the reason, it can't be used
  }
}

async function readText(disk: Disk, path: string): Promise<string> {
  try {
    return await disk.readText(path);
  } catch (error) {
    throw new VolumeUnavailable(asFsError(error, "open volume").errno, `${path}: ${messageOf(error)}`);
  }
}

function parseIdentity(path: string, text: string): VolumeIdentity {
  const corrupt = new FsError("EINVAL", `volume ${path}: ${IDENTITY_FILE} is corrupt; nothing was changed`);
  let value: Partial<Record<keyof VolumeIdentity, unknown>> | null;
  try {
    value = JSON.parse(text);
  } catch {
    throw corrupt;
  }
  if (value === null || typeof value !== "object" || typeof value.format !== "number") throw corrupt;
  if (value.format !== FORMAT) {
    throw new FsError(
      "EINVAL",
      `volume ${path} has layout version ${value.format}, this mfs knows ${FORMAT}; nothing was changed`,
    );
  }
  const { label, nodeLabel, clusterId, volume, node } = value;
  const isId = (id: unknown) => id === undefined || (Number.isSafeInteger(id) && (id as number) > 0);
  const isText = (id: unknown) => typeof id === "string" && id.length > 0;
  if (!isText(label) || !isText(nodeLabel) || !isId(volume) || !isId(node)) throw corrupt;
  if (clusterId !== undefined && !isText(clusterId)) throw corrupt;
  return {
    format: FORMAT,
    label: label as string,
    nodeLabel: nodeLabel as string,
    ...(clusterId === undefined ? {} : { clusterId: clusterId as string }),
    ...(volume === undefined ? {} : { volume: asVolumeId(volume as number) }),
    ...(node === undefined ? {} : { node: asNodeId(node as number) }),
  };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function parentOf(path: string): string {
  return path.replace(/\/+$/, "").replace(/\/[^/]*$/, "") || "/";
}
