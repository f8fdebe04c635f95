/*
 * A program on the mounts of a cluster that is being disturbed:
 *
 *     worker NUMBER SEED MOUNT...
 *
 * Works in a directory of its own, through one mount or another, until it is told "stop" on its stdin: writes, truncates,
 * fsyncs, replaces, renames and unlinks files whose every byte says which write of which file it is from, and reads them
 * back all the while, also in a second thread. What close or fsync has acknowledged must be there; what they have not may be
 * old or new, never anything else, and once it was seen it stays. After "stop", "verify PATH" reads everything through
 * another mount. Ends at the end of its stdin.
 *
 * Prints a line of JSON for each thing to tell:
 *     {"error": ..., "errno": ..., "mount": N, "fromMs": ..., "toMs": ...}   an operation failed; times are those of the day
 *     {"pause": KIND, "ms": ..., "mount": N, "fromMs": ...}                  one took long
 *     {"wrong": ...}                                                         what must not be
 *     {"at": ..., "forMs": ...}                                              asked by "where": what it is doing
 *     {"stopped": {...}} and {"verified": FILES}
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "model.h"

#define FILES 6
#define MOUNTS_MAX 8
#define PATH_MAX_BYTES 512
#define PAUSE_MS 300
/*
 * So long after it was interrupted, what an interrupted change has come to is believed: longer than the session of a killed
 * mount lives on. What was asked for in it may wait at the nameserver for another killed mount, and be done meanwhile.
 */
#define AGREE_MS 6000

enum kind { OPEN, READ, WRITE, FSYNC, CLOSE, META, KINDS };
static const char *const kind_names[KINDS] = {"open", "read", "write", "fsync", "close", "meta"};

static int number, mounts;
static const char *mount[MOUNTS_MAX];
/* What kind of file system it was at the start: another one is the directory below a mount. */
static long fs_type;
static struct file files[FILES];
/* Of the files; whoever waits for the file system does not hold it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t last_id;
static volatile bool stopping;
static long operations[KINDS], operation_errors;
static double longest_ms[KINDS];

/* ---- telling */

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void nap(int ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1000000l};
  nanosleep(&t, NULL);
}

static void tell(const char *format, ...) {
  char line[2048];
  va_list args;
  va_start(args, format);
  int length = vsnprintf(line, sizeof line - 1, format, args);
  va_end(args);
  if (length > (int)sizeof line - 2) length = sizeof line - 2;
  line[length++] = '\n';
  if (write(1, line, length) < 0) _exit(2);
}

static uint64_t random_below(uint64_t *state, uint64_t limit) {
  uint64_t z = *state += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return (z ^ (z >> 31)) % limit;
}

static void wrong(const char *what, const char *path, const struct file *file, long at) {
  tell("{\"wrong\": \"%s\", \"path\": \"%s\", \"file\": %u, \"ino\": %lu, \"at\": %ld, \"size\": %zu, \"base\": %ld, "
       "\"timeMs\": %.0f}", what, path, file == NULL ? 0 : file->id, file == NULL ? 0 : (unsigned long)file->ino, at,
       file == NULL ? 0 : file->size, file == NULL ? 0 : (long)file->base, now_ms());
}

/*
 * As `wrong`, for the first wrong byte of what was read from `start` on: whose it is, if it is any of this file's, and how
 * many with it.
 */
static void wrong_byte(const char *what, const char *path, const struct file *file, long start, long at,
                       const uint8_t *bytes, size_t count) {
  int found = -1;
  size_t length = count < 8 ? count : 8;
  for (int version = 0; version <= file->last_version && found < 0; version++) {
    size_t same = 0;
    while (same < length && content(file, (uint16_t)version, (size_t)at + same) == bytes[same]) same++;
    if (same == length) found = version;
  }
  size_t run = 0;
  while (run < count && content(file, found < 0 ? 0 : (uint16_t)found, (size_t)at + run) == bytes[run]) run++;
  char more[512];
  snprintf(more, sizeof more, "%s: version %d in place of %d, the last is %d, %d are not acknowledged; %zu bytes of %zu "
           "that were read from %ld on", what, found, file->version[at], file->last_version, file->pendings, run,
           (size_t)(at - start) + count, start);
  wrong(more, path, file, at);
}

/* ---- what the two threads are at, for "where" */

static struct { const char *what; double since; int mount; } doing[2];
static __thread int thread_number;

/* Runs one call, and notes how long it took and whether it failed. */
#define CALL(kind, which, call) ({ \
    doing[thread_number].since = now_ms(); doing[thread_number].mount = (which); doing[thread_number].what = #call; \
    errno = 0; \
    __typeof__(call) result_ = (call); \
    int errno_ = errno; \
    called(kind, which, #call, result_ < 0 ? errno_ : 0); \
    errno = errno_; \
    result_; })

static void called(enum kind kind, int which, const char *what, int error) {
  double from = doing[thread_number].since, to = now_ms();
  doing[thread_number].what = NULL;
  __sync_fetch_and_add(&operations[kind], 1);
  if (to - from > longest_ms[kind]) longest_ms[kind] = to - from;
  if (to - from > PAUSE_MS) {
    tell("{\"pause\": \"%s\", \"ms\": %.0f, \"mount\": %d, \"fromMs\": %.0f}", kind_names[kind], to - from, which + 1, from);
  }
  if (error == 0) return;
  __sync_fetch_and_add(&operation_errors, 1);
  tell("{\"error\": \"%.60s\", \"errno\": \"%s\", \"mount\": %d, \"fromMs\": %.0f, \"toMs\": %.0f}", what,
       strerrorname_np(error), which + 1, from, to);
}

/* ---- paths and mounts */

static void path_on(const char *root, const char *name, char *path) {
  snprintf(path, PATH_MAX_BYTES, "%s/worker%d/%s", root, number, name);
}

/* The file system is there, not the directory below. */
static bool is_mounted(int which) {
  struct statfs fs;
  if (statfs(mount[which], &fs) != 0 || fs.f_type != fs_type) return false;
  char path[PATH_MAX_BYTES];
  path_on(mount[which], ".", path);
  struct stat st;
  return stat(path, &st) == 0;
}

/* One that works; waits for one. -1 when told to stop, unless `insist`. */
static int some_mount(uint64_t *random, bool insist) {
  for (;;) {
    int first = random_below(random, mounts);
    for (int i = 0; i < mounts; i++) {
      int which = (first + i) % mounts;
      if (is_mounted(which)) return which;
    }
    if (stopping && !insist) return -1;
    nap(100);
  }
}

/* ---- what an operation that failed has come to */

static ssize_t read_window(int which, int fd, const struct file *file, uint8_t *bytes) {
  size_t done = 0;
  while (done < WINDOW_BYTES) {
    ssize_t count = CALL(READ, which, pread(fd, bytes + done, WINDOW_BYTES - done, file->base + (off_t)done));
    if (count < 0) return -1;
    if (count == 0) break;
    done += (size_t)count;
  }
  return (ssize_t)done;
}

/* Reads a file's window by name; -1 when the mount fails. `size`: that of the file, less the base, not below 0. */
static ssize_t read_file(int which, const char *root, const struct file *file, uint8_t *bytes, size_t *size) {
  char path[PATH_MAX_BYTES];
  path_on(root, file->name, path);
  int fd = CALL(OPEN, which, open(path, O_RDONLY));
  if (fd < 0) return -1;
  ssize_t count = read_window(which, fd, file, bytes);
  struct stat st;
  int code = count < 0 ? -1 : CALL(META, which, fstat(fd, &st));
  int error = errno;
  close(fd);
  errno = error;
  if (code < 0) return -1;
  *size = st.st_size > file->base ? (size_t)(st.st_size - file->base) : 0;
  return count;
}

/* ENOENT of a mount that is not there says nothing. */
static bool is_absent(int which, const char *root, const char *name, struct stat *st) {
  char path[PATH_MAX_BYTES];
  path_on(root, name, path);
  for (;;) {
    if (CALL(META, which, stat(path, st)) == 0) return false;
    if (errno == ENOENT && is_mounted(which)) {
      if (stat(path, st) != 0 && errno == ENOENT && is_mounted(which)) return true;
    }
    nap(200);
    uint64_t random = (uint64_t)now_ms();
    which = some_mount(&random, true);
    path_on(mount[which], name, path);
  }
}

/* The inode of a name when it is settled; 0: there is none. */
static ino_t settled_name(uint64_t *random, const char *name) {
  ino_t before = 0;
  for (int looks = 0;; looks++) {
    int which = some_mount(random, true);
    struct stat st;
    ino_t found = is_absent(which, mount[which], name, &st) ? 0 : st.st_ino;
    if (looks > 0 && found == before) return found;
    before = found;
    nap(AGREE_MS);
  }
}

static void set_unsure(struct file *file, bool is_unsure) {
  pthread_mutex_lock(&lock);
  file->epoch++;
  file->is_unsure = is_unsure;
  pthread_mutex_unlock(&lock);
}

/* What the file is from now on is what one mount shows; the others must show the same. */
static void settle_content(uint64_t *random, struct file *file) {
  uint8_t *bytes = allocate(WINDOW_BYTES), *others = allocate(WINDOW_BYTES);
  char path[PATH_MAX_BYTES];
  set_unsure(file, true);
  nap(AGREE_MS);
  ssize_t count;
  size_t size;
  int which;
  for (;;) {
    which = some_mount(random, true);
    count = read_file(which, mount[which], file, bytes, &size);
    if (count >= 0) break;
    struct stat st;
    if (errno == ENOENT && is_absent(which, mount[which], file->name, &st)) {
      wrong("a file is gone", file->name, file, 0);
      file->exists = false;
      set_unsure(file, false);
      free(bytes);
      free(others);
      return;
    }
    nap(200);
  }
  path_on(mount[which], file->name, path);
  pthread_mutex_lock(&lock);
  if ((size_t)count != size || !may_have_size(file, size)) {
    wrong("a size that it never had", path, file, (long)size);
  }
  ssize_t bad = settle(file, bytes, (size_t)count);
  if (bad >= 0) {
    wrong_byte("bytes that were never written there, or were acknowledged and are gone", path, file, 0, bad, bytes + bad,
               (size_t)(count - bad));
    memset(file->version + count, 0, (WINDOW_BYTES - count) * sizeof *file->version);
    file->size = (size_t)count;
    commit(file);
  }
  pthread_mutex_unlock(&lock);
  set_unsure(file, false);
  for (int other = 0; other < mounts; other++) {
    if (other == which || !is_mounted(other)) continue;
    ssize_t seen = read_file(other, mount[other], file, others, &size);
    if (seen < 0) continue;
    path_on(mount[other], file->name, path);
    if (seen != count) wrong("another size than another mount has shown", path, file, (long)size);
    for (ssize_t at = 0; at < seen && at < count; at++) {
      if (bytes[at] == others[at]) continue;
      wrong("other bytes than another mount has shown", path, file, at);
      break;
    }
  }
  free(bytes);
  free(others);
}

/* ---- operations */

static void name_of(char *name, int slot) {
  snprintf(name, NAME_BYTES, "file%d-%u", slot, ++last_id);
}

static off_t some_base(uint64_t *random) { return random_below(random, 3) == 0 ? SECOND_BASE : 0; }

static size_t some_length(uint64_t *random) {
  switch (random_below(random, 6)) {
    case 0: return 1 + random_below(random, 16);
    case 1: return (1 + random_below(random, 16)) * 4096;
    case 2: return 1 + random_below(random, 1 << 20);
    default: return 1 + random_below(random, 40000);
  }
}

/* One write at a random place or at the end; false when it failed. */
static bool write_some(uint64_t *random, int which, int fd, struct file *file) {
  size_t length = some_length(random);
  size_t start = random_below(random, 3) == 0 ? file->size : random_below(random, file->size + 65536);
  if (start >= WINDOW_BYTES) start = random_below(random, WINDOW_BYTES / 2);
  if (start + length > WINDOW_BYTES) length = WINDOW_BYTES - start;
  uint8_t *bytes = allocate(length);
  pthread_mutex_lock(&lock);
  uint16_t version = change_write(file, start, start + length);
  pthread_mutex_unlock(&lock);
  fill(file, version, start, start + length, bytes);
  size_t done = 0;
  while (done < length) {
    ssize_t count = CALL(WRITE, which, pwrite(fd, bytes + done, length - done, file->base + (off_t)(start + done)));
    if (count <= 0) break;
    done += (size_t)count;
  }
  free(bytes);
  return done == length;
}

static bool commit_by(int code, struct file *file) {
  if (code != 0) return false;
  pthread_mutex_lock(&lock);
  commit(file);
  pthread_mutex_unlock(&lock);
  return true;
}

/* Opens a slot's file, or makes it. -1 when that failed; the model is right in any case. */
static int open_slot(uint64_t *random, int which, int slot) {
  struct file *file = &files[slot];
  char path[PATH_MAX_BYTES];
  if (file->exists) {
    path_on(mount[which], file->name, path);
    return CALL(OPEN, which, open(path, O_RDWR));
  }
  pthread_mutex_lock(&lock);
  file_make(file, ++last_id, some_base(random));
  name_of(file->name, slot);
  pthread_mutex_unlock(&lock);
  path_on(mount[which], file->name, path);
  int fd = CALL(OPEN, which, open(path, O_RDWR | O_CREAT | O_EXCL, 0644));
  struct stat st;
  if (fd >= 0 && fstat(fd, &st) == 0) file->ino = st.st_ino;
  else {
    if (fd >= 0) close(fd);
    fd = -1;
    file->ino = settled_name(random, file->name);
  }
  pthread_mutex_lock(&lock);
  file->exists = file->ino != 0;
  pthread_mutex_unlock(&lock);
  if (fd >= 0 && file->base > 0) {
    /* The hole below the window is the file's from the start. */
    if (CALL(META, which, ftruncate(fd, file->base)) != 0) {
      close(fd);
      return -1;
    }
  }
  return fd;
}

static int kept_fd = -1, kept_mount;

static void edit(uint64_t *random, int slot) {
  struct file *file = &files[slot];
  bool keeps = slot == 0;
  int which, fd;
  if (keeps && kept_fd >= 0) {
    fd = kept_fd;
    which = kept_mount;
  } else {
    which = some_mount(random, false);
    if (which < 0) return;
    bool existed = file->exists;
    fd = open_slot(random, which, slot);
    if (fd < 0) {
      /* Nothing was begun; that a file is not there which must be is told. */
      struct stat st;
      if (existed && is_absent(which, mount[which], file->name, &st)) {
        wrong("a file is gone", file->name, file, 0);
        file->exists = false;
      }
      return;
    }
  }
  bool ok = true;
  bool acknowledged = false;
  for (int i = 1 + (int)random_below(random, 6); i > 0 && ok; i--) {
    acknowledged = false;
    switch (random_below(random, 12)) {
      case 0: {
        size_t size = random_below(random, file->size + 10000);
        if (size > WINDOW_BYTES) size = WINDOW_BYTES;
        pthread_mutex_lock(&lock);
        change_truncate(file, size);
        pthread_mutex_unlock(&lock);
        ok = CALL(META, which, ftruncate(fd, file->base + (off_t)size)) == 0;
        break;
      }
      case 1: case 2:
        ok = acknowledged = commit_by(CALL(FSYNC, which, fsync(fd)), file);
        break;
      default:
        ok = write_some(random, which, fd, file);
    }
  }
  if (ok && keeps) {
    ok = acknowledged || commit_by(CALL(FSYNC, which, fdatasync(fd)), file);
    kept_fd = fd;
    kept_mount = which;
    if (ok && random_below(random, 20) != 0) return;
  }
  if (keeps) kept_fd = -1;
  if (ok) {
    ok = commit_by(CALL(CLOSE, which, close(fd)), file);
  } else {
    close(fd);
  }
  if (!ok) settle_content(random, file);
}

/* A new file takes the place of an old one under its name, as editors do it. */
static void replace(uint64_t *random, int slot) {
  struct file *file = &files[slot];
  int which = some_mount(random, false);
  if (which < 0 || !file->exists || slot == 0) return;
  struct file next = {0};
  file_make(&next, ++last_id, 0);
  snprintf(next.name, NAME_BYTES, "new%u", next.id);
  char from[PATH_MAX_BYTES], to[PATH_MAX_BYTES];
  path_on(mount[which], next.name, from);
  path_on(mount[which], file->name, to);
  int fd = CALL(OPEN, which, open(from, O_RDWR | O_CREAT | O_EXCL, 0644));
  struct stat st;
  bool ok = fd >= 0 && fstat(fd, &st) == 0;
  if (ok) next.ino = st.st_ino;
  for (int i = 1 + (int)random_below(random, 3); i > 0 && ok; i--) ok = write_some(random, which, fd, &next);
  if (ok && random_below(random, 2) == 0) ok = CALL(FSYNC, which, fsync(fd)) == 0;
  if (fd >= 0) ok = CALL(CLOSE, which, close(fd)) == 0 && ok;
  if (!ok) {
    if (settled_name(random, next.name) != 0) unlink(from);
    file_free(&next);
    return;
  }
  commit(&next);
  set_unsure(file, true);
  ino_t now = next.ino;
  if (CALL(META, which, rename(from, to)) != 0) {
    now = settled_name(random, file->name);
    if (now != next.ino && now != file->ino) {
      wrong("a name that was replaced leads to neither file", to, file, (long)now);
    }
  }
  pthread_mutex_lock(&lock);
  if (now == next.ino) {
    snprintf(next.name, NAME_BYTES, "%s", file->name);
    next.exists = true;
    next.epoch = file->epoch + 1;
    next.is_unsure = true;
    file_free(file);
    *file = next;
    next.version = NULL;
  } else {
    file->exists = now != 0;
  }
  pthread_mutex_unlock(&lock);
  set_unsure(file, false);
  if (next.version != NULL) {
    unlink(from);
    file_free(&next);
  }
}

static void rename_slot(uint64_t *random, int slot) {
  struct file *file = &files[slot];
  int which = some_mount(random, false);
  if (which < 0 || !file->exists) return;
  char name[NAME_BYTES], from[PATH_MAX_BYTES], to[PATH_MAX_BYTES];
  name_of(name, slot);
  path_on(mount[which], file->name, from);
  path_on(mount[which], name, to);
  set_unsure(file, true);
  bool moved = true;
  if (CALL(META, which, rename(from, to)) != 0) {
    ino_t old = settled_name(random, file->name), new = settled_name(random, name);
    moved = new != 0;
    if ((old != 0) == (new != 0) || (moved ? new : old) != file->ino) {
      wrong("a file that was renamed has both names, or none, or another's", to, file, (long)(moved ? new : old));
    }
  }
  pthread_mutex_lock(&lock);
  if (moved) snprintf(file->name, NAME_BYTES, "%s", name);
  pthread_mutex_unlock(&lock);
  set_unsure(file, false);
}

static void unlink_slot(uint64_t *random, int slot) {
  struct file *file = &files[slot];
  int which = some_mount(random, false);
  if (which < 0 || !file->exists || slot == 0) return;
  char path[PATH_MAX_BYTES];
  path_on(mount[which], file->name, path);
  set_unsure(file, true);
  bool is_there = false;
  if (CALL(META, which, unlink(path)) != 0) is_there = settled_name(random, file->name) != 0;
  pthread_mutex_lock(&lock);
  file->exists = is_there;
  pthread_mutex_unlock(&lock);
  set_unsure(file, false);
}

/* Who shows a wrong byte when it is read again: the page cache of that mount, that mount without it, the others. */
static void look_again(int which, const char *name, int fd, off_t at, uint8_t byte) {
  char path[PATH_MAX_BYTES];
  uint8_t *page;
  if (posix_memalign((void **)&page, 4096, 4096) != 0) abort();
  off_t start = at & ~(off_t)4095;
  ssize_t count = pread(fd, page, 4096, start);
  tell("{\"again\": \"the same descriptor\", \"mount\": %d, \"byte\": %d, \"wrong\": %d, \"count\": %zd}", which + 1,
       count > at - start ? page[at - start] : -1, byte, count);
  for (int other = 0; other < mounts; other++) {
    path_on(mount[other], name, path);
    int direct = open(path, O_RDONLY | O_DIRECT);
    if (direct < 0) continue;
    count = pread(direct, page, 4096, start);
    tell("{\"again\": \"past the page cache\", \"mount\": %d, \"byte\": %d, \"wrong\": %d, \"count\": %zd}", other + 1,
         count > at - start ? page[at - start] : -1, byte, count);
    close(direct);
  }
  free(page);
}

/* A range of a file through any mount: every byte is one that was allowed when the read began, or was written since. */
static void look(uint64_t *random) {
  int which = some_mount(random, false);
  if (which < 0) return;
  struct file *file = &files[random_below(random, FILES)];
  char path[PATH_MAX_BYTES];
  size_t start = random_below(random, 4) == 0 ? 0 : random_below(random, WINDOW_BYTES);
  size_t length = random_below(random, 4) == 0 ? WINDOW_BYTES : some_length(random);
  if (start + length > WINDOW_BYTES) length = WINDOW_BYTES - start;
  pthread_mutex_lock(&lock);
  if (!file->exists || file->is_unsure) {
    pthread_mutex_unlock(&lock);
    nap(5);
    return;
  }
  struct snapshot snapshot = snapshot_take(file, start, start + length);
  path_on(mount[which], file->name, path);
  off_t at = file->base + (off_t)start;
  pthread_mutex_unlock(&lock);
  uint8_t *bytes = allocate(length);
  int fd = CALL(OPEN, which, open(path, O_RDONLY));
  if (fd >= 0) {
    ssize_t count = CALL(READ, which, pread(fd, bytes, length, at));
    pthread_mutex_lock(&lock);
    ssize_t bad = count <= 0 ? -1 : snapshot_check(&snapshot, file, bytes, (size_t)count);
    if (bad >= 0) {
      size_t skipped = (size_t)bad - start;
      wrong_byte("read bytes that can't be", path, file, (long)start, bad, bytes + skipped, (size_t)count - skipped);
    }
    pthread_mutex_unlock(&lock);
    if (bad >= 0) look_again(which, file->name, fd, file->base + bad, bytes[(size_t)bad - start]);
    close(fd);
  } else if (errno == ENOENT && is_mounted(which)) {
    pthread_mutex_lock(&lock);
    if (file->epoch == snapshot.epoch) wrong("a name is not there", path, file, 0);
    pthread_mutex_unlock(&lock);
  }
  snapshot_free(&snapshot);
  free(bytes);
}

static void *read_all_along(void *seed) {
  thread_number = 1;
  uint64_t random = *(uint64_t *)seed;
  while (!stopping) {
    look(&random);
    nap(10);
  }
  return NULL;
}

static void *work(void *seed) {
  uint64_t random = *(uint64_t *)seed;
  while (!stopping) {
    int slot = (int)random_below(&random, FILES);
    switch (random_below(&random, 20)) {
      case 0: case 1: replace(&random, slot); break;
      case 2: case 3: rename_slot(&random, slot); break;
      case 4: unlink_slot(&random, slot); break;
      case 5: case 6: look(&random); break;
      default: edit(&random, slot);
    }
    nap(2);
  }
  if (kept_fd >= 0) {
    int code = CALL(CLOSE, kept_mount, close(kept_fd));
    kept_fd = -1;
    if (!commit_by(code, &files[0])) settle_content(&random, &files[0]);
  }
  for (int slot = 0; slot < FILES; slot++) {
    if (files[slot].pendings > 0) settle_content(&random, &files[slot]);
  }
  tell("{\"stopped\": {\"open\": %ld, \"read\": %ld, \"write\": %ld, \"fsync\": %ld, \"close\": %ld, \"meta\": %ld, "
       "\"errors\": %ld}}", operations[OPEN], operations[READ], operations[WRITE], operations[FSYNC], operations[CLOSE],
       operations[META], operation_errors);
  return NULL;
}

/* ---- afterwards */

static void *verify(void *path) {
  const char *root = path;
  uint8_t *bytes = allocate(WINDOW_BYTES);
  int verified = 0;
  for (int slot = 0; slot < FILES; slot++) {
    struct file *file = &files[slot];
    if (!file->exists) continue;
    size_t size;
    ssize_t count = read_file(0, root, file, bytes, &size);
    if (count < 0) {
      wrong(errno == ENOENT ? "a file is lost" : "a file can't be read", file->name, file, errno);
      continue;
    }
    if (size != file->size || (size_t)count != size) wrong("another size than was acknowledged", file->name, file, count);
    for (size_t at = 0; at < (size_t)count && at < file->size; at++) {
      if (content(file, file->version[at], at) == bytes[at]) continue;
      wrong_byte("other bytes than were acknowledged", file->name, file, 0, (long)at, bytes + at, (size_t)count - at);
      break;
    }
    verified++;
  }
  free(bytes);
  tell("{\"verified\": %d}", verified);
  return NULL;
}

static void say_where(void) {
  for (int i = 0; i < 2; i++) {
    const char *what = doing[i].what;
    if (what != NULL) {
      tell("{\"at\": \"%.60s\", \"mount\": %d, \"forMs\": %.0f}", what, doing[i].mount + 1, now_ms() - doing[i].since);
    }
  }
}

int main(int argc, char **argv) {
  if (argc < 4 || argc > 3 + MOUNTS_MAX) return 2;
  number = atoi(argv[1]);
  uint64_t seed = strtoull(argv[2], NULL, 10) * 1000 + (uint64_t)number, other = seed + 500;
  mounts = argc - 3;
  for (int i = 0; i < mounts; i++) mount[i] = argv[3 + i];
  struct statfs fs;
  if (statfs(mount[0], &fs) != 0) return 2;
  fs_type = fs.f_type;
  char path[PATH_MAX_BYTES];
  path_on(mount[0], "", path);
  if (mkdir(path, 0755) != 0) {
    perror(path);
    return 2;
  }
  for (int slot = 0; slot < FILES; slot++) file_make(&files[slot], 0, 0);
  pthread_t worker, reader, verifier;
  pthread_create(&worker, NULL, work, &seed);
  pthread_create(&reader, NULL, read_all_along, &other);
  char line[PATH_MAX_BYTES], root[PATH_MAX_BYTES];
  while (fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\n")] = 0;
    if (strcmp(line, "stop") == 0) stopping = true;
    else if (strcmp(line, "where") == 0) say_where();
    else if (strncmp(line, "verify ", 7) == 0) {
      pthread_join(worker, NULL);
      pthread_join(reader, NULL);
      snprintf(root, sizeof root, "%s", line + 7);
      pthread_create(&verifier, NULL, verify, root); /* "where" is answered meanwhile */
    }
  }
  _exit(0);
}
