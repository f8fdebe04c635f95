/** Mount options (-o): parsed strictly, an unknown one is an error that names it. */

import { type IdMaps, IdRanges, joinRanges } from "../../base/id_ranges.ts";
import { NOBODY, parseUserIds, type UserIds } from "../../base/user_ids.ts";
import { FsError } from "../../wire/errno.ts";

export interface MountOptions {
  readonly readOnly: boolean;
  readonly suid: boolean;
  readonly dev: boolean;
  readonly exec: boolean;
  /** Each write is followed by an fsync, by the kernel. */
  readonly sync: boolean;
  /** The kernel enforces POSIX ACLs. */
  readonly acl: boolean;
  readonly allowOther: boolean | undefined;
  readonly atime: "relatime" | "strict" | "off";
  /** False: nodiratime. */
  readonly directoryAtime: boolean;
  /** Locks hold among all mounts of the cluster; false: on this mount only. */
  readonly lock: boolean;
  /** Names in directories that only this mount uses are changed here first, and told within 100 ms. */
  readonly writeBehind: boolean;
  /** EIO after this long without a server; undefined: wait until it is back. */
  readonly softTimeoutMs: number | undefined;
  /** Root counts as this user; undefined: as what the cluster says. */
  readonly rootSquash: UserIds | undefined;
  /** Numbers of users and groups that are others in the cluster; undefined: they are the same. */
  readonly idMaps: IdMaps | undefined;
}

export const MOUNT_OPTIONS_DEFAULT: MountOptions = {
  readOnly: false,
  suid: true,
  dev: true,
  exec: true,
  sync: false,
  acl: true,
  allowOther: undefined,
  atime: "relatime",
  directoryAtime: true,
  lock: true,
  writeBehind: true,
  softTimeoutMs: undefined,
  rootSquash: undefined,
  idMaps: undefined,
};

const SOFT_TIMEOUT_MS_DEFAULT = 30_000;

const WITH_VALUE = new Set(["timeout", "root_squash", "uidmap", "gidmap"]);

const ATIME_OPTIONS = { relatime: "relatime", strictatime: "strict", noatime: "off" } as const;

/** Parses "ro,nosuid,soft,timeout=10". */
export function parseMountOptions(text: string): MountOptions {
  let options = MOUNT_OPTIONS_DEFAULT;
  let soft = false;
  let timeoutMs: number | undefined;
  const maps: { uidmap?: string; gidmap?: string } = {};
  for (const option of text.split(",").filter((part) => part !== "")) {
    const [name, value] = option.split("=", 2) as [string, string | undefined];
    switch (name) {
      case "ro":
        options = { ...options, readOnly: true };
        break;
      case "rw":
        options = { ...options, readOnly: false };
        break;
      case "suid":
      case "nosuid":
        options = { ...options, suid: name === "suid" };
        break;
      case "dev":
      case "nodev":
        options = { ...options, dev: name === "dev" };
        break;
      case "exec":
      case "noexec":
        options = { ...options, exec: name === "exec" };
        break;
      case "sync":
      case "async":
        options = { ...options, sync: name === "sync" };
        break;
      case "acl":
      case "noacl":
        options = { ...options, acl: name === "acl" };
        break;
      case "allow_other":
        options = { ...options, allowOther: true };
        break;
      case "root_squash": {
        const rootSquash = value === undefined ? NOBODY : parseUserIds(value);
        if (rootSquash === undefined) {
          throw new FsError("EINVAL", `root_squash=${value} is not UID:GID`, { op: "mount" });
        }
        options = { ...options, rootSquash };
        break;
      }
      case "uidmap":
      case "gidmap":
        // Several add up.
        maps[name] = joinRanges(value ?? "", maps[name]);
        break;
      case "lock":
      case "nolock":
        options = { ...options, lock: name === "lock" };
        break;
      case "writebehind":
      case "nowritebehind":
        options = { ...options, writeBehind: name === "writebehind" };
        break;
      case "relatime":
      case "strictatime":
      case "noatime":
        options = { ...options, atime: ATIME_OPTIONS[name] };
        break;
      case "diratime":
      case "nodiratime":
        options = { ...options, directoryAtime: name === "diratime" };
        break;
      case "defaults":
        break;
      case "soft":
        soft = true;
        break;
      case "hard":
        soft = false;
        break;
      case "timeout":
        timeoutMs = Number(value) * 1000;
        if (value === undefined || value === "" || !Number.isFinite(timeoutMs) || timeoutMs <= 0) {
          throw new FsError("EINVAL", `timeout=${value ?? ""} is not a number of seconds`, { op: "mount" });
        }
        soft = true;
        break;
      default:
        throw new FsError(
          "EINVAL",
          `unknown option ${
            JSON.stringify(name)
          }: known are ro, rw, suid, nosuid, dev, nodev, exec, noexec, sync, async, ` +
            `acl, noacl, relatime, strictatime, noatime, diratime, nodiratime, allow_other, lock, nolock, root_squash, ` +
            `root_squash=UID:GID, uidmap=LOCAL:CLUSTER:COUNT+..., gidmap=LOCAL:CLUSTER:COUNT+..., hard, soft, timeout=SECONDS, writebehind, nowritebehind`,
          { op: "mount" },
        );
    }
    if (value !== undefined && !WITH_VALUE.has(name)) {
      throw new FsError("EINVAL", `option ${name} takes no value`, { op: "mount" });
    }
  }
  return {
    ...options,
    softTimeoutMs: soft ? timeoutMs ?? SOFT_TIMEOUT_MS_DEFAULT : undefined,
    idMaps: maps.uidmap === undefined && maps.gidmap === undefined ? undefined : {
      users: parseRanges("uidmap", maps.uidmap),
      groups: parseRanges("gidmap", maps.gidmap),
    },
  };
}

function parseRanges(name: string, text: string | undefined): IdRanges {
  try {
    return text === undefined ? IdRanges.none : IdRanges.parse(text);
  } catch (error) {
    throw new FsError("EINVAL", `${name}: ${(error as Error).message}`, { op: "mount", cause: error });
  }
}
