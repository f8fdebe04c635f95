/**
 * A channel to a server in the same process: the same interface and the same ends of a call as a connection has, but
 * each call goes straight to the handler, without socket or encoding. Messages are shared, so neither side may
 * change one after sending it.
 */

import { asFsError, FsError } from "./errno.ts";
import { CALL_TIMEOUT_MS_DEFAULT, PUSH_TIMEOUT_MS_DEFAULT } from "./limits.ts";
import type { CallContext, CallOptions, Channel, HandlerTable, Peer, PushHandler, Role } from "./service.ts";
import { Waits } from "./waits.ts";

/** One call's context; its signal is made when it is first looked at. */
class LocalContext implements CallContext {
  readonly peer: Peer;
  #abort: AbortController | undefined;

  constructor(peer: Peer) {
    this.peer = peer;
  }

  get signal(): AbortSignal {
    return (this.#abort ??= new AbortController()).signal;
  }

  abort(): void {
    this.#abort?.abort();
  }
}

export class LocalChannel implements Channel {
  readonly #handlers: HandlerTable;
  readonly #peer: Peer;
  readonly #calls = new Waits("the server", CALL_TIMEOUT_MS_DEFAULT);
  readonly #pushes = new Waits("the client", PUSH_TIMEOUT_MS_DEFAULT);
  #isOpen = true;
  #resolveClosed!: () => void;
  readonly closed: Promise<void> = new Promise((resolve) => this.#resolveClosed = resolve);

  constructor(handlers: HandlerTable, role: Role, description: string, onPush?: PushHandler) {
    this.#handlers = handlers;
    this.#peer = {
      role,
      description,
      state: undefined,
      closed: this.closed,
      push: (op, message, options) => this.#push(op, message, options, onPush),
    };
  }

  call(op: number, request: unknown, options?: CallOptions): Promise<unknown> {
    if (!this.#isOpen) return Promise.reject(new FsError("ENOTCONN", "the server has stopped"));
    if (options?.signal?.aborted) return Promise.reject(new FsError("EINTR", "the call was cancelled"));
    const handler = this.#handlers.get(op);
    if (handler === undefined) return Promise.reject(new FsError("ENOSYS", `unknown operation ${op}`));
    const context = new LocalContext(this.#peer);
    try {
      const result = handler(request, context);
      if (!(result instanceof Promise)) return Promise.resolve(result);
      return this.#calls.for(result, options, () => context.abort()).catch((error) => {
        throw asFsError(error, `operation ${op}`);
      });
    } catch (error) {
      return Promise.reject(asFsError(error, `operation ${op}`));
    }
  }

  async #push(
    op: number,
    message: unknown,
    options: CallOptions | undefined,
    onPush: PushHandler | undefined,
  ): Promise<unknown> {
    if (!this.#isOpen) throw new FsError("ENOTCONN", "peer is gone");
    if (onPush === undefined) throw new FsError("ENOSYS", "this end takes no pushes");
    // In a turn of its own, as over a connection: an answer that was given before is handled before.
    const answer = Promise.resolve().then(() => onPush(op, message));
    return await this.#pushes.for(answer, options);
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#calls.failAll(new FsError("ENOTCONN", "the channel was closed"));
    this.#pushes.failAll(new FsError("ENOTCONN", "peer is gone"));
    this.#resolveClosed();
  }
}
