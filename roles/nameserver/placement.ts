/**
 * Where replicas go: on different hosts, in two racks at least where racks are known, more likely where more is free.
 * A picture of all volumes as they are at one moment: made for one synchronous step, and thrown away after it.
 *
 * A rack that is not known ("") is in nobody's way: a block with a replica there counts as spread, so that giving
 * racks to one server after the other moves nothing before it must.
 */

import type { Random } from "../../base/random.ts";
import { FsError } from "../../wire/errno.ts";
import type { NodeId, VolumeId } from "../../wire/ids.ts";

/** A volume, as far as it matters for placement. */
export interface Place {
  readonly volume: VolumeId;
  readonly node: NodeId;
  readonly host: string;
  /** "": not known. */
  readonly rack: string;
  /** Volumes with the same one share its space. */
  readonly disk: string;
  readonly isAlive: boolean;
  /** It is away, may be back soon, and may have room then. */
  readonly mayBringRoom: boolean;
  /** Its node is being decommissioned: it gets nothing any more, and what it has does not count. */
  readonly isDraining: boolean;
  readonly freeBytes: number;
}

export class Placement {
  readonly #places: ReadonlyMap<VolumeId, Place>;
  readonly #random: Random;
  readonly #reserveBytes: number;
  /** Volumes that may get a replica. */
  readonly #open: readonly Place[];
  readonly #openRacks: ReadonlySet<string>;

  /** `reserveBytes`: what a volume must keep free to get more. */
  constructor(places: readonly Place[], random: Random, reserveBytes: number) {
    this.#places = new Map(places.map((place) => [place.volume, place]));
    this.#random = random;
    this.#reserveBytes = reserveBytes;
    this.#open = places.filter((place) =>
      place.isAlive && !place.isDraining && place.freeBytes > reserveBytes
    );
    this.#openRacks = new Set(this.#open.map(({ rack }) => rack).filter((rack) => rack !== ""));
  }

  /**
   * Volumes for the replicas of a new block: the writer's own host first, the second in another rack, the third in the
   * rack of the second. Fewer than `count` when there are not enough hosts. ENOSPC when all that live, or may
   * be back soon, are full; EHOSTUNREACH when none lives, or one that may be back may have room (the caller tries again).
   */
  place(count: number, writerHost: string, avoid: readonly number[]): VolumeId[] {
    if (this.#open.length === 0) throw this.#noPlace();
    const preferred = this.#open.filter(({ node }) => !avoid.includes(node));
    const chosen: Place[] = [];
    const add = (place: Place | undefined) => {
      if (place !== undefined) chosen.push(place);
    };
    add(this.#pick(preferred.filter(({ host }) => host === writerHost)));
    for (const candidates of [preferred, this.#open]) {
      while (chosen.length < count) {
        const left = onOtherHosts(candidates, chosen);
        if (left.length === 0) break;
        add(this.#pick(inRack(left, chosen)) ?? this.#pick(left));
      }
    }
    return chosen.map(({ volume }) => volume);
  }

  #noPlace(): FsError {
    const all = [...this.#places.values()];
    const staying = all.filter(({ isDraining }) => !isDraining);
    if (all.length > 0 && staying.length === 0) {
      return new FsError("ENOSPC", "every dataserver is being decommissioned", { op: "allocate" });
    }
    if (!staying.some(({ isAlive }) => isAlive)) {
      return new FsError("EHOSTUNREACH", "no dataserver is up", { op: "allocate" });
    }
    // As after a restart of ours, when a full one is the first that is back.
    return staying.some(({ mayBringRoom }) => mayBringRoom)
      ? new FsError("EHOSTUNREACH", "no dataserver that is up has room", { op: "allocate" })
      : new FsError("ENOSPC", "every volume is full", { op: "allocate" });
  }

  /**
   * A volume for one more replica beside those on `beside`: on another host, and in another rack where they are all in
   * one. Undefined when there is none with room.
   */
  placeBeside(beside: readonly VolumeId[], avoid: (volume: VolumeId) => boolean): VolumeId | undefined {
    const present = this.#of(beside);
    const left = onOtherHosts(this.#open, present).filter(({ volume }) => !avoid(volume));
    const elsewhere = isInOneRack(present) ? inOtherRack(left, present[0]!.rack) : [];
    return (this.#pick(elsewhere) ?? this.#pick(left))?.volume;
  }

  /**
   * Whether a replica can be moved so that the block is spread over more hosts, or over two racks: the one to move, and
   * where to. Undefined when it is well where it is, or nothing better is there.
   */
  betterSpread(
    volumes: readonly VolumeId[],
    avoid: (volume: VolumeId) => boolean,
  ): { readonly from: VolumeId; readonly to: VolumeId } | undefined {
    if (volumes.length < 2) return undefined;
    const places = this.#of(volumes);
    const sharesHost = new Set(places.map(({ host }) => host)).size < places.length;
    const hasOtherRack = isInOneRack(places) && [...this.#openRacks].some((rack) => rack !== places[0]!.rack);
    if (!sharesHost && !hasOtherRack) return undefined;
    const from = this.surplus(volumes);
    const rest = volumes.filter((volume) => volume !== from);
    const to = this.placeBeside(rest, (volume) => volumes.includes(volume) || avoid(volume));
    if (to === undefined || this.spread([...rest, to]) <= this.spread(volumes)) return undefined;
    return { from, to };
  }

  /** Which replica to take off first: one without which the block is spread as well as can be, of those the one with the least room. */
  surplus(volumes: readonly VolumeId[]): VolumeId {
    const free = (volume: VolumeId) => this.#places.get(volume)?.freeBytes ?? 0;
    const without = (volume: VolumeId) => this.spread(volumes.filter((other) => other !== volume));
    return volumes.reduce((worst, volume) => {
      const more = without(volume) - without(worst);
      return more > 0 || (more === 0 && free(volume) < free(worst)) ? volume : worst;
    });
  }

  /** How well replicas are spread: hosts count first, then whether all are in one rack. */
  spread(volumes: readonly VolumeId[]): number {
    const places = this.#of(volumes);
    const hosts = new Set(places.map(({ host }) => host)).size;
    return 2 * hosts + (isInOneRack(places) ? 0 : 1);
  }

  /** The volume may get `bytes` more. */
  hasRoom(volume: VolumeId, bytes = 0): boolean {
    return this.#open.some((place) =>
      place.volume === volume && place.freeBytes - bytes > this.#reserveBytes
    );
  }

  /** What hosts other than those of `node`'s volumes alone could take: how many there are, and bytes, each disk once. */
  roomBeside(node: NodeId): { readonly hosts: number; readonly bytes: number } {
    const others = this.#open.filter((place) => place.node !== node);
    const disks = new Map(others.map(({ disk, freeBytes }) => [disk, freeBytes - this.#reserveBytes]));
    return {
      hosts: new Set(others.map(({ host }) => host)).size,
      bytes: [...disks.values()].reduce((sum, bytes) => sum + bytes, 0),
    };
  }

  #of(volumes: readonly VolumeId[]): Place[] {
    return volumes.map((volume) => this.#places.get(volume)).filter((place) => place !== undefined);
  }

  /** More likely where more is free. */
  #pick(candidates: readonly Place[]): Place | undefined {
    let total = 0;
    for (const { freeBytes } of candidates) total += freeBytes;
    let point = this.#random.next() * total;
    for (const place of candidates) {
      point -= place.freeBytes;
      if (point <= 0) return place;
    }
    return candidates.at(-1);
  }
}

function onOtherHosts(candidates: readonly Place[], chosen: readonly Place[]): Place[] {
  const hosts = new Set(chosen.map(({ host }) => host));
  return candidates.filter(({ host }) => !hosts.has(host));
}

function inOtherRack(candidates: readonly Place[], rack: string): Place[] {
  return candidates.filter((place) => place.rack !== "" && place.rack !== rack);
}

/** All racks are known, and the same. */
function isInOneRack(places: readonly Place[]): boolean {
  const [first] = places;
  return first !== undefined && first.rack !== "" && places.every(({ rack }) => rack === first.rack);
}

/** Those of `candidates` in the rack where the next replica of a new block should be; none: anywhere. */
function inRack(candidates: readonly Place[], chosen: readonly Place[]): Place[] {
  if (isInOneRack(chosen)) return inOtherRack(candidates, chosen[0]!.rack);
  const second = chosen[1]?.rack ?? "";
  return chosen.length === 2 && second !== "" ? candidates.filter(({ rack }) => rack === second) : [];
}
