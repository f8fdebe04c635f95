/**
 * The part of the service for administrators that checks the file system: begins a check, goes on with it for a moment
 * for each request, and repairs what is asked for.
 * Bounded: RUNS_MAX checks at a time. One ends with its connection, or when nobody has asked for it for IDLE_MS.
 */

import { FsError } from "../../wire/errno.ts";
import { type ADMIN, ADMIN_BATCH_MAX } from "../../wire/messages/admin.ts";
import type { FsckStep } from "../../wire/messages/fsck.ts";
import type { Handlers } from "../../wire/service.ts";
import type { FsckParts } from "./fsck_context.ts";
import { repairProblem } from "./fsck_repair.ts";
import { FsckRun } from "./fsck_run.ts";

const RUNS_MAX = 2;
const IDLE_MS = 10 * 60_000;
/** A request goes on for so long, and is answered after so long whatever it waits for. */
const STEP_MS = 300;
const ANSWER_MS = 1_000;
const STEPS_MAX = 5_000;
/** Others are served in between after so long. */
const TURN_MS = 4;
const PROBLEMS_MAX = 500;
const VERIFY_RATE_MIN = 1024;

interface Active {
  readonly run: FsckRun;
  readonly steps: AsyncGenerator<void>;
  /** The step that is under way. */
  step: Promise<IteratorResult<void>> | undefined;
  usedMs: number;
  isAsked: boolean;
}

export function fsckHandlers(
  parts: FsckParts,
): Pick<Handlers<typeof ADMIN>, "fsckStart" | "fsckNext" | "fsckRepair"> {
  const { namespace, clock } = parts;
  const active = new Map<number, Active>();
  let lastId = 0;

  const end = (id: number): void => {
    const found = active.get(id);
    if (found === undefined) return;
    active.delete(id);
    // What it waits for comes first; nobody hears of what goes wrong then.
    found.step?.catch(() => {});
    found.steps.return(undefined).catch(() => {});
  };

  return {
    fsckStart: (request, { peer }) => {
      const rate = request.verifyBytesPerSecond;
      if (rate !== undefined && !(rate >= VERIFY_RATE_MIN)) {
        throw new FsError("EINVAL", `bytes are read at ${VERIFY_RATE_MIN} a second or more`, { op: "fsck" });
      }
      const nowMs = clock.monotonicMs();
      for (const [id, { usedMs, isAsked }] of active) {
        if (!isAsked && nowMs - usedMs > IDLE_MS) end(id);
      }
      if (active.size >= RUNS_MAX) {
        throw new FsError("EBUSY", `${RUNS_MAX} checks are under way: wait until one has ended`, {
          op: "fsck",
        });
      }
      const fsck = ++lastId;
      const run = new FsckRun(parts, request);
      active.set(fsck, { run, steps: run.steps(), step: undefined, usedMs: nowMs, isAsked: false });
      void peer.closed.then(() => end(fsck));
      return { fsck, inodes: namespace.totals.get("inodes"), blocks: namespace.totals.get("blocks") };
    },

    fsckNext: async ({ fsck }) => {
      const found = active.get(fsck);
      if (found === undefined) {
        throw new FsError("ESHUTDOWN", "the check has ended: begin another", { op: "fsck" });
      }
      if (found.isAsked) throw new FsError("EBUSY", "the check goes on already", { op: "fsck" });
      const { context: run, verification } = found.run;
      found.isAsked = true;
      const answering = new AbortController();
      const late = clock.sleep(ANSWER_MS, answering.signal).then(() => "late" as const);
      const startMs = clock.monotonicMs();
      let turnMs = startMs;
      try {
        for (let steps = 0; steps < STEPS_MAX && run.phase !== "done" && run.found < PROBLEMS_MAX; steps++) {
          found.step ??= found.steps.next();
          const result = await Promise.race([found.step, late]);
          if (result === "late") break;
          found.step = undefined;
          const nowMs = clock.monotonicMs();
          if (nowMs - startMs > STEP_MS) break;
          if (nowMs - turnMs < TURN_MS) continue;
          await clock.sleep(0);
          turnMs = clock.monotonicMs();
        }
      } catch (error) {
        end(fsck);
        throw error;
      } finally {
        answering.abort();
        found.isAsked = false;
        found.usedMs = clock.monotonicMs();
      }
      const { problems, unchecked } = run.take(PROBLEMS_MAX);
      const isDone = run.phase === "done" && run.found === 0;
      if (isDone) end(fsck);
      const step: FsckStep = {
        phase: isDone || run.phase !== "done" ? run.phase : "files",
        inodes: run.inodes,
        blocks: run.blocks,
        verifiedBytes: verification?.bytes ?? 0,
        problems,
        unchecked,
      };
      return step;
    },

    fsckRepair: async ({ problems }) => {
      if (problems.length > ADMIN_BATCH_MAX) {
        throw new FsError("EINVAL", `at most ${ADMIN_BATCH_MAX} problems in one request`, { op: "fsck" });
      }
      const outcomes = [];
      for (const problem of problems) outcomes.push(await repairProblem(parts, problem));
      return { outcomes };
    },
  };
}
