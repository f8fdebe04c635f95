/**
 * The dataserver's connection to the nameserver: registers, sends heartbeats, and does both again whenever the
 * connection was lost. What is registered and reported is the caller's (`LinkCallbacks`).
 * Invariant: before the first registration a refusal that no retry can mend ends `run`; afterwards nothing does.
 */

import type { Clock } from "../../base/clock.ts";
import type { Logger } from "../../base/log.ts";
import type { Random } from "../../base/random.ts";
import type { Dialer } from "../../wire/dialer.ts";
import { asFsError, FsError, isErrno, isTransportError } from "../../wire/errno.ts";
import { helloOf } from "../../wire/hello.ts";
import {
  DATASERVER_REGISTRY,
  type RegisterReply,
  type RegisterRequest,
  type VolumeStats,
} from "../../wire/messages/dataserver.ts";
import { type Channel, type Client, createClient, type PushHandler } from "../../wire/service.ts";

const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 5_000;
const WAITING_LOG_MS = 10_000;
const REGISTER_TIMEOUT_MS = 30_000;
const HEARTBEAT_TIMEOUT_MS_MIN = 5_000;

export type Registry = Client<typeof DATASERVER_REGISTRY>;

export interface LinkOptions {
  readonly nameserver: string;
  readonly dialer: Dialer;
  readonly description: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  /** Replaces the nameserver's heartbeat interval. */
  readonly heartbeatMs?: number;
}

const GOODBYE_TIMEOUT_MS = 500;

export interface LinkCallbacks {
  /** The cluster of the volumes; "" when they are all new. */
  clusterId(): string;
  /** Throws FsError EPROTO when the volumes belong to another cluster. */
  checkCluster(clusterId: string): void;
  readonly onPush: PushHandler;
  registration(): RegisterRequest;
  /** Keeps what the nameserver assigned, durably. */
  registered(clusterId: string, reply: RegisterReply): Promise<void>;
  /** Runs beside the heartbeats of a registration; `signal` aborts with the connection. Never rejects. */
  report(registry: Registry, signal: AbortSignal): Promise<void>;
  stats(): readonly VolumeStats[];
}

export class NameserverLink {
  readonly #options: LinkOptions;
  readonly #callbacks: LinkCallbacks;
  #registry: Registry | null = null;
  #waiting = new AbortController();

  constructor(options: LinkOptions, callbacks: LinkCallbacks) {
    this.#options = options;
    this.#callbacks = callbacks;
  }

  /** The nameserver, while registered with it. */
  get registry(): Registry | null {
    return this.#registry;
  }

  /** Until `signal` aborts. `onRegistered` is told of each registration; rejects as the invariant says. */
  async run(onRegistered: () => void, signal: AbortSignal): Promise<void> {
    const { clock, random, log, nameserver } = this.#options;
    let wasRegistered = false;
    let backoffMs = BACKOFF_MS_MIN;
    let loggedMs = -Infinity;
    while (!signal.aborted) {
      try {
        await this.#once(() => {
          wasRegistered = true;
          backoffMs = BACKOFF_MS_MIN;
          loggedMs = -Infinity;
          onRegistered();
        }, signal);
      } catch (error) {
        if (signal.aborted) return;
        const mayPass = isTransportError(error) || isErrno(error, "EAGAIN") || isErrno(error, "EBUSY");
        if (!mayPass && !wasRegistered) throw error;
        const now = clock.monotonicMs();
        if (now - loggedMs >= WAITING_LOG_MS) {
          loggedMs = now;
          const reason = asFsError(error, "register").message;
          log.warn(`waiting for the nameserver at ${nameserver}`, { reason });
        }
      }
      await clock.sleep(backoffMs * (0.5 + random.next() / 2), signal);
      backoffMs = Math.min(backoffMs * 2, BACKOFF_MS_MAX);
    }
  }

  /** One connection: dials, registers, then heartbeats until it ends. */
  async #once(onRegistered: () => void, signal: AbortSignal): Promise<void> {
    const { channel, clusterId } = await this.#dial();
    const ended = new AbortController();
    const end = () => {
      this.#registry = null;
      ended.abort();
      channel.close();
    };
    let goodbye: (() => Promise<unknown>) | undefined;
    // Stopping is said, so that the nameserver does not take it for a failure; a deaf one is not waited for.
    const leave = () => goodbye === undefined ? end() : void goodbye().catch(() => {}).finally(end);
    signal.addEventListener("abort", leave, { once: true });
    void channel.closed.then(end);
    let reporting: Promise<void> | undefined;
    try {
      this.#callbacks.checkCluster(clusterId);
      const registry = createClient(
        DATASERVER_REGISTRY,
        (op, request, options) => channel.call(op, request, options),
      );
      const reply = await registry.register(this.#callbacks.registration(), {
        timeoutMs: REGISTER_TIMEOUT_MS,
      });
      await this.#callbacks.registered(clusterId, reply);
      if (signal.aborted) return;
      this.#registry = registry;
      goodbye = () =>
        registry.heartbeat({ node: reply.node, volumes: [], leaving: true }, {
          timeoutMs: GOODBYE_TIMEOUT_MS,
        });
      onRegistered();
      reporting = this.#callbacks.report(registry, ended.signal);
      await this.#beat(registry, reply, ended.signal);
    } finally {
      signal.removeEventListener("abort", leave);
      end();
      await reporting;
    }
  }

  async #beat(registry: Registry, { node, heartbeatMs }: RegisterReply, signal: AbortSignal): Promise<void> {
    let everyMs = this.#options.heartbeatMs ?? heartbeatMs;
    while (!signal.aborted) {
      // Any failure, such as a restarted nameserver that does not know us, is mended by registering again.
      const timeoutMs = Math.max(HEARTBEAT_TIMEOUT_MS_MIN, 3 * everyMs);
      const reply = await registry.heartbeat({ node, volumes: this.#callbacks.stats() }, { timeoutMs });
      everyMs = this.#options.heartbeatMs ?? reply.heartbeatMs ?? everyMs;
      this.#waiting = new AbortController();
      await this.#options.clock.sleep(everyMs, AbortSignal.any([signal, this.#waiting.signal]));
    }
  }

  /** The next heartbeat has something to tell that should not wait. */
  beatNow(): void {
    this.#waiting.abort();
  }

  async #dial(): Promise<{ channel: Channel; clusterId: string }> {
    const ours = this.#callbacks.clusterId();
    try {
      return await this.#dialAs(ours);
    } catch (error) {
      if (ours === "" || !isErrno(error, "EPROTO")) throw error;
      // Refused, perhaps for our cluster: ask without one which cluster it serves, for a clear message.
      const { channel, clusterId } = await this.#dialAs("");
      channel.close();
      this.#callbacks.checkCluster(clusterId);
      throw new FsError("EPROTO", error.message, { op: "register", cause: error });
    }
  }

  #dialAs(clusterId: string): Promise<{ channel: Channel; clusterId: string }> {
    return this.#options.dialer.dial(this.#options.nameserver, {
      hello: helloOf("dataserver", clusterId, this.#options.description),
      expectRole: "nameserver",
      onPush: this.#callbacks.onPush,
    });
  }
}
