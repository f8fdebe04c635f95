/*
 * `checker race`, names: pairs of names in one directory, made with O_EXCL, removed, renamed to each other and looked
 * at. What each operation answered must be explained by one order (check_search) of the states "inode at the first
 * name, inode at the second". A listing counts as a look at each name: it need not be a picture of one moment.
 */
#include "order.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAIRS 4
/* An inode that was made by an operation whose answer nobody saw. */
#define ANY UINT64_MAX
/* extra2 of a rename: the kernel may have taken both names for one file. */
#define MAY_DO_NOTHING 1

static bool has_entry_ino;

/* "names/pair-2b" */
static void name_path(char path[PATH_BYTES], int mount, int pair, uint32_t which) {
  race_path(path, mount, "names", 0);
  size_t used = strlen(path);
  snprintf(path + used, PATH_BYTES - used, "/pair-%d%c", pair, which == 0 ? 'a' : 'b');
}

void setup_names(void) {
  char path[PATH_BYTES];
  int mount = (int)(epoch % (unsigned)options.mounts);
  race_path(path, mount, "names", 0);
  uint64_t start = now_ns();
  while (mkdir(path, 0700) != 0 && errno != EEXIST) {
    if (is_worth_a_retry(errno, start)) continue;
    wrong("set-up", "mkdir %s: %s", path, errno_name(errno));
    break;
  }
  if (epoch == 0) {
    // Whether entries have the numbers that stat gives.
    struct stat status;
    DIR *dir = opendir(path);
    if (dir == NULL || fstat(dirfd(dir), &status) != 0) give_up("%s", path);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
      if (strcmp(entry->d_name, ".") == 0) has_entry_ino = entry->d_ino == status.st_ino;
    closedir(dir);
  }
  for (int pair = 0; pair < PAIRS; pair++) {
    for (uint32_t which = 0; which < 2; which++) {
      name_path(path, mount, pair, which);
      while (unlink(path) != 0 && errno != ENOENT) {
        if (is_worth_a_retry(errno, start)) continue;
        wrong("set-up", "unlink %s: %s", path, errno_name(errno));
        break;
      }
    }
  }
}

/* `value`: the inode, 0 when there was none (or, for a creation, when there was one); `extra`: which of the two. */
static void finish_name(struct worker *worker, enum what what, int pair, uint32_t which, uint64_t start, uint64_t value) {
  finish(worker, what, pair, start, value)->extra = which;
}

static void failed_name(struct worker *worker, enum what what, int pair, uint32_t which, uint64_t start) {
  size_t before = worker->count;
  failed(worker, what, pair, start, ANY, errno);
  if (worker->count > before) worker->records[before].extra = which;
}

static void do_create(struct worker *worker, int pair, uint32_t which) {
  char path[PATH_BYTES];
  struct stat status;
  name_path(path, worker->mount, pair, which);
  int exclusive = is_injected(worker, "names-create") ? 0 : O_EXCL;
  uint64_t start = begin(worker, NAME_CREATE);
  int fd = open(path, O_RDWR | O_CREAT | exclusive, 0600);
  if (fd < 0 && errno == EEXIST) return finish_name(worker, NAME_CREATE, pair, which, start, 0);
  if (fd < 0) return failed_name(worker, NAME_CREATE, pair, which, start);
  // Without the time that the look takes.
  finish_name(worker, NAME_CREATE, pair, which, start, ANY);
  size_t made = worker->count - 1;
  if (fstat(fd, &status) == 0) worker->records[made].value = status.st_ino;
  close(fd);
}

static void do_change(struct worker *worker, enum what what, int pair, uint32_t which) {
  char path[PATH_BYTES], other[PATH_BYTES];
  name_path(path, worker->mount, pair, which);
  name_path(other, worker->mount, pair, 1 - which);
  uint64_t start = begin(worker, what);
  if ((what == NAME_UNLINK ? unlink(path) : rename(path, other)) == 0)
    return finish_name(worker, what, pair, which, start, 1);
  if (errno == ENOENT) return finish_name(worker, what, pair, which, start, 0);
  failed_name(worker, what, pair, which, start);
}

static void do_look(struct worker *worker, enum what what, int pair, uint32_t which) {
  char path[PATH_BYTES];
  struct stat status;
  name_path(path, worker->mount, pair, which);
  uint64_t start = begin(worker, what), value = 0;
  if (what == NAME_STAT) {
    if (stat(path, &status) == 0) value = status.st_ino;
    else if (errno != ENOENT) return failed_name(worker, what, pair, which, start);
    value = inject_old(worker, "names-stat", 2 * pair + (int)which, value);
    return finish_name(worker, what, pair, which, start, value);
  }
  int fd = open(path, O_RDONLY);
  if (fd < 0 && errno == ENOENT) return finish_name(worker, what, pair, which, start, 0);
  if (fd < 0) return failed_name(worker, what, pair, which, start);
  finish_name(worker, what, pair, which, start, ANY);
  size_t made = worker->count - 1;
  if (fstat(fd, &status) == 0) worker->records[made].value = status.st_ino;
  close(fd);
}

static void do_list(struct worker *worker) {
  char path[PATH_BYTES];
  uint64_t found[PAIRS][2] = {0};
  race_path(path, worker->mount, "names", 0);
  uint64_t start = begin(worker, NAME_READDIR);
  bool is_kept = one_in(&worker->random, 2);
  DIR *dir = is_kept && worker->names_dir != NULL ? worker->names_dir : opendir(path);
  if (dir == NULL) return failed_name(worker, NAME_READDIR, 0, 0, start);
  rewinddir(dir);
  errno = 0;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL; errno = 0) {
    const char *name = entry->d_name;
    if (strlen(name) != 7 || strncmp(name, "pair-", 5) != 0) continue;
    if (name[5] < '0' || name[5] >= '0' + PAIRS || (name[6] != 'a' && name[6] != 'b')) continue;
    found[name[5] - '0'][name[6] - 'a'] = has_entry_ino ? entry->d_ino : ANY;
  }
  bool is_whole = errno == 0;
  if (!is_whole) failed_name(worker, NAME_READDIR, 0, 0, start);
  if (is_kept) worker->names_dir = dir;
  else closedir(dir);
  if (!is_whole) return;
  uint64_t end = 0;
  for (int pair = 0; pair < PAIRS; pair++) {
    for (uint32_t which = 0; which < 2; which++) {
      uint64_t value = inject_old(worker, "names-readdir", 2 * pair + (int)which, found[pair][which]);
      struct record *record = finish(worker, NAME_READDIR, pair, start, value);
      record->extra = which;
      if (end == 0) end = record->end;
      record->end = end;
    }
  }
}

void race_names(struct worker *worker) {
  int pair = (int)random_below(&worker->random, PAIRS);
  uint32_t which = (uint32_t)random_below(&worker->random, 2);
  uint64_t kind = random_below(&worker->random, 20);
  if (kind < 6) do_create(worker, pair, which);
  else if (kind < 8) do_change(worker, NAME_UNLINK, pair, which);
  else if (kind < 11) do_change(worker, NAME_RENAME, pair, which);
  else if (kind < 15) do_look(worker, NAME_STAT, pair, which);
  else if (kind < 18) do_look(worker, NAME_OPEN, pair, which);
  else do_list(worker);
}

/* ---- checking */

static bool is_same_inode(uint64_t seen, uint64_t is) {
  return seen == is || (seen != 0 && is != 0 && (seen == ANY || is == ANY));
}

/*
 * rename(2) of two names of one file does nothing and succeeds. The kernel decides it by itself, from a look at each name:
 * it sees one file at both when another mount's rename from the one to the other comes between. Known limit.
 */
static void mark_renames_of_one_file(const struct record **records, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (records[i]->what != NAME_RENAME || records[i]->value == 0) continue;
    for (size_t j = 0; j < count; j++) {
      const struct record *other = records[j];
      bool is_overlapping = other->start < records[i]->end && records[i]->start < other->end;
      if (j == i || other->what != NAME_RENAME || other->value == 0 || other->extra != records[i]->extra) continue;
      if (is_overlapping && mount_of(other) != mount_of(records[i])) {
        ((struct record *)records[i])->extra2 = MAY_DO_NOTHING;
        break;
      }
    }
  }
}

static bool apply(const struct record *record, struct state *state) {
  uint64_t *here = record->extra == 0 ? &state->a : &state->b;
  uint64_t *there = record->extra == 0 ? &state->b : &state->a;
  // Of what nobody saw the answer it only matters that it was done.
  bool is_unknown = record->end == NEVER;
  switch (record->what) {
    case NAME_CREATE:
      if (record->value == 0) return *here != 0;
      if (*here != 0) return false;
      *here = record->value;
      return true;
    case NAME_UNLINK:
    case NAME_RENAME:
      if (record->extra2 == MAY_DO_NOTHING && *here == 0) return *there != 0;
      if ((record->value == 0 && !is_unknown) || *here == 0) return record->value == 0 && *here == 0;
      if (record->what == NAME_RENAME) *there = *here;
      *here = 0;
      return true;
    default: return is_same_inode(record->value, *here);
  }
}

/* Also what could not be done: it says what was there. */
static bool is_look(const struct record *record) {
  if (record->end == NEVER) return false;
  return record->what == NAME_STAT || record->what == NAME_OPEN || record->what == NAME_READDIR || record->value == 0;
}

void check_names(void) {
  const unsigned kinds = 1u << NAME_CREATE | 1u << NAME_UNLINK | 1u << NAME_RENAME | 1u << NAME_STAT |
                         1u << NAME_OPEN | 1u << NAME_READDIR;
  for (int pair = 0; pair < PAIRS; pair++) {
    size_t count;
    char name[40];
    const struct record **records = gather(kinds, pair, &count);
    mark_renames_of_one_file(records, count);
    snprintf(name, sizeof name, "names, pair %d", pair);
    check_search("names", name, records, count, (struct state){0, 0}, apply, is_look);
    free(records);
  }
}
