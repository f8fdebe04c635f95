/**
 * How one role reaches another: over TCP, or by a direct call when the server lives in this process and was
 * announced here. A simulated network takes this interface's place in tests.
 */

import { connect } from "./client.ts";
import { FsError } from "./errno.ts";
import { checkHello, type Hello } from "./hello.ts";
import { LocalChannel } from "./local.ts";
import type { Channel, HandlerTable, PushHandler, Role } from "./service.ts";

export interface DialOptions {
  readonly hello: Hello;
  readonly expectRole: Role;
  readonly onPush?: PushHandler;
  readonly timeoutMs?: number;
  /** As wire/client.ts ConnectOptions; of no meaning within a process. */
  readonly silenceMs?: number;
}

export interface Dialer {
  /** A channel after HELLO, and the cluster that the server belongs to. Errors: as wire/client.ts connect. */
  dial(address: string, options: DialOptions): Promise<{ channel: Channel; clusterId: string }>;
}

export const tcpDialer: Dialer = {
  async dial(address, options) {
    const { channel, reply } = await connect(address, options);
    return { channel, clusterId: reply.clusterId };
  },
};

export interface LocalServer {
  readonly role: Role;
  readonly clusterId: () => string;
  readonly handlers: HandlerTable;
}

/** Dials servers of this process directly and all others through `remote`. */
export class ProcessDialer implements Dialer {
  readonly #servers = new Map<
    string,
    { readonly server: LocalServer; readonly channels: Set<LocalChannel> }
  >();
  readonly #remote: Dialer;

  constructor(remote: Dialer = tcpDialer) {
    this.#remote = remote;
  }

  /** Makes a server reachable at `address` (HOST:PORT as its peers know it). */
  announce(address: string, server: LocalServer): void {
    this.#servers.set(address, { server, channels: new Set() });
  }

  /** The server has stopped: its channels end, and the address is dialled through `remote` again. */
  withdraw(address: string): void {
    const entry = this.#servers.get(address);
    this.#servers.delete(address);
    for (const channel of entry?.channels ?? []) channel.close();
  }

  isLocal(address: string): boolean {
    return this.#servers.has(address);
  }

  dial(address: string, options: DialOptions): Promise<{ channel: Channel; clusterId: string }> {
    const entry = this.#servers.get(address);
    if (entry === undefined) return this.#remote.dial(address, options);
    const { server, channels } = entry;
    try {
      const clusterId = server.clusterId();
      checkHello(options.hello, clusterId, server.role);
      if (server.role !== options.expectRole) {
        throw new FsError("EPROTO", `${address} is a ${server.role}, not a ${options.expectRole}`, {
          op: "hello",
        });
      }
      const { role, description } = options.hello;
      const channel = new LocalChannel(server.handlers, role, description, options.onPush);
      channels.add(channel);
      void channel.closed.then(() => channels.delete(channel));
      return Promise.resolve({ channel, clusterId });
    } catch (error) {
      return Promise.reject(error);
    }
  }
}
