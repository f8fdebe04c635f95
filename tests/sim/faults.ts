/** What goes wrong in a simulated cluster, one thing after another, as the seed says. In the end all is well again. */

import type { Extent } from "../../roles/nameserver/records.ts";
import type { BlockId, VolumeId } from "../../wire/ids.ts";
import {
  type ClientHost,
  type Cluster,
  type DataserverHost,
  type PlacedBlock,
  SESSION_TTL_MS,
} from "./cluster.ts";
import type { SimFile } from "./disk.ts";
import { PAGE, PAGES, type Workload } from "./workload.ts";

/** What is disturbed. */
export type Disturbed =
  & Pick<Workload, "registers" | "register" | "died" | "namespaceCut" | "mayDie" | "run" | "isStopping">
  & { unstored(client: ClientHost): { readonly size: number } };

export type Fault =
  | "killDataserver"
  | "cutPower"
  | "failDisk"
  | "killNameserver"
  | "cutNameserverPower"
  | "killClient"
  | "cutNetwork"
  | "breakConnections"
  | "slow"
  | "rot";

export const ALL_FAULTS: readonly Fault[] = [
  "killDataserver",
  "cutPower",
  "failDisk",
  "killNameserver",
  "cutNameserverPower",
  "killClient",
  "cutNetwork",
  "breakConnections",
  "slow",
  "rot",
];

export class Faults {
  readonly #cluster: Cluster;
  readonly #workload: Disturbed;
  readonly #kinds: readonly Fault[];
  isStopping = false;
  isOver = false;
  /** Replicas that may lack what was acknowledged, as "VOLUME BLOCK GENERATION". */
  readonly #suspect = new Set<string>();
  /** Files of replicas that have rotted, by "VOLUME BLOCK". */
  readonly #rotten = new Map<string, SimFile>();
  /** Blocks whose only replicas lost their power before they were synced, or were given up for lost beside such. */
  readonly #unsafe = new Set<number>();
  readonly counts: Record<string, number> = {};
  /** The namespace has fallen back to what was synced or later, and somebody may yet go by what was lost. */
  #hasFallenBack = false;

  constructor(cluster: Cluster, workload: Disturbed, kinds: readonly Fault[]) {
    this.#cluster = cluster;
    this.#workload = workload;
    this.#kinds = kinds;
    // Whoever is left is settled on then, though all of them may have lost their power before.
    cluster.onVolumeLost = (volume) => {
      const host = cluster.hostOf(volume);
      const blocks = cluster.blocks().filter(({ extent }) =>
        extent.volumes.includes(volume) && extent.volumes.some((other) => this.#isSuspect(other, extent))
      );
      this.#noteLost(blocks.filter((block) => !this.#isElsewhere(host, block)));
    };
    // Until then it could be read from disks that have failed.
    cluster.onChosen = (block) => {
      if (!this.#unsafe.has(block)) return;
      this.#noteLost(cluster.blocks().filter(({ extent }) => extent.block === block));
    };
    cluster.onNameserverStart = (life) => {
      // Until then only those see anything who go by what they knew, and from the end of the TTL on nobody does.
      cluster.simulation.after(0.9 * SESSION_TTL_MS, () => {
        if (life.isOver || !this.#hasFallenBack) return;
        this.#hasFallenBack = false;
        const at = cluster.simulation.tick();
        for (const register of workload.registers) register.cut(at);
      });
    };
  }

  #pause(ms: number): Promise<void> {
    return new Promise((resolve) => this.#cluster.simulation.after(ms, resolve));
  }

  async run(): Promise<void> {
    const { simulation } = this.#cluster;
    while (!this.isStopping) {
      await this.#pause(simulation.chance(0.3) ? simulation.between(0, 100) : simulation.between(0, 1_800));
      if (this.isStopping) break;
      const kind = simulation.pick(this.#kinds);
      if (await this[kind]() === false) continue;
      this.counts[kind] = (this.counts[kind] ?? 0) + 1;
    }
    this.isOver = true;
  }

  /** All is well again. */
  heal(): void {
    const cluster = this.#cluster;
    cluster.network.mend();
    for (const host of cluster.dataservers) {
      host.disk.slownessMs = 0;
      if (host.disk.failure !== null) this.#kill(host);
      if (!host.isUp) void cluster.startDataserver(host);
    }
    cluster.level.slownessMs = 0;
    if (cluster.nameserver === null) void cluster.startNameserver();
  }

  #downMs(): number {
    const { simulation } = this.#cluster;
    const dice = simulation.random.next();
    return dice < 0.5
      ? simulation.between(10, 2_000)
      : dice < 0.85
      ? simulation.between(2_000, 8_000)
      : 15_000;
  }

  // ---- dataservers

  killDataserver(): boolean {
    const { simulation, dataservers } = this.#cluster;
    const host = simulation.pick(dataservers);
    if (!host.isUp) return false;
    this.#kill(host);
    this.#later(this.#downMs(), () => host.isUp ? undefined : this.#cluster.startDataserver(host));
    return true;
  }

  #kill(host: DataserverHost): void {
    // What its disk did not take was there to be read until now.
    if (host.disk.failure === "lossy") this.#noteUnsyncedLost(host);
    this.#cluster.killDataserver(host, false);
  }

  /** Of one machine, or of the room. */
  cutPower(): boolean {
    const { simulation, dataservers } = this.#cluster;
    const up = dataservers.filter(({ isUp, volume }) => isUp && volume !== null);
    if (up.length === 0) return false;
    for (const host of simulation.chance(0.25) ? up : [simulation.pick(up)]) this.#cutPowerOf(host);
    return true;
  }

  #cutPowerOf(host: DataserverHost): void {
    this.#noteUnsyncedLost(host);
    this.#cluster.killDataserver(host, true);
    this.#later(this.#downMs() + 500, () => host.isUp ? undefined : this.#cluster.startDataserver(host));
  }

  /** It is well again when its process is started anew. */
  failDisk(): boolean {
    const { simulation, dataservers } = this.#cluster;
    const host = simulation.pick(dataservers);
    const { disk, life } = host;
    if (life === null || host.server === null || disk.failure !== null) return false;
    disk.failure = simulation.pick(["EIO", "EROFS", "lossy", "gone"]);
    this.#cluster.trace(`${host.host}: its disk fails (${disk.failure})`);
    // Once it has refused something, it is not believed what it has not on it: others that may lack something count then.
    if (disk.failure !== "gone") {
      const losing = this.#cluster.blocks().filter((block) => this.#mayLose(host, block));
      for (const block of losing) if (!this.#isElsewhere(host, block)) this.#unsafe.add(block.extent.block);
    }
    this.#later(this.#downMs(), () => {
      if (host.life !== life) return;
      this.#kill(host);
      this.#later(
        simulation.between(10, 2_000),
        () => host.isUp ? undefined : this.#cluster.startDataserver(host),
      );
    });
    return true;
  }

  #noteUnsyncedLost(host: DataserverHost): void {
    const losing = this.#cluster.blocks().filter((block) => this.#mayLose(host, block));
    this.#noteLost(losing.filter((block) => !this.#isElsewhere(host, block)));
    for (const { extent } of losing) this.#suspect.add(`${host.volume} ${extent.block} ${extent.generation}`);
  }

  /** What these blocks hold may fall back to what was synced. */
  #noteLost(blocks: readonly PlacedBlock[]): void {
    const at = this.#cluster.simulation.tick();
    for (const { ino, extent } of blocks) {
      this.#unsafe.add(extent.block);
      const first = Math.floor(extent.start / PAGE);
      const end = Math.min(PAGES, Math.ceil((extent.start + extent.length) / PAGE));
      for (let page = first; page < end; page++) this.#workload.register(ino, page).cut(at);
    }
  }

  /**
   * Something of this block is on this machine, but not yet on its disk; or nobody can tell that it is, as the replica is
   * still being written.
   */
  #mayLose(host: DataserverHost, { extent }: PlacedBlock): boolean {
    const { block, volumes } = extent;
    return volumes.includes(host.volume!) &&
      ((host.fileOf(block)?.unsynced.length ?? 0) > 0 || host.disk.isWriting(block));
  }

  /** Another machine that works has all that was acknowledged. */
  #isElsewhere(host: DataserverHost, { extent }: PlacedBlock): boolean {
    return extent.volumes.some((volume) => {
      const other = this.#cluster.hostOf(volume);
      return other !== host && other.isUp && other.disk.failure === null &&
        other.fileOf(extent.block) !== undefined &&
        (other.disk.records.get(extent.block)?.generation ?? -1) >= extent.generation &&
        !this.#isSuspect(volume, extent) &&
        !this.#isRotten(other, extent.block);
    });
  }

  #isRotten(host: DataserverHost, block: BlockId): boolean {
    const file = host.fileOf(block);
    return file !== undefined && this.#rotten.get(`${host.volume} ${block}`) === file;
  }

  /**
   * All that the block has is lost: a power cut took its replicas before anything of them was on disk, or they have rotted
   * and the others were left behind before that was found.
   */
  isGone({ block, volumes }: Extent): boolean {
    const hosts = volumes.map((volume) => this.#cluster.hostOf(volume));
    return hosts.every((host) => this.#isRotten(host, block)) ||
      (this.#unsafe.has(block) && hosts.every((host) => !host.disk.records.has(block)));
  }

  #isSuspect(volume: VolumeId, { block, generation }: Extent): boolean {
    return this.#suspect.has(`${volume} ${block} ${generation}`);
  }

  /** Where another replica is good. That one may be gone before anybody looks: see `isGone`. */
  rot(): boolean {
    const { simulation, dataservers } = this.#cluster;
    const host = simulation.pick(dataservers);
    if (host.volume === null) return false;
    const blocks = this.#cluster.blocks().filter((block) => {
      const { extent } = block;
      const file = host.fileOf(extent.block);
      return extent.volumes.includes(host.volume!) && file !== undefined && file.opens === 0 &&
        file.bytes.length > 0 && host.disk.records.get(extent.block)?.state === "finalized" &&
        this.#isElsewhere(host, block);
    });
    if (blocks.length === 0) return false;
    const { block } = simulation.pick(blocks).extent;
    const file = host.fileOf(block)!;
    const bytes = file.bytes.slice();
    const at = simulation.below(bytes.length);
    bytes[at] = bytes[at]! ^ (1 << simulation.below(8));
    file.bytes = file.durable = bytes;
    this.#rotten.set(`${host.volume} ${block}`, file);
    this.#cluster.trace(`${host.host}: block ${block} rots`);
    return true;
  }

  // ---- the others

  /** Often while much is on its way to it, which is lost with it. */
  async killNameserver(): Promise<boolean> {
    const { simulation, network } = this.#cluster;
    if (this.#cluster.nameserver !== null && simulation.chance(0.5)) {
      network.slowness.set("n", simulation.between(20, 500));
      await this.#pause(simulation.between(20, 500));
      network.slowness.delete("n");
    }
    if (this.#cluster.nameserver === null) return false;
    this.#cluster.killNameserver(false);
    this.#startNameserverLater();
    return true;
  }

  #startNameserverLater(): void {
    const { simulation } = this.#cluster;
    this.#later(
      simulation.between(10, simulation.chance(0.8) ? 1_000 : 8_000),
      () => this.#cluster.nameserver === null ? this.#cluster.startNameserver() : undefined,
    );
  }

  /** Alone, with a dataserver on the same machine, or of the room. */
  cutNameserverPower(): boolean {
    const { simulation, dataservers } = this.#cluster;
    if (this.#cluster.nameserver === null) return false;
    const up = dataservers.filter(({ isUp, volume }) => isUp && volume !== null);
    const dice = simulation.random.next();
    const beside = dice < 0.6 || up.length === 0 ? [] : dice < 0.8 ? [simulation.pick(up)] : up;
    for (const host of beside) this.#cutPowerOf(host);
    this.#hasFallenBack = true;
    this.#workload.namespaceCut();
    const known = new Set(this.#cluster.blocks().map(({ extent }) => extent.block));
    this.#cluster.killNameserver(true);
    // Of a block whose removal is undone nobody looked whether all that had it have lost their power.
    for (const { extent } of this.#cluster.blocks()) {
      if (!known.has(extent.block)) this.#unsafe.add(extent.block);
    }
    this.#startNameserverLater();
    return true;
  }

  /** Often one whose writes are on their way, and some of them for longer. */
  killClient(): boolean {
    const { simulation, clients, dataservers, network } = this.#cluster;
    const living = clients.filter((client) =>
      client.life !== null && client.fs !== null && this.#workload.mayDie(client)
    );
    const writing = living.filter((client) => this.#workload.unstored(client).size > 0);
    if (living.length === 0) return false;
    const client = simulation.pick(writing.length > 0 && simulation.chance(0.8) ? writing : living);
    if (simulation.chance(0.4)) {
      const { host } = simulation.pick(dataservers);
      network.cut(host, simulation.pick([client, ...dataservers]).host);
      this.#later(simulation.between(200, 8_000), () => network.mend());
    }
    this.#cluster.killClient(client);
    this.#workload.died(client);
    this.#later(simulation.between(10, 3_000), async () => {
      if (client.life !== null) return;
      await this.#cluster.startClient(client);
      if (!this.#workload.isStopping) void this.#workload.run(client);
    });
    return true;
  }

  // ---- the network

  #hosts(): string[] {
    const { dataservers, clients } = this.#cluster;
    return ["n", ...dataservers.map(({ host }) => host), ...clients.map(({ host }) => host)];
  }

  cutNetwork(): boolean {
    const { simulation, network } = this.#cluster;
    const hosts = this.#hosts();
    const one = simulation.pick(hosts);
    const others = hosts.filter((host) => host !== one);
    const from = simulation.chance(0.4)
      ? others
      : simulation.chance(0.3)
      ? this.#cluster.dataservers.map(({ host }) => host).filter((host) => host !== one)
      : [simulation.pick(others)];
    this.#cluster.trace(`${one} is cut off from ${from}`);
    for (const other of from) network.cut(one, other);
    // Then no replica that is left can be given another generation, either.
    if (one !== "n" && simulation.chance(0.2)) {
      this.#cluster.trace("and the nameserver from all dataservers");
      for (const { host } of this.#cluster.dataservers) network.cut("n", host);
    }
    this.#later(simulation.between(200, simulation.chance(0.6) ? 2_000 : 10_000), () => {
      this.#cluster.trace("the network is whole again");
      network.mend();
    });
    return true;
  }

  breakConnections(): boolean {
    const { simulation, network } = this.#cluster;
    const part = simulation.chance(0.5) ? 0.15 : 1;
    for (const connection of [...network.connections]) {
      if (simulation.chance(part)) connection.break();
    }
    return true;
  }

  slow(): boolean {
    const { simulation, network, dataservers } = this.#cluster;
    const ms = simulation.pick([5, 50, 500, 3_000]);
    const host = simulation.pick(dataservers);
    if (simulation.chance(0.5)) host.disk.slownessMs = ms;
    else network.slowness.set(simulation.pick(this.#hosts()), ms);
    this.#later(simulation.between(200, 4_000), () => {
      host.disk.slownessMs = 0;
      network.slowness.clear();
    });
    return true;
  }

  #later(ms: number, run: () => unknown): void {
    this.#cluster.simulation.after(ms, () => {
      if (!this.isOver) void run();
    });
  }
}
