/** A user and a group by number. */

export interface UserIds {
  readonly uid: number;
  readonly gid: number;
}

/** What NFS and most systems call nobody and nogroup. */
export const NOBODY: UserIds = { uid: 65534, gid: 65534 };

const ID_MAX = 0xfffffffe;

/** "UID:GID". Undefined: it is something else. */
export function parseUserIds(text: string): UserIds | undefined {
  const match = /^(\d{1,10}):(\d{1,10})$/.exec(text);
  if (match === null) return undefined;
  const [uid, gid] = [Number(match[1]), Number(match[2])];
  return uid <= ID_MAX && gid <= ID_MAX ? { uid, gid } : undefined;
}
