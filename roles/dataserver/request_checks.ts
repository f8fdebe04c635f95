/** What requests to a dataserver must be like; EINVAL for those that are not. */

import { FsError } from "../../wire/errno.ts";
import type { SyncBlockRequest } from "../../wire/messages/dataserver.ts";
import { CHAIN_MAX } from "./chain.ts";
import { BLOCK_BYTES_MAX } from "./volume.ts";

export function demand(condition: boolean, what: string): void {
  if (!condition) throw new FsError("EINVAL", `the request's ${what} is out of bounds`, { op: "block" });
}

export const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;
export const isId = (value: unknown): boolean => isCount(value) && (value as number) > 0;
/** Within a block. */
export const isOffset = (value: unknown): boolean => isCount(value) && (value as number) <= BLOCK_BYTES_MAX;

export function checkReplica(request: { readonly block: unknown; readonly generation: unknown }): void {
  demand(isId(request.block) && isCount(request.generation), "block");
}

export function checkChained<R extends SyncBlockRequest>(request: R): R {
  checkReplica(request);
  const { chain } = request;
  demand(Array.isArray(chain) && chain.length <= CHAIN_MAX, "chain");
  for (const target of chain) {
    demand(typeof target?.address === "string" && isId(target.volume), "chain");
  }
  return request;
}
