/**
 * The replication chain: hands an operation on to the next dataservers while the own disk works on it, and
 * collects who did not take it.
 * When the next one fails, the rest of the chain is asked from here, so that one dead machine costs one replica.
 * Sound because a caller issues no operation that overlaps one in flight, and has the replicas fenced by a new generation
 * before it goes on after a failure, also where it goes on with all of them: a late copy, which the failed one still forwards
 * or a closed connection still delivers, is the same bytes or stale.
 */

import { asFsError } from "../../wire/errno.ts";
import type { ChainReply, ChainTarget, DATASERVER } from "../../wire/messages/dataserver.ts";
import type { CallOptions, Client } from "../../wire/service.ts";
import type { ChannelPool } from "./channel_pool.ts";

/**
 * For one dataserver's part; a call waits for as many of these as the chain has steps. A disk may take its time to write
 * down what the page cache has; a server that hangs is noticed by its silence (DATASERVER_SILENCE_MS).
 */
export const WRITE_STEP_MS = 3_000;
export const SYNC_STEP_MS = 100_000;
export const CHAIN_MAX = 16;

export type Failures = ChainReply["failed"];

/** Sends one operation to `target`, which hands it on to `rest`. */
export type Step = (
  client: Client<typeof DATASERVER>,
  target: ChainTarget,
  rest: readonly ChainTarget[],
  options: CallOptions,
) => Promise<ChainReply>;

const NONE_FAILED: ChainReply = { failed: [] };

export interface ChainOptions {
  /** What the replica here takes on its disk afterwards. */
  readonly allocated?: () => number | undefined;
  /** It goes down the chain; what that gives is told whether it was not done everywhere, as far as is known here. */
  readonly begin?: () => (differs: boolean) => void;
}

/**
 * The answer to an operation that `local` does here and `step` does down the chain, both at the same time. A failure here
 * is thrown.
 */
export async function withChain(
  local: Promise<unknown>,
  pool: ChannelPool,
  chain: readonly ChainTarget[],
  stepMs: number,
  step: Step,
  { allocated, begin }: ChainOptions = {},
): Promise<ChainReply> {
  // Both start before either is waited for; `forward` never rejects.
  const end = chain.length === 0 ? undefined : begin?.();
  const downstream = chain.length === 0 ? undefined : forward(pool, chain, stepMs, step);
  try {
    await local;
  } catch (error) {
    end?.(true);
    throw error;
  }
  const failed = await downstream ?? NONE_FAILED.failed;
  end?.(failed.length > 0);
  const allocatedBytes = allocated?.();
  if (allocatedBytes !== undefined) return { failed, allocatedBytes };
  return failed.length === 0 ? NONE_FAILED : { failed };
}

/** Runs `step` on the chain. Never rejects: failures are the result. */
export async function forward(
  pool: ChannelPool,
  chain: readonly ChainTarget[],
  stepMs: number,
  step: Step,
): Promise<Failures> {
  const failed: Failures[number][] = [];
  for (let i = 0; i < chain.length; i++) {
    const target = chain[i]!;
    const rest = chain.slice(i + 1);
    const timeoutMs = stepMs * (rest.length + 1);
    try {
      const reply = await pool.use(target.address, (client) => step(client, target, rest, { timeoutMs }));
      failed.push(...reply.failed);
      break;
    } catch (error) {
      const { errno, message } = asFsError(error, "forward");
      failed.push({ volume: target.volume, errno, message });
    }
  }
  return failed;
}
