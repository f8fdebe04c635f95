/**
 * Runs the workload on a journal until it has done so many operations: arguments DATABASE SEED COUNT LOG. Notes in
 * the recording which operation is on disk as soon as the journal says so. Ends without closing the journal.
 */

import { SeededRandom } from "../../../base/random.ts";
import { LevelJournal } from "../../../roles/nameserver/journal.ts";
import { sleep } from "../../harness/command.ts";
import { chance } from "../../base/seeded.ts";
import { mark } from "../power/recording.ts";
import { Workload } from "./workload.ts";

const [path, seed, count, log] = Deno.args as [string, string, string, string];
const journal = await LevelJournal.open(path, {
  createIfMissing: true,
  onFailure: () => Deno.exit(3),
  writeBufferBytes: 64 * 1024, // the least: a new log every 100 operations or so
});
const workload = await Workload.start(journal, Number(seed));
mark(log, `durable ${workload.number}`);
const random = new SeededRandom(Number(seed) + 1);
const end = workload.number + Number(count);
while (workload.number < end) {
  const durable = chance(random, 0.03);
  const done = workload.next(durable);
  const { number } = workload;
  if (durable) void done.then(() => mark(log, `durable ${number}`));
  // Several operations may share a turn, and so a group.
  if (chance(random, 0.3)) await (chance(random, 0.5) ? done : sleep(0));
}
await journal.written(journal.position);
Deno.exit(0);
