/**
 * A whole cluster on one machine under one directory: a nameserver, dataservers with host labels node1, node2 ...
 * and a mount on node1, in this process or each in one of its own. Owns the order: servers before clients at the
 * start, the other way round at the end, and the directory (layout.ts) around all of it.
 */

import type { Logger } from "../../base/log.ts";
import type { Metric } from "../../base/metrics.ts";
import { FsError } from "../../wire/errno.ts";
import { Assembly } from "./assembly.ts";
import { type Layout, openLayout } from "./layout.ts";
import { Child, freePort } from "./supervisor.ts";

/**
 * From the request to stop, in which every child must have ended: the mount hands its data over, the dataservers
 * finish their replicas, the nameserver writes. All of it within the 5 s that a stop may take.
 */
const MOUNT_STOP_MS_MAX = 3_000;
const DATASERVER_STOP_MS_MAX = 4_200;
const NAMESERVER_STOP_MS_MAX = 4_600;
const LOOPBACK = "127.0.0.1";

export interface SinglenodeOptions {
  readonly mountpoint?: string;
  readonly dir?: string;
  readonly dataservers?: number;
  readonly volumes?: number;
  readonly replication: number;
  /** HOST:PORT of the nameserver; absent: a free port on loopback. */
  readonly listen?: string;
  /** As behind -o of `mfs mount`. */
  readonly mountOptions: string;
  /** One process a role. */
  readonly processes: boolean;
  /** Flags that all child processes get. */
  readonly childFlags: readonly string[];
  readonly log: Logger;
  /** Gives up a start. */
  readonly signal?: AbortSignal;
}

export interface Singlenode {
  readonly mountpoint: string;
  readonly dir: string;
  readonly isTemporary: boolean;
  readonly nameserver: string;
  readonly dataservers: number;
  readonly volumes: number;
  /** Resolves when the mount was ended from outside. */
  readonly ended: Promise<void>;
  /** Resolves when a role of this process can no longer serve. */
  readonly failed?: Promise<Error>;
  /** Of the roles of this process. */
  metrics(): Promise<readonly Metric[]>;
  stop(): Promise<void>;
}

interface Running {
  readonly nameserver: string;
  readonly ended: Promise<void>;
  readonly failed?: Promise<Error>;
  metrics?(): Promise<readonly Metric[]>;
  stop(): Promise<void>;
}

/** Throws FsError; what was started by then is stopped again. */
export async function startSinglenode(options: SinglenodeOptions): Promise<Singlenode> {
  const layout = await openLayout(options, async (dir) => {
    const { formatNameserver } = await import("../nameserver/nameserver.ts");
    await formatNameserver(dir, { force: false });
  });
  try {
    makeMountpoint(layout.mountpoint);
    const running = options.processes
      ? await startChildren(layout, options)
      : await startHere(layout, options);
    const { mountpoint, dir, isTemporary, dataservers } = layout;
    return {
      mountpoint,
      dir,
      isTemporary,
      nameserver: running.nameserver,
      dataservers: dataservers.length,
      volumes: dataservers.flat().length,
      ended: running.ended,
      ...(running.failed === undefined ? {} : { failed: running.failed }),
      metrics: () => running.metrics?.() ?? Promise.resolve([]),
      stop: async () => {
        try {
          await running.stop();
        } finally {
          await layout.close();
        }
      },
    };
  } catch (error) {
    await layout.close();
    throw error;
  }
}

/** The mount itself judges what is there already, such as a dead mount that it clears. */
function makeMountpoint(path: string): void {
  try {
    Deno.mkdirSync(path, { recursive: true });
  } catch (error) {
    if (error instanceof Deno.errors.PermissionDenied) {
      throw new FsError("EACCES", `no permission to make ${path}`, { op: "singlenode", cause: error });
    }
  }
}

function hostOf(server: number): string {
  return `node${server}`;
}

function startHere(layout: Layout, options: SinglenodeOptions): Promise<Running> {
  return new Assembly(options.log, options.signal).startAll(async (assembly) => {
    const { address: nameserver } = await assembly.startNameserver({
      dir: layout.nameserverDir,
      listen: options.listen ?? `${LOOPBACK}:0`,
      replication: options.replication,
    });
    for (const [i, volumes] of layout.dataservers.entries()) {
      const host = hostOf(i + 1);
      await assembly.startDataserver(
        { nameserver, volumes, listen: `${LOOPBACK}:0`, host },
        `dataserver${i + 1}`,
      );
    }
    const mount = await assembly.startMount({
      nameserver,
      mountpoint: layout.mountpoint,
      host: hostOf(1),
      options: options.mountOptions,
      createMountpoint: true,
    });
    return {
      nameserver,
      ended: mount.ended,
      failed: assembly.failed,
      metrics: () => assembly.metrics(),
      stop: () => assembly.stop(),
    };
  });
}

async function startChildren(layout: Layout, options: SinglenodeOptions): Promise<Running> {
  const { log, childFlags } = options;
  const nameserver = options.listen ?? `${LOOPBACK}:${freePort(LOOPBACK)}`;
  const servers: Child[] = [];
  let mount: Child | undefined;
  const stop = async () => {
    const startMs = performance.now();
    const left = (ms: number) => startMs + ms - performance.now();
    await mount?.stop(left(MOUNT_STOP_MS_MAX));
    const [first, ...others] = servers;
    await Promise.all(others.map((child) => child.stop(left(DATASERVER_STOP_MS_MAX))));
    await first?.stop(left(NAMESERVER_STOP_MS_MAX));
  };
  const startServer = async (name: string, args: readonly string[]) => {
    const child = new Child({ name, args: [...args, ...childFlags] }, log);
    await child.start();
    servers.push(child);
  };
  try {
    const replication = String(options.replication);
    await startServer("nameserver", [
      ...["nameserver", "--dir", layout.nameserverDir, "--listen", nameserver, "--replication", replication],
    ]);
    // Not at once: on a small machine five starting processes only hold each other up.
    for (const [i, volumes] of layout.dataservers.entries()) {
      const listen = `${LOOPBACK}:${freePort(LOOPBACK)}`;
      await startServer(`dataserver ${i + 1}`, [
        ...["dataserver", "--nameserver", nameserver, "--listen", listen, "--host", hostOf(i + 1)],
        ...volumes.flatMap((volume) => ["--volume", volume]),
      ]);
    }
    const mountOptions = options.mountOptions === "" ? [] : ["-o", options.mountOptions];
    const child = new Child({
      name: "mount",
      args: [
        ...["mount", nameserver, layout.mountpoint, "--foreground", "--host", hostOf(1)],
        ...mountOptions,
        ...childFlags,
      ],
      mayEnd: true,
    }, log);
    await child.start();
    mount = child;
    return { nameserver, ended: child.done, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** What a newcomer wants to know once it runs. */
export function describe(singlenode: Singlenode, replication: number, program: string): string {
  const { dir, isTemporary, nameserver, mountpoint, dataservers, volumes } = singlenode;
  return [
    `A MaggieFS cluster: 1 nameserver, ${dataservers} dataservers with ${volumes} volumes, ` +
    `each file kept ${replication} times`,
    `  mounted on  ${mountpoint}`,
    `  data in     ${dir} ${isTemporary ? "(removed at the end; --dir DIR keeps it)" : "(kept)"}`,
    `  look        ${program} status --nameserver ${nameserver}`,
    `  stop        Ctrl-C or kill ${Deno.pid}`,
  ].join("\n");
}
