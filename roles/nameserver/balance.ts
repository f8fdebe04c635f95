/**
 * The administrators' service for balancing: how full volumes are, and moving a few replicas from one to another. Which
 * to move is the command's to say, step by step: nothing goes on here when it has ended.
 */

import { asBlockId } from "../../wire/ids.ts";
import type { ADMIN, MoveReplicasReply, MoveReplicasRequest } from "../../wire/messages/admin.ts";
import type { CallContext, Handlers } from "../../wire/service.ts";
import { extentAt } from "./extents.ts";
import { fieldRange, getU64, TABLE_REPLICA } from "./keys.ts";
import type { Namespace } from "./namespace.ts";
import { decodeReplica } from "./records.ts";
import type { Registry } from "./registry.ts";
import type { Repair } from "./repair.ts";
import type { Task } from "./repair_queue.ts";
import type { Transaction } from "./transaction.ts";

/** Replicas that one step looks at, and moves; so many at once. */
const LOOK_MAX = 2_000;
const MOVE_MAX = 16;
const PARALLEL = 4;
/** A step ends so long after its begin, but for the moves that are under way. */
const STEP_MS = 3_000;

export interface BalanceParts {
  readonly namespace: Namespace;
  readonly registry: Registry;
  readonly repair: Repair;
}

type BalanceHandlers = Pick<Handlers<typeof ADMIN>, "volumeUsage" | "moveReplicas">;

export function balanceHandlers(options: BalanceParts): BalanceHandlers {
  return {
    volumeUsage: () => ({ volumes: options.registry.usage() }),
    moveReplicas: (request, context) => moveReplicas(options, request, context),
  };
}

async function moveReplicas(
  { namespace, repair }: BalanceParts,
  { source, target, from, bytes, bytesMax }: MoveReplicasRequest,
  { signal }: CallContext,
): Promise<MoveReplicasReply> {
  const range = fieldRange(TABLE_REPLICA, source, from, Number.MAX_SAFE_INTEGER + 1);
  const page = await namespace.journal.scan(range, LOOK_MAX);
  const untilMs = namespace.clock.monotonicMs() + STEP_MS;
  let moved = 0;
  let movedBytes = 0;
  let movingBytes = 0;
  let moving = 0;
  let at = 0;
  /** The first that had to wait: it is looked at again by the next step. */
  let waiting = page.length;
  const isOver = () =>
    at >= waiting || movedBytes + movingBytes >= bytes || moved + moving >= MOVE_MAX ||
    signal?.aborted === true ||
    namespace.clock.monotonicMs() > untilMs;
  const mover = async () => {
    while (!isOver()) {
      const index = at++;
      const [key, value] = page[index]!;
      const task = { ...decodeReplica(value), block: asBlockId(getU64(key, 9)) };
      const expected = expectedBytes(namespace.begin(), task);
      if (movedBytes + movingBytes + expected > bytesMax) continue;
      movingBytes += expected;
      moving++;
      const result = await repair.move(task, source, target, expected);
      movingBytes -= expected;
      moving--;
      if (result === "busy") {
        waiting = Math.min(waiting, index);
      } else if (result !== "refused") {
        moved++;
        movedBytes += result;
      }
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, mover));
  const next = Math.min(at, waiting);
  if (next === page.length && page.length < LOOK_MAX) return { moved, movedBytes };
  const block = next < page.length ? getU64(page[next]![0], 9) : getU64(page.at(-1)![0], 9) + 1;
  return { moved, movedBytes, next: asBlockId(block) };
}

/** What a replica of the block holds at most, as far as its file goes. */
function expectedBytes(tx: Transaction, { ino, start }: Task): number {
  const inode = tx.findInode(ino);
  const extent = inode === undefined ? undefined : extentAt(tx, inode, start);
  return inode === undefined || extent === undefined
    ? 0
    : Math.max(0, Math.min(extent.length, inode.size - extent.start));
}
