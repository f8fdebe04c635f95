/** All workloads, in the order in which one makes what the next one uses. */

import { LARGE_FILES } from "./large_files.ts";
import { LOGS } from "./logs.ts";
import { SMALL_FILES } from "./small_files.ts";
import { TREES } from "./trees.ts";
import type { Workload } from "./workload.ts";

export const WORKLOADS: readonly Workload[] = [...LARGE_FILES, ...SMALL_FILES, ...TREES, ...LOGS];
