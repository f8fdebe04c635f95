/**
 * What MaggieFS is to reach, as ratios of speed within one run (2: twice as quick): against the better of the other
 * cluster file systems, and against a local file system of which bindfs is the one in user space.
 */

export interface Goal {
  /** Against the better of CLUSTER_PEERS. */
  readonly cluster: number;
  readonly local?: readonly ["ext4" | "bindfs", number];
}

export const CLUSTER_PEERS: readonly string[] = ["moosefs", "glusterfs"];

export const GOALS: Readonly<Record<string, Goal>> = {
  seq_write_1m_fsync: { cluster: 1, local: ["ext4", 0.35] },
  seq_read_1m_cold: { cluster: 1.8, local: ["ext4", 0.8] },
  seq_read_1m_warm: { cluster: 1, local: ["ext4", 0.9] },
  seq_read_128k_cold: { cluster: 1.8, local: ["ext4", 0.8] },
  rand_read_4k_qd1_cold: { cluster: 3, local: ["ext4", 0.8] },
  rand_read_4k_qd1_warm: { cluster: 1, local: ["ext4", 0.9] },
  rand_read_4k_8jobs_cold: { cluster: 10, local: ["ext4", 0.5] },
  rand_write_4k_end_fsync: { cluster: 2 },
  rand_write_4k_fsync_each: { cluster: 2 },
  create_4k_files: { cluster: 5, local: ["bindfs", 0.7] },
  stat_warm: { cluster: 20, local: ["ext4", 0.5] },
  walk_stat_cold: { cluster: 3, local: ["bindfs", 0.8] },
  open_read_4k_cold: { cluster: 2.5, local: ["bindfs", 0.8] },
  open_read_4k_warm: { cluster: 4, local: ["bindfs", 1] },
  rename: { cluster: 2, local: ["bindfs", 0.7] },
  unlink: { cluster: 2, local: ["bindfs", 0.7] },
  mkdir: { cluster: 2, local: ["bindfs", 0.7] },
  untar: { cluster: 5, local: ["bindfs", 0.7] },
  grep_r_cold: { cluster: 2.5, local: ["bindfs", 0.8] },
  cp_a: { cluster: 5, local: ["bindfs", 0.7] },
  rm_rf: { cluster: 2, local: ["bindfs", 0.7] },
  git_init_add_commit: { cluster: 3, local: ["bindfs", 1 / 1.3] },
  sqlite_commits: { cluster: 2 },
  append_100b: { cluster: 1, local: ["bindfs", 1] },
};

/** Of what MooseFS takes. */
export const MEMORY_GOAL = 1 / 3;
export const CPU_GOAL = 1 / 2;
