/**
 * Channels to dataservers, one an address, made when first needed and dropped when they break. Says which replica
 * to ask first: one in this process, then on this host, in this rack, anywhere; slow ones and dead ones after those.
 */

import type { Clock } from "../base/clock.ts";
import { FsError } from "../wire/errno.ts";
import type { Dialer } from "../wire/dialer.ts";
import { helloOf } from "../wire/hello.ts";
import { DATASERVER_SILENCE_MS } from "../wire/limits.ts";
import { DATASERVER } from "../wire/messages/dataserver.ts";
import type { ReplicaLocation } from "../wire/messages/inode.ts";
import { type Client, createClient } from "../wire/service.ts";

const CONNECT_TIMEOUT_MS = 2_000;
/** An address that refused is not dialled again for this long. */
const REFUSED_MS = 200;
/** An address that was slow comes last for this long. */
const SLOW_MS = 10_000;

export interface DataserversOptions {
  readonly dialer: Dialer;
  readonly host: string;
  /** Absent or "": not known. */
  readonly rack?: string;
  readonly clock: Clock;
  readonly clusterId: () => string;
  /** True for an address that this process serves itself. */
  readonly isLocal: (address: string) => boolean;
  /** Told when the connection to a dataserver has ended. */
  readonly onGone?: (address: string) => void;
}

export type DataserverClient = Client<typeof DATASERVER>;

export class Dataservers {
  readonly #options: DataserversOptions;
  readonly #clients = new Map<string, Promise<DataserverClient>>();
  readonly #closers = new Set<() => void>();
  /** Until when. */
  readonly #slow = new Map<string, number>();

  constructor(options: DataserversOptions) {
    this.#options = options;
  }

  /** A client of the dataserver at `address`. Errors: ECONNREFUSED and other transport errors. */
  client(address: string): Promise<DataserverClient> {
    let client = this.#clients.get(address);
    if (client === undefined) {
      client = this.#dial(address);
      this.#clients.set(address, client);
      client.catch(() =>
        void this.#options.clock.sleep(REFUSED_MS).then(() => this.#forget(address, client!))
      );
    }
    return client;
  }

  #forget(address: string, client: Promise<DataserverClient>): void {
    if (this.#clients.get(address) === client) this.#clients.delete(address);
  }

  async #dial(address: string): Promise<DataserverClient> {
    if (address === "") throw new FsError("EHOSTUNREACH", "the replica's dataserver is not known");
    const { channel } = await this.#options.dialer.dial(address, {
      hello: helloOf("client", this.#options.clusterId(), this.#options.host),
      expectRole: "dataserver",
      timeoutMs: CONNECT_TIMEOUT_MS,
      silenceMs: DATASERVER_SILENCE_MS,
    });
    const close = () => channel.close();
    this.#closers.add(close);
    void channel.closed.then(() => {
      this.#closers.delete(close);
      this.#clients.delete(address);
      this.#options.onGone?.(address);
    });
    return createClient(DATASERVER, (op, request, call) => channel.call(op, request, call));
  }

  /** Another dataserver answered before it. */
  noteSlow(address: string): void {
    this.#slow.set(address, this.#options.clock.monotonicMs() + SLOW_MS);
  }

  #wasSlow(address: string): boolean {
    const untilMs = this.#slow.get(address);
    if (untilMs === undefined) return false;
    if (untilMs > this.#options.clock.monotonicMs()) return true;
    this.#slow.delete(address);
    return false;
  }

  /** Replicas in the order in which to try them. */
  nearestFirst(replicas: readonly ReplicaLocation[]): ReplicaLocation[] {
    if (replicas.length < 2) return [...replicas];
    return [...replicas].sort((a, b) => this.#distance(a) - this.#distance(b));
  }

  #distance({ address, host, rack = "", alive }: ReplicaLocation): number {
    const { isLocal, ...here } = this.#options;
    const trouble = (alive ? 0 : 10) + (this.#slow.size > 0 && this.#wasSlow(address) ? 5 : 0);
    if (isLocal(address)) return trouble;
    if (host === here.host) return trouble + 1;
    return trouble + (rack !== "" && rack === here.rack ? 2 : 3);
  }

  close(): void {
    for (const close of this.#closers) close();
  }
}
