/** A namespace on a journal in memory, for the nameserver's tests. */

import { bytesOf, EMPTY_BYTES } from "../../../base/bytes.ts";
import { Namespace } from "../../../roles/nameserver/namespace.ts";
import * as operations from "../../../roles/nameserver/operations.ts";
import { makeRoot } from "../../../roles/nameserver/operations.ts";
import type { InodeRecord } from "../../../roles/nameserver/records.ts";
import type { Transaction } from "../../../roles/nameserver/transaction.ts";
import { FsError } from "../../../wire/errno.ts";
import { type InodeId, ROOT_INODE } from "../../../wire/ids.ts";
import { S_IFDIR, S_IFREG } from "../../../wire/messages/inode.ts";
import { FakeClock } from "../../base/fake_clock.ts";
import { MemoryJournal } from "./memory_journal.ts";

export interface World {
  readonly journal: MemoryJournal;
  readonly clock: FakeClock;
  readonly namespace: Namespace;
}

/** An empty namespace with its root. */
export async function makeWorld(): Promise<World> {
  const journal = new MemoryJournal();
  const clock = new FakeClock();
  const namespace = await Namespace.load(journal, clock);
  await namespace.change((tx) => makeRoot(tx, 2));
  return { journal, clock, namespace };
}

/** The same database as a new process finds it. */
export async function reopen({ journal, clock }: World): Promise<World> {
  return { journal, clock, namespace: await Namespace.load(journal, clock) };
}

const credentials = { uid: 1000, gid: 100 };

export function makeFile(tx: Transaction, name: string, parent: InodeId = ROOT_INODE): InodeRecord {
  return operations.make(tx, parent, bytesOf(name), {
    credentials,
    mode: S_IFREG | 0o644,
    rdev: 0,
    target: EMPTY_BYTES,
  });
}

export function makeDirectory(tx: Transaction, name: string, parent: InodeId = ROOT_INODE): InodeRecord {
  return operations.make(tx, parent, bytesOf(name), {
    credentials,
    mode: S_IFDIR | 0o755,
    rdev: 0,
    target: EMPTY_BYTES,
  });
}

/** The errno of a failure, or "" with what was returned. */
export function outcomeOf<T>(run: () => T): { readonly errno: string; readonly value: T | undefined } {
  try {
    return { errno: "", value: run() };
  } catch (error) {
    if (error instanceof FsError) return { errno: error.errno, value: undefined };
    throw error;
  }
}
