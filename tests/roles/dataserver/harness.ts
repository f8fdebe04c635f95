/**
 * What the dataserver's tests share: temporary directories, a fake nameserver that answers DATASERVER_REGISTRY
 * over real TCP, and a client of DATASERVER.
 */

import { createLogger, type Logger } from "../../../base/log.ts";
import { type Dialer, tcpDialer } from "../../../wire/dialer.ts";
import { FsError } from "../../../wire/errno.ts";
import { helloOf } from "../../../wire/hello.ts";
import { asBlockId, asGeneration, asNodeId, asVolumeId, type BlockId } from "../../../wire/ids.ts";
import {
  type BlockReportReply,
  type BlockReportRequest,
  type ChainTarget,
  DATASERVER,
  DATASERVER_PUSHES,
  DATASERVER_REGISTRY,
  type RegisterRequest,
  type VolumeStats,
} from "../../../wire/messages/dataserver.ts";
import { serve } from "../../../wire/server.ts";
import {
  addHandlers,
  type CallContext,
  type Client,
  createClient,
  type HandlerTable,
  type Peer,
} from "../../../wire/service.ts";
import {
  type Dataserver,
  type DataserverOptions,
  startDataserver,
} from "../../../roles/dataserver/dataserver.ts";

const OK = { ok: true } as const;
export const GENERATION = asGeneration(1);

/** Runs `test` with a fresh directory, and fails after `limitMs`. */
export async function withDirectory(
  test: (directory: string) => Promise<void>,
  limitMs = 30_000,
): Promise<void> {
  const directory = await Deno.makeTempDir({ prefix: "mfs_dataserver_" });
  let timer: number | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`test takes longer than ${limitMs} ms`)), limitMs);
  });
  try {
    await Promise.race([test(directory), late]);
  } finally {
    clearTimeout(timer);
    await Deno.remove(directory, { recursive: true });
  }
}

export async function until(condition: () => boolean, what: string, limitMs = 10_000): Promise<void> {
  const deadline = performance.now() + limitMs;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`not within ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A log that keeps its lines. */
export function recordingLogger(): { log: Logger; lines: string[] } {
  const lines: string[] = [];
  const show = Deno.env.get("MFS_TEST_LOG") !== undefined;
  return {
    lines,
    log: createLogger("dataserver", {
      level: "debug",
      write: (line) => {
        lines.push(line);
        if (show) console.log(line);
      },
    }),
  };
}

/** The nameserver as a dataserver sees it. */
export class FakeRegistry implements AsyncDisposable {
  readonly registrations: RegisterRequest[] = [];
  readonly heartbeats: (readonly VolumeStats[])[] = [];
  readonly reports: BlockReportRequest[] = [];
  readonly deleted: BlockId[] = [];
  /** Told of as `block.generation`. */
  readonly differing: string[] = [];
  /** Which of those it has compared with others. */
  compares: (block: BlockId) => boolean = () => false;
  readonly corrupt: { readonly block: BlockId; readonly message: string }[] = [];
  answerReport: (page: BlockReportRequest) => BlockReportReply | Promise<BlockReportReply> = () => ({
    stale: [],
    unknown: [],
  });
  refuse: FsError | null = null;
  readonly #ids = new Map<string, number>();
  readonly #handlers: HandlerTable;
  readonly #clusterId: string;
  #server: ReturnType<typeof serve>;
  #peer: Peer | null = null;

  constructor(clusterId = "cluster-a", listen = "127.0.0.1:0") {
    this.#clusterId = clusterId;
    const table = new Map<number, (request: unknown, context: CallContext) => unknown>();
    addHandlers(table, DATASERVER_REGISTRY, {
      register: (request, { peer }) => {
        if (this.refuse !== null) throw this.refuse;
        this.registrations.push(request);
        this.#peer = peer;
        return {
          node: asNodeId(this.#idOf(`node ${request.label}`)),
          volumes: request.volumes.map(({ label }) => asVolumeId(this.#idOf(label))),
          heartbeatMs: 50,
        };
      },
      heartbeat: ({ volumes }) => {
        this.heartbeats.push(volumes);
        return OK;
      },
      blockReport: (page) => {
        this.reports.push(page);
        return this.answerReport(page);
      },
      blocksDeleted: ({ blocks }) => {
        this.deleted.push(...blocks);
        return OK;
      },
      replicaCorrupt: ({ block, message }) => {
        this.corrupt.push({ block, message });
        return OK;
      },
      replicasDiffer: ({ replicas }) => {
        for (const { block, generation } of replicas) this.differing.push(`${block}.${generation}`);
        return { compared: replicas.map(({ block }) => block).filter((block) => this.compares(block)) };
      },
    });
    this.#handlers = table;
    this.#server = this.#serve(listen);
  }

  get address(): string {
    return this.#server.address;
  }

  /** Ends all connections and listens again at the same address. */
  async restart(): Promise<void> {
    const { address } = this.#server;
    await this.#server.close();
    this.#server = this.#serve(address);
  }

  pushes(): Client<typeof DATASERVER_PUSHES> {
    return createClient(DATASERVER_PUSHES, (op, message, options) => this.#peer!.push(op, message, options));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#server.close();
  }

  #serve(listen: string): ReturnType<typeof serve> {
    return serve(listen, {
      role: "nameserver",
      clusterId: () => this.#clusterId,
      handlers: this.#handlers,
      log: createLogger("fake", { write: () => {} }),
    });
  }

  #idOf(label: string): number {
    const id = this.#ids.get(label) ?? this.#ids.size + 1;
    this.#ids.set(label, id);
    return id;
  }
}

export function start(
  registry: FakeRegistry,
  volumes: readonly string[],
  options: Partial<DataserverOptions> = {},
): Promise<Dataserver> {
  return startDataserver({
    nameserver: registry.address,
    volumes,
    listen: "127.0.0.1:0",
    host: "host-1",
    log: createLogger("dataserver", { write: Deno.env.has("MFS_TEST_LOG") ? console.log : () => {} }),
    dialer: tcpDialer,
    finalizeIdleMs: 100,
    ...options,
  });
}

export interface BlockClient extends Disposable {
  readonly call: Client<typeof DATASERVER>;
}

/** A client over TCP, or through `dialer`. */
export async function connectTo(
  server: { readonly address: string; readonly clusterId: string },
  dialer: Dialer = tcpDialer,
): Promise<BlockClient> {
  const { channel } = await dialer.dial(server.address, {
    hello: helloOf("client", server.clusterId, "test"),
    expectRole: "dataserver",
  });
  return {
    call: createClient(DATASERVER, (op, request, options) => channel.call(op, request, options)),
    [Symbol.dispose]: () => channel.close(),
  };
}

export function targetOf(server: Dataserver): ChainTarget {
  return { node: server.node, volume: server.volumes[0]!.volume, address: server.address };
}

/** Bytes of a replica, zero-filled to `length`. */
export async function readAll(
  client: BlockClient,
  server: { readonly volumes: Dataserver["volumes"] },
  block: number,
  length: number,
  generation = GENERATION,
): Promise<Uint8Array> {
  const result = new Uint8Array(length);
  const step = 1024 * 1024;
  for (let offset = 0; offset < length; offset += step) {
    const { body } = await client.call.readBlock({
      block: asBlockId(block),
      generation,
      volume: server.volumes[0]!.volume,
      offset,
      length: Math.min(step, length - offset),
    });
    result.set(body, offset);
  }
  return result;
}

/** `length` bytes that look random and follow from `seed`. */
export function pattern(length: number, seed: number): Uint8Array<ArrayBuffer> {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = seed >>> 0 || 1;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  return new Uint8Array(words.buffer, 0, length);
}
