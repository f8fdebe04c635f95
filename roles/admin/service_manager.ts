/**
 * What a role tells systemd, or whoever speaks the protocol of sd_notify(3): datagrams of lines NAME=VALUE to the socket
 * that NOTIFY_SOCKET names. Without one everything here does nothing.
 *
 * Invariants: WATCHDOG=1 is sent from the event loop that serves, so a loop that hangs sends none. No child of this
 * process finds the socket in its environment. A manager that does not listen delays nothing.
 */

import { close, connectUnix, monotonicMicroseconds, SOCK_DGRAM, write } from "../../base/libc.ts";

const EAGAIN = 11;
const EINVAL = 22;
/** What must arrive is tried again for so long while the manager's socket is full. */
const RETRY_MS_MAX = 5_000;
const RETRY_MS = 50;

export class ServiceManager {
  readonly #socket: string;
  readonly #watchdogMs: number | undefined;
  readonly #warn: (why: string) => void;
  #isWatched = false;
  #hasWarned = false;
  /** What is sent goes in order: one waits for the one before. */
  #sent: Promise<void> = Promise.resolve();

  private constructor(socket: string, watchdogMs: number | undefined, warn: (why: string) => void) {
    this.#socket = socket;
    this.#watchdogMs = watchdogMs;
    this.#warn = warn;
  }

  /**
   * Of this process; undefined: it has none. Takes what concerns it out of the environment. `warn`: told once when
   * the socket can't be used.
   */
  static fromEnvironment(warn: (why: string) => void): ServiceManager | undefined {
    const [socket, periodUs, watchdogPid] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"].map((name) => {
      const value = Deno.env.get(name);
      if (value !== undefined) Deno.env.delete(name);
      return value || undefined;
    });
    if (socket === undefined) return undefined;
    const isForUs = watchdogPid === undefined || Number(watchdogPid) === Deno.pid;
    const periodMs = Number(periodUs) / 1000;
    return new ServiceManager(socket, isForUs && periodMs > 0 ? periodMs : undefined, warn);
  }

  /** What it is doing, for people. */
  status(text: string): Promise<void> {
    return this.#send(`STATUS=${text}`);
  }

  /** It serves. From now on the event loop is watched. */
  ready(status: string): Promise<void> {
    const sent = this.#send(`READY=1\nSTATUS=${status}`);
    if (this.#watchdogMs !== undefined && !this.#isWatched) {
      this.#isWatched = true;
      // Half of the time in which it must come, which begins with READY (sd_watchdog_enabled(3)). A lost one is no matter.
      setInterval(() => this.#write("WATCHDOG=1"), this.#watchdogMs / 2);
    }
    return sent;
  }

  /** Configuration is read again until `work` is done, or has failed. */
  async reloading(work: () => Promise<void>, status: string): Promise<void> {
    void this.#send(`RELOADING=1\nMONOTONIC_USEC=${monotonicMicroseconds()}\nSTATUS=Reloading`);
    try {
      await work();
    } finally {
      await this.#send(`READY=1\nSTATUS=${status}`);
    }
  }

  /** It ends. */
  stopping(why: string): Promise<void> {
    return this.#send(`STOPPING=1\nSTATUS=Stopping: ${why}`);
  }

  #send(message: string): Promise<void> {
    return this.#sent = this.#sent.then(async () => {
      const startMs = performance.now();
      while (this.#write(message) === -EAGAIN && performance.now() - startMs < RETRY_MS_MAX) {
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    });
  }

  /** One datagram, through a socket of its own: the manager may have made its end anew. 0 or more, or -errno. */
  #write(message: string): number {
    const socket = /^[/@]/.test(this.#socket) ? connectUnix(this.#socket, SOCK_DGRAM) : -EINVAL;
    let result = socket;
    if (socket >= 0) {
      result = write(socket, new TextEncoder().encode(message));
      close(socket);
    }
    if (result < 0 && result !== -EAGAIN && !this.#hasWarned) {
      this.#hasWarned = true;
      this.#warn(`NOTIFY_SOCKET=${this.#socket}: error ${-result}`);
    }
    return result;
  }
}
