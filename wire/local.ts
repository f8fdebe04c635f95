/**
 * A channel to a server in the same process: the same interface as a connection, but each call goes straight to
 * the handler, without socket or encoding. Messages are shared, so neither side may change one after sending it.
 */

import { asFsError, FsError } from "./errno.ts";
import type { CallContext, CallOptions, Channel, HandlerTable, Peer, PushHandler, Role } from "./service.ts";

export class LocalChannel implements Channel {
  readonly #handlers: HandlerTable;
  readonly #context: CallContext;
  #open = true;
  #resolveClosed!: () => void;
  readonly closed: Promise<void> = new Promise((resolve) => this.#resolveClosed = resolve);

  constructor(handlers: HandlerTable, role: Role, description: string, onPush?: PushHandler) {
    this.#handlers = handlers;
    const peer: Peer = {
      role,
      description,
      state: undefined,
      closed: this.closed,
      push: async (op, message) => {
        if (!this.#open) throw new FsError("ENOTCONN", "peer is gone");
        if (onPush === undefined) throw new FsError("ENOSYS", "this end takes no pushes");
        return await onPush(op, message);
      },
    };
    this.#context = { peer, signal: undefined };
  }

  async call(op: number, request: unknown, options: CallOptions = {}): Promise<unknown> {
    if (!this.#open) throw new FsError("ENOTCONN", "the server has stopped");
    const handler = this.#handlers.get(op);
    if (handler === undefined) throw new FsError("ENOSYS", `unknown operation ${op}`);
    const context = options.signal === undefined
      ? this.#context
      : { peer: this.#context.peer, signal: options.signal };
    try {
      return await handler(request, context);
    } catch (error) {
      throw asFsError(error, `operation ${op}`);
    }
  }

  close(): void {
    this.#open = false;
    this.#resolveClosed();
  }
}
