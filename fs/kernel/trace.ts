/**
 * Prints requests and replies for --debug, one line each. The dispatcher holds null in place of a trace
 * when it is off, so that it costs one comparison.
 */

import type { Logger } from "../../base/log.ts";
import { errnoName } from "../../wire/errno.ts";
import { operationName } from "./operations.ts";
import type { KernelRequest } from "./request.ts";

export class KernelTrace {
  readonly #log: Logger;

  constructor(log: Logger) {
    this.#log = log;
  }

  request(request: KernelRequest, byteLength: number): void {
    this.#log.debug("request", {
      op: operationName(request.opcode),
      unique: request.key,
      node: request.nodeid,
      uid: request.uid,
      pid: request.pid,
      bytes: byteLength,
    });
  }

  /** `error`: 0 or a negative errno. */
  reply(request: KernelRequest, error: number, byteLength: number): void {
    this.#log.debug("reply", {
      op: operationName(request.opcode),
      unique: request.key,
      result: error === 0 ? "ok" : errnoName(-error),
      bytes: byteLength,
    });
  }
}
