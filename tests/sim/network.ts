/**
 * The simulated network: connections between hosts that deliver in order, late, or break. Messages of one connection keep
 * their order; those of two don't. What was on its way when a connection breaks is lost, so that a request may have been
 * carried out though its sender hears an error. Behind a cut nothing arrives until it is mended; nobody is told of it, but a
 * caller that has set a limit to its peer's silence closes its end. What it had sent arrives all the same, when the cut is
 * mended, long after what it sends by another connection then: the kernel goes on trying, more and more seldom.
 */

import { CALL_TIMEOUT_MS_DEFAULT, PUSH_TIMEOUT_MS_DEFAULT } from "../../wire/limits.ts";
import type { Dialer, DialOptions } from "../../wire/dialer.ts";
import { asFsError, FsError } from "../../wire/errno.ts";
import { checkHello, HELLO_TIMEOUT_MS } from "../../wire/hello.ts";
import type { RunningServer, serve, ServerOptions } from "../../wire/server.ts";
import type { CallContext, CallOptions, Channel, Peer, PushHandler, Role } from "../../wire/service.ts";
import type { Life, Simulation } from "./simulation.ts";

/** So late comes what was sent by a connection that its sender has closed since. */
const LATE_MS_MAX = 3_000;

interface Listener {
  readonly life: Life;
  readonly options: ServerOptions;
}

export class Network {
  readonly #simulation: Simulation;
  readonly #listeners = new Map<string, Listener>();
  readonly connections = new Set<Connection>();
  /** Pairs of hosts that nothing passes between, as "A B". */
  readonly #cuts = new Set<string>();
  /** By how much a host's messages take longer. */
  readonly slowness = new Map<string, number>();
  trace: ((text: string) => void) | null = null;

  constructor(simulation: Simulation) {
    this.#simulation = simulation;
  }

  get simulation(): Simulation {
    return this.#simulation;
  }

  /** What the process of `life` listens with. */
  serveFor(life: Life): typeof serve {
    return (listen, options): RunningServer => {
      const listener = { life, options };
      this.#listeners.set(listen, listener);
      const close = () => {
        if (this.#listeners.get(listen) === listener) this.#listeners.delete(listen);
        for (const connection of this.connections) {
          if (connection.server.life === life) connection.break();
        }
        return Promise.resolve();
      };
      life.onEnd.add(() => {
        if (this.#listeners.get(listen) === listener) this.#listeners.delete(listen);
      });
      return { address: listen, close, [Symbol.asyncDispose]: close };
    };
  }

  dialerFor(life: Life): Dialer {
    return { dial: (address, options) => this.#dial(life, address, options) };
  }

  async #dial(
    life: Life,
    address: string,
    options: DialOptions,
  ): Promise<{ channel: Channel; clusterId: string }> {
    const host = address.slice(0, address.indexOf(":"));
    const timeoutMs = options.timeoutMs ?? HELLO_TIMEOUT_MS;
    const startMs = this.#simulation.nowMs;
    while (this.isCut(life.host, host)) {
      await life.wait(50);
      if (this.#simulation.nowMs - startMs > timeoutMs) {
        throw new FsError("ETIMEDOUT", `${address} did not accept a connection within ${timeoutMs} ms`);
      }
    }
    await life.wait(this.delayMs(life.host, host));
    const listener = this.#listeners.get(address);
    if (listener === undefined || listener.life.isOver) {
      await life.wait(this.delayMs(host, life.host));
      throw new FsError("ECONNREFUSED", `${address}: connection refused (is it running?)`);
    }
    const { role } = listener.options;
    const clusterId = listener.options.clusterId();
    checkHello(options.hello, clusterId, role, this.#simulation.nowMs);
    if (role !== options.expectRole) throw new FsError("EPROTO", `${address} is a ${role}`);
    const connection = new Connection(this, life, listener, options);
    this.connections.add(connection);
    await life.wait(this.delayMs(host, life.host));
    return { channel: connection.client, clusterId };
  }

  delayMs(from: string, to: string): number {
    const { random } = this.#simulation;
    const slowness = (this.slowness.get(from) ?? 0) + (this.slowness.get(to) ?? 0);
    const usual = 0.05 + 0.5 * random.next() ** 3;
    const rare = this.#simulation.chance(0.01) ? 30 * random.next() : 0;
    return usual + rare + slowness * random.next();
  }

  cut(a: string, b: string): void {
    this.#cuts.add(`${a} ${b}`);
    this.#cuts.add(`${b} ${a}`);
  }

  mend(): void {
    this.#cuts.clear();
    this.slowness.clear();
    for (const connection of this.connections) connection.flow();
  }

  isCut(a: string, b: string): boolean {
    return this.#cuts.size > 0 && this.#cuts.has(`${a} ${b}`);
  }

  /**
   * The process has died. `isSilent`: with its machine, so that no peer is told before long; else what it had sent may
   * still arrive.
   */
  kill(life: Life, isSilent: boolean): void {
    for (const connection of this.connections) {
      const { client, server } = connection;
      if (client.life !== life && server.life !== life) continue;
      if (isSilent || this.#simulation.chance(0.5)) connection.break(isSilent);
      else connection.drain(client.life === life ? client : server);
    }
  }
}

type Message =
  | { readonly kind: "request"; readonly id: number; readonly op: number; readonly content: unknown }
  | { readonly kind: "answer"; readonly id: number; readonly content: unknown }
  | { readonly kind: "error"; readonly id: number; readonly content: FsError }
  | { readonly kind: "cancel"; readonly id: number };

interface Pending {
  resolve(value: unknown): void;
  reject(error: FsError): void;
  readonly done: () => void;
}

/** One end: asks the other, and is asked by it. */
class End implements Channel {
  readonly #connection: Connection;
  readonly life: Life;
  readonly name: string;
  /** Answers what the other end asks. */
  readonly #answer: (op: number, content: unknown, context: CallContext) => unknown;
  readonly #timeoutMs: number;
  readonly #pending = new Map<number, Pending>();
  readonly #running = new Map<number, Context>();
  #nextId = 1;
  isClosed = false;
  #resolveClosed!: () => void;
  readonly closed: Promise<void> = new Promise((resolve) => this.#resolveClosed = resolve);
  peer: Peer | null = null;

  constructor(
    connection: Connection,
    life: Life,
    timeoutMs: number,
    answer: (op: number, content: unknown, context: CallContext) => unknown,
  ) {
    this.#connection = connection;
    this.life = life;
    this.name = life.host;
    this.#timeoutMs = timeoutMs;
    this.#answer = answer;
  }

  call(op: number, request: unknown, options: CallOptions = {}): Promise<unknown> {
    if (this.life.isOver) return new Promise(() => {});
    if (this.isClosed) return Promise.reject(new FsError("ENOTCONN", "no connection"));
    const { signal } = options;
    if (signal?.aborted) return Promise.reject(new FsError("EINTR", "the call was cancelled"));
    const id = this.#nextId++;
    const timeoutMs = options.timeoutMs ?? this.#timeoutMs;
    return new Promise((resolve, reject) => {
      const giveUp = (error: FsError) => {
        const pending = this.#take(id);
        if (pending === undefined) return;
        this.#connection.send(this, { kind: "cancel", id });
        pending.reject(error);
      };
      const onAbort = () => giveUp(new FsError("EINTR", "the call was cancelled"));
      signal?.addEventListener("abort", onAbort, { once: true });
      const cancel = this.life.simulation.after(
        timeoutMs,
        () => {
          if (!this.life.isOver) giveUp(new FsError("ETIMEDOUT", `no answer within ${timeoutMs} ms`));
        },
      );
      const done = () => {
        cancel();
        signal?.removeEventListener("abort", onAbort);
      };
      this.#pending.set(id, { resolve, reject, done });
      this.#connection.send(this, { kind: "request", id, op, content: copyOf(request) });
    });
  }

  #take(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    pending?.done();
    return pending;
  }

  get isWaiting(): boolean {
    return this.#pending.size > 0;
  }

  receive(message: Message): void {
    switch (message.kind) {
      case "request":
        void this.#serve(message.id, message.op, message.content);
        return;
      case "answer":
        this.#take(message.id)?.resolve(message.content);
        return;
      case "error":
        this.#take(message.id)?.reject(message.content);
        return;
      case "cancel":
        this.#running.get(message.id)?.abort();
    }
  }

  async #serve(id: number, op: number, content: unknown): Promise<void> {
    const context = new Context(() => this.peer!);
    this.#running.set(id, context);
    let message: Message;
    try {
      const result = await this.#answer(op, content, context);
      message = { kind: "answer", id, content: copyOf(result) };
    } catch (error) {
      if (!(error instanceof FsError)) this.#connection.failed(error);
      message = { kind: "error", id, content: asFsError(error, `operation ${op}`) };
    }
    this.#running.delete(id);
    this.#connection.send(this, message);
  }

  /** As the connection breaks, or is closed here. */
  shut(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    if (this.life.isOver) return;
    for (const id of [...this.#pending.keys()]) {
      this.#take(id)?.reject(new FsError("ENOTCONN", "the connection ended"));
    }
    for (const context of this.#running.values()) context.abort();
    this.#resolveClosed();
  }

  close(): void {
    this.#connection.closeBy(this);
  }
}

/** The context of a request; its signal is made when it is first looked at. */
class Context implements CallContext {
  readonly #peer: () => Peer;
  #abort: AbortController | undefined;

  constructor(peer: () => Peer) {
    this.#peer = peer;
  }

  get peer(): Peer {
    return this.#peer();
  }

  get signal(): AbortSignal {
    return (this.#abort ??= new AbortController()).signal;
  }

  abort(): void {
    this.#abort?.abort();
  }
}

/** As it is when it is sent: what is written to its bytes afterwards, or found by its getters, is not. */
function copyOf(content: unknown): unknown {
  if (content === null || typeof content !== "object") return content;
  const copy = { ...content } as { body?: unknown };
  if (copy.body instanceof Uint8Array) copy.body = copy.body.slice();
  return copy;
}

interface Direction {
  readonly from: End;
  readonly to: End;
  readonly queue: Message[];
  /** When the message before arrives. */
  lastMs: number;
  isMoving: boolean;
}

export class Connection {
  readonly #network: Network;
  readonly client: End;
  readonly server: End;
  readonly #directions: readonly Direction[];
  readonly #silenceMs: number | undefined;
  #isWatched = false;
  #isBroken = false;
  /** The end of a process that has died: the connection breaks when what it had sent has arrived. */
  #drained: End | null = null;

  constructor(network: Network, life: Life, listener: Listener, options: DialOptions) {
    this.#network = network;
    const { onPush } = options;
    this.#silenceMs = options.silenceMs;
    this.client = new End(
      this,
      life,
      CALL_TIMEOUT_MS_DEFAULT,
      (op, message) => answerPush(onPush, op, message),
    );
    this.server = new End(this, listener.life, PUSH_TIMEOUT_MS_DEFAULT, (op, request, context) => {
      const handler = listener.options.handlers.get(op);
      if (handler === undefined) throw new FsError("ENOSYS", `unknown operation ${op}`);
      return handler(request, context);
    });
    const { role, description } = options.hello;
    this.server.peer = peerOf(this.server, role, description);
    this.#directions = [
      { from: this.client, to: this.server, queue: [], lastMs: 0, isMoving: false },
      { from: this.server, to: this.client, queue: [], lastMs: 0, isMoving: false },
    ];
  }

  send(from: End, message: Message): void {
    if (this.#isBroken || from.isClosed || from.life.isOver) return;
    const direction = this.#directions.find((one) => one.from === from)!;
    direction.queue.push(message);
    this.#move(direction);
    if (from === this.client && !this.#isWatched && this.#silenceMs !== undefined) {
      this.#watch(this.#silenceMs);
    }
  }

  /** As SilenceWatch: whoever can be reached is heard of, whatever it is busy with. */
  #watch(silenceMs: number): void {
    const { client, server } = this;
    const { simulation } = this.#network;
    let heardMs = simulation.nowMs;
    this.#isWatched = true;
    const look = () => {
      if (!this.#network.isCut(client.name, server.name)) heardMs = simulation.nowMs;
      if (!client.isClosed && !client.life.isOver && client.isWaiting) {
        if (simulation.nowMs < heardMs + silenceMs) return void simulation.after(silenceMs / 4, look);
        this.closeBy(client);
      }
      this.#isWatched = false;
    };
    simulation.after(silenceMs / 4, look);
  }

  /** What waited behind a cut goes on. */
  flow(): void {
    for (const direction of this.#directions) this.#move(direction);
  }

  #move(direction: Direction): void {
    const { from, to, queue } = direction;
    if (direction.isMoving || queue.length === 0 || this.#network.isCut(from.name, to.name)) return;
    const { simulation } = this.#network;
    direction.isMoving = true;
    const triedMs = from.isClosed ? simulation.between(0, LATE_MS_MAX) : 0;
    simulation.after(triedMs + this.#network.delayMs(from.name, to.name), () => {
      direction.isMoving = false;
      if (this.#isBroken) return;
      if (this.#network.isCut(from.name, to.name)) return;
      const message = queue.shift()!;
      this.#move(direction);
      if (from === this.#drained && queue.length === 0) this.break();
      if (to.life.isOver || to.isClosed) return;
      const { trace } = this.#network;
      if (trace !== null) trace(`${from.name} -> ${to.name} ${describe(message)}`);
      to.receive(message);
    });
  }

  /** A bug in the product: not an error of ours. */
  failed(error: unknown): void {
    const text = error instanceof Error ? error.stack ?? error.message : String(error);
    this.#network.trace?.(`request failed: ${text}`);
  }

  drain(end: End): void {
    this.#drained = end;
    if (this.#directions.find(({ from }) => from === end)!.queue.length === 0) this.break();
  }

  /** What is on its way is lost; each end is told at a time of its own. */
  break(isSilent = false): void {
    if (this.#isBroken) return;
    this.#isBroken = true;
    this.#network.connections.delete(this);
    const { simulation } = this.#network;
    for (const end of [this.client, this.server]) {
      const lateMs = isSilent ? simulation.between(500, 20_000) : simulation.between(0, 20);
      simulation.after(lateMs, () => end.shut());
    }
  }

  /** One end closes: it knows at once, the other after what is on its way to it. */
  closeBy(end: End): void {
    end.shut();
    if (this.#isBroken) return;
    const { simulation } = this.#network;
    const other = end === this.client ? this.server : this.client;
    const tell = () => {
      if (this.#isBroken) return;
      const { queue } = this.#directions.find(({ from }) => from === end)!;
      if (queue.length > 0 || this.#network.isCut(end.name, other.name)) {
        simulation.after(500, tell);
        return;
      }
      this.#isBroken = true;
      this.#network.connections.delete(this);
      other.shut();
    };
    simulation.after(this.#network.delayMs(end.name, other.name) + 5, tell);
  }
}

function answerPush(onPush: PushHandler | undefined, op: number, message: unknown): unknown {
  if (onPush === undefined) throw new FsError("ENOSYS", "this end takes no pushes");
  return onPush(op, message);
}

function peerOf(end: End, role: Role, description: string): Peer {
  return {
    role,
    description,
    state: undefined,
    closed: end.closed,
    push: (op, message, options) => end.call(op, message, options),
  };
}

function describe(message: Message): string {
  if (message.kind === "cancel") return `cancel ${message.id}`;
  if (message.kind === "error") {
    return `error ${message.id} ${message.content.errno} ${message.content.message}`;
  }
  const text = JSON.stringify(message.content, (key, value) => {
    if (value instanceof Uint8Array) {
      return key === "body" ? `${value.length} bytes` : new TextDecoder().decode(value);
    }
    return value;
  });
  const op = message.kind === "request" ? ` op ${message.op}` : "";
  return `${message.kind} ${message.id}${op} ${text?.slice(0, 400)}`;
}
