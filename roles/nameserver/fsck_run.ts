/**
 * One check of the file system: the order in which its parts run. It is a generator that is drawn on step by step
 * (fsck_service.ts), and looks at no more than a page of records between two steps.
 */

import type { FsckStartRequest } from "../../wire/messages/fsck.ts";
import { BlockChecks, checkVolumes } from "./fsck_blocks.ts";
import { FsckContext, type FsckParts } from "./fsck_context.ts";
import { checkTables } from "./fsck_tables.ts";
import { checkTree } from "./fsck_tree.ts";
import { Verification } from "./fsck_verify.ts";

export class FsckRun {
  readonly context: FsckContext;
  readonly verification: Verification | undefined;

  constructor(parts: FsckParts, request: FsckStartRequest) {
    this.context = new FsckContext(parts, request);
    const { verifyBytesPerSecond } = request;
    if (verifyBytesPerSecond !== undefined) {
      this.verification = new Verification(this.context, verifyBytesPerSecond);
    }
  }

  /** A step is over when it yields. Ends at the end, or throws what the journal throws. */
  async *steps(): AsyncGenerator<void> {
    const { context, verification } = this;
    try {
      if (context.request.root === undefined) {
        yield* checkTables(context);
        context.phase = "volumes";
        yield* checkVolumes(context);
      }
      context.phase = "files";
      yield* checkTree(context, new BlockChecks(context, verification));
      await verification?.end();
      context.endNaming();
      context.phase = "done";
    } finally {
      verification?.abort();
      await context.reader.close();
    }
  }
}
