/**
 * Structured logging: one line an event, with time, level, role, message and fields, as text or JSON.
 * Lines go to stderr; stdout belongs to what a command answers ("ready", status output).
 */

export type LogLevel = "debug" | "info" | "warn" | "error";
export type LogFields = Readonly<Record<string, unknown>>;

const LEVELS: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 };

export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** The same output with another role name and extra fields on every line. */
  child(role: string, fields?: LogFields): Logger;
}

export interface LogOptions {
  readonly json?: boolean;
  /** A function: asked for each line. */
  readonly level?: LogLevel | (() => LogLevel);
  readonly write?: (line: string) => void;
}

const encoder = new TextEncoder();

function writeToStderr(line: string): void {
  try {
    Deno.stderr.writeSync(encoder.encode(line + "\n"));
  } catch {
    // Nobody reads our log any more (a closed pipe); the service itself must go on.
  }
}

class LineLogger implements Logger {
  readonly #role: string;
  readonly #fields: LogFields;
  readonly #options: Required<LogOptions>;

  constructor(role: string, fields: LogFields, options: Required<LogOptions>) {
    this.#role = role;
    this.#fields = fields;
    this.#options = options;
  }

  debug(message: string, fields?: LogFields): void {
    this.#log("debug", message, fields);
  }
  info(message: string, fields?: LogFields): void {
    this.#log("info", message, fields);
  }
  warn(message: string, fields?: LogFields): void {
    this.#log("warn", message, fields);
  }
  error(message: string, fields?: LogFields): void {
    this.#log("error", message, fields);
  }

  child(role: string, fields: LogFields = {}): Logger {
    return new LineLogger(role, { ...this.#fields, ...fields }, this.#options);
  }

  #log(level: LogLevel, message: string, fields: LogFields = {}): void {
    const { level: least } = this.#options;
    if (LEVELS[level] < LEVELS[typeof least === "function" ? least() : least]) return;
    const time = new Date().toISOString();
    const all = { ...this.#fields, ...fields };
    if (this.#options.json) {
      const safe = Object.fromEntries(Object.entries(all).map(([key, value]) => [key, plain(value)]));
      this.#options.write(JSON.stringify({ time, level, role: this.#role, message, ...safe }));
      return;
    }
    let line = `${time} ${level.toUpperCase().padEnd(5)} ${this.#role}: ${message}`;
    for (const [key, value] of Object.entries(all)) line += ` ${key}=${quoted(plain(value))}`;
    this.#options.write(line);
  }
}

/** A value that JSON can write: logging never throws. */
function plain(value: unknown): unknown {
  if (value instanceof Error) return value.message;
  if (value instanceof Uint8Array) return new TextDecoder().decode(value);
  try {
    JSON.stringify(value);
    return value;
  } catch {
    return String(value); // a bigint, or something that contains itself
  }
}

function quoted(value: unknown): string {
  const text = typeof value === "string" ? value : JSON.stringify(value) ?? "undefined";
  return /[\s"=]/.test(text) || text === "" ? JSON.stringify(text) : text;
}

/** The root logger of a process. */
export function createLogger(role: string, options: LogOptions = {}): Logger {
  return new LineLogger(role, {}, {
    json: options.json ?? false,
    level: options.level ?? "info",
    write: options.write ?? writeToStderr,
  });
}

/** Drops everything: for tests that do not look at the log. */
export const silentLogger: Logger = createLogger("silent", { write: () => {} });
