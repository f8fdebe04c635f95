/**
 * Errors that cross layers and processes. One class, FsError: an errno name, the operation, a message and a
 * cause. Numbers appear only where a FUSE reply or an RPC error frame is encoded.
 * Source of the numbers: Linux include/uapi/asm-generic/errno{-base,}.h (x86_64 and aarch64 agree).
 */

export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  EXDEV: 18,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOTTY: 25,
  ETXTBSY: 26,
  EFBIG: 27,
  ENOSPC: 28,
  ESPIPE: 29,
  EROFS: 30,
  EMLINK: 31,
  EPIPE: 32,
  ERANGE: 34,
  EDEADLK: 35,
  ENAMETOOLONG: 36,
  ENOLCK: 37,
  ENOSYS: 38,
  ENOTEMPTY: 39,
  ELOOP: 40,
  ENODATA: 61,
  EPROTO: 71,
  EOVERFLOW: 75,
  EOPNOTSUPP: 95,
  EADDRINUSE: 98,
  ECONNABORTED: 103,
  ECONNRESET: 104,
  ENOTCONN: 107,
  ESHUTDOWN: 108,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  EHOSTUNREACH: 113,
  ESTALE: 116,
  EDQUOT: 122,
  ECANCELED: 125,
} as const;

export type ErrnoName = keyof typeof ERRNO;

const NAMES: ReadonlyMap<number, ErrnoName> = new Map(
  (Object.entries(ERRNO) as [ErrnoName, number][]).map(([name, number]) => [number, name]),
);

/** The name of a positive errno; EIO for one that is not in the table. */
export function errnoName(number: number): ErrnoName {
  return NAMES.get(number) ?? "EIO";
}

export interface FsErrorOptions {
  /** What was being done, such as "rename" or "open /dev/fuse". */
  readonly op?: string;
  readonly cause?: unknown;
}

/** The one error class that crosses layers and processes. */
export class FsError extends Error {
  override readonly name = "FsError";
  readonly errno: ErrnoName;
  readonly op: string;

  constructor(errno: ErrnoName, message: string, options: FsErrorOptions = {}) {
    // Most are answers ("no such name"), for which a stack costs more than the operation itself.
    const { stackTraceLimit } = Error;
    Error.stackTraceLimit = 0;
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    Error.stackTraceLimit = stackTraceLimit;
    this.errno = errno;
    this.op = options.op ?? "";
  }
}

/** True when `error` is an FsError with this errno. */
export function isErrno(error: unknown, errno: ErrnoName): error is FsError {
  return error instanceof FsError && error.errno === errno;
}

/**
 * Turns anything thrown into an FsError: ours pass, an operating-system error with a known `code` keeps its
 * errno, and all else is EIO with the original as cause. The caller logs what comes out as EIO with a cause.
 */
export function asFsError(error: unknown, op: string): FsError {
  if (error instanceof FsError) return error;
  const code = (error as { code?: unknown } | null)?.code;
  const errno: ErrnoName = typeof code === "string" && Object.hasOwn(ERRNO, code) ? code as ErrnoName : "EIO";
  const message = error instanceof Error ? error.message : String(error);
  return new FsError(errno, message, { op, cause: error });
}

/** True for errors of the transport (peer gone, late or refused), after which a retry may succeed. */
export function isTransportError(error: unknown): boolean {
  if (!(error instanceof FsError)) return false;
  switch (error.errno) {
    case "ENOTCONN":
    case "ECONNRESET":
    case "ECONNREFUSED":
    case "ECONNABORTED":
    case "EHOSTUNREACH":
    case "ETIMEDOUT":
    case "ESHUTDOWN":
    case "EPIPE":
      return true;
    default:
      return false;
  }
}
