/**
 * Whether a user may do something to an inode, by its mode and ACL: what the kernel decides for all but root, here for users
 * that the kernel takes for root, or where there is no kernel in between (root_squash.ts). Asks for what is not known.
 */

import { ACCESS_ACL, aclPermits, decodeAcl } from "../base/posix_acl.ts";
import type { UserIds } from "../base/user_ids.ts";
import { FsError, isErrno } from "../wire/errno.ts";
import type { InodeId } from "../wire/ids.ts";
import { type Attributes, S_ISVTX } from "../wire/messages/inode.ts";
import type { Names } from "./names.ts";
import type { Interruptible } from "./interruptible.ts";

export const MAY_READ = 4;
export const MAY_WRITE = 2;
export const MAY_EXECUTE = 1;

export class Permissions {
  readonly #names: Names;
  readonly #user: UserIds;
  readonly #groups: readonly number[];

  /** Of a user without capabilities. `groups`: supplementary ones. */
  constructor(names: Names, user: UserIds, groups: readonly number[] = []) {
    this.#names = names;
    this.#user = user;
    this.#groups = [user.gid, ...groups];
  }

  /** ESTALE: it is gone, so that its name is to be looked up again. */
  async attributes(ino: InodeId, interrupt: Interruptible): Promise<Attributes> {
    try {
      return this.#names.shown(await this.#names.getattr(ino, interrupt));
    } catch (error) {
      if (!isErrno(error, "ENOENT")) throw error;
      throw new FsError("ESTALE", error.message, { cause: error });
    }
  }

  owns({ uid }: Attributes): boolean {
    return uid === this.#user.uid;
  }

  isOfGroup(gid: number): boolean {
    return this.#groups.includes(gid);
  }

  async permits(attributes: Attributes, wanted: number, interrupt: Interruptible): Promise<boolean> {
    const { ino, mode, uid, gid, hasXattrs } = attributes;
    const allows = (shift: number) => ((mode >> shift) & wanted) === wanted;
    if (uid === this.#user.uid) return allows(6);
    const value = hasXattrs ? await this.#names.getXattr(ino, ACCESS_ACL, interrupt) : null;
    const acl = value === null ? undefined : decodeAcl(value);
    if (acl !== undefined && acl.length > 0) {
      return aclPermits(
        acl,
        { owner: uid, group: gid },
        { uid: this.#user.uid, groups: this.#groups },
        wanted,
      );
    }
    return allows(this.#groups.includes(gid) ? 3 : 0);
  }

  /** EACCES unless permitted. */
  async check(ino: InodeId, wanted: number, interrupt: Interruptible): Promise<Attributes> {
    const attributes = await this.attributes(ino, interrupt);
    if (await this.permits(attributes, wanted, interrupt)) return attributes;
    throw new FsError("EACCES", `user ${this.#user.uid} may not do that to inode ${ino}`);
  }

  /** EPERM unless it is the user's own. */
  async checkOwner(ino: InodeId, interrupt: Interruptible): Promise<Attributes> {
    const attributes = await this.attributes(ino, interrupt);
    if (this.owns(attributes)) return attributes;
    throw notPermitted("it belongs to another user");
  }

  /** EACCES or EPERM unless `child`, if there is one, may lose its name in `parent`. */
  async checkRemoval(
    parent: InodeId,
    child: Attributes | undefined,
    interrupt: Interruptible,
  ): Promise<void> {
    const directory = await this.check(parent, MAY_WRITE | MAY_EXECUTE, interrupt);
    if (child === undefined || (directory.mode & S_ISVTX) === 0) return;
    if (!this.owns(directory) && !this.owns(child)) throw notPermitted("the directory is sticky");
  }
}

export function notPermitted(why: string): FsError {
  return new FsError("EPERM", why);
}
