/**
 * Turns of the event loop that something waits for. The serving thread of a mount waits by itself for what comes next, and
 * sees sockets and calls in the pool from there, but not those (fs/kernel/turns.ts): it has to be told.
 */

import { setImmediate } from "node:timers";

let awaited = 0;
let made = 0;

/** Resolves when what has come in already was handled. */
export function turnOfTheEventLoop(): Promise<void> {
  return new Promise((resolve) => atNextTurn(resolve));
}

export function atNextTurn(action: () => void): void {
  awaited++;
  setImmediate(() => {
    awaited--;
    made++;
    action();
  });
}

/** Something goes on only when the thread is left to the event loop. */
export function isTurnAwaited(): boolean {
  return awaited > 0;
}

/**
 * A turn for who would hold up the thread after it: true when nobody else went on with it. Who did goes on step by step, and
 * waits for nothing else when the next turn comes.
 */
export async function turnAlone(): Promise<boolean> {
  const before = made;
  await turnOfTheEventLoop();
  return made === before + 1 && awaited === 0;
}
