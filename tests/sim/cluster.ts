/** A simulated cluster: the real nameserver, dataservers and clients on hosts that live, die and come back. */

import type { LogFields, Logger } from "../../base/log.ts";
import { SESSION_OVER } from "../../fs/deferred_changes.ts";
import { type FileSystem, makeFileSystem } from "../../fs/file_system.ts";
import { type Dataserver, startDataserver } from "../../roles/dataserver/dataserver.ts";
import { LevelJournal } from "../../roles/nameserver/journal.ts";
import { getU64, TABLE_EXTENTS, TABLE_INLINE, TABLE_INODE, tableRange } from "../../roles/nameserver/keys.ts";
import { Namespace } from "../../roles/nameserver/namespace.ts";
import { startNameserver } from "../../roles/nameserver/nameserver.ts";
import { makeRoot } from "../../roles/nameserver/operations.ts";
import { decodeExtents, decodeInode, type Extent } from "../../roles/nameserver/records.ts";
import { asInodeId, type BlockId, type InodeId, type VolumeId } from "../../wire/ids.ts";
import { SimDisk, type SimFile } from "./disk.ts";
import { SimLevel } from "./level.ts";
import { Network } from "./network.ts";
import { Life, Simulation } from "./simulation.ts";

export interface ClusterOptions {
  readonly seed: number;
  readonly dataservers: number;
  readonly clients: number;
  readonly replication: number;
  readonly blockBytes: number;
  readonly inlineLimit: number;
  /** The first client's programs are told after so long that what they asked for can't be done; others wait. */
  readonly softTimeoutMs: number | undefined;
  /** Is told all that happens, a line each. */
  readonly trace: ((line: string) => void) | null;
}

/** Shorter than usual, so that it happens in a short run that sessions end and servers are given up. */
export const SESSION_TTL_MS = 4_000;
const DEAD_AFTER_MS = 10_000;

/** A dataserver's machine. */
export class DataserverHost {
  readonly host: string;
  readonly disk: SimDisk;
  life: Life | null = null;
  server: Dataserver | null = null;
  volume: VolumeId | null = null;

  constructor(host: string, simulation: Simulation) {
    this.host = host;
    this.disk = new SimDisk(simulation);
  }

  get isUp(): boolean {
    return this.life !== null;
  }

  fileOf(block: number): SimFile | undefined {
    return this.disk.names.get(`/v/blocks/${(block % 256).toString(16).padStart(2, "0")}/${block}.blk`);
  }
}

/** A mount. */
export class ClientHost {
  readonly host: string;
  /** Replicas with the same one are near. */
  readonly label: string;
  life: Life | null = null;
  fs: FileSystem | null = null;
  /** Counts its lives. */
  lives = 0;

  constructor(host: string, label: string) {
    this.host = host;
    this.label = label;
  }
}

/** A block of a file as the nameserver has it on its disk. */
export interface PlacedBlock {
  readonly ino: InodeId;
  readonly extent: Extent;
}

export class Cluster {
  readonly options: ClusterOptions;
  readonly simulation: Simulation;
  readonly network: Network;
  readonly level: SimLevel;
  nameserver: Life | null = null;
  readonly dataservers: DataserverHost[] = [];
  readonly clients: ClientHost[] = [];
  /** A life of the nameserver begins. */
  onNameserverStart: (life: Life) => void = () => {};
  /** The nameserver does not count on a volume any more. */
  onVolumeLost: (volume: VolumeId) => void = () => {};
  /** The nameserver has settled on what is left of a block. */
  onChosen: (block: BlockId) => void = () => {};
  /** A client has given up changes that it had not told the nameserver of. */
  onChangesLost: (host: string) => void = () => {};
  /** Things that must never happen, as they are seen. */
  readonly problems: string[] = [];

  constructor(options: ClusterOptions) {
    this.options = options;
    this.simulation = new Simulation(options.seed);
    this.network = new Network(this.simulation);
    this.level = new SimLevel(this.simulation);
    if (options.trace !== null) this.network.trace = (text) => this.trace(text);
    for (let i = 1; i <= options.dataservers; i++) {
      this.dataservers.push(new DataserverHost(`d${i}`, this.simulation));
    }
    for (let i = 1; i <= options.clients; i++) this.clients.push(new ClientHost(`c${i}`, `d${i}`));
  }

  trace(text: string): void {
    this.options.trace?.(`${this.simulation.nowMs.toFixed(2).padStart(10)} ${text}`);
  }

  #logger(host: string): Logger {
    const write = (level: string) => (message: string, fields: LogFields = {}) => {
      if (message === "request failed") this.problems.push(`${host}: ${JSON.stringify(fields)}`);
      if (message.startsWith("changes of names are lost")) this.#changesLost(host, fields.why);
      if (message.startsWith("volume is lost")) this.onVolumeLost(fields.volume as VolumeId);
      if (message.startsWith("block may have lost")) this.onChosen(fields.block as BlockId);
      if (this.options.trace === null) return;
      const text = Object.entries(fields).map(([key, value]) =>
        `${key}=${value instanceof Error ? value.message : JSON.stringify(value)}`
      );
      this.trace(`${host} ${level}: ${message} ${text.join(" ")}`);
    };
    const log: Logger = {
      debug: write("debug"),
      info: write("info"),
      warn: write("warn"),
      error: write("error"),
      child: () => log,
    };
    return log;
  }

  /** The client with a time-out. */
  get #soft(): ClientHost | undefined {
    return this.options.softTimeoutMs === undefined ? undefined : this.clients[0];
  }

  /** Those that do what they are asked for, whatever time it takes. */
  get patientClients(): readonly ClientHost[] {
    return this.clients.filter((client) => client !== this.#soft);
  }

  #changesLost(host: string, why: unknown): void {
    this.onChangesLost(host);
    // It was lent what it changed: nobody may refuse that while its session lasts. Its own time-out may come first.
    if (why !== SESSION_OVER && host !== this.#soft?.host) {
      this.problems.push(`${host}: changes were refused: ${why}`);
    }
  }

  /** Runs `work` to its end, whatever time it takes. */
  async within<T>(work: Promise<T>, limitMs: number, what: string): Promise<T> {
    let result: { readonly value: T } | undefined;
    let failure: { readonly error: unknown } | undefined;
    work.then((value) => result = { value }, (error) => failure = { error });
    await this.simulation.run(() => result !== undefined || failure !== undefined, limitMs);
    if (failure !== undefined) throw failure.error;
    if (result === undefined) throw new Error(`${what} takes longer than ${limitMs} ms`);
    return result.value;
  }

  /** Makes an empty namespace and starts everything. */
  async start(): Promise<void> {
    const life = new Life(this.simulation, "n");
    const format = async () => {
      const journal = new LevelJournal(this.level.open(life), () => {}, undefined, life.clock);
      const namespace = await Namespace.load(journal, life.clock);
      await namespace.change((tx) => makeRoot(tx, 0, { uid: 0, gid: 0 }), true);
    };
    await this.within(format(), 1_000, "formatting");
    const starting = [this.startNameserver(), ...this.dataservers.map((host) => this.startDataserver(host))];
    await this.within(Promise.all(starting), 30_000, "the start of the servers");
    await this.within(
      Promise.all(this.clients.map((client) => this.startClient(client))),
      30_000,
      "mounting",
    );
  }

  async startNameserver(): Promise<void> {
    const life = new Life(this.simulation, "n");
    this.nameserver = life;
    this.trace("n starts");
    this.onNameserverStart(life);
    await startNameserver({
      dir: "/",
      listen: "n:7400",
      log: this.#logger("n"),
      clock: life.clock,
      random: this.simulation.random,
      open: () =>
        Promise.resolve({
          clusterId: "simulated",
          mounting: `boot ${this.level.boots}`,
          journal: new LevelJournal(
            this.level.open(life),
            (error) => this.problems.push(`n: ${error.message}`),
            undefined,
            life.clock,
          ),
        }),
      serve: this.network.serveFor(life),
      replication: this.options.replication,
      blockBytes: this.options.blockBytes,
      inlineLimit: this.options.inlineLimit,
      sessionTtlMs: SESSION_TTL_MS,
      deadAfterMs: DEAD_AFTER_MS,
    });
  }

  /** The process dies; or the machine, with what was not synced. */
  killNameserver(isPowerCut: boolean): void {
    if (this.nameserver === null) return;
    this.trace(isPowerCut ? "n loses power" : "n is killed");
    this.nameserver.end();
    this.network.kill(this.nameserver, isPowerCut);
    this.nameserver = null;
    if (isPowerCut) this.level.powerCut();
  }

  async startDataserver(host: DataserverHost): Promise<void> {
    const life = new Life(this.simulation, host.host);
    host.life = life;
    this.trace(`${host.host} starts`);
    const server = await startDataserver({
      nameserver: "n:7400",
      volumes: ["/v"],
      listen: `${host.host}:7401`,
      host: host.host,
      log: this.#logger(host.host),
      dialer: this.network.dialerFor(life),
      clock: life.clock,
      random: this.simulation.random,
      disk: host.disk.open(life),
      serve: this.network.serveFor(life),
      scrubPeriodMs: 30_000,
    });
    host.server = server;
    host.volume = server.volumes[0]!.volume;
  }

  /** The process dies; or the machine, with what was not synced. */
  killDataserver(host: DataserverHost, isPowerCut: boolean): void {
    const { life } = host;
    if (life === null) return;
    this.trace(`${host.host} ${isPowerCut ? "loses power" : "is killed"}`);
    life.end();
    host.life = host.server = null;
    this.network.kill(life, isPowerCut);
    host.disk.killed();
    for (const file of host.disk.names.values()) file.opens = 0;
    if (isPowerCut) host.disk.powerCut();
  }

  async startClient(client: ClientHost): Promise<void> {
    const { softTimeoutMs } = this.options;
    const life = new Life(this.simulation, client.host);
    client.life = life;
    client.lives++;
    const fs = makeFileSystem({
      nameserver: "n:7400",
      clientId: `${client.host} ${client.lives}`,
      host: client.label,
      mountpoint: "/mnt",
      dialer: this.network.dialerFor(life),
      isLocal: () => false,
      clock: life.clock,
      log: this.#logger(client.host),
      kernelRequests: () => 0,
      writeBehind: true,
      ...client === this.#soft && softTimeoutMs !== undefined ? { softTimeoutMs } : {},
    });
    for (;;) {
      try {
        await fs.session.connect();
        break;
      } catch {
        await life.wait(500); // the nameserver is down just now
      }
    }
    if (life.isOver) return;
    client.fs = fs;
    void fs.files.run(new AbortController().signal);
  }

  killClient(client: ClientHost): void {
    const { life } = client;
    if (life === null) return;
    this.trace(`${client.host} is killed`);
    life.end();
    client.life = client.fs = null;
    this.network.kill(life, false);
  }

  /** Every block of every file, as it is on the nameserver's disk. */
  blocks(): PlacedBlock[] {
    const found: PlacedBlock[] = [];
    for (const [key, value] of this.level.range(tableRange(TABLE_EXTENTS))) {
      for (const extent of decodeExtents(value)) found.push({ ino: asInodeId(getU64(key, 1)), extent });
    }
    return found;
  }

  /** What is wrong with the data that is kept beside inodes, if anything. */
  inlineProblem(): string | undefined {
    const written = new Set(this.blocks().filter(({ extent }) => extent.written).map(({ ino }) => ino));
    const kept = new Map(
      this.level.range(tableRange(TABLE_INLINE)).map(([key, { length }]) => [getU64(key, 1), length]),
    );
    for (const [key, value] of this.level.range(tableRange(TABLE_INODE))) {
      const ino = asInodeId(getU64(key, 1));
      const { inlineBytes, size } = decodeInode(ino, value);
      if ((kept.get(ino) ?? 0) !== inlineBytes) {
        return `${ino} has ${kept.get(ino)} bytes, not ${inlineBytes}`;
      }
      kept.delete(ino);
      if (inlineBytes > size) return `${ino} has ${inlineBytes} bytes, of ${size}`;
      if (inlineBytes > 0 && written.has(ino)) return `${ino} has data beside it and in blocks`;
    }
    return kept.size > 0 ? `data of inodes that are not there: ${[...kept.keys()]}` : undefined;
  }

  hostOf(volume: VolumeId): DataserverHost {
    return this.dataservers.find((host) => host.volume === volume)!;
  }
}
