/**
 * What a large namespace costs the nameserver: `scripts/bench-namespace --help`.
 *
 * Makes a namespace of N files (1,000,000) of one block with two replicas each, a thousand a directory, by the
 * namespace's own operations; then measures from the start of `mfs nameserver` to its `ready`, its memory then, after
 * 100,000 lookups and 100 listings over the wire, after `mfs status`, and during a backup.
 */

import { Command } from "commander";
import { bytesOf, EMPTY_BYTES } from "../../base/bytes.ts";
import { systemClock } from "../../base/clock.ts";
import { backup } from "../../roles/admin/backup.ts";
import { fetchStatus } from "../../roles/admin/status.ts";
import { allocateBlock, markWritten } from "../../roles/nameserver/block_operations.ts";
import { LevelJournal } from "../../roles/nameserver/journal.ts";
import { nodeKey, volumeKey } from "../../roles/nameserver/keys.ts";
import { databasePath, formatNameserver } from "../../roles/nameserver/layout.ts";
import { Namespace } from "../../roles/nameserver/namespace.ts";
import { grow, make } from "../../roles/nameserver/operations.ts";
import { freePort } from "../../roles/singlenode/supervisor.ts";
import { MfsProcess } from "../../tests/harness/process.ts";
import { storedCodec } from "../../wire/codec.ts";
import { tcpDialer } from "../../wire/dialer.ts";
import { helloOf } from "../../wire/hello.ts";
import { asVolumeId, type InodeId, ROOT_INODE } from "../../wire/ids.ts";
import { S_IFDIR, S_IFREG } from "../../wire/messages/inode.ts";
import { LEASESERVER, NAMESERVER } from "../../wire/messages/nameserver.ts";
import { createClient } from "../../wire/service.ts";
import { number } from "./arguments.ts";

const FILES_PER_DIRECTORY = 1_000;
const BATCH = 500;
const LOOKUPS = 100_000;
const LISTINGS = 100;
const BLOCK_BYTES = 128 * 1024 * 1024;
const PAGE_KIB_PER_MIB = 1024;

interface Options {
  readonly files: number;
  readonly dir?: string;
  readonly json: boolean;
}

function parse(args: readonly string[]): Options {
  return new Command("scripts/bench-namespace")
    .description("What a large namespace costs the nameserver: start, memory, requests.")
    .option("--files <n>", "how many files there are", number(FILES_PER_DIRECTORY, 100_000_000), 1_000_000)
    .option("--dir <dir>", "where to make it, and leave it (default: a temporary directory)")
    .option("--json", "print JSON and nothing else", false)
    .parse([...args], { from: "user" }).opts<Options>();
}

/**
 * Resident memory in MiB: the process's own, and with the pages of the database that it has mapped, which are the page
 * cache's and go when anybody needs the room.
 */
function memory(pid: number): { readonly ownMiB: number; readonly residentMiB: number } {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  const of = (name: string) =>
    Math.round(Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)![1]) / PAGE_KIB_PER_MIB);
  return { ownMiB: of("RssAnon"), residentMiB: of("VmRSS") };
}

const directoryName = (number: number) => bytesOf(`directory-${number}`);
const fileName = (number: number) => bytesOf(`file-${String(number).padStart(9, "0")}.data`);

async function fill(dir: string, files: number): Promise<InodeId[]> {
  await formatNameserver(dir, { force: false });
  const journal = await LevelJournal.open(databasePath(dir), {
    createIfMissing: false,
    onFailure: (error) => {
      throw error;
    },
  });
  for (const id of [1, 2, 3]) {
    const common = { node: id, label: `label ${id}` };
    journal.append([
      [nodeKey(id), storedCodec.encode({ ...common, host: `node${id}`, address: `127.0.0.1:${id}` })],
      [volumeKey(id), storedCodec.encode({ ...common, volume: id, path: `/disks/${id}` })],
    ]);
  }
  const namespace = await Namespace.load(journal, systemClock);
  const what = { credentials: { uid: 1000, gid: 1000 }, rdev: 0, target: EMPTY_BYTES };
  const directories: InodeId[] = [];
  for (let at = 0; at < files; at += BATCH) {
    await namespace.change((tx) => {
      if (at % FILES_PER_DIRECTORY === 0) {
        const name = directoryName(directories.length);
        directories.push(make(tx, ROOT_INODE, name, { ...what, mode: S_IFDIR | 0o755 }).ino);
      }
      for (let number = at; number < Math.min(files, at + BATCH); number++) {
        const file = make(tx, directories.at(-1)!, fileName(number), { ...what, mode: S_IFREG | 0o644 });
        const volumes = [asVolumeId(1 + number % 3), asVolumeId(1 + (number + 1) % 3)];
        const extent = allocateBlock(tx, file, 0, BLOCK_BYTES, () => volumes);
        markWritten(tx, file, [extent]);
        grow(tx, file, 1 + number % 100_000);
      }
    });
  }
  await journal.close();
  return directories;
}

/** Lookups of files all over the tree, then whole listings: seconds for each. */
async function storm(address: string, pid: number, directories: readonly InodeId[], files: number) {
  const { channel } = await tcpDialer.dial(address, {
    hello: helloOf("client", "", "bench"),
    expectRole: "nameserver",
    onPush: () => ({ ok: true, open: [] }),
  });
  const call: Parameters<typeof createClient>[1] = (op, request, options) =>
    channel.call(op, request, options);
  const nameserver = createClient(NAMESERVER, call);
  const leaseserver = createClient(LEASESERVER, call);
  await leaseserver.openSession({
    clientId: "bench",
    host: "bench",
    mountpoint: "/bench",
    readsInline: true,
  });
  const renewal = setInterval(() => leaseserver.renew({}), 1_000);
  const inParallel = async (
    count: number,
    parallel: number,
    run: (i: number) => Promise<unknown>,
  ): Promise<number> => {
    const startMs = performance.now();
    let next = 0;
    const worker = async () => {
      while (next < count) await run(next++);
    };
    await Promise.all(Array.from({ length: parallel }, worker));
    return (performance.now() - startMs) / 1000;
  };
  const lookups = await inParallel(LOOKUPS, 64, async (i) => {
    const number = (i * 7919) % files; // a prime: all over the tree
    const parent = directories[Math.floor(number / FILES_PER_DIRECTORY)]!;
    await nameserver.lookup({ parent, name: fileName(number) });
  });
  const lookedMemory = memory(pid);
  const listings = await inParallel(LISTINGS, 4, async (i) => {
    const ino = directories[i % directories.length]!;
    for (let cookie = 0;;) {
      const { entries } = await nameserver.readDirectory({ ino, cookie, limit: 1000, withInodes: true });
      if (entries.length === 0) return;
      cookie = entries.at(-1)!.cookie;
    }
  });
  clearInterval(renewal);
  channel.close();
  return { lookups, lookedMemory, listings };
}

async function main(): Promise<void> {
  const { files, dir: given, json } = parse(Deno.args);
  const scratch = given ?? Deno.makeTempDirSync({ prefix: "mfs-bench-" });
  const dir = `${scratch}/nameserver`;
  let server: MfsProcess | undefined;
  try {
    const filled = performance.now();
    const directories = await fill(dir, files);
    const fillSeconds = (performance.now() - filled) / 1000;
    const address = `127.0.0.1:${freePort("127.0.0.1")}`;
    const started = performance.now();
    server = await MfsProcess.start(["nameserver", "--dir", dir, "--listen", address]);
    const startMs = performance.now() - started;
    const atStart = memory(server.pid);
    const stormed = await storm(address, server.pid, directories, files);
    const afterStorm = memory(server.pid);
    await fetchStatus(address);
    const afterStatus = memory(server.pid);
    const savedMs = performance.now();
    let duringBackup = memory(server.pid);
    const sampling = setInterval(() => {
      const now = memory(server!.pid);
      if (now.ownMiB > duringBackup.ownMiB) duringBackup = now;
    }, 100);
    const saved = await backup(address, `${scratch}/backup`, { force: true });
    clearInterval(sampling);
    const result = {
      files,
      fillSeconds,
      startMs,
      lookupsPerSecond: LOOKUPS / stormed.lookups,
      entriesListedPerSecond: LISTINGS * FILES_PER_DIRECTORY / stormed.listings,
      backupSeconds: (performance.now() - savedMs) / 1000,
      backupMiB: saved.bytes / 1024 / 1024,
    };
    const memories = {
      atStart,
      afterLookups: stormed.lookedMemory,
      afterListings: afterStorm,
      afterStatus,
      duringBackup,
      afterBackup: memory(server.pid),
    };
    if (json) console.log(JSON.stringify({ ...result, memory: memories }));
    else tell(result, memories);
  } catch (error) {
    console.error(server?.log ?? "");
    throw error;
  } finally {
    await server?.stop();
    if (given === undefined) Deno.removeSync(scratch, { recursive: true });
  }
}

function tell(
  numbers: Readonly<Record<string, number>>,
  memories: Readonly<Record<string, ReturnType<typeof memory>>>,
): void {
  for (const [name, value] of Object.entries(numbers)) console.log(`${name.padEnd(24)}${Math.round(value)}`);
  for (const [name, { ownMiB, residentMiB }] of Object.entries(memories)) {
    console.log(`${`MiB ${name}`.padEnd(24)}${ownMiB} (${residentMiB} with mapped pages of the database)`);
  }
}

await main();
