/** The nameserver's service for administrators. */

import type { ADMIN } from "../../wire/messages/admin.ts";
import type { Handlers } from "../../wire/service.ts";
import type { Namespace } from "./namespace.ts";
import type { Registry } from "./registry.ts";
import type { Repair } from "./repair.ts";

export interface AdminServiceOptions {
  readonly namespace: Namespace;
  readonly registry: Registry;
  readonly repair: Repair;
  /** Replicas of a block whose file does not say. */
  readonly replication: number;
}

export function adminHandlers(_options: AdminServiceOptions): Handlers<typeof ADMIN> {
  return {};
}
