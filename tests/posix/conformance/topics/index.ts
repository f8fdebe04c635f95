/** All topics. */

import type { Topic } from "../script.ts";
import { access, metadata } from "./access.ts";
import { allocating, copies, offsets, truncating } from "./data.ts";
import { linking, removing, specials } from "./links.ts";
import { locks } from "./locks.ts";
import { mountPoints } from "./mount_points.ts";
import { modes, owners, privileges } from "./modes.ts";
import { opening } from "./opening.ts";
import { paths } from "./paths.ts";
import { renaming } from "./renaming.ts";
import { search } from "./search.ts";
import { sticky } from "./sticky.ts";
import { settingTimes, times } from "./times.ts";
import { xattrs } from "./xattrs.ts";

export const TOPICS: readonly Topic[] = [
  paths,
  search,
  opening,
  access,
  modes,
  owners,
  privileges,
  metadata,
  sticky,
  renaming,
  linking,
  removing,
  specials,
  times,
  settingTimes,
  truncating,
  offsets,
  allocating,
  copies,
  xattrs,
  locks,
  mountPoints,
];
