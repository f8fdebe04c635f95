/**
 * The programs that every way of running a cluster must carry: defined once, run on each by the files
 * programs_*.test.ts. One cluster serves all tests of a file; the last test stops it and looks at what it leaves.
 * MFS_TEST_FULL=1 takes the full sizes everywhere (100,000 entries, 3 GiB).
 */

import { assert, assertEquals } from "@std/assert";
import { hasProgram, run, sh, sleep, within } from "../harness/command.ts";
import { Cluster, isRunning, mfs, type Mode } from "../harness/cluster.ts";
import { findMount } from "../../roles/admin/mounts.ts";
import { hasCompiler, probe } from "../harness/probe.ts";
import { residentMib } from "../harness/process.ts";

const IS_FULL = Deno.env.get("MFS_TEST_FULL") === "1";

/** How much of each: what takes long is done on one of the modes in full, and on the others in part. */
interface Sizes {
  readonly treeFiles: number;
  readonly directoryEntries: number;
  readonly largeMib: number;
}

function sizesOf(mode: Mode): Sizes {
  if (IS_FULL) return { treeFiles: 3000, directoryEntries: 100_000, largeMib: 3072 };
  if (mode === "one process") return { treeFiles: 3000, directoryEntries: 4000, largeMib: 300 };
  return { treeFiles: 900, directoryEntries: 2000, largeMib: 150 };
}

export interface Program {
  readonly name: string;
  /** Skipped when one is missing. */
  readonly needs?: readonly string[];
  readonly limitMs?: number;
  /** `here` is a fresh directory on the mount, `local` one on the local disk. */
  run(here: string, local: string): Promise<void>;
}

const needsCompiler = ["gcc"];

export const programsOf = ({ treeFiles, directoryEntries, largeMib }: Sizes): readonly Program[] => [
  {
    name: `a tree of ${treeFiles} files unpacks, equals the original and is removed`,
    needs: ["tar", "diff"],
    limitMs: 120_000,
    async run(here, local) {
      await sh(
        `mkdir ${local}/tree && cd ${local}/tree
         for d in $(seq 60); do mkdir dir$d; for f in $(seq ${treeFiles / 60}); do
           head -c $(( (d * 7919 + f * 104729) % 20000 )) /dev/urandom > dir$d/file$f; done; done
         ln -s dir1/file1 link; chmod 750 dir2; chmod 600 dir3/file3
         tar --format=posix -cf ${local}/tree.tar .`,
      );
      await sh(`tar xf ${local}/tree.tar -C ${here}`, { timeoutMs: 90_000 });
      await sh(`diff -r ${local}/tree ${here}`);
      const list =
        `find . -printf '%P %y %m %n %s %l %T@\\n' | grep -v '^ d' | sed 's/ d \\([0-9]*\\) \\([0-9]*\\) [0-9]*/ d \\1 \\2/' | sort`;
      assertEquals(await sh(`cd ${here} && ${list}`), await sh(`cd ${local}/tree && ${list}`));
      await sh(`rm -rf ${here}/*`);
      assertEquals(await sh(`ls -A ${here}`), "");
    },
  },
  {
    name: "/usr/include is copied there and back with all its attributes",
    limitMs: 150_000,
    async run(here, local) {
      // As large a part as a test may take.
      const source = await sh(`for d in ${IS_FULL ? "/usr/include" : "/usr/include/linux /usr/include"}; do
        [ ! -d $d ] || { echo $d; break; }; done`);
      if (source === "") return;
      await sh(`cp -a ${source} ${here}/include`, { timeoutMs: 120_000 });
      await sh(`diff -r --no-dereference ${source} ${here}/include`);
      await sh(`cp -a ${here}/include ${local}/include`);
      await sh(`diff -r --no-dereference ${source} ${local}/include`);
      const list = `find . -printf '%P %y %m %U %G %l %T@\\n' | sort`;
      assertEquals(await sh(`cd ${local}/include && ${list}`), await sh(`cd ${source} && ${list}`));
      await sh(`rm -rf ${here}/include`, { timeoutMs: 120_000 });
      assertEquals(await sh(`ls -A ${here}`), "");
    },
  },
  {
    name: "names hold any byte and 255 of them",
    needs: needsCompiler,
    async run(here) {
      await sh(`${await probe()} names ${here}`);
      await sh(`rm -rf ${here}`);
    },
  },
  {
    name: `a directory of ${directoryEntries} entries costs as much an entry as a small one`,
    needs: needsCompiler,
    limitMs: IS_FULL ? 2_700_000 : 300_000,
    async run(here) {
      const measure = async (name: string, directories: number, count: number) =>
        (await sh(`${await probe()} bigdir ${here}/${name} ${directories} ${count}`, {
          timeoutMs: IS_FULL ? 900_000 : 120_000,
        })).split(" ").map(Number);
      await measure("warm", 1, 500);
      // Twice and 50 us, and the best of three: a busy machine must not fail this, a cost that grows with the size does.
      let problems: string[] = [];
      for (let round = 1; round <= 3; round++) {
        const small = await measure(`small${round}`, directoryEntries / 1000, 1000);
        const large = await measure(`large${round}`, 1, directoryEntries);
        problems = ["create", "list", "stat", "remove"].flatMap((what, i) =>
          large[i]! < small[i]! * 2 + 50
            ? []
            : [`${what}: ${small[i]} us an entry in directories of 1,000, ${large[i]} in a large one`]
        );
        if (problems.length === 0) return;
      }
      throw new Error(problems.join("; "));
    },
  },
  {
    name: "git clones, checks and commits",
    needs: ["git"],
    async run(here, local) {
      await sh(
        `export HOME=${local} GIT_CONFIG_NOSYSTEM=1
         git config --global user.email a@example.org; git config --global user.name A
         git config --global init.defaultBranch main
         git init -q ${local}/origin && cd ${local}/origin
         for c in $(seq 20); do for f in $(seq 20); do echo "$c $f $RANDOM" > file$f; done; git add .
           git commit -qm "commit $c"; done
         git clone -q --no-hardlinks ${local}/origin ${here}/clone && cd ${here}/clone
         git fsck --full --strict
         for c in $(seq 5); do echo "more $c" >> file1; mkdir dir$c; echo $c > dir$c/new; git add .
           git commit -qm "here $c"; done
         git gc -q; git fsck --full --strict; git status --porcelain
         test "$(git log --oneline | wc -l)" = 25
         git clone -q ${here}/clone ${here}/second && git -C ${here}/second fsck`,
      );
    },
  },
  {
    name: "a C project is built by make -j4",
    needs: ["gcc", "make"],
    async run(here) {
      await sh(
        `cd ${here} && mkdir src
         for i in $(seq 30); do echo "int f$i(int x) { return x + $i; }" > src/f$i.c; done
         { for i in $(seq 30); do echo "int f$i(int);"; done
           echo 'int main(void) { int x = 0;'
           for i in $(seq 30); do echo "x = f$i(x);"; done; echo 'return x == 465 ? 0 : 1; }'; } > src/main.c
         printf '%s\\n' 'OBJS := $(patsubst src/%.c,obj/%.o,$(wildcard src/*.c))' \\
           'program: $(OBJS)' '\tgcc -o $@ $^' \\
           'obj/%.o: src/%.c | obj' '\tgcc -O1 -c -o $@ $<' 'obj:' '\tmkdir -p obj' > Makefile
         sed -i 's/^\\\\t/\\t/' Makefile
         make -j4 >/dev/null && ./program
         test "$(make -j4)" = "make: 'program' is up to date." `,
      );
    },
  },
  {
    name: "sqlite3 keeps its database whole in both journal modes",
    needs: ["sqlite3"],
    async run(here) {
      for (const mode of ["delete", "wal"]) {
        const rows = `with recursive n(i) as (select 1 union all select i+1 from n where i<500)
          insert into t select null, i, hex(randomblob(100)) from n;`;
        const out = await sh(
          `cd ${here}
           sqlite3 ${mode}.db "pragma journal_mode=${mode}; create table t(id integer primary key, i int, x text);
             create index ix on t(x);"
           for r in 1 2 3 4; do sqlite3 -cmd ".timeout 20000" ${mode}.db "begin; ${rows} commit;" & done; wait
           sqlite3 ${mode}.db "update t set x = upper(x) where i % 3 = 0; delete from t where i % 7 = 0; vacuum;"
           sqlite3 ${mode}.db "select count(*) from t; pragma integrity_check;"`,
        );
        // 500 less 71 multiples of 7, four times.
        assertEquals(out.split("\n").slice(-2), [String(4 * (500 - 71)), "ok"], mode);
      }
    },
  },
  {
    name: `a file of ${largeMib} MiB keeps its SHA-256`,
    needs: ["sha256sum"],
    limitMs: IS_FULL ? 900_000 : 120_000,
    async run(here) {
      // A stream that cannot be guessed nor compressed, without a second copy on disk.
      const out = await sh(
        `stream() { openssl enc -aes-128-ctr -nosalt -pass pass:mfs -md sha256 2>/dev/null </dev/zero |
           head -c ${largeMib}M || true; }
         command -v openssl >/dev/null || stream() { seq 1 400000000 | head -c ${largeMib}M || true; }
         set +o pipefail
         stream | tee ${here}/large | sha256sum | cut -c1-64
         stat -c %s ${here}/large
         sha256sum < ${here}/large | cut -c1-64
         if [ -w /proc/sys/vm/drop_caches ]; then echo 3 > /proc/sys/vm/drop_caches || true; fi
         dd if=${here}/large bs=1M status=none | sha256sum | cut -c1-64`,
        { timeoutMs: IS_FULL ? 900_000 : 120_000 },
      );
      const [written, size, read, again] = out.split("\n");
      assertEquals(size, String(largeMib * 1024 * 1024));
      assertEquals(read, written);
      assertEquals(again, written);
      await sh(`rm ${here}/large`);
    },
  },
  {
    name: "fio verifies its random writes",
    needs: ["fio"],
    async run(here) {
      await sh(
        `cd ${here} && fio --name=mfs --rw=randwrite --bs=4k-64k --size=24m --numjobs=2 --verify=crc32c \
         --do_verify=1 --verify_fatal=1 --ioengine=psync --end_fsync=1 --output=fio.log`,
        { timeoutMs: 100_000 },
      );
    },
  },
  {
    name: "8 processes append to one file and no line is lost or torn",
    needs: needsCompiler,
    async run(here) {
      await sh(`${await probe()} append ${here}/log 8 300`);
    },
  },
  {
    name: "unlinked, replaced and hard-linked files stay right while open",
    needs: needsCompiler,
    async run(here) {
      await sh(`${await probe()} open_files ${here}`);
    },
  },
  {
    name: "truncated, sparse and mapped files read as POSIX says",
    needs: needsCompiler,
    async run(here) {
      await sh(`${await probe()} shapes ${here}`);
    },
  },
  {
    name: "modes, times, symbolic links and renames are as on a local disk",
    needs: needsCompiler,
    async run(here) {
      await sh(`${await probe()} attributes ${here}`);
    },
  },
  {
    name: "O_DIRECT reads and writes what buffered ones do",
    needs: ["dd", "cmp"],
    async run(here, local) {
      await sh(
        `head -c 8M /dev/urandom > ${local}/data
         dd if=${local}/data of=${here}/direct bs=1M oflag=direct status=none
         cmp ${local}/data ${here}/direct
         dd if=${here}/direct bs=256k iflag=direct status=none | cmp - ${local}/data
         dd if=/dev/zero of=${here}/direct bs=4k seek=100 count=3 oflag=direct conv=notrunc status=none
         dd if=/dev/zero of=${local}/data bs=4k seek=100 count=3 conv=notrunc status=none
         cmp ${local}/data ${here}/direct`,
      );
    },
  },
  {
    name: "extended attributes are kept",
    needs: ["setfattr"],
    async run(here) {
      const out = await sh(
        `cd ${here} && touch f && setfattr -n user.colour -v blue f && setfattr -n user.empty f
         getfattr --only-values -n user.colour f; echo
         getfattr f | grep -c ^user
         setfattr -x user.colour f; getfattr f | grep -c ^user`,
      );
      assertEquals(out, "blue\n2\n1");
    },
  },
];

/** Defines the tests of one mode. */
export function definePrograms(mode: Mode): void {
  let starting: Promise<Cluster> | undefined;
  const cluster = () => starting ??= Cluster.start({ mode });
  const define = (name: string, options: { ignore?: boolean; limitMs?: number }, body: () => Promise<void>) =>
    Deno.test({
      name: `${mode}: ${name}`,
      ignore: options.ignore === true,
      sanitizeOps: false,
      sanitizeResources: false,
      fn: async () => {
        try {
          await within(options.limitMs ?? 90_000, name, body());
        } catch (error) {
          const log = await cluster().then((running) => running.log, () => "");
          console.error(`--- end of the cluster's log\n${log.slice(-6000)}\n---`);
          throw error;
        }
      },
    });

  Deno.test.afterAll(async () => {
    await starting?.then((running) => running.discard(), () => {});
  });

  define("it starts and mounts", {}, async () => {
    const { mountpoint } = await cluster();
    assert(findMount(mountpoint) !== undefined, "mounted");
    await sh(`df ${mountpoint} >/dev/null && touch ${mountpoint}/first && rm ${mountpoint}/first`);
  });

  let number = 0;
  for (const program of programsOf(sizesOf(mode))) {
    const missing = program.needs?.filter((name) => !hasProgram(name)) ?? [];
    const skipped = missing.length > 0 || (program.needs === needsCompiler && !hasCompiler);
    const name = skipped ? `${program.name} (needs ${missing.join(", ")})` : program.name;
    const limits = program.limitMs === undefined ? {} : { limitMs: program.limitMs };
    define(name, { ignore: skipped, ...limits }, async () => {
      const running = await cluster();
      const id = ++number;
      const here = `${running.mountpoint}/test${id}`;
      const local = `${running.scratch}/local${id}`;
      await sh(`mkdir ${here} ${local}`, { timeoutMs: 10_000 });
      await program.run(here, local);
      await sh(`rm -rf ${here} ${local}`, { timeoutMs: 60_000 });
    });
  }

  define("status tells of dataservers, volumes and blocks that are all well", {}, async () => {
    const running = await cluster();
    await sh(`head -c 1M /dev/urandom > ${running.mountpoint}/counted`);
    const { code, stdout, stderr } = await mfs(["status", "--nameserver", running.nameserver, "--json"]);
    assertEquals(code, 0, stderr);
    const status = JSON.parse(stdout);
    assertEquals(status.dataservers.length, 3);
    assert(status.dataservers.every((server: { alive: boolean }) => server.alive));
    assertEquals(new Set(status.dataservers.map((server: { host: string }) => server.host)).size, 3);
    assertEquals([status.underReplicated, status.missing], [0, 0]);
    assert(status.blocks >= 1 && status.replicas >= 2 * status.blocks, stdout);
    const page = await mfs(["status", "--nameserver", running.nameserver]);
    assert(/3 of 3 alive/.test(page.stdout), page.stdout);
    await sh(`rm ${running.mountpoint}/counted`);
  });

  define(
    "a clean stop unmounts, ends within 5 s, and the data is there after the next start",
    {},
    async () => {
      const running = await cluster();
      await sh(`mkdir ${running.mountpoint}/kept; head -c 3M /dev/urandom > ${running.mountpoint}/kept/file`);
      const sum = await sh(`sha256sum < ${running.mountpoint}/kept/file`);
      const pids = running.pids();
      await running.stop();
      assertEquals(findMount(running.mountpoint), undefined);
      assertEquals(pids.filter(isRunning), []);
      await running.restartEverything();
      assertEquals(await sh(`sha256sum < ${running.mountpoint}/kept/file`), sum);
    },
  );

  define("idle memory stays within its budget", {}, async () => {
    const fresh = await Cluster.start({ mode });
    try {
      await sh(`cp /etc/passwd ${fresh.mountpoint}/ && cat ${fresh.mountpoint}/passwd >/dev/null`);
      await sleep(3000);
      const limit = mode === "one process" ? 150 : 90;
      // The supervisor of mode "processes" is no role.
      const roles = mode === "processes" ? fresh.pids().slice(1) : fresh.pids();
      const sizes = roles.map((pid) => Math.round(residentMib(pid)));
      console.error(`resident MiB, ${mode}: ${sizes.join(" ")}`);
      assert(sizes.every((size) => size < limit), `resident MiB: ${sizes.join(", ")}; limit ${limit}`);
    } finally {
      await fresh.discard();
    }
  });

  if (mode !== "roles") return;
  define("umount and mount in the background work while the servers run", {}, async () => {
    const running = await cluster();
    const second = `${running.scratch}/second`;
    await Deno.mkdir(second);
    const log = `${running.scratch}/second.log`;
    const mounted = await mfs(["mount", running.nameserver, second, "--log-file", log]);
    assertEquals(mounted.code, 0, mounted.stderr);
    await sh(`echo seen > ${running.mountpoint}/shared; grep -q seen ${second}/shared`);
    const busy = await run("bash", ["-c", `cd ${second}; exec ${Deno.execPath()} --version >/dev/null`]);
    assertEquals(busy.code, 0);
    const umounted = await mfs(["umount", second]);
    assertEquals([umounted.code, umounted.stderr], [0, ""]);
    assertEquals(findMount(second), undefined);
    const again = await mfs(["umount", second]);
    assertEquals(again.code, 1);
    assert(/^mfs: umount: .*not a mount point\n$/.test(again.stderr), again.stderr);
  });
}
