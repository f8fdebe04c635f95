/** Programs on a cluster run as "processes" (tests/harness/cluster.ts). */

import { definePrograms } from "./programs.ts";

definePrograms("processes");
