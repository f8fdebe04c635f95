/** The batches of the crash test: what batch `number` writes follows from the number alone. */

import { bytesOf } from "../../../base/bytes.ts";
import { randomBytes, randomInt, SeededRandom } from "../../../base/random.ts";
import type { Write } from "../../../roles/nameserver/journal.ts";

export const LAST = bytesOf("last");

export function batchOf(number: number): Write[] {
  const random = new SeededRandom(number);
  const writes = new Map<string, Write>();
  for (let i = 1 + randomInt(random, 8); i > 0; i--) {
    const name = `key${randomInt(random, 60)}`;
    const isDelete = random.next() < 0.25;
    const value = isDelete
      ? null
      : randomBytes(random, random.next() < 0.05 ? 40_000 : randomInt(random, 300));
    writes.set(name, [bytesOf(name), value]);
  }
  return [...writes.values(), [LAST, bytesOf(String(number))]];
}
