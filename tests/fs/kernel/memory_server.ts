/**
 * The child process of the mount tests: mounts a MemoryFs, prints one JSON line when it serves, and ends when it is
 * unmounted. Commands come on stdin, one JSON array a line; their answers go to stdout. It never touches its own mount.
 * Argument: one JSON object, see ServerOptions.
 */

import { bytesOf } from "../../../base/bytes.ts";
import { turnOfTheEventLoop } from "../../../base/event_loop.ts";
import * as libc from "../../../base/libc.ts";
import { createLogger } from "../../../base/log.ts";
import { mountFuse } from "../../../fs/kernel/mount.ts";
import { KernelNotifier } from "../../../fs/kernel/notify.ts";
import { closeBacking, openBacking } from "../../../fs/kernel/passthrough.ts";
import { KernelSession } from "../../../fs/kernel/session.ts";
import { EventLoopTurns } from "../../../fs/kernel/turns.ts";
import { answeredLater, MemoryFs } from "./memory_fs.ts";

export interface ServerOptions {
  readonly mountpoint: string;
  readonly timeoutMs?: number;
  readonly slowMs?: number;
  /** Every handler answers through a promise, after that long. */
  readonly delayMs?: number;
  readonly useFusermount?: boolean;
  readonly trace?: boolean;
  readonly passthroughStackDepth?: 0 | 1 | 2;
}

const options = JSON.parse(Deno.args[0]!) as ServerOptions;
const log = createLogger("kernel", { level: options.trace ? "debug" : "warn" });
const fs = new MemoryFs(options);
const mount = await mountFuse({
  mountpoint: options.mountpoint,
  source: "memory, with a comma",
  useFusermount: options.useFusermount ?? false,
});
const session = new KernelSession({
  fd: mount.fd,
  handlers: options.delayMs === undefined ? fs : answeredLater(fs, options.delayMs),
  log,
  options: {
    trace: options.trace ?? false,
    passthroughStackDepth: options.passthroughStackDepth ?? 0,
  },
});
const notifier = new KernelNotifier({ fd: mount.fd });
const ended = session.run(new AbortController().signal);
await session.initialized;
print({ ready: true, deviceMinor: mount.deviceMinor, deviceNumber: mount.deviceNumber });

void commands();
await ended;
await notifier.close();
libc.close(mount.fd);
print({ ended: true, pending: session.pendingCount });
Deno.exit(0);

function print(value: unknown): void {
  Deno.stdout.writeSync(bytesOf(JSON.stringify(value) + "\n"));
}

async function commands(): Promise<void> {
  let text = "";
  for await (const chunk of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    for (let end = text.indexOf("\n"); end >= 0; end = text.indexOf("\n")) {
      const command = JSON.parse(text.slice(0, end)) as unknown[];
      text = text.slice(end + 1);
      void obey(command);
    }
  }
}

/** Sends back what one connection sends, for measuring how soon sockets are served. */
async function echo(): Promise<void> {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  print({ port: listener.addr.port });
  const connection = await listener.accept();
  await connection.readable.pipeTo(connection.writable).catch(() => {});
}

/** Works in many small steps, now and then, and says how often the session waited with the whole thread meanwhile. */
async function steps(): Promise<void> {
  const { block } = EventLoopTurns.prototype;
  let waits = 0;
  EventLoopTurns.prototype.block = function (...given) {
    waits++;
    return block.apply(this, given);
  };
  let between = 0;
  for (let round = 0; round < 200; round++) {
    await new Promise((resolve) => setTimeout(resolve, 3));
    await turnOfTheEventLoop();
    const before = waits;
    for (let step = 0; step < 30; step++) await null;
    await turnOfTheEventLoop();
    for (let step = 0; step < 30; step++) await null;
    between += waits - before;
  }
  EventLoopTurns.prototype.block = block;
  print({ waits, between });
}

async function obey([name, ...given]: unknown[]): Promise<void> {
  switch (name) {
    case "interrupts":
      return print({ interrupts: fs.interrupts });
    case "counts":
      return print(session.requestCounts);
    case "features":
      return print(session.features);
    case "invalidateInode":
      return print(
        await notifier.invalidateInode(given[0] as number, given[1] as number, given[2] as number),
      );
    case "invalidateEntry":
      return print(await notifier.invalidateEntry(given[0] as number, bytesOf(given[1] as string)));
    case "incrementEpoch":
      return print(await notifier.incrementEpoch());
    case "echo":
      return echo();
    case "steps":
      return steps();
    case "back": {
      const fd = libc.open(given[1] as string, libc.O_RDWR);
      const backingId = openBacking(mount.fd, fd);
      libc.close(fd);
      fs.backings.set(given[0] as number, backingId);
      return print({ backingId });
    }
    case "unback": {
      const backingId = fs.backings.get(given[0] as number)!;
      fs.backings.delete(given[0] as number);
      return print({ closed: closeBacking(mount.fd, backingId) });
    }
  }
}
