/** The other end of a channel as a service sees it: takes pushes, and ends when a test says so. */

import type { CallContext, CallOptions, Peer } from "../../../wire/service.ts";

/** How the other end answers a push. */
export type PushAnswer = (op: number, message: unknown, options: CallOptions) => Promise<unknown> | unknown;

export class FakePeer implements Peer {
  readonly role = "client";
  readonly description = "test";
  state: unknown = undefined;
  #end!: () => void;
  readonly closed: Promise<void> = new Promise((resolve) => this.#end = resolve);
  readonly pushes: { readonly op: number; readonly message: unknown }[] = [];
  readonly #answer: PushAnswer;

  constructor(answer: PushAnswer = () => ({ ok: true })) {
    this.#answer = answer;
  }

  async push(op: number, message: unknown, options: CallOptions = {}): Promise<unknown> {
    this.pushes.push({ op, message });
    return await this.#answer(op, message, options);
  }

  close(): void {
    this.#end();
  }

  get context(): CallContext {
    return { peer: this, signal: undefined };
  }
}
