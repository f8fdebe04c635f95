/** The other end of a channel as a service sees it: takes pushes, and ends when a test says so. */

import type { CallContext, Peer } from "../../../wire/service.ts";

export class FakePeer implements Peer {
  readonly role = "client";
  readonly description = "test";
  state: unknown = undefined;
  #end!: () => void;
  readonly closed: Promise<void> = new Promise((resolve) => this.#end = resolve);
  readonly pushes: { readonly op: number; readonly message: unknown }[] = [];
  readonly #answer: (op: number, message: unknown) => Promise<unknown> | unknown;

  constructor(answer: (op: number, message: unknown) => Promise<unknown> | unknown = () => ({ ok: true })) {
    this.#answer = answer;
  }

  async push(op: number, message: unknown): Promise<unknown> {
    this.pushes.push({ op, message });
    return await this.#answer(op, message);
  }

  close(): void {
    this.#end();
  }

  get context(): CallContext {
    return { peer: this, signal: undefined };
  }
}
