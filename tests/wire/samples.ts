/** One message of every type that the services know, with all optional fields: what the codec's tests run over. */

import { bytesOf } from "../../base/bytes.ts";
import { randomBytes, SeededRandom } from "../../base/random.ts";
import { helloOf } from "../../wire/hello.ts";
import { ADMIN } from "../../wire/messages/admin.ts";
import { DATASERVER, DATASERVER_PUSHES, DATASERVER_REGISTRY } from "../../wire/messages/dataserver.ts";
import { LOCKS } from "../../wire/messages/locks.ts";
import { LEASE_PUSHES, LEASESERVER, NAMESERVER } from "../../wire/messages/nameserver.ts";
import type { RequestOf, ResponseOf, Service } from "../../wire/service.ts";

const retry = { slot: 127, sequence: 2 ** 52 };
const credentials = { uid: 1000, gid: 4294967294, groups: [4, 24, 1000] };
const name = new Uint8Array([0xff, 0xfe, 0x2e, 0x41, 0x80]);
const entry = { parent: 1, name };
const time = { seconds: -1, nanoseconds: 999_999_999 };
const body = randomBytes(new SeededRandom(1), 300);

const attributes = {
  ino: 2 ** 53 - 1,
  mode: 0o100644,
  uid: 0,
  gid: 0,
  nlink: 1,
  size: 2 ** 53 - 1,
  allocatedBytes: 4096,
  inlineBytes: 3,
  atime: time,
  mtime: time,
  ctime: { seconds: 1_700_000_000, nanoseconds: 1 },
  btime: time,
  rdev: 0x801,
  replication: 3,
  hasXattrs: true,
  hasCapability: true,
  flags: 0x30,
  version: 12,
};
const block = {
  id: 7,
  generation: 3,
  start: 2 ** 40,
  length: 128 * 1024 * 1024,
  written: true,
  allocated: 8192,
  chosenAt: 2,
  replicas: [
    { node: 1, volume: 2, address: "127.0.0.1:9870", host: "a", rack: "r", alive: true },
    { node: 2, volume: 3, address: "[::1]:9870", host: "b", rack: "", alive: false },
  ],
};
const inodeReply = {
  attributes,
  lease: "write",
  target: bytesOf("../t"),
  blocks: [block],
  inline: body,
} as const;
const entryReply = { ...inodeReply, directory: "read" } as const;
const acquireReply = { ...inodeReply, blocks: [block, block], blocksComplete: false, isShared: true };
const directories = [{ ino: 1, version: 7, nlink: 3, mtime: time }];
const removed = { ino: 5, open: true, told: false };
const directoryEntry = { name, ino: 9, type: 8, cookie: 77, inode: inodeReply };
const volume = {
  volume: 2,
  path: "/v",
  totalBytes: 1e12,
  freeBytes: 1,
  usedBytes: 2,
  blocks: 3,
  trashBytes: 4,
  scrub: { progress: 0.5, lastPass: 1_700_000_000 },
  failed: "EIO",
};
const counters = {
  reads: { cached: 1, disk: 2, served: 3, ahead: 9, refused: "EACCES" },
  kernelRequests: 1,
  calls: { lookup: 2, renew: 3 },
  inodes: 4,
  recalls: 5,
  recallMs: 6.5,
  fences: 7,
};
const held = [
  { ino: 5, lease: "write", open: "write", doubtful: true },
  { ino: 6, lease: "none", open: "read", doubtful: true },
] as const;
const chain = [{ node: 1, volume: 2, address: "h:1" }];

/** As T, with plain numbers for ids and every optional field there. */
type Full<T> = T extends number ? number
  : T extends string | boolean | Uint8Array ? T
  : T extends readonly (infer Item)[] ? readonly Full<Item>[]
  : { readonly [Name in keyof T]-?: Full<T[Name]> };

type Samples<S extends Service> = {
  readonly [Name in keyof S["methods"]]: readonly [
    request: Full<RequestOf<S["methods"][Name]>>,
    response: Full<ResponseOf<S["methods"][Name]>>,
  ];
};

const wishes = { wantsDirectory: true, wantsFound: true } as const;

const nameserver: Samples<typeof NAMESERVER> = {
  lookup: [{ ...entry, wantsFound: true }, { inode: inodeReply, directory: "read" }],
  getattr: [{ ino: 5 }, inodeReply],
  setattr: [
    {
      retry,
      ino: 5,
      mode: 0o644,
      uid: 1,
      gid: 2,
      size: 3,
      atime: "now",
      mtime: time,
      killSuidGid: true,
      killCapability: true,
      flags: 0x10,
      write: true,
    },
    inodeReply,
  ],
  make: [
    { retry, ...entry, ...wishes, credentials, mode: 0o120777, umask: 0o22, rdev: 5, target: bytesOf("x") },
    { ...inodeReply, lease: "none", directory: "none", directories },
  ],
  create: [
    {
      retry,
      ...entry,
      credentials,
      mode: 0o600,
      umask: 0o77,
      exclusive: true,
      write: true,
      host: "a",
      wantsDirectory: true,
    },
    { ...acquireReply, directory: "read", directories, created: true },
  ],
  remove: [{ retry, ...entry, directory: false, removed, wantsDirectory: true }, {
    ino: 4,
    nlink: 0,
    directory: "read",
    directories,
  }],
  rename: [
    { retry, ...entry, newParent: 2, newName: name, flags: 4, credentials, removed },
    { ino: 4, replaced: { ino: 5, nlink: 1 }, directory: "none", directories },
  ],
  createUnnamed: [
    { retry, parent: 2, credentials, mode: 0o600, umask: 0o27, linkable: true, host: "a" },
    acquireReply,
  ],
  accessed: [{ inodes: [{ ino: 5, version: 3, time }], always: false }, { inodes: [acquireReply] }],
  defer: [
    {
      retry,
      changes: [
        {
          ...{ kind: "make", time, ino: 9, ...entry, uid: 1, gid: 2, mode: 0o100644, umask: 0o22, rdev: 5 },
          ...{ target: bytesOf("x"), write: true, host: "a", block: 7 },
        },
        { kind: "remove", time, ino: 9, ...entry, directory: false, told: true, held: true },
        {
          kind: "rename",
          time,
          ino: 9,
          ...entry,
          newParent: 2,
          newName: name,
          replaced: 8,
          told: true,
          held: true,
        },
        { kind: "link", time, ino: 9, ...entry },
        { kind: "access", time, ino: 9 },
        { kind: "setattr", time, ino: 9, mode: 0o600, uid: 1, gid: 2, atime: time, mtime: time },
      ],
    },
    { applied: 3, refusal: "why", blocks: [{ ino: 9, block }], isFull: true },
  ],
  claim: [{ inodes: [9, 2 ** 53 - 1] }, { inodes: [acquireReply] }],
  reserveInodes: [{ count: 1000 }, { first: 10, count: 1000 }],
  reserveBlocks: [{ count: 8, host: "h", unused: [7] }, { blocks: [block] }],
  link: [{ retry, ...entry, ino: 5 }, { ...entryReply, directories }],
  acquire: [{ ino: 5, mode: "write" }, acquireReply],
  blocks: [{ ino: 5, offset: 0, length: 2 ** 53 - 1 }, { blocks: [block], end: 2 ** 53 - 1, inline: body }],
  allocateBlock: [{ retry, ino: 5, offset: 9, host: "h", avoid: [1, 2], extend: 7 }, { block }],
  commit: [
    {
      retry,
      ino: 5,
      size: 10,
      mtime: time,
      written: [{ block: 7, start: 0, allocated: 4096 }],
      reserved: [{ block: 8, start: 10, allocated: 8192 }],
      inline: [{ offset: 0, length: 3 }],
      body,
      outgrown: true,
      durable: true,
      killSuidGid: false,
    },
    inodeReply,
  ],
  replicaFailed: [{ ino: 5, start: 0, block: 7, generation: 3, failed: [2, 3], hasData: true }, { block }],
  punch: [{ retry, ino: 5, offset: 0, length: 100 }, inodeReply],
  readDirectory: [
    { ino: 1, cookie: 0, limit: 1024, withInodes: true, wantsFound: true, inlineBytes: 4096, ahead: true },
    {
      parent: 1,
      directory: "read",
      entries: [directoryEntry, { ...directoryEntry, name: bytesOf("d"), ino: 1, type: 4, cookie: 78 }],
      end: true,
    },
  ],
  setXattr: [{ retry, ino: 5, name, value: body, flags: 1, killSetgid: true }, inodeReply],
  getXattr: [{ ino: 5, name }, { value: body }],
  listXattrs: [{ ino: 5 }, { names: [name, body] }],
  removeXattr: [{ retry, ino: 5, name }, inodeReply],
  statfs: [{}, { totalBytes: 1e15, freeBytes: 0, files: 3, blockBytes: 4096 }],
  sync: [{ ino: 5 }, { ok: true }],
  status: [{}, {
    clusterId: "c",
    version: "0",
    startedSecondsAgo: 1.5,
    inodes: 1,
    blocks: 2,
    replicas: 3,
    inlineFiles: 5,
    inlineBytes: 700,
    underReplicated: 4,
    missing: 5,
    misplaced: 7,
    totalBytes: 1e15,
    freeBytes: 1e14,
    pendingDeletions: 6,
    sessions: [{
      session: 3,
      host: "h",
      mountpoint: "/m",
      connected: true,
      lastSeenSeconds: 0.3,
      readLeases: 4,
      exclusiveLeases: 3,
      writeLeases: 5,
      locks: 6,
      lockWaits: 7,
      counters,
    }],
    backup: { dir: "/b", everySeconds: 3600, lastFile: "mfs-1", lastSecondsAgo: 5, error: "no room" },
    leases: {
      read: 1,
      exclusive: 5,
      write: 2,
      perSessionMax: 500_000,
      granted: 3,
      recalls: 4,
      recalledInodes: 5,
      recallMs: 6,
      recallMsMax: 7,
      waitingTurns: 8,
      waitingRecalls: 9,
      evicted: 10,
      fenced: 11,
    },
    repair: { waiting: 1, running: 2, walking: true, copied: 3, copiedBytes: 2 ** 40, failed: 4 },
    residentBytes: 9,
    dataservers: [{
      node: 1,
      host: "h",
      rack: "r",
      state: "decommissioning",
      maintenanceSeconds: 7200,
      address: "h:1",
      alive: true,
      lastHeartbeatSeconds: 0.1,
      volumes: [volume],
    }],
  }],
};

const leaseserver: Samples<typeof LEASESERVER> = {
  openSession: [
    { clientId: "c", host: "h", mountpoint: "/m", place: "machine/boot/namespace/m", readsInline: true },
    {
      session: 1,
      ttlMs: 10_000,
      now: time,
      resumed: false,
      rootSquash: { uid: 65534, gid: 1 },
      run: "r",
      cuts: 2,
      inlineLimit: 4096,
    },
  ],
  renew: [{ counters }, { now: time, isFull: true }],
  reclaim: [{ held, last: true }, { granted: ["write", "none"] }],
  release: [{ held, unused: [5, 7] }, { ok: true }],
  closeSession: [{}, { ok: true }],
};

const dataserver: Samples<typeof DATASERVER> = {
  replicaState: [
    { volume: 2, block: 7, generation: 3, digest: true },
    { length: 4096, state: "a.1", digest: "4096.1f" },
  ],
  replicaChanges: [
    { volume: 2, block: 7, generation: 3, since: "a.1" },
    { length: 4096, state: "a.2", changed: [[0, 1024], [2048, 4096]] },
  ],
  writeBlock: [
    { block: 7, generation: 3, volume: 2, offset: 0, chain, create: true, body },
    { failed: [{ volume: 2, errno: "ENOSPC", message: "full" }], allocatedBytes: 8192 },
  ],
  writeRanges: [
    {
      block: 7,
      generation: 3,
      volume: 2,
      ranges: [[0, 2], [9, 1]],
      chain,
      create: true,
      durable: true,
      body,
    },
    { failed: [], allocatedBytes: 8192 },
  ],
  readBlock: [{ block: 7, generation: 3, volume: 2, offset: 0, length: 100 }, { body }],
  syncBlock: [{ block: 7, generation: 3, volume: 2, chain }, {
    failed: [],
    allocatedBytes: 0,
    isFinalized: true,
  }],
  truncateBlock: [
    { block: 7, generation: 3, volume: 2, chain, length: 10 },
    { failed: [], allocatedBytes: 4096 },
  ],
  changeRange: [
    { block: 7, generation: 3, volume: 2, chain, change: "punch", offset: 4096, length: 10, create: false },
    { failed: [], allocatedBytes: 4096 },
  ],
  copyRange: [
    {
      block: 7,
      generation: 3,
      volume: 2,
      chain,
      offset: 4096,
      length: 10,
      create: true,
      source: { block: 8, generation: 2, node: 1, volume: 3, address: "h:1", offset: 0 },
    },
    {
      failed: [],
      allocatedBytes: 4096,
      sourceFailed: { errno: "ESTALE", message: "old" },
      isUntouched: false,
    },
  ],
  seekBlock: [{ block: 7, generation: 3, volume: 2, offset: 5, data: true }, { offset: 4096 }],
  locateReplica: [
    { block: 7, generation: 3, volume: 2 },
    { file: { machine: "m", path: "/v/7.blk", identity: "8:1 42", length: 10, chunkBytes: 65536 }, body },
  ],
};

const dataserverRegistry: Samples<typeof DATASERVER_REGISTRY> = {
  register: [
    {
      node: 1,
      label: "l",
      host: "h",
      rack: "r",
      address: "h:1",
      volumes: [{ volume: 2, label: "v", path: "/v", disk: "d", totalBytes: 1, freeBytes: 1 }],
    },
    { node: 1, volumes: [2], heartbeatMs: 3000 },
  ],
  heartbeat: [{ node: 1, volumes: [volume], leaving: true }, { ok: true, heartbeatMs: 3000 }],
  blockReport: [
    { volume: 2, from: 0, to: 2 ** 53 - 1, replicas: [{ block: 7, generation: 3, doubtful: true }] },
    { stale: [7], unknown: [8, 9], again: [10] },
  ],
  blocksDeleted: [{ volume: 2, blocks: [7] }, { ok: true }],
  replicaCorrupt: [{ volume: 2, block: 7, message: "crc" }, { ok: true }],
  replicasDiffer: [{ volume: 2, replicas: [{ block: 7, generation: 3 }] }, { compared: [7] }],
};

const pushes: Samples<typeof LEASE_PUSHES> = {
  recall: [
    {
      items: [
        { ino: 5, keep: "read", attributes: true, names: [], removed: true },
        { ino: 1, keep: "none", attributes: false, names: [name, bytesOf("n")], removed: false },
      ],
    },
    { open: ["write", "no"], doubtful: [5] },
  ],
  lockOffered: [{ wait: 9 }, { ok: true }],
  recallLocks: [{ ino: 5, kept: 8 }, { ok: true }],
};

const lockOwner = { ino: 5, kind: "posix", owner: "ffffffffffffffff" } as const;
const range = { start: 2 ** 53 - 2, end: Infinity, type: "write" } as const;
const locks: Samples<typeof LOCKS> = {
  lock: [{ ...lockOwner, ...range, pid: 77, wait: 3, isUnchecked: true, keep: 8 }, {
    granted: false,
    kept: true,
  }],
  unlock: [{ ...lockOwner, start: 0, end: 2 ** 53 - 1 }, { ok: true }],
  testLock: [{ ...lockOwner, ...range }, { conflict: { ...range, pid: 0 } }],
  cancelLock: [{ wait: 3 }, { ok: true }],
  setLocks: [{ owners: [{ ...lockOwner, pid: 77, ranges: [range] }] }, { held: [true] }],
  giveUpLocks: [{ ino: 5, kept: 8, owners: [{ ...lockOwner, pid: 77, ranges: [range] }] }, { ok: true }],
};

const dataserverPushes: Samples<typeof DATASERVER_PUSHES> = {
  deleteBlocks: [{ volume: 2, blocks: [7, 8], upTo: [3, 4] }, { ok: true }],
  copyReplica: [
    {
      volume: 2,
      block: 7,
      generation: 3,
      source: { node: 1, volume: 4, address: "127.0.0.1:7401" },
      bytesPerSecond: 1e9,
    },
    { length: 4096, state: "a.1", digest: "4096.1f" },
  ],
  replicaState: [
    { volume: 2, block: 7, generation: 3, digest: true },
    { length: 4096, state: "a.1", digest: "4096.1f" },
  ],
  setGeneration: [{ volume: 2, block: 7, from: 1, to: 2, chosen: true, create: true }, { length: 4096 }],
  verifyReplica: [
    { volume: 2, block: 7, generation: 3, length: 4096, bytesPerSecond: 1e9 },
    { digest: "d", state: "a.1", bytes: 4096, corrupt: "why" },
  ],
  listReplicas: [
    { volume: 2, blocks: [7], from: 0, limit: 9 },
    { replicas: [{ block: 7, generation: 3, length: 4096, isFinal: true, fileBytes: 4096 }] },
  ],
};

const problem = {
  kind: "links",
  detail: "wrong",
  path: name,
  ino: 5,
  block: 7,
  start: 0,
  volume: 2,
  hint: { key: name, version: 3, numbers: [1, 2] },
} as const;

const node = {
  node: 1,
  host: "h",
  address: "h:1",
  rack: "r",
  alive: true,
  state: "in service",
  maintenanceSeconds: 0,
} as const;
const usage = { volume: 2, node: 1, host: "h", rack: "r", usedBytes: 1, totalBytes: 1e12, freeBytes: 3 };

const admin: Samples<typeof ADMIN> = {
  node: [{ name: "h" }, node],
  surveyNode: [
    { node: 1, volume: 2, from: { volume: 2, block: 7 } },
    { replicas: 3, onlyHere: 1, hostsNeeded: 2, next: { volume: 2, block: 2 ** 53 - 1 } },
  ],
  decommission: [{ node: 1, hostsNeeded: 3, force: true }, { ...node, state: "decommissioning" }],
  recommission: [{ node: 1 }, node],
  forget: [{ node: 1, volume: 2, force: true }, { node: 1, host: "h", volumes: [2] }],
  maintain: [{ node: 1, seconds: 7200 }, { ...node, maintenanceSeconds: 7200 }],
  volumeUsage: [{}, { volumes: [usage] }],
  moveReplicas: [
    { source: 2, target: 3, from: 0, bytes: 2 ** 40, bytesMax: 2 ** 41 },
    { moved: 1, movedBytes: 4096, next: 8 },
  ],
  setReplication: [{ inodes: [5, 6], replication: 3 }, { changed: 1, hosts: 4, replication: 3 }],
  replicationState: [{ inodes: [5] }, { blocks: 9, pending: 2, missing: 1, wanted: 3, hosts: 4 }],
  fsckStart: [{ root: { ino: 5, path: name }, verifyBytesPerSecond: 1e6 }, { fsck: 1, inodes: 9, blocks: 8 }],
  fsckNext: [
    { fsck: 1 },
    {
      phase: "tables",
      inodes: 5,
      blocks: 6,
      verifiedBytes: 7,
      problems: [problem],
      unchecked: ["volume 2"],
    },
  ],
  fsckRepair: [
    { problems: [problem] },
    { outcomes: [{ outcome: "repaired", message: "done" }] },
  ],
  backupOpen: [{}, { backup: 1, clusterId: "c1", timeMs: 1.7e12, inodes: 9 }],
  backupRead: [{ backup: 1, page: 2 }, { body, isLast: false }],
  backupClose: [{ backup: 1 }, { ok: true }],
};

/** Every service with the samples of its methods. */
export const SERVICES = [
  [NAMESERVER, nameserver],
  [LEASESERVER, leaseserver],
  [DATASERVER, dataserver],
  [DATASERVER_REGISTRY, dataserverRegistry],
  [LOCKS, locks],
  [LEASE_PUSHES, pushes],
  [DATASERVER_PUSHES, dataserverPushes],
  [ADMIN, admin],
] as const;

/** All messages, named "service.method request" or "... response". */
export const MESSAGES: readonly (readonly [name: string, message: unknown])[] = [
  ["hello request", helloOf("client", "c", "d")],
  ["hello response", { version: 1, clusterId: "c", role: "nameserver", program: "0.1.0", nowMs: 1.5e12 }],
  ["error", { errno: "ENOENT", message: "no such entry", op: "lookup" }],
  ...SERVICES.flatMap(([service, samples]) =>
    Object.entries(samples).flatMap(([method, [request, response]]) =>
      [
        [`${service.name}.${method} request`, request],
        [`${service.name}.${method} response`, response],
      ] as const
    )
  ),
];
