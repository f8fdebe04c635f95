/**
 * Users and groups that have other numbers on this machine than in the cluster: what the kernel asks is put in the cluster's
 * numbers, what it is told in this machine's. It lies outermost, so that all else knows the cluster's only.
 *
 * A number without a counterpart is what it is on mounts that Linux itself maps (mount_setattr(2), MOUNT_ATTR_IDMAP). Those do
 * not serve here: FUSE has them since Linux 6.12 only, and there nobody has a counterpart whom no range names.
 * - Out: the owner is nobody's (INVALID_UID): stat(2) shows 65534, but who has that number does not own it, and the kernel lets
 *   no one, root included, change what belongs to it. In an ACL, where the kernel takes no such number, it is UNKNOWN_ID.
 * - In: who has none makes no name, and nothing is given to him (EOVERFLOW), nor by an ACL or capabilities (EINVAL).
 *
 * Invariant: every number of a user or group that passes between the kernel and the handlers is mapped here, exactly once;
 * what asks for the caller's rights on this machine goes by `isRoot` and by groups that were mapped (`groupsOf`).
 */

import { capabilitiesRoot, isCapabilitiesName, withCapabilitiesRoot } from "../base/file_capabilities.ts";
import type { IdMaps, IdRanges } from "../base/id_ranges.ts";
import { ACL_GROUP, ACL_USER, type AclEntry, decodeAcl, encodeAcl, isAclName } from "../base/posix_acl.ts";
import { ERRNO, FsError } from "../wire/errno.ts";
import type {
  Answer,
  AttributeChanges,
  AttributesAnswer,
  CreateAnswer,
  EntryAnswer,
  FileSystemHandlers,
  KernelAttributes,
  NegativeErrno,
  RequestContext,
} from "./kernel/handlers.ts";
import { RENAME_EXCHANGE } from "./names.ts";
import { groupsOfThread } from "./setgid.ts";

type Handlers = Required<FileSystemHandlers>;

/** No user's or group's (linux/uidgid.h, INVALID_UID). */
const NO_ID = 0xffffffff;
/** Shown in ACLs for whom this machine has no number. Nobody has it: it has no counterpart either. */
const UNKNOWN_ID = 0xfffffffe;

export interface IdMapOptions {
  /** Root is taken for another user, in the cluster's numbers: it needs none of its own there. */
  readonly isRootSquashed: boolean;
}

export function mapIds(
  inner: FileSystemHandlers,
  maps: IdMaps,
  { isRootSquashed }: IdMapOptions,
): FileSystemHandlers {
  const handlers = inner as Handlers;
  const { users, groups } = maps;

  const as = (context: RequestContext): RequestContext =>
    new MappedContext(
      context,
      users.toRemote(context.uid) ?? NO_ID,
      groups.toRemote(context.gid) ?? NO_ID,
    );

  /** Of who makes something, or a name for it: as for Linux, it has to have an owner. */
  const asMaker = (context: RequestContext): RequestContext => {
    const maker = as(context);
    if ((maker.uid === NO_ID || maker.gid === NO_ID) && !(isRootSquashed && context.uid === 0)) {
      throw noCounterpart(`user ${context.uid} with group ${context.gid}`);
    }
    return maker;
  };

  const given = (ranges: IdRanges, id: number, kind: string): number => {
    const mapped = ranges.toRemote(id);
    if (mapped === undefined) throw noCounterpart(`${kind} ${id}`);
    return mapped;
  };

  const shownAttributes = (attributes: KernelAttributes): KernelAttributes => ({
    ...attributes,
    uid: users.toLocal(attributes.uid) ?? NO_ID,
    gid: groups.toLocal(attributes.gid) ?? NO_ID,
  });
  const shown = <T extends AttributesAnswer | EntryAnswer>(answer: T): T => ({
    ...answer,
    attributes: shownAttributes(answer.attributes),
  });
  const shownCreated = ({ entry, open }: CreateAnswer): CreateAnswer => ({ entry: shown(entry), open });

  return {
    ...withContexts(inner, as),
    ...having(inner, {
      lookup: (context, parent, name) => then(handlers.lookup(as(context), parent, name), shown),
      getattr: (context, nodeid, fh) => then(handlers.getattr(as(context), nodeid, fh), shown),
      setattr(context, nodeid, changes) {
        const { uid, gid } = changes;
        const mapped: AttributeChanges = {
          ...changes,
          ...uid === undefined ? {} : { uid: given(users, uid, "user") },
          ...gid === undefined ? {} : { gid: given(groups, gid, "group") },
        };
        return then(handlers.setattr(as(context), nodeid, mapped), shown);
      },
      symlink: (context, parent, name, target) =>
        then(handlers.symlink(asMaker(context), parent, name, target), shown),
      mknod: (context, parent, name, mode, rdev, umask) =>
        then(handlers.mknod(asMaker(context), parent, name, mode, rdev, umask), shown),
      mkdir: (context, parent, name, mode, umask) =>
        then(handlers.mkdir(asMaker(context), parent, name, mode, umask), shown),
      rename(context, parent, name, newParent, newName, flags) {
        const by = (flags & RENAME_EXCHANGE) === 0 ? asMaker(context) : as(context);
        return handlers.rename(by, parent, name, newParent, newName, flags);
      },
      link: (context, nodeid, newParent, newName) =>
        then(handlers.link(asMaker(context), nodeid, newParent, newName), shown),
      create: (context, parent, name, flags, mode, umask) =>
        then(handlers.create(asMaker(context), parent, name, flags, mode, umask), shownCreated),
      tmpfile: (context, parent, flags, mode, umask) =>
        then(handlers.tmpfile(asMaker(context), parent, flags, mode, umask), shownCreated),
      readdir: (context, nodeid, fh, cookie, writer, plus) =>
        handlers.readdir(as(context), nodeid, fh, cookie, {
          add: (name, ino, type, next) => writer.add(name, ino, type, next),
          addPlus: (name, ino, type, next, entry) =>
            writer.addPlus(name, ino, type, next, entry === null ? null : shown(entry)),
        }, plus),
      setxattr(context, nodeid, name, value, flags, killSetgid) {
        const mapped = xattrOf(name, value, maps, "toRemote");
        if (mapped === undefined) {
          throw new FsError("EINVAL", "it names users or groups that the cluster has not");
        }
        return handlers.setxattr(as(context), nodeid, name, mapped, flags, killSetgid);
      },
      getxattr: (context, nodeid, name) =>
        then(
          handlers.getxattr(as(context), nodeid, name),
          // Capabilities of a root that nobody is here count for nobody.
          (value) => xattrOf(name, value, maps, "toLocal", UNKNOWN_ID) ?? -ERRNO.ENODATA,
        ),
    }),
  };
}

/** What `SetgidOptions.groupsOf` is then: supplementary groups of a thread, in the cluster's numbers. */
export function mappedGroupsOf({ groups }: IdMaps): (tid: number) => Promise<readonly number[]> {
  return async (tid) => (await groupsOfThread(tid)).flatMap((gid) => groups.toRemote(gid) ?? []);
}

/** Who asks, in the cluster's numbers. */
class MappedContext implements RequestContext {
  readonly uid: number;
  readonly gid: number;
  readonly #inner: RequestContext;

  constructor(inner: RequestContext, uid: number, gid: number) {
    this.#inner = inner;
    this.uid = uid;
    this.gid = gid;
  }

  get localUid(): number {
    return this.#inner.uid;
  }

  get pid(): number {
    return this.#inner.pid;
  }

  get signal(): AbortSignal {
    return this.#inner.signal;
  }

  takeBuffer(): (() => void) | undefined {
    return this.#inner.takeBuffer?.();
  }

  onReplied(action: () => void): void {
    this.#inner.onReplied?.(action);
  }
}

/** All handlers, whoever asks being put otherwise. */
function withContexts(
  inner: FileSystemHandlers,
  as: (context: RequestContext) => RequestContext,
): FileSystemHandlers {
  const result: Record<string, unknown> = {};
  for (const [name, handler] of Object.entries(inner)) {
    const call = handler as (...args: unknown[]) => unknown;
    result[name] = name === "forget"
      ? handler
      : (context: RequestContext, ...args: unknown[]) => call.call(inner, as(context), ...args);
  }
  return result as FileSystemHandlers;
}

/** Of `handlers`, what `inner` has as well. */
function having(inner: FileSystemHandlers, handlers: FileSystemHandlers): FileSystemHandlers {
  const known = Object.entries(handlers).filter(([name]) => inner[name as keyof Handlers] !== undefined);
  return Object.fromEntries(known) as FileSystemHandlers;
}

/**
 * The value of an attribute with all users and groups in it mapped; what has no counterpart becomes `unknown` in an ACL.
 * Undefined: that is not possible. What is not understood is left as it is.
 */
function xattrOf(
  name: Uint8Array,
  value: Uint8Array,
  { users, groups }: IdMaps,
  direction: "toRemote" | "toLocal",
  unknown?: number,
): Uint8Array | undefined {
  if (isCapabilitiesName(name)) {
    const root = capabilitiesRoot(value);
    if (root === undefined) return value;
    const mapped = users[direction](root);
    return mapped === undefined ? undefined : withCapabilitiesRoot(value, mapped);
  }
  const acl = isAclName(name) ? decodeAcl(value) : undefined;
  if (acl === undefined) return value;
  const entries: AclEntry[] = [];
  for (const entry of acl) {
    const ranges = entry.tag === ACL_USER ? users : entry.tag === ACL_GROUP ? groups : undefined;
    const id = ranges === undefined ? entry.id : ranges[direction](entry.id) ?? unknown;
    if (id === undefined) return undefined;
    entries.push({ ...entry, id });
  }
  return encodeAcl(entries);
}

/** What an answer is for the kernel; what is there already is there, too. */
function then<T, U>(answer: Answer<T>, shown: (answer: T) => U | NegativeErrno): Answer<U> {
  const next = (value: T | NegativeErrno) => typeof value === "number" ? value : shown(value);
  return answer instanceof Promise ? answer.then(next) : next(answer);
}

function noCounterpart(what: string): FsError {
  return new FsError("EOVERFLOW", `${what} has no number in the cluster (uidmap, gidmap)`);
}
