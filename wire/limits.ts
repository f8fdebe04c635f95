/** Deadlines of calls and pushes that name none. */

export const CALL_TIMEOUT_MS_DEFAULT = 30_000;
export const PUSH_TIMEOUT_MS_DEFAULT = 10_000;
/** A dataserver that is not heard for so long while something is asked of it hangs: another replica is there. */
export const DATASERVER_SILENCE_MS = 2_000;
