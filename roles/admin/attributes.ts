/**
 * `mfs get` and `mfs set`: what files and directories have beyond what POSIX knows, and what is made in a directory has from
 * it. One table says what there is; what is set goes the way of the command that is made for it.
 */

import { FsError } from "../../wire/errno.ts";
import { REPLICATION_MAX } from "../../wire/messages/admin.ts";
import { S_IFDIR, S_IFMT, S_IFREG } from "../../wire/messages/inode.ts";
import { type AdminClient, withNameserver } from "./client.ts";
import { formatPath, type FsPath, locate, resolve } from "./fs_path.ts";
import { printLine, UsageError } from "./process.ts";
import { clusterReplication } from "./replication.ts";
import { setrep, type SetrepResult } from "./setrep.ts";
import { table } from "./units.ts";

const SLASH = 0x2f;

export interface AttributeValue {
  readonly key: string;
  readonly value: string;
  /** "cluster": it is set nowhere, and the cluster's default holds. */
  readonly source: "here" | "inherited" | "cluster";
  /** Only of "inherited": the uppermost directory from which on all down to here have this value. */
  readonly from?: string;
}

export interface Attributes {
  readonly path: string;
  readonly attributes: readonly AttributeValue[];
}

interface Assignment {
  readonly path: FsPath;
  readonly value: string;
  readonly recursive: boolean;
}

interface Attribute {
  readonly key: string;
  /** What values it takes, for messages. */
  readonly values: string;
  readonly isValid: (value: string) => boolean;
  readonly get: (client: AdminClient, path: Uint8Array) => Promise<Omit<AttributeValue, "key">>;
  readonly set: (assignment: Assignment) => Promise<SetrepResult>;
}

const DEFAULT = "default";

const ATTRIBUTES: readonly Attribute[] = [{
  key: "replication",
  values: `1 to ${REPLICATION_MAX}, or ${DEFAULT}`,
  isValid: (value) => value === DEFAULT || /^[1-9]\d?$/.test(value) && Number(value) <= REPLICATION_MAX,
  get: getReplication,
  set: ({ path, value, recursive }) =>
    setrep(path, { replication: value === DEFAULT ? 0 : Number(value), recursive }),
}];

async function getReplication(
  client: AdminClient,
  path: Uint8Array,
): Promise<Omit<AttributeValue, "key">> {
  const own = (await resolve(client, path)).attributes.replication;
  if (own === 0) {
    return { value: String((await clusterReplication(client)).replication), source: "cluster" };
  }
  // What is made in a directory gets its value once: it comes from there as long as both have the same.
  let from: Uint8Array | undefined;
  for (let at = parentOf(path); at !== undefined; at = parentOf(at)) {
    if ((await resolve(client, at)).attributes.replication !== own) break;
    from = at;
  }
  const value = String(own);
  return from === undefined
    ? { value, source: "here" }
    : { value, source: "inherited", from: formatPath(from) };
}

/** The directory that the path's last name is in; undefined: the path is the root. */
function parentOf(path: Uint8Array): Uint8Array | undefined {
  let end = path.length;
  while (end > 0 && path[end - 1] === SLASH) end--;
  if (end === 0) return undefined;
  while (end > 0 && path[end - 1] !== SLASH) end--;
  while (end > 1 && path[end - 1] === SLASH) end--;
  return end === 0 ? new Uint8Array([SLASH]) : path.subarray(0, end);
}

/** Errors: as resolve; EINVAL for what has no attributes. */
export async function getAttributes({ nameserver, path }: FsPath): Promise<Attributes> {
  return await withNameserver(nameserver, "get", async (client) => {
    const type = (await resolve(client, path)).attributes.mode & S_IFMT;
    if (type !== S_IFDIR && type !== S_IFREG) {
      throw new FsError("EINVAL", `${formatPath(path)} has no attributes: only files and directories do`, {
        op: "get",
      });
    }
    const attributes = [];
    for (const { key, get } of ATTRIBUTES) attributes.push({ key, ...await get(client, path) });
    return { path: formatPath(path), attributes };
  });
}

/** KEY=VALUE. Throws UsageError, which lists what there is. */
export function parseAssignment(
  text: string,
): { readonly key: string; readonly value: string; readonly set: Attribute["set"] } {
  const equals = text.indexOf("=");
  const key = equals < 0 ? text : text.slice(0, equals);
  const known = ATTRIBUTES.map((one) => `${one.key} (${one.values})`).join(", ");
  const attribute = ATTRIBUTES.find((one) => one.key === key);
  if (attribute === undefined) throw new UsageError(`unknown attribute "${key}": there is ${known}`);
  const value = text.slice(equals + 1);
  if (equals >= 0 && attribute.isValid(value)) return { key, value, set: attribute.set };
  throw new UsageError(`${key} must be set as ${key}=VALUE, VALUE ${attribute.values}`);
}

function sourceOf({ source, from }: AttributeValue): string {
  if (source === "inherited") return `from ${from}`;
  return source === "here" ? "set here" : "the cluster's default";
}

/** For people. */
export function formatAttributes({ attributes }: Attributes): string {
  const rows = attributes.map((one) => [one.key, one.value, sourceOf(one)]);
  return table([["KEY", "VALUE", "SOURCE"], ...rows]).join("\n");
}

export interface AttributeFlags {
  readonly nameserver?: string;
  readonly recursive?: boolean;
  readonly json?: boolean;
}

/** `mfs get PATH`. */
export async function getCommand(path: string, { nameserver, json = false }: AttributeFlags): Promise<void> {
  const result = await getAttributes(await locate(path, nameserver));
  printLine(json ? JSON.stringify(result) : formatAttributes(result));
}

/** `mfs set PATH KEY=VALUE`. */
export async function setCommand(path: string, assignment: string, flags: AttributeFlags): Promise<void> {
  const { nameserver, recursive = false, json = false } = flags;
  const { key, value, set } = parseAssignment(assignment);
  const result = await set({ path: await locate(path, nameserver), value, recursive });
  const { inodes, changed, warning } = result;
  printLine(
    json
      ? JSON.stringify({ ...result, key, value })
      : `${result.path}: ${key}=${value}; ${changed} of ${inodes} files and directories changed`,
  );
  if (warning !== undefined && !json) printLine(`mfs: set: ${warning}`, Deno.stderr);
}
