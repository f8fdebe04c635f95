/** How often what the kernel wants to know was known here, and how often it was asked for; since the mount started. */

export class CacheCount {
  hits = 0;
  misses = 0;
}

/** By what is cached. */
export type CacheCounts = Readonly<Record<string, Readonly<CacheCount>>>;
