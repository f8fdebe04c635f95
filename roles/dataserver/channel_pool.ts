/**
 * Channels to other dataservers, one an address, made on demand.
 * Invariant: at most CHANNELS_MAX; a channel that failed is dropped, and its address is not dialled again at once.
 */

import type { Clock } from "../../base/clock.ts";
import type { Dialer } from "../../wire/dialer.ts";
import { FsError, isTransportError } from "../../wire/errno.ts";
import { helloOf } from "../../wire/hello.ts";
import { DATASERVER_SILENCE_MS } from "../../wire/limits.ts";
import { DATASERVER } from "../../wire/messages/dataserver.ts";
import { type Channel, type Client, createClient } from "../../wire/service.ts";

const CHANNELS_MAX = 256;
const CONNECT_TIMEOUT_MS = 1000;
const REDIAL_PAUSE_MS = 300;

interface Connected {
  readonly channel: Channel;
  readonly client: Client<typeof DATASERVER>;
}

interface Entry {
  readonly dialling: Promise<Connected>;
  channel: Channel | null;
  failedMs: number | null;
}

export class ChannelPool {
  readonly #dialer: Dialer;
  readonly #clusterId: () => string;
  readonly #description: string;
  readonly #clock: Clock;
  // In the order of use, the longest unused first.
  readonly #entries = new Map<string, Entry>();
  #closed = false;

  constructor(dialer: Dialer, clusterId: () => string, description: string, clock: Clock) {
    this.#dialer = dialer;
    this.#clusterId = clusterId;
    this.#description = description;
    this.#clock = clock;
  }

  /** Runs `action` with a client of the dataserver at `address`; a transport failure drops the channel. */
  async use<T>(address: string, action: (client: Client<typeof DATASERVER>) => Promise<T>): Promise<T> {
    const entry = this.#entry(address);
    const { client } = await entry.dialling;
    try {
      return await action(client);
    } catch (error) {
      if (isTransportError(error)) this.#drop(address, entry);
      throw error;
    }
  }

  close(): void {
    this.#closed = true;
    for (const entry of this.#entries.values()) entry.channel?.close();
    this.#entries.clear();
  }

  #entry(address: string): Entry {
    if (this.#closed) throw new FsError("ESHUTDOWN", "the dataserver stops");
    let entry = this.#entries.get(address);
    const mayRedial = entry !== undefined && entry.failedMs !== null &&
      this.#clock.monotonicMs() - entry.failedMs > REDIAL_PAUSE_MS;
    if (entry === undefined || mayRedial) entry = this.#dial(address);
    this.#entries.delete(address);
    this.#entries.set(address, entry);
    if (this.#entries.size > CHANNELS_MAX) {
      const [oldest, unused] = this.#entries.entries().next().value!;
      this.#drop(oldest, unused);
    }
    return entry;
  }

  #dial(address: string): Entry {
    const entry: Entry = { dialling: this.#connect(address), channel: null, failedMs: null };
    entry.dialling.then(({ channel }) => {
      entry.channel = channel;
      void channel.closed.then(() => this.#drop(address, entry));
    }, () => {
      entry.failedMs = this.#clock.monotonicMs(); // the error itself goes to each user of the entry
    });
    return entry;
  }

  async #connect(address: string): Promise<Connected> {
    const { channel } = await this.#dialer.dial(address, {
      hello: helloOf("dataserver", this.#clusterId(), this.#description),
      expectRole: "dataserver",
      timeoutMs: CONNECT_TIMEOUT_MS,
      silenceMs: DATASERVER_SILENCE_MS,
    });
    if (this.#closed) {
      channel.close();
      throw new FsError("ESHUTDOWN", "the dataserver stops");
    }
    const client = createClient(DATASERVER, (op, request, options) => channel.call(op, request, options));
    return { channel, client };
  }

  #drop(address: string, entry: Entry): void {
    entry.channel?.close();
    if (this.#entries.get(address) === entry) this.#entries.delete(address);
  }
}
