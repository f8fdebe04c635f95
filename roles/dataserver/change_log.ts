/**
 * Which chunks of an open replica changed when, by its version: so that a copy that was made of an earlier version is
 * brought up to date by what changed since, exactly.
 */

export class ChangeLog {
  /** Of each chunk, the version of its last change; 0: none since the replica was opened. */
  #versions = new Float64Array(0);

  /** Chunks [from, to) change, or come, or go, and `version` is the first that shows it. */
  note(from: number, to: number, version: number): void {
    if (to > this.#versions.length) {
      const larger = new Float64Array(Math.max(to, this.#versions.length * 2));
      larger.set(this.#versions);
      this.#versions = larger;
    }
    this.#versions.fill(version, from, to);
  }

  /** Runs of chunks below `count` that changed after `version`: [from, to). */
  since(version: number, count: number): [number, number][] {
    const runs: [number, number][] = [];
    for (let i = 0; i < Math.min(count, this.#versions.length); i++) {
      if (this.#versions[i]! <= version) continue;
      const last = runs.at(-1);
      if (last?.[1] === i) last[1]++;
      else runs.push([i, i + 1]);
    }
    return runs;
  }
}
