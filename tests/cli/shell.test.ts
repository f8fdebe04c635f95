/**
 * `mfs shell`: words and paths by themselves; every command on a cluster of processes, compared with what a mount of the same
 * cluster shows; permissions beside those of a mount's users; a session on a terminal.
 */

import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { createLogger } from "../../base/log.ts";
import {
  bytesOfPath,
  lastWord,
  LineError,
  parseLine,
  quoteWord,
  textOfPath,
} from "../../roles/cli/shell/words.ts";
import { type FsClient, startClient } from "../../roles/mount/client.ts";
import { tcpDialer } from "../../wire/dialer.ts";
import { FsError } from "../../wire/errno.ts";
import { seededTest } from "../base/seeded.ts";
import { type Cluster, mfs, withCluster } from "../harness/cluster.ts";
import { eventually, hasProgram, run, sh } from "../harness/command.ts";
import { MFS } from "../harness/process.ts";

const ENV = { DENO: Deno.execPath(), NO_COLOR: "1" };

Deno.test("shell: words are quoted as in sh, and a backslash with xHH is a byte", () => {
  const words = (line: string) => parseLine(line);
  assertEquals(words(`put 'a  b' "c d"e\\ f; ls`), [["put", "a  b", "c de f"], ["ls"]]);
  assertEquals(words(`ls "a\\"b" 'c\\d' "e\\f" ''`), [["ls", 'a"b', "c\\d", "e\\f", ""]]);
  assertEquals(words("  ;; # nothing\t"), []);
  assertEquals(words("ls a#b # c"), [["ls", "a#b"]]);
  assertEquals([...bytesOfPath(words("ls \\x41\\xff\\x0a")[0]![1]!)], [0x41, 0xff, 0x0a]);
  for (const line of ["ls 'a", 'ls "a', "ls a\\", "ls | cat", "ls > a", "ls &"]) {
    assertThrows(() => parseLine(line), LineError, undefined, line);
  }
  assertEquals(lastWord("ls; get some\\ d"), { words: ["get", "some d"], start: 8 });
  assertEquals(lastWord("get a "), { words: ["get", "a", ""], start: 6 });
  assertEquals(lastWord('get "a b'), { words: ["get", "a b"], start: 4 });
  assertEquals(lastWord(""), { words: [""], start: 0 });
});

seededTest("shell: any name can be written in a line", (random) => {
  for (let i = 0; i < 5_000; i++) {
    const length = 1 + Math.floor(random.next() * 6);
    const few = [
      0x20,
      0x22,
      0x27,
      0x5c,
      0x3b,
      0x23,
      0x0a,
      0x2d,
      0x24,
      0xc3,
      0xa4,
      0xff,
      0xed,
      0xb2,
      0x80,
      0x78,
    ];
    const name = Uint8Array.from(
      { length },
      () =>
        random.next() < 0.5
          ? 1 + Math.floor(random.next() * 255)
          : few[Math.floor(random.next() * few.length)]!,
    );
    const [command, ...more] = parseLine(`ls ${quoteWord(textOfPath(name))}`);
    assertEquals(more, []);
    assertEquals([...bytesOfPath(command![1]!)], [...name]);
  }
});

/** Runs `mfs shell` of the cluster in the scratch directory. */
function shell(cluster: Cluster, line: string) {
  return run(MFS, ["shell", "--nameserver", cluster.nameserver, "-c", line], {
    cwd: cluster.scratch,
    env: ENV,
  });
}

/** What it answers; it must succeed and say nothing else. */
async function answer(cluster: Cluster, line: string): Promise<string> {
  const { code, stdout, stderr } = await shell(cluster, line);
  assertEquals([code, stderr], [0, ""], line);
  return stdout.trimEnd();
}

function test(name: string, body: (cluster: Cluster) => Promise<void>, ignore = false): void {
  Deno.test({
    name: `shell: ${name}`,
    ignore,
    sanitizeOps: false,
    sanitizeResources: false,
    fn: () => withCluster({ mode: "processes" }, body),
  });
}

const squeeze = (text: string) => text.replace(/ +/g, " ");

test("each command shows and does what a mount shows", async (cluster) => {
  const { scratch, mountpoint } = cluster;
  const onMount = (script: string) => sh(script, { cwd: mountpoint });
  await sh(
    `head -c 5000000 /dev/urandom > big; echo small > small; mkdir -p tree/below; echo 1 > tree/one
     echo 2 > tree/below/two; ln -s below/two tree/link; truncate -s 30M holes; echo end >> holes
     printf x | dd of=holes bs=1 seek=20000000 conv=notrunc status=none; truncate -s 40M tail; : > empty`,
    { cwd: scratch },
  );

  // What is made through the shell is there on the mount.
  assertEquals(
    await answer(cluster, "mkdir a; mkdir -p a/b/c d; cd a/b; pwd; cd ..; pwd; cd; pwd"),
    "/a/b\n/a\n/",
  );
  await answer(
    cluster,
    "put big; put small a; put small 'a/two words'; put -r tree d; put -r tree e; put holes; put tail; put empty",
  );
  for (
    const [local, remote] of [
      ["big", "big"],
      ["small", "a/small"],
      ["small", "a/two words"],
      ["holes", "holes"],
      ["tail", "tail"],
      ["empty", "empty"],
    ]
  ) {
    await sh(`cmp '${scratch}/${local}' '${remote}'`, { cwd: mountpoint });
  }
  await onMount(
    `diff -r --no-dereference ${scratch}/tree d/tree && diff -r --no-dereference ${scratch}/tree e`,
  );
  assert(Number(await onMount("stat -c %b holes")) < 40_000, "holes stay holes");
  await answer(cluster, "ln a/small hard; ln -s a/small soft; ln -s ../small a/b/c; ln a/small a/b");
  assertEquals(await onMount("readlink soft; readlink a/b/c/small; stat -c %h hard"), "a/small\n../small\n3");

  // What is there is shown as the mount shows it.
  await onMount(
    "mkfifo a/pipe; mknod a/null c 1 3; chmod 6751 a/small; touch .hidden a/$'\\xff\\x0a'; chown 12:34 soft -h",
  );
  for (const line of ["ls", "ls -a", "ls a d", "ls soft a", "ls -d a", "ls d/tree/below/two"]) {
    const expected = (await onMount(`${line.replace("ls", "ls -b")}`)).replace("\\377\\n", "\\xff\\x0a")
      .replace("two\\ words", "two words");
    const withoutDots = expected.split("\n").filter((name) => name !== "." && name !== "..").join("\n");
    assertEquals(await answer(cluster, line), withoutDots, line);
  }
  for (const path of ["", "a/b", "a/pipe a/null", "soft", "-d a"]) {
    const expected = await onMount(`ls -n --time-style=long-iso ${path} | grep -v ^total || true`);
    assertEquals(squeeze(await answer(cluster, `ls -l ${path}`)), squeeze(expected), path);
  }
  for (const path of ["a/small", "soft", "a", "a/null", "holes"]) {
    const text = await answer(cluster, `stat ${path}`);
    const found = (key: string) => new RegExp(`^${key}: (.*)$`, "m").exec(text)![1];
    const [ino, mode, links, owner, size, blocks] = (await onMount(`stat -c '%i %a %h %u:%g %s %b' ${path}`))
      .split(" ");
    assertEquals(
      [found("inode"), found("links"), found("owner"), found("size")],
      [ino, links, owner, size],
      path,
    );
    assertStringIncludes(found("mode")!, `(${mode!.padStart(4, "0")})`);
    assertEquals(found("allocated"), String(Number(blocks) * 512), path);
    const mtime = await onMount(`TZ=UTC stat -c %y ${path}`);
    assertEquals(found("modified"), mtime.replace(" ", "T").replace(" +0000", "Z"), path);
  }
  const sorted = (text: string) => text.split("\n").sort();
  assertEquals(sorted(await answer(cluster, "du d")), sorted(await onMount("du -k d")));
  assertEquals(await answer(cluster, "du -s a big; du -s ."), await onMount("du -sk a big; du -sk ."));
  const [, line] = (await answer(cluster, "df")).split("\n");
  assertEquals(line!.split("\t")[0], await onMount("df -k --output=size . | tail -n 1 | tr -d ' '"));
  assertEquals(
    await answer(cluster, "locations big"),
    await onMount("getfattr --only-values -n user.mfs.blockLocs big"),
  );
  assertMatch(await answer(cluster, "locations big"), /^0\t5000000\tnode\d,node\d$/);
  assertStringIncludes(await answer(cluster, "status"), "3 of 3 alive");
  assertEquals(await answer(cluster, "cat a/small 'a/two words' soft"), "small\nsmall\nsmall");
  assertStringIncludes(await answer(cluster, "help"), "get [-r] FROM [TO]");
  assertStringIncludes(await answer(cluster, "help rm"), "-f");

  // What is fetched is what is there, holes as holes.
  await Deno.mkdir(`${scratch}/got`);
  await answer(
    cluster,
    "get big got; get a/small got/other; get -r d/tree got; get holes got; get tail got; get empty got; get big /dev/null",
  );
  await sh(
    "cmp big got/big; cmp small got/other; diff -r --no-dereference tree got/tree; cmp holes got/holes; cmp tail got/tail; cmp empty got/empty",
    { cwd: scratch },
  );
  assert(Number(await sh("stat -c %b got/holes", { cwd: scratch })) < 40_000, "holes come as holes");
  await answer(cluster, "put small big");
  assertEquals(await onMount("cat big"), "small", "what was there is replaced");

  // And what is changed is changed there.
  assertEquals(await answer(cluster, "setrep 3 big"), "replication 3; 1 of 1 files and directories changed");
  assertMatch(await answer(cluster, "attributes big"), /^replication +3 +set here$/m);
  assertMatch(
    (await shell(cluster, "set big replication=1; attributes big")).stdout,
    /^replication +1 +set here$/m,
  );
  await answer(cluster, "mv hard h2; mv h2 a/b/c; mv big soft d; mkdir gone; rmdir gone");
  assertEquals(await onMount("ls a/b/c d"), "a/b/c:\nh2\nsmall\n\nd:\nbig\nsoft\ntree");
  await onMount(
    "mkdir many; for i in $(seq 300); do echo $i > many/$i; done; mkdir -p many/x/y; echo > many/x/y/z",
  );
  await answer(
    cluster,
    "rm -r many d/tree; rm d/big; rm -f nothing; cd /a; rm ../empty 'two words' \\xff\\x0a",
  );
  await answer(cluster, "rm -rf a/b nothing");
  assertEquals(await onMount("ls d a"), "a:\nnull\npipe\nsmall\n\nd:\nsoft");
  assertEquals(await answer(cluster, "ls -a"), await onMount("ls -A"));
});

test("a script stops at its first failure, with its line", async (cluster) => {
  const script = async (text: string) => {
    await Deno.writeTextFile(`${cluster.scratch}/script`, text);
    const command = `${MFS} shell --nameserver ${cluster.nameserver} < ${cluster.scratch}/script`;
    return await run("bash", ["-c", command], { env: ENV });
  };
  const good = await script("# comment\nmkdir a\n\ncd a; pwd\nmkdir b");
  assertEquals([good.code, good.stdout, good.stderr], [0, "/a\n", ""]);
  const bad = await script("mkdir c\npwd; cd nowhere; mkdir d\nmkdir e\n");
  assertEquals([bad.code, bad.stdout], [1, "/\n"]);
  assertEquals(bad.stderr, "mfs: shell: 2: cd: nowhere: no such file or directory\n");
  assertEquals(await answer(cluster, "ls"), "a\nc");
  const left = await script("exit\nmkdir f\n");
  assertEquals([left.code, left.stderr], [0, ""]);

  const failures: readonly (readonly [string, RegExp])[] = [
    ["nonsense", /no such command/],
    ["constructor", /no such command/],
    ["ls -z", /-z is no option; usage: ls/],
    ["cat", /a path is missing/],
    ["get", /usage: get \[-r\] FROM \[TO\]/],
    ["pwd x", /usage: pwd/],
    ["ls 'a", /not closed/],
    ["ls | cat", /no meaning/],
    ["cat a", /a: it is a directory/],
    ["get a", /get -r/],
    ["put /etc", /put -r/],
    ["put nowhere", /nowhere on this machine: no such file/i],
    ["get c/nothing", /c\/nothing: no such file or directory/],
    [`get c ${cluster.mountpoint}/c2`, /c2 is on a mount of MaggieFS/],
    [`put ${cluster.mountpoint}/a/b b2`, /a\/b is on a mount of MaggieFS/],
    ["rm a", /a: it is a directory/],
    ["rm -r /", /the root, \. and \.\. stay/],
    ["rmdir a", /a: the directory is not empty/],
    ["rmdir /", /no name of its own/],
    ["mkdir a", /a: it exists/],
    ["mkdir -p /etc/../a/b/../../a/x/" + "y".repeat(256), /the name is too long/],
    ["mv a a/b", /into itself/],
    ["mv a/b nothing/c", /no such file/],
    ["ln a d", /not permitted/],
    ["ln -s loop loop; cat loop", /loop: too many symbolic links/],
    ["set a replication=17", /replication must be set as/],
    ["setrep 17 a", /from 0 to 16/],
    ["locations a", /it is a directory/],
    ["help nonsense", /no such command/],
  ];
  for (const [line, why] of failures) {
    const { code, stderr } = await shell(cluster, line);
    assertEquals(code, 1, line);
    assertMatch(stderr, /^mfs: shell: 1: [^\n]+\n$/, line);
    assertMatch(stderr, why, line);
  }
  const usage = await mfs(["shell", "--nonsense"]);
  assertEquals(usage.code, 2);
  assertMatch(usage.stderr, /^mfs: shell: [^\n]+\n$/);
  const alone = await mfs(["shell", "--nameserver", "127.0.0.1:1", "-c", "ls"]);
  assertEquals(alone.code, 1);
  assertMatch(alone.stderr, /^mfs: shell: [^\n]+\n$/);
});

test("what a user may do is what he may do on a mount", async (cluster) => {
  const { mountpoint, nameserver } = cluster;
  const uid = 4001, gid = 4002, group = 4003;
  await sh(
    `umask 022; mkdir open closed shared sticky acl; chmod 777 open sticky acl; chmod +t sticky; chmod 700 closed
     chgrp ${group} shared; chmod 770 shared; echo 1 > open/root; echo 1 > shared/file; chmod 640 shared/file
     chgrp ${group} shared/file; echo 1 > closed/file; echo 1 > sticky/file; chmod 600 open/root
     mkdir listed; echo 1 > listed/file; chmod 744 listed; setfacl -m u:${uid}:- acl`,
    { cwd: mountpoint },
  );
  const user = await startClient({
    ...{ nameserver, host: "here", log: createLogger("test", { json: false, level: "error" }) },
    ...{ dialer: tcpDialer, user: { uid, gid }, groups: [group], umask: 0o027 },
  });
  const path = (text: string) => new TextEncoder().encode(text);
  const read = async (text: string) => {
    const file = await user.openFile(path(text));
    await file.close();
  };
  const write = async (client: FsClient, text: string) => {
    const file = await client.createFile(path(text));
    try {
      await file.write(0, path("data\n"), () => {});
    } finally {
      await file.close();
    }
  };
  const list = async (text: string) => {
    for await (const _ of user.list(path(text)));
  };
  const cases: readonly (readonly [string, string, () => Promise<unknown>])[] = [
    ["open/root is read", "cat open/root", () => read("/open/root")],
    ["closed is listed", "ls closed", () => list("/closed")],
    ["closed/file is looked at", "stat closed/file", () => user.stat(path("/closed/file"), true)],
    ["listed is listed", "ls listed", () => list("/listed")],
    ["listed/file is looked at", "stat listed/file", () => user.stat(path("/listed/file"), true)],
    ["shared/file is read", "cat shared/file", () => read("/shared/file")],
    ["shared/file is written", "echo > shared/file", () => write(user, "/shared/file")],
    ["a file is made in the root", "echo > no", () => write(user, "/no2")],
    ["a file is made in shared", "echo > shared/1", () => write(user, "/shared/2")],
    ["a directory is made in acl", "mkdir acl/1", () => user.makeDirectory(path("/acl/2"))],
    ["sticky/file is removed", "rm -f sticky/file", () => user.removeFile(path("/sticky/file"))],
    ["sticky/file is moved", "mv sticky/file open", () => user.rename(path("/sticky/file"), path("/open/x"))],
    ["open/root is linked", "ln open/root open/link", () => user.link(path("/open/root"), path("/open/l"))],
    [
      "shared/file is moved",
      "mv shared/file shared/f",
      () => user.rename(path("/shared/f"), path("/shared/file")),
    ],
    ["open is removed", "rmdir open", () => user.removeDirectory(path("/open"))],
  ];
  let allowed = 0;
  try {
    for (const [what, onMount, byClient] of cases) {
      const prefix = [`--reuid=${uid}`, `--regid=${gid}`, `--groups=${group}`, "sh", "-c"];
      const there = await run("setpriv", [...prefix, `umask 027; ${onMount}`], { cwd: mountpoint });
      const here = await byClient().then(() => undefined, (error) => error);
      assert(
        here === undefined || (here instanceof FsError && ["EACCES", "EPERM"].includes(here.errno)),
        `${what}: ${here}`,
      );
      assertEquals(here === undefined, there.code === 0, `${what}: ${there.stderr}`);
      if (here === undefined) allowed++;
    }
    const made = await sh("stat -c '%u %g %a' shared/1 shared/2", { cwd: mountpoint });
    assertEquals(made, `${uid} ${gid} 640\n${uid} ${gid} 640`);
    assert(allowed >= 4 && allowed < cases.length, String(allowed));
  } finally {
    await user[Symbol.asyncDispose]();
  }
});

test("a terminal: completion, history, Ctrl-C ends the command and Ctrl-D the shell", async (cluster) => {
  const { scratch, nameserver } = cluster;
  await sh("head -c 300000000 /dev/zero | tr '\\0' x > big; mkdir 'some dir'; echo hello > 'some dir/file'", {
    cwd: cluster.mountpoint,
  });
  const child = new Deno.Command("script", {
    args: ["-qfec", `${MFS} shell --nameserver ${nameserver}`, "/dev/null"],
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
    cwd: scratch,
    env: { ...ENV, XDG_STATE_HOME: `${scratch}/state`, TERM: "xterm" },
  }).spawn();
  let screen = "";
  const reading = (async () => {
    for await (const chunk of child.stdout.pipeThrough(new TextDecoderStream())) screen += chunk;
  })();
  const keyboard = child.stdin.getWriter();
  let seen = 0;
  const sees = async (what: string) => {
    await eventually(30_000, `"${what}" on the screen`, () => screen.indexOf(what, seen) >= 0)
      .catch((error) => {
        throw new Error(`${error.message}: ${JSON.stringify(screen.slice(seen))}`);
      });
    seen = screen.indexOf(what, seen) + what.length;
  };
  const types = async (text: string) => {
    for (const key of text) await keyboard.write(new TextEncoder().encode(key));
  };
  try {
    await sees("mfs:/> ");
    await types("cd so\t");
    await sees("some\\ dir/");
    await types("\r");
    await sees("mfs:/some dir> ");
    await types("ca\t");
    await sees("cat ");
    await types("fi\t");
    await sees("file ");
    await types("\r");
    await sees("hello");
    await types("nothing\r");
    await sees("nothing: no such command");
    await types("get /big big\r");
    await sees(" of 286 MiB");
    await types("\x03");
    await sees("get: interrupted");
    assert((await Deno.stat(`${scratch}/big`)).isFile);
    await sees("mfs:/some dir> ");
    await types("not this\x03");
    await sees("^C");
    await sees("> ");
    await types("\x1b[A\x1b[A\r"); // the last but one: what was nothing
    await sees("nothing: no such command");
    await types("pwd\rcd ..\r");
    await sees("/some dir");
    await sees("mfs:/> ");
    await types("\x04");
    const { code } = await child.status;
    assertEquals(code, 0);
    await reading;
    const history = `${scratch}/state/mfs-shell-history`;
    assertMatch(await Deno.readTextFile(history), /^cd some\\ dir\/\ncat file \nnothing\n/);
    assertEquals((await Deno.stat(history)).mode! & 0o777, 0o600);
  } finally {
    try {
      child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await keyboard.abort().catch(() => {});
  }
}, !hasProgram("script"));
