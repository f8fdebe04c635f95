/**
 * Writes numbered batches to a journal until it is killed: arguments PATH FIRST SEED. Prints the number of each
 * batch once it is acknowledged.
 */

import { SeededRandom } from "../../../base/random.ts";
import { LevelJournal } from "../../../roles/nameserver/journal.ts";
import { batchOf } from "./journal_batches.ts";

const [path, first, seed] = Deno.args;
const journal = await LevelJournal.open(path!, { createIfMissing: true, onFailure: () => Deno.exit(1) });
const random = new SeededRandom(Number(seed));
const encoder = new TextEncoder();
for (let number = Number(first);; number++) {
  const position = journal.append(batchOf(number));
  const isDurable = random.next() < 0.02;
  const acknowledged = isDurable ? journal.durable(position) : journal.written(position);
  const said = number;
  void acknowledged!.then(() => Deno.stdout.writeSync(encoder.encode(`${said}\n`)));
  if (random.next() < 0.2) await acknowledged;
  // Several batches may share a turn, and so a group.
  else if (random.next() < 0.3) await new Promise((resolve) => setTimeout(resolve, 0));
}
