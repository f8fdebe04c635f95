/** Sizes, offsets and data: truncating, writing past the end, appending, allocating, copying. */

import { CLASSES, make, modeFor, octal, pairs, TYPES } from "../build.ts";
import type { Case, Line, Topic } from "../script.ts";

const CONTENT: Line[] = ["+root open f x O_RDWR|O_CREAT 0644", "+root write f 0123456789"];
const SIZES = [
  "0",
  "1",
  "9",
  "10",
  "11",
  "4095",
  "4096",
  "4097",
  "131073",
  "1048577",
  "2147483647",
  "4294967297",
  "1099511627776",
  "-1",
  "-9223372036854775808",
] as const;

/** Past ext4's largest file, and within ours (2^53-1). */
const LARGE: Case[] = ["999999999999999", "17592186044416"].flatMap((size) =>
  (["truncate x", "ftruncate f"] as const).map((call): Case => ({
    name: "a large size",
    lines: [
      ...CONTENT,
      { line: `root ${call} ${size}`, onMount: "ok", because: "ext4's largest file is 16 TiB - 4 KiB" },
      {
        line: "root stat x",
        onMount: `file 0644 0:0 links 1 size ${size}`,
        because: "the same",
      },
      "root truncate x 5",
      "root stat x",
      "root pread f 20 0",
      `root ${call} 9223372036854775807`,
      "root stat x",
    ],
  }))
);

const truncation: Case[] = [
  ...LARGE,
  ...pairs(SIZES, ["truncate x", "ftruncate f"] as const).map(([size, call]): Case => ({
    name: "sizes",
    lines: [
      ...CONTENT,
      `root ${call} ${size}`,
      "root stat x",
      "root pread f 20 0",
      "root pread f 20 4090",
      "root truncate x 20",
      "root pread f 100 0",
    ],
  })),
  ...TYPES.map((type): Case => ({
    name: type,
    lines: [
      ...make(type, "x"),
      "root truncate x 0",
      "root truncate x 10",
      "owner truncate x 0",
      ...(type === "symlink" ? [] : ["root lstat x"]),
    ],
  })),
  ...pairs(CLASSES, [0, 1, 2, 3, 4, 5, 6, 7]).map(([user, bits]): Case => ({
    name: `by ${user} in ${octal(modeFor(user, bits))}`,
    lines: [
      ...make("file", "x", "owner"),
      `+root chmod x ${octal(modeFor(user, bits))}`,
      `${user} truncate x 10`,
      `${user} open f x O_RDWR`,
      `${user} open f x O_WRONLY|O_TRUNC`,
      `${user} access x W_OK`,
      `${user} utimensat x now now`,
      "root stat x",
    ],
  })),
];

const writing: Case[] = [
  {
    name: "past the end",
    lines: [
      ...CONTENT,
      "root pwrite f end 20",
      "root pread f 100 0",
      "root pwrite f far 100000",
      "root stat x",
      "root pread f 30 99990",
      "root pread f 100 50000",
      "root lseek f 0 SEEK_END",
      "root lseek f -3 SEEK_CUR",
      "root read f 10",
      "root read f 10",
      "root lseek f 200000 SEEK_SET",
      "root read f 10",
      "root write f x",
      "root stat x",
      "root pwrite f x -1",
      "root pread f 1 -1",
      "root pwrite f EMPTY 500000",
      "root stat x",
      "root pread f 0 0",
      "root lseek f -1 SEEK_SET",
      "root lseek f 0 99",
      "root lseek f 0 SEEK_CUR",
    ],
  },
  {
    name: "very far offsets",
    lines: [
      ...CONTENT,
      "root pread f 10 9223372036854775807",
      "root pread f 10 9223372036854775800",
      "root pwrite f x 9223372036854775807",
      {
        line: "root lseek f 9223372036854775807 SEEK_SET",
        onMount: "9223372036854775807",
        because: "the largest offset of FUSE is the kernel's own; ext4's is 16 TiB",
      },
      "root lseek f 1099511627776 SEEK_SET",
      "root read f 10",
      "root stat x",
      "root lock f F_SETLK F_WRLCK 9223372036854775807 0",
      "root lock f F_SETLK F_WRLCK 9223372036854775807 2",
      "root lock f F_SETLK F_WRLCK -1 2",
    ],
  },
  {
    name: "appending",
    lines: [
      ...CONTENT,
      "+root open a x O_WRONLY|O_APPEND",
      "root write a abc",
      "root lseek a 0 SEEK_SET",
      "root write a def",
      "root pwrite a ghi 0",
      "root pread f 40 0",
      "root getfl a",
      "root setfl a 0",
      "root lseek a 0 SEEK_SET",
      "root write a XYZ",
      "root pread f 40 0",
      "root setfl f O_APPEND",
      "root pwrite f end 0",
      "root pread f 40 0",
      "root ftruncate f 2",
      "root write a 1",
      "root write f 2",
      "root pread f 40 0",
    ],
  },
  {
    name: "O_TRUNC under open files",
    lines: [
      ...CONTENT,
      "root open g x O_RDWR|O_TRUNC",
      "root fstat f",
      "root pread f 10 0",
      "root pwrite f abc 5",
      "root pread g 20 0",
      "root open h x O_RDONLY|O_TRUNC",
      "root fstat g",
      "root pread h 10 0",
      "root write f more",
      "root pread h 30 0",
    ],
  },
  {
    name: "memory that is not there",
    lines: [
      ...CONTENT,
      {
        line: "root readbad f 10",
        onMount: "EFAULT",
        because: "at the end of the file; who may write reads past the page cache, as O_DIRECT does on ext4",
      },
      "root lseek f 0 SEEK_SET",
      "root readbad f 10",
      "root readbad f 0",
      "root writebad f 10",
      "root stat x",
      "root pread f 20 0",
    ],
  },
  {
    name: "mappings",
    lines: [
      ...CONTENT,
      "root mmap f 10 PROT_READ MAP_SHARED 0",
      "root mmap f 10 PROT_READ MAP_PRIVATE 0",
      "root mmap f 10 PROT_READ MAP_SHARED 1",
      "root mmap f 0 PROT_READ MAP_SHARED 0",
      "root mmap f 10 PROT_NONE MAP_SHARED 0",
      "root mmap f 10 PROT_READ|PROT_EXEC MAP_PRIVATE 0",
      "root mmap f 10 PROT_READ|PROT_WRITE MAP_SHARED 0",
      "root store f abc 2",
      "root pread f 20 0",
      "root close f",
      "root open g x O_RDONLY",
      "root read g 20",
      "root mmap g 20 PROT_READ MAP_SHARED 0",
      "root mmap g 20 PROT_READ|PROT_WRITE MAP_SHARED 0",
      "root open d . O_RDONLY",
      "root mmap d 10 PROT_READ MAP_SHARED 0",
      "root stat x",
    ],
  },
];

const MODES = [
  "0",
  "FALLOC_FL_KEEP_SIZE",
  "FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE",
  "FALLOC_FL_PUNCH_HOLE",
  "FALLOC_FL_ZERO_RANGE",
  "FALLOC_FL_ZERO_RANGE|FALLOC_FL_KEEP_SIZE",
  "FALLOC_FL_PUNCH_HOLE|FALLOC_FL_ZERO_RANGE",
  "FALLOC_FL_COLLAPSE_RANGE",
  "FALLOC_FL_INSERT_RANGE",
  "FALLOC_FL_COLLAPSE_RANGE|FALLOC_FL_KEEP_SIZE",
  "0x8000",
] as const;
const RANGES = [
  "0 10",
  "5 3",
  "5 100",
  "20 10",
  "0 0",
  "-1 10",
  "0 -1",
  "10 -5",
  "4096 4096",
  "9223372036854775807 1",
  "9223372036854775800 100",
] as const;

/** Blocks can't be taken out of the middle, which is allowed not to work at all; what is no range at all is so here as well. */
function allocate(mode: string, range: string): Line[] {
  const line = `root fallocate f ${mode} ${range}`;
  const isNoRange = /-| 0$|922337/.test(range);
  if (!/^FALLOC_FL_(COLLAPSE|INSERT)_RANGE$/.test(mode) || isNoRange) return [line];
  return [{ line, onMount: "EOPNOTSUPP", because: "ranges can't be collapsed or inserted" }];
}

const allocation: Case[] = [
  ...pairs(MODES, RANGES).map(([mode, range]): Case => ({
    name: "fallocate",
    lines: [...CONTENT, ...allocate(mode, range), "root stat x", "root pread f 200 0"],
  })),
  ...TYPES.filter((type) => type !== "socket" && type !== "symlink" && type !== "block").map((
    type,
  ): Case => ({
    name: type,
    lines: [
      ...make(type, "x"),
      `root open f x ${type === "dir" ? "O_RDONLY" : "O_RDWR"}`,
      "root fallocate f 0 0 10",
      "root fallocate f 0 0 0",
      "root fallocate f 0x8000 0 10",
      "root ftruncate f 0",
      "root ftruncate f -1",
    ],
  })),
];

const holes: Case[] = [
  {
    name: "seeking for data and holes at the ends",
    lines: [
      ...CONTENT,
      "root lseek f 0 SEEK_DATA",
      "root lseek f 0 SEEK_HOLE",
      "root lseek f 5 SEEK_DATA",
      "root lseek f 5 SEEK_HOLE",
      "root lseek f 10 SEEK_DATA",
      "root lseek f 10 SEEK_HOLE",
      "root lseek f 11 SEEK_HOLE",
      "root lseek f -1 SEEK_DATA",
      "root lseek f -1 SEEK_HOLE",
      "root open d . O_RDONLY",
      "root lseek d 5 SEEK_SET",
      "root open g empty O_RDWR|O_CREAT 0644",
      "root lseek g 0 SEEK_DATA",
      "root lseek g 0 SEEK_HOLE",
      "root ftruncate g 100000",
      "root lseek g 0 SEEK_DATA",
      "root lseek g 0 SEEK_HOLE",
      "root lseek g 5000 SEEK_HOLE",
    ],
  },
];

const copying: Case[] = [
  ...[
    "f 0 g 0 10 0",
    "f 5 g 3 100 0",
    "f 10 g 0 10 0",
    "f 100 g 0 10 0",
    "f 0 g 100 5 0",
    "f 0 f 5 5 0",
    "f 0 f 3 5 0",
    "f 0 f 20 10 0",
    "f 0 g 0 0 0",
    "f 0 g 0 10 1",
    "f -1 g 0 10 0",
    "f 0 g -1 10 0",
    "f at g at 10 0",
    "f 0 g 9223372036854775800 10 0",
    "r 0 g 0 10 0",
    "f 0 r 0 10 0",
    "w 0 g 0 10 0",
    "f 0 a 0 10 0",
    "d 0 g 0 10 0",
    "f 0 d 0 10 0",
    "q 0 g 0 10 0",
    "f 0 q 0 10 0",
    "n 0 g 0 10 0",
    "none 0 g 0 10 0",
    "p 0 g 0 10 0",
  ].map((what): Case => ({
    name: "copy_file_range",
    lines: [
      ...CONTENT,
      "+root lseek f 2 SEEK_SET",
      "+root open g y O_RDWR|O_CREAT 0644",
      "+root write g abcdef",
      "+root open r x O_RDONLY",
      "+root open w x O_WRONLY",
      "+root open a y O_RDWR|O_APPEND",
      "+root open d . O_RDONLY",
      "+root open p x O_PATH",
      "+root mknod pipe S_IFIFO|0644",
      "+root open q pipe O_RDWR|O_NONBLOCK",
      "+root mknod null S_IFCHR|0644 1 3",
      "+root open n null O_RDWR",
      `root copy ${what}`,
      "root pread f 200 0",
      "root pread g 200 0",
      "root lseek f 0 SEEK_CUR",
      "root lseek g 0 SEEK_CUR",
    ],
  })),
];

export const truncating: Topic = { name: "truncating", cases: truncation };
export const offsets: Topic = { name: "offsets and data", cases: [...writing, ...holes] };
export const allocating: Topic = { name: "allocating", cases: allocation };
export const copies: Topic = { name: "copy_file_range", cases: copying };
