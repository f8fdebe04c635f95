/**
 * The settings of a long-running role, from its flags, the environment and a file; which there are is what the command line
 * defines (commander's options), so that all of them come from one place. The file is flat TOML, one key for each long flag:
 *
 *     nameserver = "10.0.0.1:7400"
 *     volume = ["/disks/1", "/disks/2"]
 *
 * The environment has MFS_ROLE_KEY, as in MFS_DATASERVER_VOLUME=/disks/1,/disks/2. What is given twice: a flag wins over the
 * environment, that over the file, that over the default.
 *
 * Invariants:
 * - What is wrong is told in one line that names the place (FILE:LINE or the variable), and nothing has been touched.
 * - A child of a supervisor (MFS_EXIT_ON_STDIN_EOF) takes what it was started with, and nothing from around it.
 */

import type { Command, Option } from "commander";
import { parse } from "@std/toml";
import type { Logger } from "../../base/log.ts";
import { messageOf, UsageError } from "./process.ts";

/** Where a role's file is looked for, unless `--config` or the environment names one. */
export const CONFIG_DIR = "/etc/mfs";
/** The file itself, which no file can name. */
const CONFIG_KEY = "config";
/** -o has no long name. */
const MOUNT_OPTIONS_KEY = "options";
/** What SIGHUP changes at once, by role: whoever uses it asks each time. All else takes a restart. */
const LIVE: Readonly<Record<string, readonly string[]>> = {
  nameserver: [
    ...["log-level", "leases", "dead-after", "repair-rate", "backup-dir", "backup-every", "backup-keep"],
  ],
  dataserver: ["log-level", "scrub-days", "scrub-rate", "trash-hours"],
  mount: ["log-level"],
};
const SUGGESTED_DISTANCE_MAX = 2;
const MESSAGE_MAX = 160;

/** As it is written: text, texts, or a switch. */
export type ConfigValue = string | readonly string[] | boolean;

export interface ConfigEntry {
  readonly value: ConfigValue;
  readonly line: number;
}

export interface Setting {
  readonly key: string;
  readonly variable: string;
  readonly option: Option;
  readonly kind: "switch" | "text" | "list" | "text or switch";
}

/** All of a list, as a parser for commander. */
export function collect(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value];
}

/** All keys of `file`. Throws UsageError when it cannot be read or is not flat TOML. */
export function readConfig(file: string): ReadonlyMap<string, ConfigEntry> {
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
    const message = messageOf(error);
    const line = /\bline (\d+)/.exec(message)?.[1];
    // Some messages go on with the rest of the file.
    const short = message.length > MESSAGE_MAX ? `${message.slice(0, MESSAGE_MAX)} ...` : message;
    throw new UsageError(`${file}${line === undefined ? "" : `:${line}`}: ${short}`);
  }
  const entries = new Map<string, ConfigEntry>();
  for (const [key, value] of Object.entries(table)) {
    const line = lineOf(text, key);
    entries.set(key, { value: configValue(`${file}:${line}`, key, value), line });
  }
  return entries;
}

/** Where a key is given a value. */
function lineOf(text: string, key: string): number {
  const lines = text.split("\n");
  const isKey = (line: string) => {
    const name = /^\s*(?:\[+\s*)?("[^"]*"|'[^']*'|[A-Za-z0-9_-]+)\s*(?:[=.\]])/.exec(line)?.[1];
    return name !== undefined && name.replace(/^["']|["']$/g, "") === key;
  };
  return lines.findIndex(isKey) + 1 || 1;
}

function configValue(place: string, key: string, value: unknown): ConfigValue {
  if (typeof value === "boolean" || typeof value === "string") return value;
  if (typeof value === "number") return String(value);
  if (Array.isArray(value) && value.every((item) => typeof item === "string")) return value;
  throw new UsageError(`${place}: ${key} must be a text, a number, true, false or a list of texts`);
}

/** What can be set for a role, in the order of its flags. */
export function settingsOf(role: Command): readonly Setting[] {
  return role.options.flatMap((option): Setting[] => {
    const key = option.long?.slice(2) ?? (option.short === "-o" ? MOUNT_OPTIONS_KEY : undefined);
    if (key === undefined || key === "help") return [];
    const variable = `MFS_${role.name()}_${key}`.toUpperCase().replaceAll("-", "_");
    const isList = option.parseArg === collect;
    const kind = isList ? "list" : option.optional ? "text or switch" : option.required ? "text" : "switch";
    return [{ key, variable, option, kind }];
  });
}

/** A role's settings, put together from where they may be given. */
export class RoleSettings {
  readonly #role: Command;
  readonly #settings: readonly Setting[];
  /** Values of what no flag was given for, before anything else was looked at. */
  readonly #defaults = new Map<string, unknown>();
  readonly #isChild = Deno.env.get("MFS_EXIT_ON_STDIN_EOF") === "1";

  constructor(role: Command) {
    this.#role = role;
    this.#settings = settingsOf(role);
    for (const { option } of this.#settings) {
      const name = option.attributeName();
      if (role.getOptionValueSource(name) !== "cli") this.#defaults.set(name, role.getOptionValue(name));
    }
  }

  /** The file that counts; undefined: there is none. */
  get file(): string | undefined {
    const given = this.#role.opts<{ config?: string }>().config;
    if (given !== undefined || this.#isChild) return given;
    const variable = this.#settings.find(({ key }) => key === CONFIG_KEY)?.variable;
    const named = variable === undefined ? undefined : Deno.env.get(variable);
    if (named !== undefined && named !== "") return named;
    const usual = `${CONFIG_DIR}/${this.#role.name()}.toml`;
    return exists(usual) ? usual : undefined;
  }

  /** The role's options have what environment and file say. */
  merge(): void {
    for (const [name, value] of this.#found()) this.#role.setOptionValueWithSource(name, value, "config");
  }

  /**
   * Environment and file are looked at again. Of what has changed, what can be (LIVE) is taken over; the rest takes a restart.
   * A file that is wrong changes nothing.
   */
  reload(log: Logger): void {
    const { file } = this;
    let found: ReadonlyMap<string, unknown>;
    try {
      found = this.#found();
    } catch (error) {
      log.error("configuration is left as it was", { error });
      return;
    }
    const changed: string[] = [];
    const waiting: string[] = [];
    for (const { key, option } of this.#settings) {
      const name = option.attributeName();
      if (!this.#defaults.has(name)) continue;
      const value = found.has(name) ? found.get(name) : this.#defaults.get(name);
      if (JSON.stringify(value) === JSON.stringify(this.#role.getOptionValue(name))) continue;
      if (!isLive(this.#role, key)) {
        waiting.push(key);
        continue;
      }
      this.#role.setOptionValueWithSource(name, value, "config");
      changed.push(key);
    }
    log.info("configuration was read again", { file, changed: changed.join(", ") });
    if (waiting.length > 0) log.warn("these settings take a restart", { settings: waiting.join(", ") });
  }

  /** By name of the option, parsed; what flags were given for is not among them. Throws UsageError. */
  #found(): ReadonlyMap<string, unknown> {
    const found = new Map<string, unknown>();
    const { file } = this;
    if (file !== undefined) {
      for (const [key, { value, line }] of readConfig(file)) {
        this.#take(found, key, value, `${file}:${line}`, key);
      }
    }
    if (this.#isChild) return found;
    const prefix = `MFS_${this.#role.name()}_`.toUpperCase();
    for (const [variable, text] of Object.entries(Deno.env.toObject())) {
      if (!variable.startsWith(prefix) || text === "") continue;
      const setting = this.#settings.find((one) => one.variable === variable);
      if (setting?.key === CONFIG_KEY) continue;
      const key = setting?.key ?? variable.slice(prefix.length).toLowerCase().replaceAll("_", "-");
      const value = setting?.kind === "list"
        ? text.split(",")
        : setting?.kind === "switch" || (setting?.kind === "text or switch" && isSwitchText(text))
        ? switchOf(text)
        : text;
      this.#take(found, key, value, "environment", variable);
    }
    return found;
  }

  #take(
    found: Map<string, unknown>,
    key: string,
    value: ConfigValue,
    place: string,
    shown: string,
  ): void {
    const setting = this.#settings.find((one) => one.key === key);
    if (setting === undefined || key === CONFIG_KEY) {
      const known = this.#settings.filter((one) => one.key !== CONFIG_KEY).map((one) => one.key);
      const near = nearest(key, known);
      const name = place === "environment" && near !== undefined ? this.#variableOf(near) : near;
      const hint = name === undefined ? "" : ` (did you mean ${JSON.stringify(name)}?)`;
      throw new UsageError(`${place}: unknown key ${JSON.stringify(shown)}${hint}`);
    }
    const name = setting.option.attributeName();
    if (!this.#defaults.has(name)) {
      parsed(setting, value, place, shown); // a flag wins, but what is wrong is wrong
      return;
    }
    const result = parsed(setting, value, place, shown);
    if (result === undefined) found.delete(name);
    else found.set(name, result);
  }

  #variableOf(key: string): string {
    return this.#settings.find((one) => one.key === key)!.variable;
  }
}

function isLive(role: Command, key: string): boolean {
  return LIVE[role.name()]?.includes(key) === true;
}

function exists(file: string): boolean {
  try {
    return Deno.statSync(file).isFile;
  } catch {
    return false;
  }
}

function isSwitchText(text: string): boolean {
  return ["true", "false", "1", "0", "yes", "no"].includes(text);
}

function switchOf(text: string): ConfigValue {
  if (!isSwitchText(text)) return text;
  return text === "true" || text === "1" || text === "yes";
}

/** As the flag would have it; undefined: as if it were not given. */
function parsed({ kind, option }: Setting, value: ConfigValue, place: string, shown: string): unknown {
  const isSwitch = typeof value === "boolean";
  const isRight = kind === "switch"
    ? isSwitch
    : kind === "text or switch"
    ? !Array.isArray(value)
    : kind === "list"
    ? !isSwitch
    : typeof value === "string";
  if (!isRight) {
    const shape = {
      "switch": "true or false",
      "text": "one text or number",
      "list": "a text or a list of texts",
      "text or switch": "true, false or a text",
    };
    throw new UsageError(`${place}: ${shown} must be ${shape[kind]}`);
  }
  if (isSwitch) return value ? true : undefined;
  if (kind === "list") return typeof value === "string" ? [value] : value;
  if (option.parseArg === undefined) return value;
  try {
    return option.parseArg(value as string, undefined);
  } catch (error) {
    throw new UsageError(`${place}: ${shown}: ${messageOf(error)}`);
  }
}

/** The one of `names` that is meant, probably. */
export function nearest(name: string, names: readonly string[]): string | undefined {
  const [best] = names.map((known) => [distance(name, known), known] as const).sort(([a], [b]) => a - b);
  return best !== undefined && best[0] <= SUGGESTED_DISTANCE_MAX ? best[1] : undefined;
}

/** How many letters are to be changed, put in or left out (Levenshtein). */
function distance(a: string, b: string): number {
  if (Math.abs(a.length - b.length) > SUGGESTED_DISTANCE_MAX) return Infinity;
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length]!;
}

// ---- for people

/** A file with every setting as a comment, to be edited. */
export function configTemplate(role: Command): string {
  const lines = [
    `# ${CONFIG_DIR}/${role.name()}.toml: settings of \`mfs ${role.name()}\`. Flags and the environment go before this file.`,
    "# What is commented out has its default. SIGHUP has the file read again (systemctl reload).",
  ];
  for (const { key, variable, option, kind } of settingsOf(role)) {
    if (key === CONFIG_KEY) continue;
    lines.push(
      "",
      `# ${option.description}`,
      `# ${shapeOf(kind)}; environment: ${variable}; SIGHUP: ${onHangup(role, key)}`,
    );
    lines.push(`#${key} = ${exampleOf(option, kind)}`);
  }
  return lines.join("\n");
}

/** The same as a table in Markdown. */
export function configReference(role: Command): string {
  const rows = settingsOf(role).filter(({ key }) => key !== CONFIG_KEY).map((
    { key, variable, option, kind },
  ) => [
    `\`${key}\``,
    `\`${variable}\``,
    shapeOf(kind),
    defaultOf(option),
    onHangup(role, key),
    option.description,
  ]);
  const table = [["key", "environment", "value", "default", "SIGHUP", "meaning"], ...rows].map((row) =>
    row.map((cell) => cell.replaceAll("|", "\\|"))
  );
  const widths = table[0]!.map((_, i) => Math.max(...table.map((row) => row[i]!.length)));
  const line = (row: readonly string[]) => `| ${row.map((cell, i) => cell.padEnd(widths[i]!)).join(" | ")} |`;
  return [line(table[0]!), line(widths.map((width) => "-".repeat(width))), ...table.slice(1).map(line)].join(
    "\n",
  );
}

/** When a change of the file counts. */
function onHangup(role: Command, key: string): string {
  return isLive(role, key) ? "at once" : "restart";
}

function shapeOf(kind: Setting["kind"]): string {
  if (kind === "list") return "texts";
  if (kind === "switch") return "true or false";
  return kind === "text" ? "text or number" : "true or a text";
}

function defaultOf({ defaultValue, defaultValueDescription }: Option): string {
  if (defaultValueDescription !== undefined) return `\`${defaultValueDescription}\``;
  if (defaultValue === undefined || defaultValue === "") return "";
  // This machine's name is not another's.
  return defaultValue === Deno.hostname() ? "the host's name" : `\`${defaultValue}\``;
}

function exampleOf(option: Option, kind: Setting["kind"]): string {
  if (kind === "switch" || kind === "text or switch") return "true";
  const { defaultValueDescription } = option;
  const defaultValue = defaultValueDescription ?? option.defaultValue;
  if (typeof defaultValue === "number") return String(defaultValue);
  const placeholder = /<([^>]+)>/.exec(option.flags)?.[1]?.toUpperCase() ?? "";
  const isOwn = typeof defaultValue === "string" && defaultValue !== Deno.hostname();
  const text = JSON.stringify(isOwn ? defaultValue : placeholder);
  return kind === "list" ? `[${text}]` : text;
}
