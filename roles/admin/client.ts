/** A command's connection to the nameserver. */

import { type Dialer, tcpDialer } from "../../wire/dialer.ts";
import { helloOf } from "../../wire/hello.ts";
import { ADMIN } from "../../wire/messages/admin.ts";
import { NAMESERVER } from "../../wire/messages/nameserver.ts";
import { isTransportError } from "../../wire/errno.ts";
import { type Client, createClient } from "../../wire/service.ts";

/** A nameserver that is started again is back by then. */
const PATIENCE_MS = 60_000;
const RETRY_MS = 500;

export interface AdminClient {
  readonly admin: Client<typeof ADMIN>;
  readonly nameserver: Client<typeof NAMESERVER>;
}

/** Runs `use` on a connection to the nameserver. Errors: as Dialer.dial and `use`. */
export async function withNameserver<T>(
  nameserver: string,
  command: string,
  use: (client: AdminClient) => Promise<T>,
  dialer: Dialer = tcpDialer,
): Promise<T> {
  const { channel } = await dialer.dial(nameserver, {
    hello: helloOf("admin", "", `${command} on ${Deno.hostname()}`),
    expectRole: "nameserver",
  });
  const call: Parameters<typeof createClient>[1] = (op, request, options) =>
    channel.call(op, request, options);
  try {
    return await use({ admin: createClient(ADMIN, call), nameserver: createClient(NAMESERVER, call) });
  } finally {
    channel.close();
  }
}

/**
 * As withNameserver, for a step of long work: a nameserver that is away for a while is waited for. `use` may run several
 * times. Errors: as withNameserver, a transport error after PATIENCE_MS; the reason of `signal`.
 */
export async function withNameserverPatiently<T>(
  nameserver: string,
  command: string,
  use: (client: AdminClient) => Promise<T>,
  signal: AbortSignal,
  dialer: Dialer = tcpDialer,
): Promise<T> {
  let awaySinceMs: number | undefined;
  for (;;) {
    signal.throwIfAborted();
    try {
      return await untilAborted(withNameserver(nameserver, command, use, dialer), signal);
    } catch (error) {
      awaySinceMs ??= performance.now();
      if (!isTransportError(error) || performance.now() > awaySinceMs + PATIENCE_MS) throw error;
    }
    await pause(RETRY_MS, signal);
  }
}

/** Waits; rejects with the reason of `signal` when that aborts. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return untilAborted(
    new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
    }),
    signal,
  );
}

function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    if (signal.aborted) return onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
