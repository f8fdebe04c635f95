/**
 * `mfs locations`: where the blocks of a file lie, with what is kept at the nameserver and what are holes; of a directory
 * how much each host has of all that is below.
 * Bounded: of a directory as walk, and a file of several names is counted once up to LINKED_MAX of them; of a file it keeps
 * its block map.
 */

import { FsError, isErrno } from "../../wire/errno.ts";
import type { InodeId } from "../../wire/ids.ts";
import {
  type Attributes,
  type Block,
  type InodeReply,
  type ReplicaLocation,
  S_IFDIR,
  S_IFMT,
  S_IFREG,
} from "../../wire/messages/inode.ts";
import { type AdminClient, withNameserver } from "./client.ts";
import { formatPath, type FsPath, locate, resolve } from "./fs_path.ts";
import { printLine } from "./process.ts";
import { Progress } from "./progress.ts";
import { clusterReplication } from "./replication.ts";
import { askStatus } from "./status.ts";
import { size, table } from "./units.ts";
import { walk } from "./walk.ts";

const LINKED_MAX = 1_000_000;
/** Files whose blocks are asked for at once. */
const AT_ONCE = 32;

export interface ShownReplica {
  readonly node: number;
  readonly host: string;
  readonly rack: string;
  readonly address: string;
  readonly volume: number;
  /** The volume's directory on its host; "": its server has not told since the nameserver started. */
  readonly path: string;
  readonly alive: boolean;
}

export interface ShownBlock {
  readonly id: number;
  readonly generation: number;
  readonly offset: number;
  /** Bytes of the file that it covers; of one beyond the file's end all that it may hold. */
  readonly length: number;
  /** No: allocated, and reads as zeros. */
  readonly written: boolean;
  readonly replicas: readonly ShownReplica[];
}

export interface Range {
  readonly offset: number;
  readonly length: number;
}

export interface FileLocations {
  readonly kind: "file";
  readonly path: string;
  readonly size: number;
  /** As many replicas as its blocks should have. */
  readonly replication: number;
  /** Bytes from its start that the nameserver keeps. */
  readonly inlineBytes: number;
  readonly blocks: readonly ShownBlock[];
  readonly holes: readonly Range[];
}

export interface HostShare {
  readonly host: string;
  /** Replicas, and the bytes of files that they cover. */
  readonly blocks: number;
  readonly bytes: number;
  /** Of those: on volumes that are away. */
  readonly awayBlocks: number;
}

export interface DirectoryLocations {
  readonly kind: "directory";
  readonly path: string;
  readonly files: number;
  /** Written ones, each once, and the bytes of files that they cover. */
  readonly blocks: number;
  readonly bytes: number;
  /** Those without a replica that is alive. */
  readonly missing: number;
  readonly inlineBytes: number;
  /** The one with the most bytes first. */
  readonly hosts: readonly HostShare[];
}

export type Locations = FileLocations | DirectoryLocations;

/** Errors: as resolve; EINVAL for what has no blocks. */
export async function locations({ nameserver, path }: FsPath): Promise<Locations> {
  return await withNameserver(nameserver, "locations", async (client) => {
    const { ino, attributes } = await resolve(client, path);
    const type = attributes.mode & S_IFMT;
    if (type === S_IFREG) return await ofFile(client, formatPath(path), attributes);
    if (type === S_IFDIR) return await ofDirectory(client, ino, path);
    throw new FsError("EINVAL", `${formatPath(path)} has no blocks: give a file or a directory`, {
      op: "locations",
    });
  });
}

async function ofFile(client: AdminClient, path: string, attributes: Attributes): Promise<FileLocations> {
  const { ino, inlineBytes = 0 } = attributes;
  const [blocks, paths, cluster] = [
    await readBlocks(client, ino),
    await volumePaths(client),
    await clusterReplication(client),
  ];
  return {
    kind: "file",
    path,
    size: attributes.size,
    replication: attributes.replication || cluster.replication,
    inlineBytes,
    blocks: blocks.map((block) => ({
      id: block.id,
      generation: block.generation,
      offset: block.start,
      length: shownLength(block, attributes.size),
      written: block.written,
      replicas: block.replicas.map((replica) => shownReplica(replica, paths)),
    })),
    holes: holesOf(blocks, inlineBytes, attributes.size),
  };
}

/** All blocks, also those beyond the file's end. */
async function readBlocks({ nameserver }: AdminClient, ino: InodeId): Promise<Block[]> {
  const blocks: Block[] = [];
  for (let at = 0;;) {
    const reply = await nameserver.blocks({ ino, offset: at, length: Number.MAX_SAFE_INTEGER - at });
    blocks.push(...reply.blocks);
    if (reply.end <= at || reply.end >= Number.MAX_SAFE_INTEGER) return blocks;
    at = reply.end;
  }
}

async function volumePaths(client: AdminClient): Promise<ReadonlyMap<number, string>> {
  const { dataservers } = await askStatus(client);
  return new Map(dataservers.flatMap(({ volumes }) => volumes.map(({ volume, path }) => [volume, path])));
}

function shownReplica(replica: ReplicaLocation, paths: ReadonlyMap<number, string>): ShownReplica {
  const { node, host, rack = "", address, volume, alive } = replica;
  return { node, host, rack, address, volume, path: paths.get(volume) ?? "", alive };
}

function shownLength({ start, length }: Block, fileBytes: number): number {
  return start < fileBytes ? Math.min(length, fileBytes - start) : length;
}

/** What neither blocks nor the nameserver have, up to the file's end. */
function holesOf(blocks: readonly Block[], inlineBytes: number, fileBytes: number): Range[] {
  const holes: Range[] = [];
  let covered = inlineBytes;
  for (const { start, length } of [...blocks, { start: fileBytes, length: 0 }]) {
    const end = Math.min(start, fileBytes);
    if (end > covered) holes.push({ offset: covered, length: end - covered });
    covered = Math.max(covered, start + length);
  }
  return holes;
}

async function ofDirectory(client: AdminClient, ino: InodeId, path: Uint8Array): Promise<DirectoryLocations> {
  const sum = { files: 0, blocks: 0, bytes: 0, missing: 0, inlineBytes: 0 };
  const hosts = new Map<string, { blocks: number; bytes: number; awayBlocks: number }>();
  const addBlock = (block: Block, fileBytes: number) => {
    const covered = Math.max(0, Math.min(block.length, fileBytes - block.start));
    sum.blocks++;
    sum.bytes += covered;
    if (!block.replicas.some(({ alive }) => alive)) sum.missing++;
    for (const { host, alive } of block.replicas) {
      const share = hosts.get(host) ?? { blocks: 0, bytes: 0, awayBlocks: 0 };
      hosts.set(host, share);
      share.blocks++;
      share.bytes += covered;
      if (!alive) share.awayBlocks++;
    }
  };
  const addFile = async (inode: InodeReply) => {
    const { size, inlineBytes = 0 } = inode.attributes;
    sum.files++;
    sum.inlineBytes += inlineBytes;
    for (const block of await blocksOf(client, inode)) if (block.written) addBlock(block, size);
  };
  const linked = new Set<InodeId>();
  const progress = new Progress({ label: "looking", unit: "inodes" });
  let seen = 0;
  try {
    for await (const step of walk(client, { ino, path })) {
      if (step.kind !== "entries") continue;
      const files: InodeReply[] = [];
      for (const { inode } of step.entries) {
        if (inode === undefined || (inode.attributes.mode & S_IFMT) !== S_IFREG) continue;
        const { ino, nlink } = inode.attributes;
        if (nlink > 1 && linked.has(ino)) continue;
        if (nlink > 1 && linked.size < LINKED_MAX) linked.add(ino);
        files.push(inode);
      }
      for (let at = 0; at < files.length; at += AT_ONCE) {
        await Promise.all(files.slice(at, at + AT_ONCE).map(addFile));
      }
      progress.update(seen += step.entries.length);
    }
  } finally {
    progress.end();
  }
  const shares = [...hosts].map(([host, share]) => ({ host, ...share }));
  shares.sort((a, b) => b.bytes - a.bytes || (a.host < b.host ? -1 : 1));
  return { kind: "directory", path: formatPath(path), ...sum, hosts: shares };
}

/** Those of small files have come with the listing. */
async function blocksOf(client: AdminClient, { attributes, blocks }: InodeReply): Promise<readonly Block[]> {
  if (blocks !== undefined) return blocks;
  const { ino, allocatedBytes, inlineBytes = 0 } = attributes;
  if (allocatedBytes === inlineBytes) return [];
  try {
    return await readBlocks(client, ino);
  } catch (error) {
    if (isErrno(error, "ENOENT") || isErrno(error, "ESTALE")) return []; // removed meanwhile
    throw error;
  }
}

/** For people. */
export function formatLocations(result: Locations): string {
  return (result.kind === "file" ? fileLines(result) : directoryLines(result)).join("\n");
}

function fileLines({ path, size: bytes, replication, inlineBytes, blocks, holes }: FileLocations): string[] {
  const lines = [`${path}: ${bytes} bytes, ${blocks.length} blocks of ${replication} replicas`];
  if (inlineBytes > 0) lines.push(`bytes 0 to ${inlineBytes} are kept at the nameserver`);
  for (const { offset, length } of holes) lines.push(`bytes ${offset} to ${offset + length} are a hole`);
  if (blocks.length === 0) return lines;
  const rows = [
    ["OFFSET", "LENGTH", "BLOCK", "GENERATION", "NODE", "HOST", "RACK", "ADDRESS", "STATE", "VOLUME", "PATH"],
  ];
  for (const { offset, length, id, generation, written, replicas } of blocks) {
    const block = [offset, length, id, generation].map(String);
    if (replicas.length === 0) rows.push([...block, "-", "-", "-", "-", "no replica", "-", "-"]);
    replicas.forEach((replica, i) =>
      rows.push([
        ...i === 0 ? block : ["", "", "", ""],
        String(replica.node),
        replica.host,
        replica.rack || "-",
        replica.address,
        (replica.alive ? "alive" : "away") + (written ? "" : ", not written"),
        String(replica.volume),
        replica.path || "-",
      ])
    );
  }
  return [...lines, ...table(rows)];
}

function directoryLines(result: DirectoryLocations): string[] {
  const { path, files, blocks, bytes, missing, inlineBytes, hosts } = result;
  const lines = [`${path}: ${files} files, ${size(bytes)} in ${blocks} blocks`];
  if (inlineBytes > 0) lines.push(`${size(inlineBytes)} are kept at the nameserver`);
  if (missing > 0) lines.push(`${missing} blocks have no replica that is alive: see "mfs fsck"`);
  if (hosts.length === 0) return lines;
  const rows = hosts.map(({ host, blocks: replicas, bytes: covered, awayBlocks }) => [
    host,
    String(replicas),
    size(covered),
    bytes === 0 ? "-" : `${Math.round(covered / bytes * 100)}%`,
    String(awayBlocks),
  ]);
  return [...lines, ...table([["HOST", "BLOCKS", "BYTES", "OF ALL BYTES", "AWAY"], ...rows])];
}

export interface LocationsFlags {
  readonly nameserver?: string;
  readonly json?: boolean;
}

/** The command. */
export async function locationsCommand(
  path: string,
  { nameserver, json = false }: LocationsFlags,
): Promise<void> {
  const result = await locations(await locate(path, nameserver));
  printLine(json ? JSON.stringify(result) : formatLocations(result));
}
