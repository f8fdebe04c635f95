/**
 * Refuses changes of clients (ENOSPC) while the disk that the namespace lies on is nearly full, and takes them again as soon
 * as there is room. LevelDB can so always write what it must: after a write of it has failed, nothing can be written before
 * a restart, and one that finds no room to recover in does not come up.
 *
 * A change that is sent again, and was applied, is answered. Two marks: below the first what makes the namespace larger is refused, below the second every change is. Between them
 * removals go on, and so do reports of data that was accepted before.
 */

import type { Clock } from "../../base/clock.ts";
import * as libc from "../../base/libc.ts";
import type { Logger } from "../../base/log.ts";
import { FsError } from "../../wire/errno.ts";
import type { NAMESERVER, RetryTag } from "../../wire/messages/nameserver.ts";
import type { CallContext, Handlers } from "../../wire/service.ts";

/** How long a look at the disk counts. A thousand changes in that time take a megabyte. */
const FRESH_MS = 200;
/** LevelDB writes a table of 4 MiB, and several when it merges. */
const GROWTH_BYTES_MIN = 64 * 1024 * 1024;
const CHANGE_BYTES_MIN = 32 * 1024 * 1024;
/** Of a small disk. */
const GROWTH_FRACTION = 1 / 4;
const CHANGE_FRACTION = 1 / 8;

/** What makes the namespace larger. */
const GROWING: ReadonlySet<string> = new Set([
  ...["make", "create", "createUnnamed", "link", "rename", "setXattr", "allocateBlock"],
]);

/** Its authors have told programs that it is done. They are told to stop, and have no more of it than 4 MiB each. */
const MADE_ALREADY = "defer";

export interface RoomOptions {
  readonly clock: Clock;
  readonly log: Logger;
  /** Bytes of the disk and those that are free for us; undefined where that can't be asked. */
  readonly space: () => { readonly totalBytes: number; readonly availableBytes: number } | undefined;
}

/** Of the file system that `path` lies in. */
export function spaceOf(path: string): ReturnType<RoomOptions["space"]> {
  const figures = libc.statvfs(path);
  return typeof figures === "number" ? undefined : figures;
}

export class Room {
  readonly #options: RoomOptions;
  #askedMs = -Infinity;
  #refuses: "nothing" | "growth" | "changes" = "nothing";

  constructor(options: RoomOptions) {
    this.#options = options;
  }

  /**
   * The handlers, those of changes behind a look at the disk. A change is known by its retry tag; `isRepeated`: it is under
   * way, or was applied.
   */
  guard(
    handlers: Handlers<typeof NAMESERVER>,
    isRepeated: (retry: RetryTag, context: CallContext) => boolean,
  ): Handlers<typeof NAMESERVER> {
    const guarded: Record<string, unknown> = {};
    for (const [name, handler] of Object.entries(handlers)) {
      if (name === MADE_ALREADY) {
        guarded[name] = handler;
        continue;
      }
      const isGrowing = GROWING.has(name);
      const serve = handler as (request: { readonly retry?: RetryTag }, context: CallContext) => unknown;
      guarded[name] = (request: { readonly retry?: RetryTag }, context: CallContext) => {
        const { retry } = request;
        if (retry !== undefined && this.#lacksRoom(isGrowing) && !isRepeated(retry, context)) {
          const message = "the nameserver's disk is nearly full: make room on it";
          throw new FsError("ENOSPC", message, { op: "change" });
        }
        return serve(request, context);
      };
    }
    return guarded as Handlers<typeof NAMESERVER>;
  }

  /** What makes the namespace larger is refused. */
  get isNearlyFull(): boolean {
    return this.#lacksRoom(true);
  }

  #lacksRoom(isGrowing: boolean): boolean {
    if (this.#options.clock.monotonicMs() - this.#askedMs > FRESH_MS) this.#look();
    return this.#refuses === "changes" || (isGrowing && this.#refuses === "growth");
  }

  #look(): void {
    const { clock, log, space } = this.#options;
    this.#askedMs = clock.monotonicMs();
    const found = space();
    if (found === undefined) return;
    const { totalBytes, availableBytes } = found;
    const isBelow = (bytes: number, fraction: number) =>
      availableBytes < Math.min(bytes, totalBytes * fraction);
    const before = this.#refuses;
    this.#refuses = isBelow(CHANGE_BYTES_MIN, CHANGE_FRACTION)
      ? "changes"
      : isBelow(GROWTH_BYTES_MIN, GROWTH_FRACTION)
      ? "growth"
      : "nothing";
    if (this.#refuses === before) return;
    if (this.#refuses === "nothing") log.info("the nameserver's disk has room again", { availableBytes });
    else {
      log.error("the nameserver's disk is nearly full: make room on it", {
        refused: this.#refuses,
        availableBytes,
      });
    }
  }
}
