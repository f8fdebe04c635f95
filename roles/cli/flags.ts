/**
 * What the definitions of commands have in common: the program that they belong to, parsers of values, and flags that several
 * of them have.
 */

import { Command, InvalidArgumentError, Option } from "commander";
import { CONFIG_DIR, type RoleSettings } from "../admin/config.ts";
import { parseUserIds, type UserIds } from "../admin/units.ts";
import { IdRanges, joinRanges } from "../../base/id_ranges.ts";
import type { Metric } from "../../base/metrics.ts";
import {
  type Logger,
  type LogLevel,
  messageOf,
  openLog,
  printLine,
  type Service,
  UsageError,
} from "../admin/process.ts";

export const NAMESERVER_LISTEN = "127.0.0.1:7400";
export const DATASERVER_LISTEN = "127.0.0.1:7401";

export const program = new Command("mfs")
  .description("MaggieFS, a distributed POSIX file system for Linux.")
  .exitOverride()
  .configureOutput({ writeErr: () => {}, writeOut: (text) => printLine(text.trimEnd()) })
  .addHelpText("after", "\nExample: mfs singlenode /tmp/mfs\n\nEach command has its own --help.");

export function command(usage: string, description: string, example: string): Command {
  return program.command(usage).description(description).addHelpText("after", `\nExample: ${example}`);
}

export function integer(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d{1,9}$/.test(text) ? Number(text) : NaN;
    if (value >= min && value <= max) return value;
    throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
  };
}

export function address(text: string): string {
  const port = /^(?:\[[0-9a-fA-F:.]+\]|[^:\s]+):(\d{1,5})$/.exec(text)?.[1];
  if (port !== undefined && Number(port) <= 65535) return text;
  throw new InvalidArgumentError("It must be HOST:PORT.");
}

export function userIds(text: string): UserIds {
  const user = parseUserIds(text);
  if (user !== undefined) return user;
  throw new InvalidArgumentError("It must be UID:GID, such as --root-squash=65534:65534.");
}

/** Of several flags together. */
export function idRanges(text: string, before?: string): string {
  const all = joinRanges(text, before);
  try {
    IdRanges.parse(all);
  } catch (error) {
    throw new InvalidArgumentError(`${messageOf(error)}.`);
  }
  return all;
}

export function joinOptions(value: string, before?: string): string {
  return before === undefined ? value : `${before},${value}`;
}

export interface MountOptionFlags {
  readonly o?: string;
  readonly readOnly?: boolean;
  readonly nosuid?: boolean;
  readonly nodev?: boolean;
  readonly noexec?: boolean;
  readonly atime?: keyof typeof ATIME_OPTIONS;
}

export const ATIME_OPTIONS = { relatime: "relatime", strict: "strictatime", off: "noatime" } as const;

/** -o, and flags that are short for options of it. */
export function withMountOptions(target: Command): Command {
  return target
    .option(
      "-o <options>",
      "comma-separated: ro, nosuid, nodev, noexec, suid, dev, relatime, strictatime, noatime, nodiratime, allow_other, " +
        "sync, noacl, nolock, nowritebehind, root_squash, uidmap, gidmap, soft, timeout=SECONDS",
      joinOptions,
    )
    .option("--read-only", "nothing can be changed through it")
    .option("--nosuid", "setuid and setgid programs get no rights")
    .option("--nodev", "devices can't be opened")
    .option("--noexec", "no program can be run")
    .addOption(
      new Option("--atime <when>", "which reads set times of access: first after a change, each, none")
        .choices(Object.keys(ATIME_OPTIONS)),
    );
}

/** All of them as -o has them. */
export function mountOptionsOf(flags: MountOptionFlags): string {
  return [
    flags.o ?? "",
    flags.readOnly ? "ro" : "",
    flags.nosuid ? "nosuid" : "",
    flags.nodev ? "nodev" : "",
    flags.noexec ? "noexec" : "",
    flags.atime === undefined ? "" : ATIME_OPTIONS[flags.atime],
  ].filter((option) => option !== "").join(",");
}

export const logLevel = () =>
  new Option("--log-level <level>", "least severe lines to log").choices(["debug", "info", "warn", "error"]);

export function withLog(target: Command, defaultLevel = "info"): Command {
  return target.option("--log-json", "log lines as JSON")
    .addOption(logLevel().default(defaultLevel))
    .option("--log-file <file>", "append the log to FILE instead of stderr");
}

export function withConfig(target: Command): Command {
  return target.option(
    "--config <file>",
    `TOML file whose keys are the names of these flags; flags given here win (default: ${CONFIG_DIR}/${target.name()}.toml)`,
  );
}

/** Where metrics are served, unless told; by role. */
export const HTTP_LISTEN = {
  nameserver: "127.0.0.1:7480",
  dataserver: "127.0.0.1:7481",
  mount: "127.0.0.1:7482",
  singlenode: "127.0.0.1:7480",
} as const;

export function withHttp(target: Command): Command {
  const usual = HTTP_LISTEN[target.name() as keyof typeof HTTP_LISTEN];
  return target.addOption(
    new Option(
      "--http <host:port>",
      `where /metrics, /healthz and /readyz are served; off: nowhere (default: ${usual}, if that is free)`,
    ).argParser((text) => text === "off" ? text : address(text)).default(undefined, usual),
  );
}

export function withTracing(target: Command): Command {
  return target.option(
    "--tracing",
    "send traces of requests by OTLP/HTTP to OTEL_EXPORTER_OTLP_ENDPOINT (default: http://localhost:4318)",
  );
}

export interface Page {
  readonly role: keyof typeof HTTP_LISTEN;
  /** What --http says; undefined: nothing. */
  readonly http: string | undefined;
  /** --tracing was given. */
  readonly tracing: boolean | undefined;
  readonly log: Logger;
  /** Asked for when `start` has resolved. */
  readonly metrics: () => Promise<readonly Metric[]>;
}

/** Starts a service that can be watched: with its page, and with traces where they are wanted. */
export async function watched(page: Page, start: () => Promise<Service>): Promise<Service> {
  if (page.tracing !== true) return await withPage(page, start);
  const { startTracing } = await import("../admin/tracing.ts");
  const stopTracing = startTracing(page.role, page.log);
  const service = await withPage(page, start);
  const stop = async () => {
    try {
      await service.stop();
    } finally {
      await stopTracing?.();
    }
  };
  return { ...service, stop };
}

/**
 * Starts a service with what it shows over HTTP, which goes with it, and says there that it is ready. A supervisor's child
 * shows nothing unless it is told where.
 */
async function withPage(
  { role, http, log, metrics }: Page,
  start: () => Promise<Service>,
): Promise<Service> {
  if (http === "off" || (http === undefined && Deno.env.get("MFS_EXIT_ON_STDIN_EOF") === "1")) {
    return await start();
  }
  const { startMetricsServer } = await import("../admin/metrics_server.ts");
  let isReady = false;
  const page = startMetricsServer({
    ...{ listen: http ?? HTTP_LISTEN[role], isWanted: http !== undefined },
    ...{ log, metrics, isReady: () => isReady },
  });
  const service = await start();
  isReady = true;
  const stop = async () => {
    await Promise.all([service.stop(), page?.stop()]);
  };
  return { ...service, stop };
}

export interface LogFlags {
  readonly logJson?: boolean;
  readonly logLevel: LogLevel;
  readonly logFile?: string;
}

/** `live`: where the level is looked up each time. */
export function logOf(role: string, flags: LogFlags, live?: Command) {
  const level = live === undefined ? flags.logLevel : () => live.opts<LogFlags>().logLevel;
  const settings = { json: flags.logJson === true, level };
  return openLog(role, flags.logFile === undefined ? settings : { ...settings, file: flags.logFile });
}

export function need<T>(value: T | undefined, flag: string): T {
  if (value === undefined) throw new UsageError(`${flag} is missing`);
  return value;
}

/** What SIGHUP does; undefined: it stops the process, as there is no file that could have changed. */
export function reloadOf(
  settings: RoleSettings,
  log: Logger,
): (() => void) | undefined {
  return settings.file === undefined ? undefined : () => settings.reload(log);
}

/** What `check` finds wrong is wrong usage. */
export async function usage(check: () => Promise<void>): Promise<void> {
  try {
    await check();
  } catch (error) {
    throw new UsageError(messageOf(error));
  }
}
