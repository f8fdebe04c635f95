/**
 * Inode flags (chattr) at a client: what the nameserver cannot refuse, as it is not asked, and the ioctls by which programs
 * look at them and change them. The rules are those of roles/nameserver/inode_flags.ts.
 */

import { EMPTY_BYTES } from "../base/bytes.ts";
import { ERRNO, FsError } from "../wire/errno.ts";
import type { InodeId } from "../wire/ids.ts";
import {
  type Attributes,
  FS_APPEND_FL,
  FS_IMMUTABLE_FL,
  FS_NOATIME_FL,
  FS_NODUMP_FL,
  FS_SYNC_FL,
} from "../wire/messages/inode.ts";
import type { Inode } from "./inode.ts";
import type { Names } from "./names.ts";
import type { Interruptible } from "./interruptible.ts";

// linux/fs.h: _IOR('f', 1, long), _IOW('f', 2, long), _IOR('X', 31, struct fsxattr), _IOW('X', 32, struct fsxattr).
const FS_IOC_GETFLAGS = 0x80086601;
const FS_IOC_SETFLAGS = 0x40086602;
const FS_IOC_FSGETXATTR = 0x801c581f;
const FS_IOC_FSSETXATTR = 0x401c5820;
/** Linux gives and takes an int, whatever the number of the ioctl says. */
const FLAGS_BYTES = 4;
/** struct fsxattr: xflags, extsize, nextents, projid, cowextsize, 8 bytes of padding. */
const FSXATTR = { bytes: 28, xflags: 0, extsize: 4, projid: 12, cowextsize: 16 } as const;
/** FS_XFLAG_* of each flag. */
const XFLAGS = [
  [FS_IMMUTABLE_FL, 0x08],
  [FS_APPEND_FL, 0x10],
  [FS_SYNC_FL, 0x20],
  [FS_NOATIME_FL, 0x40],
  [FS_NODUMP_FL, 0x80],
] as const;

/** EPERM when the data may not be written. Only of attributes that a write lease keeps true. */
export function refuseWrite({ flags = 0 }: Attributes): void {
  if ((flags & FS_IMMUTABLE_FL) !== 0) throw new FsError("EPERM", "the file is immutable");
}

export function isAppendOnly({ flags = 0 }: Attributes): boolean {
  return (flags & FS_APPEND_FL) !== 0;
}

/** What is written is to be on disk when it is answered. */
export function isSync({ flags = 0 }: Attributes): boolean {
  return (flags & FS_SYNC_FL) !== 0;
}

/** EPERM when a file may not be opened, or written, like this. Only of attributes that are true. */
export function refuseOpen(attributes: Attributes, { write, append = false }: OpenMode): void {
  if (!write) return;
  refuseWrite(attributes);
  if (isAppendOnly(attributes) && !append) {
    throw new FsError("EPERM", "the file is append-only: it is opened for writing with O_APPEND only");
  }
}

/** The ioctl sets flags. */
export function isFlagChange(cmd: number): boolean {
  return cmd === FS_IOC_SETFLAGS || cmd === FS_IOC_FSSETXATTR;
}

interface OpenMode {
  readonly write: boolean;
  readonly append?: boolean;
}

/** Answers an ioctl; -ENOTTY to all others. */
export function flagIoctl(
  names: Names,
  ino: InodeId,
  cmd: number,
  input: Uint8Array,
  interrupt: Interruptible,
): Uint8Array | number | Promise<Uint8Array | number> {
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  switch (cmd) {
    case FS_IOC_GETFLAGS:
      return shown(names, ino, interrupt, (flags) => {
        const answer = new Uint8Array(FLAGS_BYTES);
        new DataView(answer.buffer).setUint32(0, flags, true);
        return answer;
      });
    case FS_IOC_FSGETXATTR:
      return shown(names, ino, interrupt, (flags) => {
        const answer = new Uint8Array(FSXATTR.bytes);
        const xflags = XFLAGS.reduce((sum, [flag, xflag]) => (flags & flag) === 0 ? sum : sum | xflag, 0);
        new DataView(answer.buffer).setUint32(FSXATTR.xflags, xflags, true);
        return answer;
      });
    case FS_IOC_SETFLAGS:
      if (input.length < FLAGS_BYTES) return -ERRNO.EINVAL;
      return changed(names, ino, view.getUint32(0, true), interrupt);
    case FS_IOC_FSSETXATTR: {
      if (input.length < FSXATTR.bytes) return -ERRNO.EINVAL;
      const others = [FSXATTR.extsize, FSXATTR.projid, FSXATTR.cowextsize];
      let xflags = view.getUint32(FSXATTR.xflags, true);
      let flags = 0;
      for (const [flag, xflag] of XFLAGS) {
        if ((xflags & xflag) !== 0) flags |= flag;
        xflags &= ~xflag;
      }
      if (xflags !== 0 || others.some((at) => view.getUint32(at, true) !== 0)) return -ERRNO.EOPNOTSUPP;
      return changed(names, ino, flags, interrupt);
    }
    default:
      return -ERRNO.ENOTTY;
  }
}

function shown(
  names: Names,
  ino: InodeId,
  interrupt: Interruptible,
  encode: (flags: number) => Uint8Array,
): Uint8Array | Promise<Uint8Array> {
  const of = (inode: Inode) => encode(inode.attributes.flags ?? 0);
  const inode = names.getattr(ino, interrupt);
  return inode instanceof Promise ? inode.then(of) : of(inode);
}

async function changed(
  names: Names,
  ino: InodeId,
  flags: number,
  interrupt: Interruptible,
): Promise<Uint8Array> {
  await names.setattr({ ino, flags }, interrupt);
  return EMPTY_BYTES;
}
