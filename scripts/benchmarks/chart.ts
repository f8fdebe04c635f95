/**
 * The ratios of a comparison as an SVG picture: a row for each workload, on a logarithmic scale, where 1 is as quick. A
 * bar against the better of the other cluster file systems, a dot against bindfs and one against the local file system.
 */

import { clusterRatio, OURS, type Results, speedRatio } from "./results.ts";

const WIDTH = 860;
const LEFT = 190;
const RIGHT = 60;
const TOP = 64;
const ROW = 22;
const BOTTOM = 56;
const TICKS = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000];
const COLORS = { cluster: "#2f6db3", bindfs: "#d9822b", ext4: "#4a4a4a" } as const;

interface Scale {
  readonly min: number;
  readonly max: number;
}

/** What lies outside is shown at the edge. */
function position(ratio: number, { min, max }: Scale): number {
  const clipped = Math.min(max, Math.max(min, ratio));
  return LEFT + Math.log(clipped / min) / Math.log(max / min) * (WIDTH - LEFT - RIGHT);
}

const label = (ratio: number) => ratio >= 10 ? String(Math.round(ratio)) : ratio.toPrecision(2);

export function drawChart(results: Results): string {
  const rows = results.workloads.map((result) => ({
    name: result.workload,
    cluster: clusterRatio(result),
    bindfs: speedRatio(result, OURS, "bindfs"),
    ext4: speedRatio(result, OURS, "ext4"),
  }));
  const ratios = rows.flatMap(({ cluster, bindfs, ext4 }) => [cluster ?? 1, bindfs ?? 1, ext4 ?? 1]);
  const scale = {
    min: TICKS.findLast((tick) => tick <= Math.min(0.5, ...ratios)) ?? TICKS[0]!,
    max: TICKS.find((tick) => tick >= Math.max(2, ...ratios)) ?? TICKS.at(-1)!,
  };
  const height = TOP + rows.length * ROW + BOTTOM;
  const x = (ratio: number) => position(ratio, scale).toFixed(1);
  const parts: string[] = [];
  for (const tick of TICKS.filter((candidate) => candidate >= scale.min && candidate <= scale.max)) {
    const isOne = tick === 1;
    parts.push(
      `<line x1="${x(tick)}" y1="${TOP - 6}" x2="${x(tick)}" y2="${height - BOTTOM + 4}" stroke="${
        isOne ? "#333" : "#ddd"
      }"/>`,
      `<text x="${x(tick)}" y="${height - BOTTOM + 18}" text-anchor="middle">${tick}</text>`,
    );
  }
  for (const [i, { name, cluster, bindfs, ext4 }] of rows.entries()) {
    const middle = TOP + i * ROW + ROW / 2;
    parts.push(`<text x="${LEFT - 10}" y="${middle + 4}" text-anchor="end">${name}</text>`);
    if (cluster !== undefined) {
      const [from, to] = [position(1, scale), position(cluster, scale)];
      parts.push(
        `<rect x="${Math.min(from, to).toFixed(1)}" y="${middle - 6}" width="${
          Math.max(1, Math.abs(to - from)).toFixed(1)
        }" height="12" rx="2" fill="${COLORS.cluster}" fill-opacity="0.8"/>`,
        `<text x="${WIDTH - RIGHT + 12}" y="${middle + 4}" fill="${COLORS.cluster}">${label(cluster)}</text>`,
      );
    }
    for (const [ratio, color] of [[ext4, COLORS.ext4], [bindfs, COLORS.bindfs]] as const) {
      if (ratio === undefined) continue;
      parts.push(`<circle cx="${x(ratio)}" cy="${middle}" r="4" fill="${color}" stroke="#fff"/>`);
    }
  }
  const legend = [
    ["rect", COLORS.cluster, "than the better of MooseFS and GlusterFS"],
    ["circle", COLORS.bindfs, "than bindfs"],
    ["circle", COLORS.ext4, "than the local file system"],
  ] as const;
  let at = LEFT;
  for (const [shape, color, text] of legend) {
    parts.push(
      shape === "rect"
        ? `<rect x="${at}" y="34" width="14" height="12" rx="2" fill="${color}" fill-opacity="0.8"/>`
        : `<circle cx="${at + 7}" cy="40" r="4" fill="${color}"/>`,
      `<text x="${at + 20}" y="44">${text}</text>`,
    );
    at += 40 + text.length * 6.2;
  }
  const { processors } = results.machine;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" font-family="sans-serif" font-size="12" fill="#222">
<rect width="${WIDTH}" height="${height}" fill="#fff"/>
<text x="${LEFT}" y="22" font-size="15" font-weight="bold">How many times as quick MaggieFS is (logarithmic)</text>
${parts.join("\n")}
<text x="${LEFT}" y="${
    height - 14
  }" font-size="11">one machine of ${processors} processors and one disk, all servers and the client on it, 2 replicas; ${
    results.at.slice(0, 10)
  }</text>
</svg>
`;
}
