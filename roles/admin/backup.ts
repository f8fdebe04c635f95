/** `mfs backup`: reads the metadata of a running cluster as of one instant, and saves it in a file. */

import { saveFile } from "../../base/durable_files.ts";
import { FsError } from "../../wire/errno.ts";
import { type Dialer, tcpDialer } from "../../wire/dialer.ts";
import { withNameserver } from "./client.ts";
import { Progress } from "./progress.ts";
import { size } from "./units.ts";

const TIMEOUT_MS = 30_000;

export interface BackupResult {
  readonly file: string;
  readonly clusterId: string;
  /** The instant of which it is, as ISO 8601. */
  readonly time: string;
  readonly inodes: number;
  readonly bytes: number;
}

/** Errors: as Dialer.dial; EEXIST, EACCES of the file. What there was of the file is kept unless all went well. */
export async function backup(
  nameserver: string,
  file: string,
  options: { readonly force: boolean },
  dialer: Dialer = tcpDialer,
): Promise<BackupResult> {
  const progress = new Progress({ label: "backup", unit: "bytes" });
  try {
    return await withNameserver(nameserver, "backup", async ({ admin }) => {
      const request = { timeoutMs: TIMEOUT_MS };
      const opened = await admin.backupOpen({}, request);
      const pages = async function* () {
        for (let page = 0;; page++) {
          const reply = await admin.backupRead({ backup: opened.backup, page }, request);
          if (reply.isLast) return;
          yield reply.body;
        }
      };
      const { clusterId, timeMs, inodes } = opened;
      const bytes = await saveFile(file, pages(), {
        overwrite: options.force,
        onBytes: (done) => progress.update(done),
      });
      return { file, clusterId, time: new Date(timeMs).toISOString(), inodes, bytes };
    }, dialer);
  } catch (error) {
    throw fileError(error, file);
  } finally {
    progress.end();
  }
}

function fileError(error: unknown, file: string): unknown {
  const op = "backup";
  if (error instanceof Deno.errors.AlreadyExists) {
    const hint = error.message.includes(".partial") ? error.message : `${file} exists: --force replaces it`;
    return new FsError("EEXIST", hint, { op, cause: error });
  }
  if (error instanceof FsError || !(error instanceof Error)) return error;
  return new FsError("EACCES", `${file} can't be written: ${error.message}`, { op, cause: error });
}

export function formatBackup({ file, clusterId, time, inodes, bytes }: BackupResult): string {
  return `${file}: cluster ${clusterId} as of ${time}, ${inodes} inodes, ${size(bytes)}`;
}
