/**
 * File capabilities as Linux keeps them in security.capability (linux/capability.h, struct vfs_ns_cap_data): whose root they
 * count for. Nothing else of them is looked at.
 */

import { bytesEqual, bytesOf } from "./bytes.ts";

const CAPABILITIES = bytesOf("security.capability");
const REVISION_MASK = 0xff000000;
const REVISION_2 = 0x02000000;
const REVISION_3 = 0x03000000;
const REVISION_2_BYTES = 20;
const REVISION_3_BYTES = 24;

export function isCapabilitiesName(name: Uint8Array): boolean {
  return bytesEqual(name, CAPABILITIES);
}

/** The user who is root where they count: 0 before revision 3. Undefined: Linux does not know such a value. */
export function capabilitiesRoot(value: Uint8Array): number | undefined {
  if (value.length < REVISION_2_BYTES) return undefined;
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
  const revision = (view.getUint32(0, true) & REVISION_MASK) >>> 0;
  if (revision === REVISION_2 && value.length === REVISION_2_BYTES) return 0;
  if (revision === REVISION_3 && value.length === REVISION_3_BYTES) {
    return view.getUint32(REVISION_2_BYTES, true);
  }
  return undefined;
}

/** The same for another user's root. */
export function withCapabilitiesRoot(value: Uint8Array, root: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(root === 0 ? REVISION_2_BYTES : REVISION_3_BYTES);
  bytes.set(value.subarray(0, REVISION_2_BYTES));
  const view = new DataView(bytes.buffer);
  const flags = view.getUint32(0, true) & ~REVISION_MASK;
  view.setUint32(0, (root === 0 ? REVISION_2 : REVISION_3) | flags, true);
  if (root !== 0) view.setUint32(REVISION_2_BYTES, root, true);
  return bytes;
}
