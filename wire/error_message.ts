/** How an error travels: errno name, message, operation. What is not ours arrives as EIO. */

import { asFsError, ERRNO, type ErrnoName, FsError } from "./errno.ts";

export interface ErrorMessage {
  readonly errno: string;
  readonly message: string;
  readonly op: string;
}

export function encodeError(error: unknown): ErrorMessage {
  const fsError = asFsError(error, "");
  return { errno: fsError.errno, message: fsError.message, op: fsError.op };
}

/** Tolerates any decoded value: an errno name that this version lacks becomes EIO. */
export function decodeError(value: unknown): FsError {
  const message = value as Partial<ErrorMessage> | null;
  const errno = typeof message?.errno === "string" && Object.hasOwn(ERRNO, message.errno)
    ? message.errno as ErrnoName
    : "EIO";
  return new FsError(errno, String(message?.message ?? "unknown error"), { op: String(message?.op ?? "") });
}
