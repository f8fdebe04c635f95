/** What is said about backups (admin.ts): their bytes are made by the nameserver, page by page. */

export interface BackupOpenReply {
  /** Names it in what follows. */
  readonly backup: number;
  readonly clusterId: string;
  /** The instant of which it is, milliseconds since 1970. */
  readonly timeMs: number;
  readonly inodes: number;
}

export interface BackupReadRequest {
  readonly backup: number;
  /** 0, 1, 2 ...: in order. */
  readonly page: number;
}

export interface BackupReadReply {
  /** The next bytes of the backup's file. */
  readonly body: Uint8Array;
  readonly isLast: boolean;
}
