/** Deadlines of calls and pushes that name none. */

export const CALL_TIMEOUT_MS_DEFAULT = 30_000;
export const PUSH_TIMEOUT_MS_DEFAULT = 10_000;
