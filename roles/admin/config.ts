/**
 * The configuration file of a long-running role: TOML, one key for each long flag, without sections:
 *
 *     nameserver = "10.0.0.1:7400"
 *     volume = ["/disks/1", "/disks/2"]
 *
 * Reads and checks shapes only; which keys there are is the command line's to say.
 */

import { parse } from "@std/toml";
import { messageOf, UsageError } from "./process.ts";

/** A flag's value as the command line would have it: text, several texts, or a switch. */
export type ConfigValue = string | readonly string[] | boolean;

/** All keys of `file`. Throws UsageError when it cannot be read or is not flat TOML. */
export function readConfig(file: string): ReadonlyMap<string, ConfigValue> {
  let text: string;
  try {
    text = Deno.readTextFileSync(file);
  } catch (error) {
    throw new UsageError(`cannot read ${file}: ${messageOf(error)}`);
  }
  let table: Record<string, unknown>;
  try {
    table = parse(text) as Record<string, unknown>;
  } catch (error) {
    throw new UsageError(`${file}: ${messageOf(error)}`);
  }
  const values = new Map<string, ConfigValue>();
  for (const [key, value] of Object.entries(table)) values.set(key, configValue(file, key, value));
  return values;
}

function configValue(file: string, key: string, value: unknown): ConfigValue {
  if (typeof value === "boolean" || typeof value === "string") return value;
  if (typeof value === "number") return String(value);
  if (Array.isArray(value) && value.every((item) => typeof item === "string")) return value;
  throw new UsageError(`${file}: ${key} must be a text, a number, true, false or a list of texts`);
}
