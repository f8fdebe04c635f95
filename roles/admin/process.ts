/**
 * The life of one process: start a role, say `ready`, wait for a signal, stop in time; and how an error leaves
 * the program: as one line `mfs: WHAT: WHY` on stderr and an exit code, never as a stack trace.
 *
 * Invariant: between the first stop request and the end of the process lie at most STOP_MS_MAX. A second
 * SIGINT or SIGTERM ends it at once.
 * A service manager is told when it is ready, that it lives, and that it stops (service_manager.ts).
 * A child of a supervisor has MFS_EXIT_ON_STDIN_EOF=1 in its environment: the end of stdin is then its stop
 * request, so that it goes also when the supervisor was killed.
 */

import { createLogger, type Logger, type LogLevel } from "../../base/log.ts";

export type { Logger, LogLevel };
import { VERSION } from "../../base/version.ts";
import type { ServiceManager } from "./service_manager.ts";

export const EXIT_FAILURE = 1;
export const EXIT_USAGE = 2;

/** A stop takes no longer than this; the promise to the outside is 5 s. */
const STOP_MS_MAX = 4_800;
/** What a start that was overtaken by a stop request may still take. */
const START_AFTER_STOP_MS_MAX = 2_000;

const TRIM_INTERVAL_MS = 3_000;
/** A process that uses less of a processor than this is idle. */
const IDLE_SHARE_MAX = 0.05;
/** Looked at so often after each burst: the collector of V8 frees what it held only by and by. */
const TRIM_ROUNDS = 10;
/** Less is not worth the look. */
const TRIM_BYTES_MIN = 8 * 1024 * 1024;

/** In the environment of a process that is to leave the session in which it was started once it is ready. */
export const OWN_SESSION = "MFS_OWN_SESSION";

/** Wrong arguments or configuration: exit code 2. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

export interface ProgramVersion {
  readonly mfs: string;
  readonly deno: string;
  readonly os: string;
  readonly arch: string;
}

export function programVersion(): ProgramVersion {
  return { mfs: VERSION, deno: Deno.version.deno, os: Deno.build.os, arch: Deno.build.arch };
}

/** What serveUntilStopped runs. */
export interface Service {
  stop(): Promise<void>;
  /** Resolves when the service has ended by itself and the process should follow. */
  readonly ended?: Promise<void>;
  /** Resolves when it can no longer serve, with why: it is stopped, and the process ends with an error. */
  readonly failed?: Promise<Error>;
}

export interface LogSettings {
  readonly json: boolean;
  readonly level: LogLevel | (() => LogLevel);
  /** Appended to instead of stderr. */
  readonly file?: string;
}

/** The root logger of this process. Throws UsageError when the file cannot be opened. */
export function openLog(role: string, settings: LogSettings): Logger {
  const { json, level } = settings;
  if (settings.file === undefined) return createLogger(role, { json, level });
  let file: Deno.FsFile;
  try {
    file = Deno.openSync(settings.file, { append: true, create: true });
  } catch (error) {
    throw new UsageError(`cannot write the log to ${settings.file}: ${messageOf(error)}`);
  }
  const encoder = new TextEncoder();
  const write = (line: string) => {
    try {
      file.writeSync(encoder.encode(line + "\n"));
    } catch {
      // A full disk under the log must not end the service.
    }
  };
  return createLogger(role, { json, level, write });
}

/** One sentence without line breaks, for people. */
export function messageOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.replace(/\s*\n\s*/g, " ").trim() || "unknown error";
}

/** The exit code that `error` asks for. */
function exitCodeOf(error: unknown): number {
  if (error instanceof UsageError) return EXIT_USAGE;
  // An address that does not parse is found by the roles and is still the caller's wrong argument.
  const { errno, op } = (error ?? {}) as { errno?: unknown; op?: unknown };
  return errno === "EINVAL" && op === "address" ? EXIT_USAGE : EXIT_FAILURE;
}

/** Writes a line to stdout or stderr; nobody reading it is no error. */
export function printLine(
  line: string,
  stream: { writeSync(bytes: Uint8Array): number } = Deno.stdout,
): void {
  try {
    writeAll(new TextEncoder().encode(line + "\n"), stream);
  } catch {
    // A closed pipe: whoever listened has gone.
  }
}

/** Throws when nobody reads any more. */
export function writeAll(
  bytes: Uint8Array,
  stream: { writeSync(bytes: Uint8Array): number } = Deno.stdout,
): void {
  for (let at = 0; at < bytes.length;) at += stream.writeSync(bytes.subarray(at));
}

/** Ends the process with `mfs: WHAT: WHY`. */
export function exitWith(what: string, error: unknown): never {
  printLine(`mfs: ${what}: ${messageOf(error)}`, Deno.stderr);
  if (Deno.env.get("MFS_DEBUG") && error instanceof Error) printLine(error.stack ?? "", Deno.stderr);
  Deno.exit(exitCodeOf(error));
}

/** What nobody caught is a bug: one line, exit code 1. */
export function exitOnUncaughtErrors(what: string): void {
  addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    exitWith(what, new Error(`internal error: ${messageOf(event.reason)}${placeOf(event.reason)}`));
  });
  addEventListener("error", (event) => {
    event.preventDefault();
    exitWith(what, new Error(`internal error: ${messageOf(event.error)}${placeOf(event.error)}`));
  });
}

/** Where an error arose, short enough for the end of a line. */
function placeOf(error: unknown): string {
  const frame = error instanceof Error
    ? error.stack?.split("\n").find((line) => /^\s+at /.test(line))
    : undefined;
  const place = frame === undefined ? null : /([^/\\()]+:\d+):\d+\)?$/.exec(frame);
  return place === null ? "" : ` (${place[1]})`;
}

/**
 * Resolves with what asked this process to stop. From then on a second signal ends it at once. `reload`: what SIGHUP does
 * instead of stopping it.
 */
export function stopRequested(reload?: () => void): Promise<string> {
  return new Promise((resolve) => {
    let asked = false;
    const ask = (why: string) => {
      if (asked) Deno.exit(EXIT_FAILURE);
      asked = true;
      resolve(why);
    };
    if (Deno.env.get("MFS_EXIT_ON_STDIN_EOF") === "1") {
      // Ctrl-C reaches the whole process group; our supervisor decides in which order its children stop.
      for (const signal of ["SIGINT", "SIGHUP"] as const) Deno.addSignalListener(signal, () => {});
      Deno.addSignalListener("SIGTERM", () => ask("SIGTERM"));
      void stdinEnded().then(() => {
        if (!asked) ask("end of stdin");
      });
      return;
    }
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
      const isReload = signal === "SIGHUP" && reload !== undefined;
      Deno.addSignalListener(signal, isReload ? reload : () => ask(signal));
    }
  });
}

async function stdinEnded(): Promise<void> {
  const buffer = new Uint8Array(256);
  try {
    while (await Deno.stdin.read(buffer) !== null);
  } catch {
    // Closed or never there: the same as its end.
  }
}

/**
 * Runs a service until a stop request or its own end, and exits. `start` may reject: one line, exit code 1; its
 * signal aborts when a stop is requested.
 * Prints `ready` on stdout once `start` has resolved. `reload` reads the configuration again (SIGHUP).
 */
export async function serveUntilStopped(
  what: string,
  log: Logger,
  start: (signal: AbortSignal) => Promise<Service>,
  reload?: () => void,
): Promise<never> {
  const told: { manager?: ServiceManager } = {};
  const onHangup = () => {
    const work = () => Promise.resolve(reload!());
    void (told.manager?.reloading(work, "Serving") ?? work());
  };
  const requested = stopRequested(reload === undefined ? undefined : onHangup);
  const abort = new AbortController();
  void requested.then(() => abort.abort());
  const manager = await serviceManager(log);
  if (manager !== undefined) told.manager = manager;
  manager?.status("Starting");
  const starting = start(abort.signal);
  let service = await Promise.race([starting, requested.then(() => undefined)]).catch((error) =>
    exitWith(what, error)
  );
  let why: string;
  let failure: Error | undefined;
  if (service === undefined) {
    why = await requested;
    service = await withinMs(START_AFTER_STOP_MS_MAX, starting).catch(() => undefined);
    if (service === undefined) Deno.exit(0);
  } else {
    await leaveSession();
    printLine("ready");
    manager?.ready("Serving");
    void trimMemoryWhenIdle();
    const never = new Promise<never>(() => {});
    why = await Promise.race([
      requested,
      (service.ended ?? never).then(() => "ended"),
      (service.failed ?? never).then((error) => {
        failure = error;
        return "failed";
      }),
    ]);
  }
  log.info("stopping", { why });
  void manager?.stopping(why);
  const startedMs = performance.now();
  try {
    await withinMs(STOP_MS_MAX, service.stop());
  } catch (error) {
    log.error("did not stop cleanly", { error });
    Deno.exit(EXIT_FAILURE);
  }
  if (failure !== undefined) exitWith(what, failure);
  log.info("stopped", { ms: Math.round(performance.now() - startedMs) });
  Deno.exit(0);
}

/** A process in the background has its own session from when it is ready (self.ts). */
async function leaveSession(): Promise<void> {
  if (Deno.env.get(OWN_SESSION) !== "1") return;
  Deno.env.delete(OWN_SESSION);
  const { setsid } = await import("../../base/libc.ts");
  setsid();
}

/** Undefined: nobody wants to know, which is the rule, and then nothing is loaded for it. */
async function serviceManager(log: Logger): Promise<ServiceManager | undefined> {
  if (Deno.env.get("NOTIFY_SOCKET") === undefined) return undefined;
  const { ServiceManager } = await import("./service_manager.ts");
  return ServiceManager.fromEnvironment((why) => log.warn("the service manager is told nothing", { why }));
}

/**
 * When a burst of work is over, gives back to the system what malloc keeps of it (the buffers of requests, mostly):
 * half of the resident memory otherwise stays for ever.
 */
async function trimMemoryWhenIdle(): Promise<void> {
  const { mallocTrim } = await import("../../base/libc.ts");
  const startBytes = Deno.memoryUsage().rss;
  let busyMs = cpuMs();
  let idleRounds = TRIM_ROUNDS;
  setInterval(() => {
    const nowMs = cpuMs();
    idleRounds = nowMs - busyMs < TRIM_INTERVAL_MS * IDLE_SHARE_MAX ? idleRounds + 1 : 0;
    busyMs = nowMs;
    const isWorthIt = Deno.memoryUsage().rss > startBytes + TRIM_BYTES_MIN;
    if (idleRounds >= 1 && idleRounds <= TRIM_ROUNDS && isWorthIt) mallocTrim();
  }, TRIM_INTERVAL_MS);
}

/** Processor time that this process has used. proc(5) stat: utime and stime are fields 14 and 15, in 1/100 s. */
function cpuMs(): number {
  const stat = Deno.readTextFileSync("/proc/self/stat");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** `promise`, or an error after `ms`. */
export function withinMs<T>(ms: number, promise: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`not done within ${ms} ms`)), ms);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
