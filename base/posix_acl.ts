/**
 * POSIX ACLs as Linux keeps them in the extended attributes system.posix_acl_access and system.posix_acl_default: the
 * coding of their entries, and the rules that tie an ACL to a mode (linux/fs/posix_acl.c). Pure; stores nothing.
 * Invariant: what `decodeAcl` returns is valid: one entry each for owner, group and others; a mask if any user or group is
 * named; in the kernel's order, without duplicates.
 */

import { bytesEqual, bytesOf } from "./bytes.ts";

/** Names of the attributes. */
export const ACCESS_ACL = bytesOf("system.posix_acl_access");
export const DEFAULT_ACL = bytesOf("system.posix_acl_default");

export function isAclName(name: Uint8Array): boolean {
  return bytesEqual(name, ACCESS_ACL) || bytesEqual(name, DEFAULT_ACL);
}

// Tags, and the version of the coding (linux/posix_acl_xattr.h, posix_acl.h).
export const ACL_USER_OBJ = 0x01;
export const ACL_USER = 0x02;
export const ACL_GROUP_OBJ = 0x04;
export const ACL_GROUP = 0x08;
export const ACL_MASK = 0x10;
export const ACL_OTHER = 0x20;
const XATTR_VERSION = 2;
const HEADER_BYTES = 4;
const ENTRY_BYTES = 8;
/** Of entries that name nobody. */
const NO_ID = 0xffffffff;

export interface AclEntry {
  readonly tag: number;
  /** Read 4, write 2, execute 1. */
  readonly permissions: number;
  /** The user or group; of no meaning in other entries. */
  readonly id: number;
}

export type Acl = readonly AclEntry[];

/** Undefined: it is not an ACL, or breaks the rules. No entries at all are an empty ACL. */
export function decodeAcl(bytes: Uint8Array): Acl | undefined {
  if (bytes.length < HEADER_BYTES || (bytes.length - HEADER_BYTES) % ENTRY_BYTES !== 0) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(0, true) !== XATTR_VERSION) return undefined;
  const acl: AclEntry[] = [];
  for (let at = HEADER_BYTES; at < bytes.length; at += ENTRY_BYTES) {
    acl.push({
      tag: view.getUint16(at, true),
      permissions: view.getUint16(at + 2, true),
      id: view.getUint32(at + 4, true),
    });
  }
  return acl.length === 0 || isValid(acl) ? acl : undefined;
}

function isValid(acl: Acl): boolean {
  let before: AclEntry | undefined;
  let tags = 0;
  for (const entry of acl) {
    const { tag, permissions, id } = entry;
    const isNamed = tag === ACL_USER || tag === ACL_GROUP;
    const isKnown = isNamed || tag === ACL_USER_OBJ || tag === ACL_GROUP_OBJ || tag === ACL_MASK ||
      tag === ACL_OTHER;
    if (!isKnown || permissions > 7 || (isNamed && id === NO_ID)) return false;
    // An id may come twice, as for Linux: the first counts.
    if (before !== undefined && (tag < before.tag || (tag === before.tag && !isNamed))) return false;
    tags |= tag;
    before = entry;
  }
  const base = ACL_USER_OBJ | ACL_GROUP_OBJ | ACL_OTHER;
  if ((tags & base) !== base) return false;
  return (tags & (ACL_USER | ACL_GROUP)) === 0 || (tags & ACL_MASK) !== 0;
}

export function encodeAcl(acl: Acl): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(HEADER_BYTES + acl.length * ENTRY_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, XATTR_VERSION, true);
  acl.forEach(({ tag, permissions, id }, i) => {
    const at = HEADER_BYTES + i * ENTRY_BYTES;
    view.setUint16(at, tag, true);
    view.setUint16(at + 2, permissions, true);
    view.setUint32(at + 4, tag === ACL_USER || tag === ACL_GROUP ? id : NO_ID, true);
  });
  return bytes;
}

/** The mode says all that the ACL does. */
export function isEquivalentToMode(acl: Acl): boolean {
  return acl.every(({ tag }) => (tag & (ACL_USER | ACL_GROUP | ACL_MASK)) === 0);
}

/** `mode` with the permissions that an access ACL gives: those of the group are the mask's, if there is one. */
export function modeOfAcl(acl: Acl, mode: number): number {
  const of = (tag: number) => acl.find((entry) => entry.tag === tag)?.permissions;
  const group = of(ACL_MASK) ?? of(ACL_GROUP_OBJ)!;
  return (mode & ~0o777) | (of(ACL_USER_OBJ)! << 6) | (group << 3) | of(ACL_OTHER)!;
}

/** `change` of the permissions of owner, group (the mask if there is one) and others; entries of the named stay. */
function withBaseEntries(acl: Acl, change: (permissions: number, shift: number) => number): Acl {
  const groupTag = acl.some(({ tag }) => tag === ACL_MASK) ? ACL_MASK : ACL_GROUP_OBJ;
  return acl.map((entry) => {
    const { tag, permissions } = entry;
    if (tag === ACL_USER_OBJ) return { ...entry, permissions: change(permissions, 6) };
    if (tag === groupTag) return { ...entry, permissions: change(permissions, 3) };
    if (tag === ACL_OTHER) return { ...entry, permissions: change(permissions, 0) };
    return entry;
  });
}

/** An access ACL after chmod(2) to `mode`. */
export function aclAfterChmod(acl: Acl, mode: number): Acl {
  return withBaseEntries(acl, (_permissions, shift) => (mode >> shift) & 7);
}

/**
 * What something gets that is made with `mode` (no umask applied) in a directory with the default ACL `inherited`: its mode,
 * and an access ACL unless the mode says it all.
 */
export function inheritedAcl(
  inherited: Acl,
  mode: number,
): { readonly mode: number; readonly acl: Acl | undefined } {
  const acl = withBaseEntries(inherited, (permissions, shift) => permissions & (mode >> shift));
  return { mode: modeOfAcl(acl, mode), acl: isEquivalentToMode(acl) ? undefined : acl };
}

/** Whether an access ACL of something that belongs to `owner` and `group` lets a user do all that `wanted` says. */
export function aclPermits(
  acl: Acl,
  { owner, group }: { readonly owner: number; readonly group: number },
  user: { readonly uid: number; readonly groups: readonly number[] },
  wanted: number,
): boolean {
  const mask = acl.find(({ tag }) => tag === ACL_MASK)?.permissions ?? 7;
  const allows = (permissions: number) => (permissions & wanted) === wanted;
  let isInGroup = false;
  for (const { tag, permissions, id } of acl) {
    if (tag === ACL_USER_OBJ && user.uid === owner) return allows(permissions);
    if (tag === ACL_USER && user.uid === id) return allows(permissions & mask);
    if (tag === ACL_GROUP_OBJ || tag === ACL_GROUP) {
      if (!user.groups.includes(tag === ACL_GROUP ? id : group)) continue;
      isInGroup = true;
      if (allows(permissions & mask)) return true;
    }
    if (tag === ACL_OTHER) return !isInGroup && allows(permissions);
  }
  return false;
}
