/** Programs on a cluster run as "roles" (tests/harness/cluster.ts). */

import { definePrograms } from "./programs.ts";

definePrograms("roles");
