/**
 * Identities that cross processes: branded integers below 2^53, allocated in ranges by the nameserver and
 * never reused. `as...` brands a number that came from a trusted place (a decoder or the allocator).
 */

declare const brand: unique symbol;
type Branded<Name extends string> = number & { readonly [brand]: Name };

export type InodeId = Branded<"InodeId">;
export type BlockId = Branded<"BlockId">;
/** Counts up each time that a block's set of replicas changes; a replica with a lower one is stale. */
export type Generation = Branded<"Generation">;
/** A dataserver. */
export type NodeId = Branded<"NodeId">;
/** One directory of one dataserver. */
export type VolumeId = Branded<"VolumeId">;
/** A client's life from HELLO to time-out or goodbye. */
export type SessionId = Branded<"SessionId">;

export const asInodeId = (value: number): InodeId => value as InodeId;
export const asBlockId = (value: number): BlockId => value as BlockId;
export const asGeneration = (value: number): Generation => value as Generation;
export const asNodeId = (value: number): NodeId => value as NodeId;
export const asVolumeId = (value: number): VolumeId => value as VolumeId;
export const asSessionId = (value: number): SessionId => value as SessionId;

export const ROOT_INODE: InodeId = asInodeId(1);
