/*
 * `checker race`, replaced files: names that lead to a file at all times, as each new version is written beside and renamed
 * over the one before. An open of the name must succeed and give a whole version, and all opens and renames of a name must
 * be explained by one order. A stat of it must succeed as well.
 */
#include "order.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAMES 2
#define WORDS (PAGE / 8)

static void fill(uint64_t *words, uint64_t stamp) {
  for (size_t i = 0; i < WORDS; i++) words[i] = stamp;
}

void setup_replace(void) {
  uint64_t words[WORDS];
  for (int name = 0; name < NAMES; name++) {
    fill(words, setup_stamp(name));
    setup_file("replaced", name, words, PAGE);
  }
}

static void do_replace(struct worker *worker, int name) {
  char path[PATH_BYTES], beside[PATH_BYTES];
  uint64_t words[WORDS], stamp = next_stamp(worker), start = begin(worker, REPLACE);
  race_path(path, worker->mount, "replaced", name);
  race_path(beside, worker->mount, "version", worker->id);
  fill(words, stamp);
  int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  bool is_written = fd >= 0 && pwrite(fd, words, PAGE, 0) == PAGE;
  int error = errno;
  if (fd >= 0 && close(fd) != 0 && is_written) {
    is_written = false;
    error = errno;
  }
  if (!is_written) {
    failed(worker, REPLACE_STAT, name, start, 0, error); // nothing has changed yet
    return;
  }
  start = begin(worker, REPLACE);
  if (rename(beside, path) == 0) finish(worker, REPLACE, name, start, stamp);
  else failed(worker, REPLACE, name, start, stamp, errno);
}

static void do_read(struct worker *worker, int name) {
  char path[PATH_BYTES];
  uint64_t words[WORDS] = {0}, start = begin(worker, REPLACE_OPEN);
  race_path(path, worker->mount, "replaced", name);
  int fd = open(path, O_RDONLY);
  // What was opened does not change any more: how long the read takes does not matter.
  uint64_t end = now_ns();
  if (fd < 0) {
    failed(worker, REPLACE_OPEN, name, start, 0, errno);
    return;
  }
  ssize_t count = pread(fd, words, PAGE, 0);
  int error = errno;
  close(fd);
  if (count < 0) {
    failed(worker, REPLACE_OPEN, name, start, 0, error);
    return;
  }
  for (size_t i = 1; i < WORDS && count == PAGE; i++)
    if (words[i] != words[0]) count = (ssize_t)(8 * i);
  if (count != PAGE) {
    wrong("replace torn", "name %d by thread %d on mount %d: %zd bytes of %d are of one version", name, worker->id,
          worker->mount + 1, count, PAGE);
    return;
  }
  uint64_t stamp = inject_old(worker, "replace-stale", name, words[0]);
  finish(worker, REPLACE_OPEN, name, start, stamp)->end = end;
}

static void do_stat(struct worker *worker, int name) {
  char path[PATH_BYTES];
  struct stat status;
  uint64_t start = begin(worker, REPLACE_STAT);
  race_path(path, worker->mount, "replaced", name);
  int result = is_injected(worker, "replace-absent") ? (errno = ENOENT, -1) : stat(path, &status);
  if (result != 0) failed(worker, REPLACE_STAT, name, start, 0, errno);
  else if (status.st_size != PAGE)
    wrong("replace torn", "name %d on mount %d has a size of %lld", name, worker->mount + 1, (long long)status.st_size);
  else finish(worker, REPLACE_STAT, name, start, 0);
}

void race_replace(struct worker *worker) {
  int name = (int)random_below(&worker->random, NAMES);
  uint64_t kind = random_below(&worker->random, 10);
  if (kind < 3) do_replace(worker, name);
  else if (kind < 8) do_read(worker, name);
  else do_stat(worker, name);
}

void check_replace(void) {
  for (int name = 0; name < NAMES; name++) {
    size_t written, count, whole = 0;
    const struct record **writes = gather(1u << REPLACE, name, &written);
    const struct record **reads = gather(1u << REPLACE_OPEN, name, &count);
    struct record first = {.value = setup_stamp(name), .what = REPLACE, .thread = SETUP_THREAD};
    struct access *all = allocate((written + count + 1) * sizeof *all);
    all[whole++] = (struct access){first.start, first.end, first.value, true, &first};
    for (size_t i = 0; i < written; i++)
      all[whole++] = (struct access){writes[i]->start, writes[i]->end, writes[i]->value, true, writes[i]};
    for (size_t i = 0; i < count; i++)
      all[whole++] = (struct access){reads[i]->start, reads[i]->end, reads[i]->value, false, reads[i]};
    char text[40];
    snprintf(text, sizeof text, "replaced name %d", name);
    check_atomic("replace order", text, all, whole);
    free(all);
    free(writes);
    free(reads);
  }
}
