/** Numbers for inodes that are made here: a stock that the nameserver has given to this mount alone. */

import type { Logger } from "../base/log.ts";
import { asInodeId, type InodeId } from "../wire/ids.ts";
import type { ClusterSession } from "./cluster_session.ts";

const STOCK = 2_048;

export class InodeNumbers {
  readonly #session: Pick<ClusterSession, "reserveInodes">;
  readonly #log: Logger;
  #next = 0;
  #end = 0;
  /** What comes after those. */
  #spare: { readonly first: number; readonly end: number } | null = null;
  #asking = false;

  constructor(session: Pick<ClusterSession, "reserveInodes">, log: Logger) {
    this.#session = session;
    this.#log = log;
  }

  /** A number that nothing has, or ever had; undefined: there is none for the moment. */
  take(): InodeId | undefined {
    if (this.#next === this.#end && this.#spare !== null) {
      this.#next = this.#spare.first;
      this.#end = this.#spare.end;
      this.#spare = null;
    }
    if (this.#spare === null && !this.#asking) void this.#ask();
    return this.#next === this.#end ? undefined : asInodeId(this.#next++);
  }

  async #ask(): Promise<void> {
    this.#asking = true;
    try {
      const { first, count } = await this.#session.reserveInodes(STOCK);
      this.#spare = { first, end: first + count };
    } catch (error) {
      this.#log.debug("no numbers for inodes were given", { error }); // until then all is asked for
    } finally {
      this.#asking = false;
    }
  }
}
