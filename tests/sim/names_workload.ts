/**
 * Programs on the clients that change names: each in a directory of its own, so that its mount may make the changes first and
 * tell of them later (fs/deferred_changes.ts). They look at their own directory, and at those of the others.
 *
 * Each change makes another state of the directory. What is checked:
 * - The program itself sees the last state. So does whoever looks after the change ended, unless the session of the changes
 *   ends before it told of them: then its program hears of it by its next sync or close.
 * - What is left when a client dies, or loses its session, is one of the states: none before the last that a sync or close
 *   vouched for, and nobody sees an earlier one than was seen before.
 */

import { bytesOf, textOf } from "../../base/bytes.ts";
import { FsError } from "../../wire/errno.ts";
import { type InodeId, ROOT_INODE } from "../../wire/ids.ts";
import { S_IFDIR, S_IFLNK } from "../../wire/messages/inode.ts";
import type { ClientHost, Cluster } from "./cluster.ts";
import { Register } from "./history.ts";
import { PAGE } from "./workload.ts";
import type { Interruptible } from "../../fs/interruptible.ts";

const NAMES = ["a", "b", "c", "d", "e", "f"];
const OWNER = { uid: 0, gid: 0 };
const PATIENT: Interruptible = { signal: new AbortController().signal };

/** A number that is not known yet. */
const ANY = -1 as InodeId;
const DT_DIR = 4;

type Names = ReadonlyMap<string, InodeId>;

/** One client's directory. */
class Owned {
  readonly name: string;
  ino: InodeId | undefined;
  /** All states so far. */
  readonly states: Names[] = [new Map()];
  /** The first that may be there. */
  floor = 0;
  /** The first that may be there after a power cut of the nameserver. */
  durable = 0;
  /** The nameserver's machine lost its power, and it is not known yet what is left. */
  hasFallenBack = false;
  /** What a change that was asked for in that power cut may have made of what was left. */
  made: Names[] = [];
  /** Power cuts of the nameserver so far. */
  cuts = 0;
  /** The change that is under way leads to it. */
  next: Names | undefined;
  /** And what it makes of another state. */
  change: (names: Names) => Names = (names) => names;
  /** The nameserver may be waiting with a change until others have given something up, whoever dies meanwhile. */
  isAsking = false;
  /** How often it was not known which is right. */
  epoch = 0;
  /** Some changes are lost, and its program was not told yet. */
  isLost = false;
  /** Somebody saw that some are lost: its program must hear of that. */
  mustBeLost = false;

  constructor(name: string) {
    this.name = name;
  }

  get last(): Names {
    return this.states.at(-1)!;
  }

  get count(): number {
    return this.states.length - 1;
  }

  /** What is under way has happened, or may have. */
  end(isDone: boolean): void {
    if (this.next !== undefined && isDone) this.states.push(this.next);
    this.next = undefined;
  }

  /** All may be as it was at the last sync, or later; what is being asked for may come on top of that. */
  fallBack(): void {
    this.hasFallenBack = true;
    this.cuts++;
    this.floor = this.durable;
    this.epoch++;
    if (this.next !== undefined) this.made.push(...this.states.slice(this.durable).map(this.change));
  }

  /** The last state is what is there, and on the nameserver's disk. */
  isSynced(count = this.count): void {
    this.floor = Math.max(this.floor, count);
    this.durable = Math.max(this.durable, count);
    this.hasFallenBack = false;
    this.made = [];
  }

  /** The first state from `from` on that was `seen`. */
  find(seen: Names, from: number): number | undefined {
    const all = this.next === undefined ? this.states : [...this.states, this.next];
    const at = all.findIndex((state, i) => i >= from && isSame(state, seen));
    if (at < 0 && this.hasFallenBack && this.made.some((state) => isSame(state, seen))) return this.count;
    return at < 0 ? undefined : at;
  }
}

function isSame(one: Names, other: Names): boolean {
  return one.size === other.size &&
    [...one].every(([name, ino]) => ino === ANY ? other.has(name) : other.get(name) === ino);
}

function text(names: Names): string {
  return [...names].map(([name, ino]) => `${name}=${ino}`).sort().join(" ");
}

export class NamesWorkload {
  readonly #cluster: Cluster;
  readonly #owned = new Map<ClientHost, Owned>();
  readonly #shown = new Map<Owned, string>();
  readonly registers: Iterable<Register> = [];
  readonly sources: ReadonlySet<InodeId> = new Set();
  readonly counts: Record<string, number> = {};
  /** All that are known. */
  readonly directories = new Set<InodeId>();
  isStopping = false;
  running = 0;

  constructor(cluster: Cluster) {
    this.#cluster = cluster;
    for (const client of cluster.clients) this.#owned.set(client, new Owned(`of ${client.host}`));
    cluster.onChangesLost = (host) => {
      for (const [client, owned] of this.#owned) {
        if (client.host === host) owned.isLost = true;
      }
    };
  }

  register(ino: InodeId, page: number): Register {
    return new Register(`${ino}.${page}`);
  }

  /** What a dead client's last request does later, nobody could tell from what its next life does. */
  mayDie(client: ClientHost): boolean {
    return !this.#owned.get(client)!.isAsking;
  }

  /** The nameserver's machine loses its power: what was not synced may be gone. */
  namespaceCut(): void {
    for (const owned of this.#owned.values()) owned.fallBack();
  }

  unstored(): ReadonlySet<unknown> {
    return new Set();
  }

  count(what: string, more = 1): void {
    this.counts[what] = (this.counts[what] ?? 0) + more;
  }

  died(client: ClientHost): void {
    const owned = this.#owned.get(client)!;
    owned.end(true);
    owned.isLost = owned.isAsking = false;
    owned.epoch++;
  }

  async run(client: ClientHost): Promise<void> {
    const { life } = client;
    this.running++;
    life!.onEnd.add(() => this.running--);
    try {
      const program = new Program(this, this.#cluster, client, this.#owned.get(client)!);
      while (!this.isStopping) {
        if (this.#cluster.simulation.chance(0.5)) await life!.wait(this.#cluster.simulation.between(0, 120));
        const others = this.#cluster.clients.filter((other) => other !== client);
        const other = this.#owned.get(this.#cluster.simulation.pick(others))!;
        await program.step(other);
      }
      await program.settle();
    } catch (error) {
      this.#cluster.problems.push(
        `${client.host}: ${error instanceof Error ? error.stack ?? error.message : String(error)}`,
      );
    }
    if (!life!.isOver) this.running--;
    life!.onEnd.clear();
  }

  /** All directories are as their programs left them, and all clients show the same attributes of what is there. */
  async readAll(client: ClientHost): Promise<void> {
    for (const owned of this.#owned.values()) {
      if (owned.ino === undefined) continue;
      const program = new Program(this, this.#cluster, client, owned);
      await program.lookAt(owned);
      const shown = await program.attributes();
      const first = this.#shown.get(owned) ?? shown;
      this.#shown.set(owned, first);
      if (first !== shown) {
        this.#cluster.problems.push(`${client.host} shows of "${owned.name}"\n${shown}, another\n${first}`);
      }
    }
  }
}

class Program {
  readonly #workload: NamesWorkload;
  readonly #cluster: Cluster;
  readonly #client: ClientHost;
  readonly #mine: Owned;
  /** How often it looks at the others, who then may not change names by themselves for a while. */
  readonly #looks: number;
  #isKnown = false;

  constructor(workload: NamesWorkload, cluster: Cluster, client: ClientHost, mine: Owned) {
    this.#workload = workload;
    this.#cluster = cluster;
    this.#client = client;
    this.#mine = mine;
    this.#looks = cluster.simulation.pick([0, 0.003, 0.02, 0.1]);
  }

  get #fs() {
    return this.#client.fs!;
  }

  async step(other: Owned): Promise<void> {
    const { simulation } = this.#cluster;
    if (this.#mine.ino === undefined) return await this.#makeDirectory();
    if (!this.#isKnown) return await this.#recognize();
    if (this.#mine.isLost || this.#mine.hasFallenBack) return await this.#sync();
    const dice = simulation.random.next();
    if (dice < this.#looks) await this.lookAt(other);
    else if (dice < 0.16) await this.#lookAtMine();
    else if (dice < 0.2) await this.#sync();
    else if (dice < 0.3) await this.#writeFile();
    else await this.#change();
  }

  /** A sync that succeeds, and a look: what was lost must have been told by then. */
  async settle(): Promise<void> {
    while (!this.#isKnown || this.#mine.isLost || this.#mine.hasFallenBack) {
      await this.#client.life!.wait(100);
      await this.step(this.#mine);
    }
    await this.#sync();
    const { calls } = this.#fs.session;
    for (const call of ["defer", "claim", "make", "link", "remove", "rename", "create"]) {
      this.#workload.count(`call ${call}`, calls[call] ?? 0);
    }
  }

  async #attempt(what: string, call: () => unknown): Promise<"done" | FsError> {
    this.#cluster.trace(`${this.#client.host} ${what} ...`);
    try {
      await call();
      this.#workload.count(what.split(" ")[0]!);
      this.#cluster.trace(`${this.#client.host} ${what} done`);
      return "done";
    } catch (error) {
      if (!(error instanceof FsError)) throw error;
      this.#workload.count(`${what.split(" ")[0]!} ${error.errno}`);
      this.#cluster.trace(`${this.#client.host} ${what} failed: ${error.errno} ${error.message}`);
      return error;
    }
  }

  async #asking<T>(call: () => T | Promise<T>): Promise<T> {
    this.#mine.isAsking = true;
    try {
      return await call();
    } finally {
      this.#mine.isAsking = false;
    }
  }

  async #makeDirectory(): Promise<void> {
    const request = { parent: ROOT_INODE, name: bytesOf(this.#mine.name), credentials: OWNER };
    const { cuts } = this.#mine;
    await this.#attempt("mkdir", async () => {
      const found = await this.#fs.names.lookup(ROOT_INODE, request.name, PATIENT);
      const made = found.inode ??
        (await this.#fs.names.make({ ...request, mode: S_IFDIR | 0o755 }, PATIENT)).inode!;
      await this.#fs.names.syncNamespace();
      if (this.#mine.cuts !== cuts) throw new FsError("EAGAIN", "it may have gone before it was synced");
      made.lookups++;
      this.#mine.ino = made.ino;
      this.#isKnown = true;
    });
  }

  /** Which state is it? Whoever comes later goes on from there. */
  async #recognize(): Promise<void> {
    const mine = this.#mine;
    const { cuts } = mine;
    let seen: Names | undefined;
    const result = await this.#attempt("recognize", async () => {
      seen = await this.#list(mine);
      await this.#fs.names.syncNamespace();
    });
    if (result !== "done" || mine.isLost) {
      mine.isLost = false;
      return;
    }
    if (mine.cuts !== cuts) return;
    if (mine.find(seen!, mine.floor) === undefined) return this.#wrong(mine, seen!, mine.floor);
    mine.states.push(seen!);
    mine.isSynced();
    mine.mustBeLost = false;
    mine.epoch++;
    this.#isKnown = true;
  }

  /** The directory's names, as its lookup and one reading show them. */
  async #list({ ino, name }: Owned): Promise<Names> {
    const { names } = this.#fs;
    const { inode } = await names.lookup(ROOT_INODE, bytesOf(name), PATIENT);
    if (inode === null || inode.ino !== ino) throw new FsError("ENOENT", `${name} is not there`);
    inode.lookups++;
    const seen = new Map<string, InodeId>();
    const stream = names.openDirectory(inode.ino, false);
    await stream.read(0, this.#cluster.simulation.chance(0.5), (entry) => {
      const name = textOf(entry.name);
      if (name !== "." && name !== "..") seen.set(name, entry.ino);
      if (entry.type === DT_DIR) this.#workload.directories.add(entry.ino);
      return true;
    }, PATIENT);
    names.closeDirectory(stream);
    return seen;
  }

  #wrong({ name, states, next }: Owned, seen: Names, from: number): void {
    const all = [...states, ...next === undefined ? [] : [next]].map((state, i) => `${i}: ${text(state)}`);
    this.#cluster.problems.push(
      `${this.#client.host} sees in "${name}" ${text(seen)}, and not\n${all.slice(from).join("\n")}`,
    );
  }

  async lookAt(other: Owned): Promise<void> {
    if (other.ino === undefined) return;
    const { count, floor, epoch, cuts } = other;
    let seen: Names | undefined;
    if (await this.#attempt("look", async () => seen = await this.#list(other)) !== "done") return;
    if (other.find(seen!, count) !== undefined || other.cuts !== cuts) return;
    const at = other.find(seen!, floor);
    if (at === undefined) return this.#wrong(other, seen!, floor);
    if (other.epoch !== epoch || other.hasFallenBack) return;
    // Its session has ended before it could tell all: its program will hear of that, if it does not know yet.
    other.mustBeLost = true;
    other.floor = Math.max(other.floor, at);
  }

  /** Of the directory and all in it, but times of access. */
  async attributes(): Promise<string> {
    const { names } = this.#fs;
    const lines: string[] = [];
    for (const ino of [this.#mine.ino!, ...(await this.#list(this.#mine)).values()]) {
      const { atime: _, version: __, ...shown } = names.shown(await names.getattr(ino, PATIENT));
      lines.push(JSON.stringify(Object.entries(shown).filter(([, value]) => value).sort()));
    }
    return lines.sort().join("\n");
  }

  async #lookAtMine(): Promise<void> {
    const mine = this.#mine;
    let seen: Names | undefined;
    if (await this.#attempt("look", async () => seen = await this.#list(mine)) !== "done") return;
    if (mine.hasFallenBack) return;
    if (!mine.isLost && !isSame(seen!, mine.last)) this.#wrong(mine, seen!, mine.count);
    const name = this.#cluster.simulation.pick(NAMES);
    let found: InodeId | undefined;
    const looked = await this.#attempt("lookup", async () => {
      found = (await this.#fs.names.lookup(mine.ino!, bytesOf(name), PATIENT)).inode?.ino;
    });
    if (looked !== "done" || mine.isLost || mine.hasFallenBack || found === mine.last.get(name)) return;
    this.#cluster.problems.push(`${this.#client.host} finds ${found} as ${name}, not ${mine.last.get(name)}`);
  }

  /** What was done is certain from here on, or it is said that it is lost. */
  async #sync(): Promise<void> {
    const mine = this.#mine;
    const { count, isLost, cuts } = mine;
    const result = await this.#attempt("sync", () => this.#fs.names.syncNamespace());
    this.#vouched(result === "done", isLost, count);
    // After a power cut as well: it would have said if something was gone.
    if (result === "done" && mine.cuts === cuts) mine.isSynced(count);
  }

  #vouched(isDone: boolean, wasLost: boolean, count: number): void {
    const mine = this.#mine;
    if (isDone && (wasLost || mine.isLost || mine.mustBeLost)) {
      this.#cluster.problems.push(`${this.#client.host}: changes were lost, and nobody was told`);
    }
    if (!isDone) this.#unsure();
    else if (!mine.hasFallenBack) mine.floor = Math.max(mine.floor, count);
  }

  /** Something is lost, or may be. */
  #unsure(): void {
    const mine = this.#mine;
    mine.end(true);
    mine.isLost = mine.mustBeLost = false;
    mine.epoch++;
    this.#isKnown = false;
  }

  /** Makes one file, writes to it and closes it. */
  async #writeFile(): Promise<void> {
    const mine = this.#mine;
    const name = this.#cluster.simulation.pick(NAMES);
    if (mine.last.has(name)) return;
    const { files } = this.#fs;
    const count = mine.count + 1;
    const next = new Map(mine.last);
    // A number that no file has, until it is known.
    mine.next = next.set(name, ANY);
    mine.change = (names) => new Map(names).set(name, ANY);
    const result = await this.#attempt("create", async () => {
      const request = { parent: mine.ino!, name: bytesOf(name), credentials: OWNER, mode: 0o644 };
      const how = { ...request, exclusive: true, write: true };
      const { handle } = await this.#asking(() => files.create(how, { truncate: false }, PATIENT));
      next.set(name, handle.file.ino);
      const data = new Uint8Array(this.#cluster.simulation.pick([0, 2 * PAGE, 8 * PAGE]));
      const writing = { append: false, isWriteback: false, killSuidGid: false };
      try {
        if (data.length > 0) await files.write(handle, 0, data, writing, PATIENT);
        await files.flush(handle);
      } finally {
        await files.close(handle);
      }
    });
    if (result === "done") mine.end(true);
    this.#vouched(result === "done", false, count);
  }

  async #change(): Promise<void> {
    const { simulation } = this.#cluster;
    const { names } = this.#fs;
    const mine = this.#mine;
    const parent = mine.ino!;
    const name = simulation.pick(NAMES);
    const there = mine.last.get(name);
    const next = new Map(mine.last);
    mine.next = next;
    let call: () => unknown;
    let what: string;
    if (there === undefined) {
      // Only what is a directory here, or what is not: so whatever is there can be replaced.
      const mode = name < "d" ? S_IFDIR | 0o755 : S_IFLNK | 0o777;
      const target = name < "d" ? {} : { target: bytesOf("x") };
      what = `make ${name}`;
      next.set(name, ANY);
      mine.change = (names) => new Map(names).set(name, ANY);
      call = async () => {
        const request = { parent, name: bytesOf(name), credentials: OWNER, mode, ...target };
        const { ino } = (await names.make(request, PATIENT)).inode!;
        next.set(name, ino);
        if (name < "d") this.#workload.directories.add(ino);
      };
    } else if (!this.#isDirectory(there) && simulation.chance(0.2)) {
      const to = simulation.pick(NAMES.filter((other) => other >= "d"));
      if (mine.last.has(to)) return mine.end(false);
      what = `link ${name} as ${to}`;
      next.set(to, there);
      call = () => names.link(there, parent, bytesOf(to), PATIENT);
    } else if (simulation.chance(0.5)) {
      what = `remove ${name}`;
      next.delete(name);
      mine.change = (names) => new Map([...names].filter(([other]) => other !== name));
      call = () => names.remove(parent, bytesOf(name), this.#isDirectory(there), PATIENT);
    } else {
      const to = simulation.pick(NAMES.filter((other) => other !== name));
      const replaced = mine.last.get(to);
      // Of two names of one file none goes.
      if (replaced === there) return mine.end(false);
      if (replaced !== undefined && this.#isDirectory(replaced) !== this.#isDirectory(there)) {
        return mine.end(false);
      }
      what = `rename ${name} to ${to}`;
      next.delete(name);
      next.set(to, there);
      mine.change = (names) => {
        const moved = names.get(name);
        const others = [...names].filter(([other]) => other !== name);
        return new Map(moved === undefined ? others : [...others, [to, moved]]);
      };
      call = () => names.rename(parent, bytesOf(name), parent, bytesOf(to), 0, PATIENT);
    }
    const result = await this.#attempt(what, () => this.#asking(call));
    if (result === "done") {
      mine.end(true);
    } else if (result.errno === "EIO" || mine.hasFallenBack) {
      this.#unsure();
    } else {
      this.#cluster.problems.push(`${this.#client.host} ${what}: ${result.errno} ${result.message}`);
    }
  }

  #isDirectory(ino: InodeId): boolean {
    return this.#workload.directories.has(ino);
  }
}
