/** The nameserver's service for administrators. */

import type { ADMIN } from "../../wire/messages/admin.ts";
import type { Handlers } from "../../wire/service.ts";
import type { Backups } from "./backups.ts";
import { balanceHandlers } from "./balance.ts";
import type { FsckParts } from "./fsck_context.ts";
import { fsckHandlers } from "./fsck_service.ts";
import { nodeHandlers, type NodeParts } from "./node_admin.ts";
import { replicationHandlers, type ReplicationParts } from "./replication_service.ts";

export type AdminServiceOptions = FsckParts & ReplicationParts & NodeParts & { readonly backups: Backups };

export function adminHandlers(options: AdminServiceOptions): Handlers<typeof ADMIN> {
  return {
    ...nodeHandlers(options),
    ...balanceHandlers(options),
    ...replicationHandlers(options),
    ...fsckHandlers(options),
    ...options.backups.handlers,
  };
}
