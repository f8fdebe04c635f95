/** What the nameserver shows to Prometheus: what `mfs status` shows, in its terms. */

import { counter, gauge, type Metric, type Sample } from "../../base/metrics.ts";
import type { DataserverStatus, SessionStatus, StatusReply } from "../../wire/messages/nameserver.ts";

export function nameserverMetrics(status: StatusReply): readonly Metric[] {
  const { leases, repair, dataservers, sessions, backup } = status;
  const ofNodes = (value: (server: DataserverStatus) => number): Sample[] =>
    dataservers.map((server) => ({
      labels: { node: server.node, host: server.host, rack: server.rack ?? "" },
      value: value(server),
    }));
  const ofVolumes = (value: (volume: DataserverStatus["volumes"][number]) => number): Sample[] =>
    dataservers.flatMap(({ node, host, volumes }) =>
      volumes.map((volume) => ({
        labels: { node, host, volume: volume.volume, path: volume.path },
        value: value(volume),
      }))
    );
  const ofSessions = (value: (session: SessionStatus) => number | undefined): Sample[] =>
    sessions.flatMap((session) => {
      const found = value(session);
      const { host, mountpoint } = session;
      return found === undefined ? [] : [{ labels: { host, mountpoint }, value: found }];
    });
  return [
    gauge("mfs_namespace_inodes", "Inodes of the file system.", status.inodes),
    gauge("mfs_namespace_blocks", "Blocks of all files.", status.blocks),
    gauge("mfs_namespace_replicas", "Replicas of all blocks.", status.replicas),
    gauge("mfs_namespace_inline_files", "Files whose data the nameserver keeps.", status.inlineFiles ?? 0),
    gauge("mfs_namespace_inline_bytes", "Data of files that the nameserver keeps.", status.inlineBytes ?? 0),
    gauge("mfs_blocks_missing", "Blocks without a replica that can be read.", status.missing),
    gauge(
      "mfs_blocks_under_replicated",
      "Blocks with fewer replicas than they should have.",
      status.underReplicated,
    ),
    gauge("mfs_blocks_misplaced", "Blocks whose replicas share a host or all a rack.", status.misplaced),
    gauge("mfs_deletions_pending", "Replicas that are still to be deleted.", status.pendingDeletions),
    gauge(
      "mfs_cluster_total_bytes",
      "Size of the disks of live volumes, before replication.",
      status.totalBytes,
    ),
    gauge(
      "mfs_cluster_free_bytes",
      "Free on the disks of live volumes, before replication.",
      status.freeBytes,
    ),
    gauge("mfs_repair_waiting_blocks", "Blocks that wait for a replica.", repair.waiting),
    gauge("mfs_repair_running_blocks", "Blocks that get a replica now.", repair.running),
    counter("mfs_repair_copies_total", "Replicas made.", repair.copied),
    counter("mfs_repair_copied_bytes_total", "Bytes of replicas made.", repair.copiedBytes),
    counter("mfs_repair_failures_total", "Replicas that could not be made at an attempt.", repair.failed),
    gauge("mfs_leases", "Leases that clients hold.", [
      { labels: { mode: "read" }, value: leases.read },
      { labels: { mode: "exclusive" }, value: leases.exclusive },
      { labels: { mode: "write" }, value: leases.write },
    ]),
    counter("mfs_lease_grants_total", "Leases granted.", leases.granted),
    counter("mfs_lease_recalls_total", "Messages that recalled leases.", leases.recalls),
    counter("mfs_lease_recalled_inodes_total", "Inodes that recalls spoke of.", leases.recalledInodes),
    counter("mfs_lease_recall_seconds_total", "Time that recalls were waited for.", leases.recallMs / 1000),
    counter("mfs_lease_evictions_total", "Leases recalled as a client had too many.", leases.evicted),
    counter("mfs_lease_fenced_total", "Write leases that ended with their session.", leases.fenced),
    gauge("mfs_lease_waiting", "Operations that wait, for their turn or for acknowledgements.", [
      { labels: { for: "turn" }, value: leases.waitingTurns },
      { labels: { for: "recall" }, value: leases.waitingRecalls },
    ]),
    gauge("mfs_dataserver_up", "Whether a dataserver is heard of.", ofNodes(({ alive }) => alive ? 1 : 0)),
    gauge(
      "mfs_dataserver_in_service",
      "Whether a dataserver takes new blocks; 0: it is being or has been decommissioned.",
      ofNodes(({ state = "in service" }) => state === "in service" ? 1 : 0),
    ),
    gauge(
      "mfs_dataserver_heartbeat_age_seconds",
      "Since a dataserver was heard of last.",
      ofNodes(({ lastHeartbeatSeconds }) => lastHeartbeatSeconds),
    ),
    gauge("mfs_volume_total_bytes", "Size of a volume's disk.", ofVolumes(({ totalBytes }) => totalBytes)),
    gauge("mfs_volume_free_bytes", "Free on a volume's disk.", ofVolumes(({ freeBytes }) => freeBytes)),
    gauge("mfs_volume_used_bytes", "What a volume's replicas take.", ofVolumes(({ usedBytes }) => usedBytes)),
    gauge("mfs_volume_blocks", "Replicas of a volume.", ofVolumes(({ blocks }) => blocks)),
    gauge(
      "mfs_volume_failed",
      "Whether a volume's disk has failed.",
      ofVolumes(({ failed }) => failed === undefined ? 0 : 1),
    ),
    gauge("mfs_sessions", "Mounts with a session.", sessions.length),
    gauge(
      "mfs_session_up",
      "Whether a mount is connected.",
      ofSessions(({ connected }) => connected ? 1 : 0),
    ),
    gauge(
      "mfs_session_locks",
      "Ranges that a mount's processes have locked.",
      ofSessions(({ locks }) => locks),
    ),
    ...backup === undefined ? [] : [
      gauge("mfs_backup_failed", "Whether the last backup failed.", backup.error === undefined ? 0 : 1),
      gauge(
        "mfs_backup_age_seconds",
        "Since the last backup that was made whole.",
        backup.lastSecondsAgo === undefined ? [] : [{ value: backup.lastSecondsAgo }],
      ),
    ],
  ];
}
