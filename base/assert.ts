/**
 * Assertions: what must hold when the program is right. A failure is a bug of ours, never bad input or a
 * failed disk, which are errors (wire/errno.ts).
 */

/** A broken assumption of the program itself. */
export class AssertionError extends Error {
  override readonly name = "AssertionError";
}

/** Throws AssertionError with `message` unless `condition` holds. */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}
