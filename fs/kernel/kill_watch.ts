/**
 * Whether a thread that waits for an answer is being killed. The kernel sends INTERRUPT for any signal, once a request;
 * but programs do not expect EINTR from most calls, so an operation is given up only when its caller will never see
 * the answer.
 */

const SIGKILL_BIT = 1n << 8n;
/** Who can't be seen from here (another pid namespace) is taken for killed after this. */
const UNSEEN_MS = 1_000;
const LOOK_MS = 100;

/** The pending signals in the text of /proc/PID/status (proc(5)); a fatal signal is SIGKILL by then. */
export function isKillPending(status: string): boolean {
  for (const [, mask] of status.matchAll(/^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)$/gm)) {
    if ((BigInt(`0x${mask}`) & SIGKILL_BIT) !== 0n) return true;
  }
  return false;
}

/** Looks until the thread is being killed (true), or nobody waits any more. Its files are the kernel's, never ours. */
export async function watchForKill(pid: number, isWaiting: () => boolean): Promise<boolean> {
  for (let waitedMs = 0; isWaiting(); waitedMs += LOOK_MS) {
    let status: string | undefined;
    try {
      status = pid === 0 ? undefined : await Deno.readTextFile(`/proc/${pid}/status`);
    } catch {
      status = undefined; // not visible from here
    }
    if (status === undefined ? waitedMs >= UNSEEN_MS : isKillPending(status)) return isWaiting();
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
  return false;
}
