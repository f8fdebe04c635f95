/**
 * A child program: a whole cluster in one process with blocks so small and odd that every test meets their edges,
 * and one or more mounts of it.
 *
 *     small_cluster.ts MODE DIR BLOCK_BYTES MOUNTPOINT[=OPTIONS]...
 *
 * MODE: "local" (the roles call each other directly) or "tcp". Prints `ready` once all serves; stops, clients first,
 * on SIGTERM and at the end of stdin, so that it never outlives the test that started it. Each line on stdin is answered
 * by what the mounts have counted so far, as a line of JSON.
 */

import { createLogger, type Logger } from "../../base/log.ts";
import { startDataserver } from "../../roles/dataserver/dataserver.ts";
import { type Mount, parseMountOptions, startMount } from "../../roles/mount/mount.ts";
import { formatNameserver, startNameserver } from "../../roles/nameserver/nameserver.ts";
import { ProcessDialer, tcpDialer } from "../../wire/dialer.ts";

const DATASERVERS = 3;
const REPLICATION = 2;
const LISTEN = "127.0.0.1:0";

interface Stoppable {
  stop(): Promise<void>;
}

interface Arguments {
  readonly isLocal: boolean;
  readonly dir: string;
  readonly blockBytes: number;
  readonly mountpoints: readonly string[];
}

function parse([mode, dir, blockBytes, ...mountpoints]: readonly string[]): Arguments {
  const isMode = mode === "local" || mode === "tcp";
  if (!isMode || dir === undefined || !(Number(blockBytes) > 0) || mountpoints.length === 0) {
    console.error("usage: small_cluster.ts local|tcp DIR BLOCK_BYTES MOUNTPOINT[=OPTIONS]...");
    Deno.exit(2);
  }
  return { isLocal: mode === "local", dir, blockBytes: Number(blockBytes), mountpoints };
}

function splitOnce(text: string, separator: string): [string, string?] {
  const at = text.indexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

/** Starts everything; what runs is in `started`, in the order of its start, also after a failure. */
async function start(
  { isLocal, dir, blockBytes, mountpoints }: Arguments,
  log: Logger,
  started: Stoppable[],
  mounts: Mount[],
) {
  const local = isLocal ? new ProcessDialer() : undefined;
  const dialer = local ?? tcpDialer;
  const announced = local === undefined ? {} : { processDialer: local };
  await formatNameserver(`${dir}/nameserver`, { force: true });
  const nameserver = await startNameserver({
    dir: `${dir}/nameserver`,
    listen: LISTEN,
    log: log.child("nameserver"),
    blockBytes,
    replication: REPLICATION,
    ...announced,
  });
  started.push(nameserver);
  for (let i = 1; i <= DATASERVERS; i++) {
    await Deno.mkdir(`${dir}/volume${i}`, { recursive: true });
    started.push(
      await startDataserver({
        nameserver: nameserver.address,
        volumes: [`${dir}/volume${i}`],
        listen: LISTEN,
        host: `node${i}`,
        log: log.child(`dataserver${i}`),
        dialer,
        ...announced,
      }),
    );
  }
  for (const [i, argument] of mountpoints.entries()) {
    const [mountpoint, options = ""] = splitOnce(argument, "=");
    const mount = await startMount({
      nameserver: nameserver.address,
      mountpoint,
      host: `node${i + 1}`,
      log: log.child(`mount${i + 1}`),
      dialer,
      options: parseMountOptions(options),
      createMountpoint: true,
    });
    started.push(mount);
    mounts.push(mount);
  }
}

/** Resolves when somebody wants us to end. */
function asked(mounts: readonly Mount[]): Promise<void> {
  return new Promise((resolve) => {
    for (const signal of ["SIGTERM", "SIGINT"] as const) Deno.addSignalListener(signal, resolve);
    void (async () => {
      const buffer = new Uint8Array(256);
      for (;;) {
        const count = await Deno.stdin.read(buffer).catch(() => null);
        if (count === null) return resolve();
        for (const byte of buffer.subarray(0, count)) {
          if (byte === 0x0a) console.log(JSON.stringify(mounts.map((mount) => mount.counters())));
        }
      }
    })();
  });
}

const log = createLogger("small");
const started: Stoppable[] = [];
const mounts: Mount[] = [];
let code = 0;
try {
  const ended = asked(mounts);
  await start(parse(Deno.args), log, started, mounts);
  console.log("ready");
  await ended;
} catch (error) {
  log.error("the cluster did not start", { error });
  code = 1;
}
for (const part of started.reverse()) {
  await part.stop().catch((error) => {
    log.error("a part did not stop", { error });
    code = 1;
  });
}
Deno.exit(code);
