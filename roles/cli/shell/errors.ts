/** Failures in the words that people know from other shells. */

import { asFsError, type ErrnoName, FsError } from "../../../wire/errno.ts";

/** As strerror(3). What is missing says what it means by itself. */
const TEXTS: Partial<Record<ErrnoName, string>> = {
  EACCES: "permission denied",
  EEXIST: "it exists",
  EINTR: "interrupted",
  EISDIR: "it is a directory",
  ELOOP: "too many symbolic links",
  EMLINK: "too many links",
  ENAMETOOLONG: "the name is too long",
  ENOENT: "no such file or directory",
  ENOSPC: "no space is left",
  ENOTDIR: "not a directory",
  ENOTEMPTY: "the directory is not empty",
  EPERM: "not permitted",
  EROFS: "read-only file system",
  ESTALE: "it was removed meanwhile",
  E2BIG: "too many blocks to be told",
};

/** Already with the name of what it is about. */
class NamedError extends FsError {}

/** `error`, as one line that begins with what it is about, which the innermost says. */
export function readable(error: unknown, subject: string): Error {
  if (error instanceof NamedError || isAbort(error)) return error as Error;
  if (!(error instanceof FsError) && (error as { code?: unknown })?.code === undefined) {
    const why = error instanceof Error ? error.message : String(error);
    return new NamedError("EINVAL", `${subject}: ${why}`, { cause: error });
  }
  const { errno, message, op } = asFsError(error, "");
  const text = TEXTS[errno] ?? (message === "" ? errno : message);
  const isLocal = op === "local";
  return new NamedError(errno, isLocal ? `${message}: ${text}` : `${subject}: ${text}`, { cause: error });
}

function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}
