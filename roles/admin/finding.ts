/** What one check of `mfs doctor` has found. */

export interface Finding {
  readonly subject: string;
  readonly state: "ok" | "warning" | "problem";
  /** What was found. */
  readonly text: string;
  /** What to do; absent: nothing. */
  readonly advice?: string;
}
