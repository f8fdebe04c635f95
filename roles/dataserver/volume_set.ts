/**
 * The volumes of one dataserver: opened together, of one cluster and one node, found by id.
 * Invariant: after the first registration every volume's identity on disk names its cluster, id and node before
 * the nameserver may place a replica there.
 */

import { randomHexId } from "../../base/random.ts";
import { FsError } from "../../wire/errno.ts";
import { asNodeId, type NodeId, type VolumeId } from "../../wire/ids.ts";
import type { RegisterReply, VolumeRegistration, VolumeStats } from "../../wire/messages/dataserver.ts";
import { type OpenVolume, openVolume, type OpenVolumeOptions } from "./open_volume.ts";
import type { ScrubFigures } from "./scrubber.ts";
import type { Volume } from "./volume.ts";
import { VolumeUnavailable, writeIdentity } from "./volume_directory.ts";

export class VolumeSet {
  readonly all: readonly OpenVolume[];
  readonly #byId = new Map<VolumeId, Volume>();
  #clusterId: string;
  #node: NodeId | undefined;
  readonly nodeLabel: string;

  private constructor(all: readonly OpenVolume[], nodeLabel: string) {
    this.all = all;
    this.nodeLabel = nodeLabel;
    const identities = all.map(({ volume }) => volume.identity);
    this.#clusterId = identities.find(({ clusterId }) => clusterId !== undefined)?.clusterId ?? "";
    this.#node = identities.find(({ node }) => node !== undefined)?.node;
    this.#index();
  }

  /**
   * Opens the volumes at `paths`. A missing disk is logged and left out, unless none is left; anything else that
   * is wrong is a mistake of configuration, and thrown.
   */
  static async open(
    paths: readonly string[],
    options: Omit<OpenVolumeOptions, "nodeLabel">,
  ): Promise<VolumeSet> {
    if (paths.length === 0) throw new FsError("EINVAL", "no volume: give at least one --volume");
    const opened: OpenVolume[] = [];
    const seen = new Set<string>();
    let nodeLabel = randomHexId();
    let missing: VolumeUnavailable | undefined;
    try {
      for (const path of paths) {
        const real = await options.disk.realPath(path);
        if (seen.has(real)) throw new FsError("EINVAL", `volume ${path} is given twice`);
        seen.add(real);
        try {
          const one = await openVolume(real, { ...options, nodeLabel });
          opened.push(one);
          nodeLabel = opened[0]!.volume.identity.nodeLabel;
        } catch (error) {
          if (!(error instanceof VolumeUnavailable)) throw error;
          missing = error;
          options.log.warn("volume is left out", { path, reason: error.message });
        }
      }
      if (opened.length === 0) throw missing!;
      checkOneCluster(opened);
    } catch (error) {
      for (const { volume } of opened) await volume.close();
      throw error;
    }
    return new VolumeSet(opened, nodeLabel);
  }

  /** "" before the first registration. */
  get clusterId(): string {
    return this.#clusterId;
  }

  /** Undefined before the first registration. */
  get node(): NodeId | undefined {
    return this.#node;
  }

  /** Throws ENODEV for a volume that is not here. */
  find(id: VolumeId): Volume {
    const volume = this.#byId.get(id);
    if (volume === undefined) throw new FsError("ENODEV", `volume ${id} is not on this dataserver`);
    return volume;
  }

  checkCluster(clusterId: string, nameserver: string): void {
    if (this.#clusterId === "" || this.#clusterId === clusterId) return;
    throw new FsError(
      "EPROTO",
      `volume ${this.all[0]!.volume.path} belongs to cluster ${this.#clusterId}, the nameserver at ` +
        `${nameserver} serves cluster ${clusterId}: give another --volume or nameserver`,
      { op: "register" },
    );
  }

  registrations(): VolumeRegistration[] {
    return this.all.map(({ volume }) => {
      const { totalBytes, freeBytes } = volume.figures();
      const { label, volume: id } = volume.identity;
      const { path, diskIdentity: disk } = volume;
      return { label, path, disk, totalBytes, freeBytes, ...(id === undefined ? {} : { volume: id }) };
    });
  }

  stats(): VolumeStats[] {
    return this.all.map(({ volume, scrubber }) => {
      const scrub = scrubber.status();
      return { volume: volume.id, ...volume.figures(), ...(scrub === undefined ? {} : { scrub }) };
    });
  }

  /** Of the volumes that are scrubbed. */
  scrubs(): ScrubFigures[] {
    return this.all.flatMap(({ scrubber }) => scrubber.figures() ?? []);
  }

  /** Writes what the nameserver assigned into the volumes that do not have it yet. */
  async assign(clusterId: string, reply: RegisterReply): Promise<void> {
    if (reply.volumes.length !== this.all.length) {
      throw new FsError(
        "EPROTO",
        `the nameserver named ${reply.volumes.length} of ${this.all.length} volumes`,
      );
    }
    for (let i = 0; i < this.all.length; i++) {
      const { volume } = this.all[i]!;
      const id = reply.volumes[i]!;
      const { identity } = volume;
      if (identity.volume !== undefined && identity.volume !== id) {
        throw new FsError(
          "EPROTO",
          `volume ${volume.path} is ${identity.volume}, not ${id} as it was answered`,
        );
      }
      if (identity.volume === id && identity.node === reply.node && identity.clusterId === clusterId) {
        continue;
      }
      const assigned = { ...identity, clusterId, volume: id, node: asNodeId(reply.node) };
      await writeIdentity(volume.disk, volume.path, assigned);
      volume.identity = assigned;
    }
    this.#clusterId = clusterId;
    this.#node = reply.node;
    this.#index();
  }

  #index(): void {
    for (const { volume } of this.all) {
      if (volume.identity.volume !== undefined) this.#byId.set(volume.identity.volume, volume);
    }
  }
}

function checkOneCluster(opened: readonly OpenVolume[]): void {
  const known = opened.map(({ volume }) => volume).filter(({ identity }) => identity.clusterId !== undefined);
  const [first] = known;
  for (const volume of known) {
    if (volume.identity.clusterId === first!.identity.clusterId) continue;
    throw new FsError(
      "EINVAL",
      `volume ${volume.path} belongs to cluster ${volume.identity.clusterId}, ${first!.path} to ` +
        `${first!.identity.clusterId}: one dataserver serves one cluster`,
    );
  }
}
