/** Programs on a cluster run as "one process" (tests/harness/cluster.ts). */

import { definePrograms } from "./programs.ts";

definePrograms("one process");
