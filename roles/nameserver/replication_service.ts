/** The part of the service for administrators that changes how many replicas files have. */

import { FsError } from "../../wire/errno.ts";
import type { InodeId, SessionId } from "../../wire/ids.ts";
import {
  type ADMIN,
  ADMIN_BATCH_MAX,
  REPLICATION_MAX,
  type ReplicationState,
} from "../../wire/messages/admin.ts";
import { S_IFMT, S_IFREG } from "../../wire/messages/inode.ts";
import type { Handlers } from "../../wire/service.ts";
import type { Leaseserver } from "../leaseserver/leaseserver.ts";
import { extentsIn } from "./extents.ts";
import type { Namespace } from "./namespace.ts";
import * as operations from "./operations.ts";
import { type InodeRecord, isDirectory } from "./records.ts";
import type { Registry } from "./registry.ts";
import type { Repair } from "./repair.ts";

/** Nobody's: all clients are told. */
const NO_SESSION = 0 as SessionId;
/** Inodes whose leases are recalled at once. */
const AT_ONCE = 16;
const PAGE = 256;

export interface ReplicationParts {
  readonly namespace: Namespace;
  readonly registry: Registry;
  readonly leaseserver: Leaseserver;
  readonly repair: Repair;
  /** Replicas of a block whose file does not say. */
  readonly replication: number;
}

export function replicationHandlers(
  parts: ReplicationParts,
): Pick<Handlers<typeof ADMIN>, "setReplication" | "replicationState"> {
  const { namespace, registry, repair, leaseserver: { leases } } = parts;

  /** Gives whether it is another one now. */
  const setOne = async (ino: InodeId, replication: number): Promise<boolean> => {
    const before = await namespace.look((tx) => tx.findInode(ino));
    if (before === undefined || !isSettable(before) || before.replication === replication) return false;
    const isChanged = await leases.change(
      NO_SESSION,
      [{ ino, keep: "read", attributes: true }],
      () =>
        namespace.change((tx) => {
          const inode = tx.findInode(ino);
          return inode !== undefined && operations.setReplication(tx, inode, replication);
        }),
    );
    if (isChanged && !isDirectory(before)) await repair.replicationChanged(ino);
    return isChanged;
  };

  return {
    setReplication: async ({ inodes, replication }) => {
      checkBatch(inodes);
      if (!Number.isInteger(replication) || replication < 0 || replication > REPLICATION_MAX) {
        throw new FsError(
          "EINVAL",
          `a block has 1 to ${REPLICATION_MAX} replicas (0: the cluster's default)`,
          {
            op: "setrep",
          },
        );
      }
      let changed = 0;
      for (let at = 0; at < inodes.length; at += AT_ONCE) {
        const some = await Promise.all(inodes.slice(at, at + AT_ONCE).map((ino) => setOne(ino, replication)));
        changed += some.filter((isChanged) => isChanged).length;
      }
      return { changed, hosts: liveHosts(registry), replication: replication || parts.replication };
    },

    replicationState: async ({ inodes }) => {
      checkBatch(inodes);
      const state = { blocks: 0, pending: 0, missing: 0, wanted: 0, hosts: liveHosts(registry) };
      for (const ino of inodes) await addState(parts, ino, state);
      return state;
    },
  };
}

function checkBatch(inodes: readonly InodeId[]): void {
  if (inodes.length <= ADMIN_BATCH_MAX) return;
  throw new FsError("EINVAL", `at most ${ADMIN_BATCH_MAX} inodes in one request`, { op: "setrep" });
}

function isSettable(inode: InodeRecord): boolean {
  return isDirectory(inode) || (inode.mode & S_IFMT) === S_IFREG;
}

/** Hosts that blocks can have replicas on. */
function liveHosts(registry: Registry): number {
  const alive = registry.volumes.filter((volume) => registry.isAlive(volume) && !registry.isDraining(volume));
  return new Set(alive.map((volume) => registry.location(volume).host)).size;
}

type Mutable<T> = { -readonly [Name in keyof T]: T[Name] };

async function addState(
  { namespace, registry, repair }: ReplicationParts,
  ino: InodeId,
  state: Mutable<ReplicationState>,
): Promise<void> {
  for (let from = 0;;) {
    const page = await namespace.look((tx) => {
      const inode = tx.findInode(ino);
      if (inode === undefined || (inode.mode & S_IFMT) !== S_IFREG) return [];
      const wanted = repair.wanted(inode);
      state.wanted = Math.max(state.wanted, wanted);
      const extents = extentsIn(tx, inode, from, Infinity, PAGE);
      for (const { block, written, volumes } of extents) {
        if (!written) continue; // it gets its replicas with the first write
        // One that is known to be bad is listed until Repair has come to it.
        const good = volumes.filter((volume) =>
          registry.isAlive(volume) && repair.reportOf(volume, block) === undefined
        );
        state.blocks++;
        if (good.length !== wanted || volumes.length !== wanted) state.pending++;
        if (good.length === 0) state.missing++;
      }
      return extents;
    });
    const last = page.at(-1);
    if (last === undefined || page.length < PAGE) return;
    from = last.start + last.length;
  }
}
