/** The nameserver's service for administrators, put together from its parts. */

import type { ADMIN } from "../../wire/messages/admin.ts";
import type { Handlers } from "../../wire/service.ts";
import type { FsckParts } from "./fsck_context.ts";
import { fsckHandlers } from "./fsck_service.ts";
import { replicationHandlers, type ReplicationParts } from "./replication_service.ts";

export type AdminServiceOptions = FsckParts & ReplicationParts;

export function adminHandlers(options: AdminServiceOptions): Handlers<typeof ADMIN> {
  return { ...replicationHandlers(options), ...fsckHandlers(options) };
}
