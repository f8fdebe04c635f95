/** HELLO: the first request on every connection; who we are, what we speak, and to which cluster we belong. */

import { VERSION } from "../base/version.ts";
import { FsError } from "./errno.ts";
import { PROTOCOL_VERSION } from "./frame.ts";
import type { Role } from "./service.ts";

export const HELLO_OP = 0;
export const HELLO_TIMEOUT_MS = 5_000;

export interface Hello {
  readonly versionMin: number;
  readonly versionMax: number;
  /** Empty: not known yet (a fresh dataserver or a first mount). */
  readonly clusterId: string;
  readonly role: Role;
  /** For the log: host, process, mount point. */
  readonly description: string;
}

export interface HelloReply {
  readonly version: number;
  readonly clusterId: string;
  readonly role: Role;
  /** The server's program version, and its wall clock in milliseconds since 1970; absent from older servers. */
  readonly program?: string;
  readonly nowMs?: number;
}

export function helloOf(role: Role, clusterId: string, description: string): Hello {
  return { versionMin: PROTOCOL_VERSION, versionMax: PROTOCOL_VERSION, clusterId, role, description };
}

/** The answer to a HELLO, or the FsError that refuses it. */
export function checkHello(
  hello: unknown,
  clusterId: string,
  role: Role,
  nowMs: number = Date.now(),
): { hello: Hello; reply: HelloReply } {
  const h = hello as Partial<Hello> | null;
  const isHello = h !== null && typeof h === "object" && typeof h.versionMin === "number" &&
    typeof h.versionMax === "number" && typeof h.clusterId === "string" && typeof h.role === "string" &&
    typeof h.description === "string";
  if (!isHello) throw new FsError("EPROTO", "the first message is not a HELLO", { op: "hello" });
  if (!(h.versionMin! <= PROTOCOL_VERSION && h.versionMax! >= PROTOCOL_VERSION)) {
    const theirs = `${h.versionMin} to ${h.versionMax}`;
    throw new FsError("EPROTO", `peer speaks protocol ${theirs}, this ${role} speaks ${PROTOCOL_VERSION}`, {
      op: "hello",
    });
  }
  if (h.clusterId !== "" && h.clusterId !== clusterId) {
    throw new FsError("EPROTO", `peer belongs to cluster ${h.clusterId}, this ${role} to ${clusterId}`, {
      op: "hello",
    });
  }
  return {
    hello: h as Hello,
    reply: { version: PROTOCOL_VERSION, clusterId, role, program: VERSION, nowMs },
  };
}
