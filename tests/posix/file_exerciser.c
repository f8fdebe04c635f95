/*
 * Random operations on one file, done to a file on the mount and to a reference file on a local disk, and compared
 * after each: result, errno, size, and every byte that is read. `random_operations.test.ts` builds and runs it.
 *
 *     file_exerciser MOUNTED REFERENCE SEED OPERATIONS [-m BYTES] [-h PATH] [-o LIST]
 *
 *     -m  largest offset (3 MiB)
 *     -h  PATH names the mounted file through another mount and stays open all the time, so that nobody may cache
 *     -o  does only these operations (0,5,17): each depends on the seed and its number alone, so that a sequence
 *         that failed can be made smaller by leaving operations out
 *
 * Exit code 0: no difference. 1: a difference, told on stderr with the operations before it. 2: wrong usage, or the
 * reference does not work.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096
#define LENGTH_MAX 300000
#define APPEND_MAX 5000
#define LOG_LINES 30

enum side { MOUNTED, REFERENCE, SIDES };

static const char *path[SIDES];
static int file[SIDES];
static const char *held_path;
static uint8_t *buffer[SIDES];
static uint8_t *data;
static size_t buffer_bytes;
static uint64_t seed;
static long operation;
static off_t size_before;
static char history[LOG_LINES][160];
static long logged;

/* ---- randomness: splitmix64, started anew for each operation */

static uint64_t state;

static uint64_t random_u64(void) {
  uint64_t z = (state += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

static uint64_t random_below(uint64_t limit) { return random_u64() % limit; }

static void fill_data(size_t length) {
  for (size_t i = 0; i < length; i += 8) {
    uint64_t word = random_u64();
    memcpy(data + i, &word, 8);
  }
}

/* ---- reports */

static void note(const char *format, ...) {
  char *line = history[logged++ % LOG_LINES];
  int used = snprintf(line, sizeof history[0], "%ld (%lld bytes) ", operation, (long long)size_before);
  va_list args;
  va_start(args, format);
  vsnprintf(line + used, sizeof history[0] - used, format, args);
  va_end(args);
}

static void print_history(void) {
  fprintf(stderr, "seed %llu, operation %ld; the operations up to it (number, size before, what):\n",
          (unsigned long long)seed, operation);
  for (long i = logged > LOG_LINES ? logged - LOG_LINES : 0; i < logged; i++)
    fprintf(stderr, "  %s\n", history[i % LOG_LINES]);
}

static void differ(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "DIFFERENCE ");
  vfprintf(stderr, format, args);
  fprintf(stderr, "\n");
  va_end(args);
  print_history();
  exit(1);
}

static void give_up(const char *what) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  print_history();
  exit(2);
}

/* Compares what a system call answered on both sides; `error` is looked at when it failed. */
static void compare_results(const char *what, const long result[SIDES], const int error[SIDES]) {
  if (result[MOUNTED] == result[REFERENCE] && (result[MOUNTED] >= 0 || error[MOUNTED] == error[REFERENCE])) return;
  differ("%s: %ld (%s) on the mount, %ld (%s) on the local disk", what, result[MOUNTED],
         result[MOUNTED] < 0 ? strerror(error[MOUNTED]) : "ok", result[REFERENCE],
         result[REFERENCE] < 0 ? strerror(error[REFERENCE]) : "ok");
}

static void compare_bytes(const char *what, const uint8_t *mounted, const uint8_t *reference, off_t offset,
                          size_t length) {
  if (memcmp(mounted, reference, length) == 0) return;
  size_t first = 0, last = length - 1, wrong = 0;
  while (mounted[first] == reference[first]) first++;
  while (mounted[last] == reference[last]) last--;
  for (size_t i = first; i <= last; i++) wrong += mounted[i] != reference[i];
  differ("%s of %zu bytes at %lld: %zu wrong bytes between %lld and %lld; first 0x%02x, should be 0x%02x", what,
         length, (long long)offset, wrong, (long long)offset + (long long)first, (long long)offset + (long long)last,
         mounted[first], reference[first]);
}

/* Runs `call` for each side with `side` set, and compares the results. The value: what both answered. */
#define ON_BOTH(what, call)                       \
  ({                                              \
    long both_result[SIDES];                      \
    int both_error[SIDES];                        \
    for (int side = 0; side < SIDES; side++) {    \
      errno = 0;                                  \
      both_result[side] = (call);                 \
      both_error[side] = errno;                   \
    }                                             \
    compare_results(what, both_result, both_error); \
    both_result[MOUNTED];                         \
  })

static off_t size_of(enum side side) {
  struct stat status;
  if (fstat(file[side], &status) != 0) {
    if (side == REFERENCE) give_up("fstat");
    differ("fstat: %s", strerror(errno));
  }
  return status.st_size;
}

/* ---- operations */

static void read_range(const char *what, off_t offset, size_t length) {
  long count = ON_BOTH(what, pread(file[side], buffer[side], length, offset));
  if (count > 0) compare_bytes(what, buffer[MOUNTED], buffer[REFERENCE], offset, (size_t)count);
}

static void write_range(off_t offset, size_t length) {
  fill_data(length);
  ON_BOTH("write", pwrite(file[side], data, length, offset));
}

static long append_once(enum side side, size_t length) {
  int fd = open(path[side], O_WRONLY | O_APPEND);
  if (fd < 0) return -1;
  long result = write(fd, data, length);
  int error = errno;
  if (close(fd) != 0) return -1;
  errno = error;
  return result;
}

static void append(size_t length) {
  if (length > APPEND_MAX) length = APPEND_MAX;
  fill_data(length);
  ON_BOTH("append", append_once(side, length));
}

/* True when the file can be mapped: under direct I/O it need not be. */
static bool map_both(uint8_t *map[SIDES], off_t offset, size_t length, int protection) {
  for (int side = 0; side < SIDES; side++) {
    map[side] = mmap(NULL, length, protection, MAP_SHARED, file[side], offset);
    if (map[side] != MAP_FAILED) continue;
    if (side == MOUNTED && held_path != NULL && errno == ENODEV) return false;
    if (side == MOUNTED) differ("mmap: %s", strerror(errno));
    give_up("mmap");
  }
  return true;
}

/* ---- a mapping that stays while the file is cut, grows, is punched, and is opened anew */

static uint8_t *kept[SIDES];
static size_t kept_bytes;

static void keep_mapping(size_t bytes) {
  for (int side = 0; side < SIDES; side++) {
    if (kept[side] != NULL) munmap(kept[side], kept_bytes);
    kept[side] = NULL;
  }
  kept_bytes = bytes;
  if (!map_both(kept, 0, bytes, PROT_READ | PROT_WRITE)) kept[MOUNTED] = kept[REFERENCE] = NULL;
}

/* What is stored past the file's end in its last page is lost, on both sides. */
static void use_kept(bool writes, off_t offset, size_t length) {
  if (kept[MOUNTED] == NULL || size_before == 0) return;
  off_t end = size_before < (off_t)kept_bytes ? size_before : (off_t)kept_bytes;
  off_t at = offset % end;
  off_t stop = writes ? (end + PAGE - 1) & ~(off_t)(PAGE - 1) : end;
  if (length > (size_t)(stop - at)) length = (size_t)(stop - at);
  if (writes) {
    if (random_below(3) == 0 && stop - at < 2 * PAGE) length = (size_t)(stop - at);
    fill_data(length);
    for (int side = 0; side < SIDES; side++) memcpy(kept[side] + at, data, length);
  }
  if (at + (off_t)length > end) length = (size_t)(end - at);
  compare_bytes(writes ? "kept mapping after a write" : "kept mapping", kept[MOUNTED] + at, kept[REFERENCE] + at, at,
                length);
}

static void sync_kept(void) {
  if (kept[MOUNTED] == NULL) return;
  ON_BOTH("msync", msync(kept[side], kept_bytes, MS_SYNC));
}

/* Direct I/O of whole pages, by a descriptor of its own. Left out where the local disk has none. */
static void direct_io(bool writes, off_t offset, size_t length) {
  offset &= ~(off_t)(PAGE - 1);
  length = (length + PAGE - 1) & ~(size_t)(PAGE - 1);
  int fd[SIDES];
  for (int side = 0; side < SIDES; side++) fd[side] = open(path[side], O_RDWR | O_DIRECT);
  if (fd[REFERENCE] >= 0) {
    if (fd[MOUNTED] < 0) differ("open with O_DIRECT: %s", strerror(errno));
    if (writes) {
      // What a mapping has stored past the end ext4 shows when a direct write makes the file longer.
      if (offset >= size_before) sync_kept();
      fill_data(length);
      ON_BOTH("direct write", pwrite(fd[side], data, length, offset));
    } else {
      long count = ON_BOTH("direct read", pread(fd[side], buffer[side], length, offset));
      if (count > 0) compare_bytes("direct read", buffer[MOUNTED], buffer[REFERENCE], offset, (size_t)count);
    }
  }
  for (int side = 0; side < SIDES; side++)
    if (fd[side] >= 0) close(fd[side]);
}

static void mapped(bool writes, off_t offset, size_t length) {
  if (size_before == 0) return;
  off_t at = (offset % size_before) & ~(off_t)(PAGE - 1);
  if (length > (size_t)(size_before - at)) length = (size_t)(size_before - at);
  // The part of the mapping that is touched need not begin with a page.
  size_t skip = random_below(length), end = skip + 1 + random_below(length - skip);
  bool syncs = random_below(4) == 0;
  uint8_t *map[SIDES];
  if (!map_both(map, at, length, writes ? PROT_READ | PROT_WRITE : PROT_READ)) return;
  if (writes) {
    fill_data(end - skip);
    for (int side = 0; side < SIDES; side++) memcpy(map[side] + skip, data, end - skip);
    if (syncs) ON_BOTH("msync", msync(map[side], length, MS_SYNC));
  }
  compare_bytes(writes ? "mapping after a write" : "mapping", map[MOUNTED], map[REFERENCE], at, length);
  for (int side = 0; side < SIDES; side++) munmap(map[side], length);
}

/* Modes of fallocate(2), and whether the local disk has them. */
static struct { const char *name; int mode; bool is_supported; } allocations[] = {
  {"fallocate", 0, true},
  {"fallocate keeping the size", FALLOC_FL_KEEP_SIZE, true},
  {"punch", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, true},
  {"zero", FALLOC_FL_ZERO_RANGE, true},
  {"zero keeping the size", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, true},
};
#define ALLOCATIONS (sizeof allocations / sizeof allocations[0])

static void find_supported(void) {
  for (size_t i = 0; i < ALLOCATIONS; i++) {
    if (fallocate(file[REFERENCE], allocations[i].mode, 0, PAGE) == 0 || errno != EOPNOTSUPP) continue;
    allocations[i].is_supported = false;
    printf("not compared, for the local disk does not have it: %s\n", allocations[i].name);
  }
  if (ftruncate(file[REFERENCE], 0) != 0) give_up("ftruncate");
}

static void allocate(size_t which, off_t offset, size_t length) {
  if (!allocations[which].is_supported) return;
  ON_BOTH(allocations[which].name, fallocate(file[side], allocations[which].mode, offset, (off_t)length));
}

static bool is_zero(const uint8_t *bytes, size_t length) {
  for (size_t i = 0; i < length; i++)
    if (bytes[i] != 0) return false;
  return true;
}

/* Holes need not be where the local disk has them, but what is told to be one must read as zeros. */
static void seek(bool for_data, off_t offset) {
  off_t found = lseek(file[MOUNTED], offset, for_data ? SEEK_DATA : SEEK_HOLE);
  int error = errno;
  if (offset >= size_before) {
    if (found >= 0 || error != ENXIO) differ("seek past the end: %lld, %s", (long long)found, strerror(error));
    return;
  }
  if (found < 0 && !(for_data && error == ENXIO)) differ("seek: %s", strerror(error));
  if (found >= 0 && (found < offset || found > size_before || (for_data && found == size_before)))
    differ("seek from %lld: %lld", (long long)offset, (long long)found);
  off_t start = for_data ? offset : found;
  off_t end = for_data ? (found < 0 ? size_before : found) : lseek(file[MOUNTED], found, SEEK_DATA);
  if (end < 0) end = size_before;
  if (end <= start) return;
  if (pread(file[REFERENCE], buffer[REFERENCE], (size_t)(end - start), start) != end - start) give_up("pread");
  if (!is_zero(buffer[REFERENCE], (size_t)(end - start)))
    differ("seek from %lld: the hole from %lld to %lld has data", (long long)offset, (long long)start, (long long)end);
}

/* copy_file_range(2) within the file; the ranges do not overlap. */
static long copy_all(enum side side, off_t from, off_t to, size_t length) {
  long done = 0;
  while ((size_t)done < length) {
    long count = copy_file_range(file[side], &from, file[side], &to, length - (size_t)done, 0);
    if (count < 0) return -1;
    if (count == 0) break;
    done += count;
  }
  return done;
}

static void copy(off_t offset, size_t length) {
  if (size_before < 2) return;
  off_t from = offset % size_before;
  off_t to = (off_t)random_below((uint64_t)size_before);
  size_t apart = (size_t)(from < to ? to - from : from - to);
  if (length > apart) length = apart;
  if (length == 0) return;
  ON_BOTH("copy_file_range", copy_all(side, from, to, length));
}

/* To another file, by way of which it comes back elsewhere; that may make the file longer. */
static long copy_by_way(enum side side, off_t from, off_t to, size_t length) {
  char other[4096];
  snprintf(other, sizeof other, "%s.other", path[side]);
  int fd = open(other, O_RDWR | O_CREAT, 0644);
  if (fd < 0) return -1;
  off_t out = from % 10000, in = out;
  long done = 0, count = 0;
  while ((size_t)done < length && (count = copy_file_range(file[side], &from, fd, &out, length - (size_t)done, 0)) > 0)
    done += count;
  long back = 0;
  while (count >= 0 && back < done && (count = copy_file_range(fd, &in, file[side], &to, (size_t)(done - back), 0)) > 0)
    back += count;
  int error = errno;
  close(fd);
  errno = error;
  return count < 0 ? -1 : back;
}

static void copy_out(off_t offset, size_t length) {
  if (size_before == 0) return;
  off_t from = (off_t)random_below((uint64_t)size_before);
  ON_BOTH("copy_file_range out and in", copy_by_way(side, from, offset, length));
}

static void reopen(int flags) {
  ON_BOTH("close", close(file[side]));
  for (int side = 0; side < SIDES; side++) {
    file[side] = open(path[side], O_RDWR | flags);
    if (file[side] < 0) differ("open: %s", strerror(errno));
  }
}

static void read_all(const char *what) { read_range(what, 0, (size_t)size_of(REFERENCE) + 10); }

enum kind {
  WRITE, READ, TRUNCATE, TRUNCATE_BY_NAME, MAPPED_READ, MAPPED_WRITE, FALLOCATE, KEEP, PUNCH, ZERO, ZERO_KEEP, REOPEN,
  REOPEN_EMPTY, FSYNC, APPEND, READ_ALL, SEEK_FOR_DATA, SEEK_FOR_HOLE, DIRECT_READ, DIRECT_WRITE, COPY,
  KEPT_READ, KEPT_WRITE, KEPT_SYNC, KEEP_MAPPING, COPY_OUT, KINDS
};

static const struct { const char *name; int weight; } kinds[KINDS] = {
  [WRITE] = {"write", 12}, [READ] = {"read", 8}, [TRUNCATE] = {"ftruncate", 3},
  [TRUNCATE_BY_NAME] = {"truncate", 1}, [MAPPED_READ] = {"mapped read", 3}, [MAPPED_WRITE] = {"mapped write", 4},
  [FALLOCATE] = {"fallocate", 2}, [KEEP] = {"fallocate keeping the size", 2}, [PUNCH] = {"punch", 4},
  [ZERO] = {"zero", 2}, [ZERO_KEEP] = {"zero keeping the size", 3}, [REOPEN] = {"reopen", 4},
  [REOPEN_EMPTY] = {"open with O_TRUNC", 1}, [FSYNC] = {"fsync", 2}, [APPEND] = {"append", 4},
  [READ_ALL] = {"read all", 3}, [SEEK_FOR_DATA] = {"seek for data", 1}, [SEEK_FOR_HOLE] = {"seek for a hole", 1},
  [DIRECT_READ] = {"direct read", 2}, [DIRECT_WRITE] = {"direct write", 2}, [COPY] = {"copy_file_range", 2},
  [KEPT_READ] = {"kept mapping read", 4}, [KEPT_WRITE] = {"kept mapping write", 5}, [KEPT_SYNC] = {"msync", 1},
  [KEEP_MAPPING] = {"map anew", 1}, [COPY_OUT] = {"copy_file_range out and in", 2},
};

static enum kind random_kind(void) {
  int sum = 0;
  for (int i = 0; i < KINDS; i++) sum += kinds[i].weight;
  int left = (int)random_below((uint64_t)sum);
  for (int i = 0; i < KINDS; i++)
    if ((left -= kinds[i].weight) < 0) return (enum kind)i;
  return READ;
}

static size_t random_length(void) {
  switch (random_below(5)) {
    case 0: return 1;
    case 1: return 100;
    case 2: return PAGE;
    case 3: return 65536;
    default: return 1 + random_below(LENGTH_MAX - 1);
  }
}

static void run_operation(off_t offset_max) {
  state = seed * 0xd1342543de82ef95ull + (uint64_t)operation * 0x2545f4914f6cdd1dull;
  enum kind kind = random_kind();
  off_t offset = (off_t)random_below((uint64_t)offset_max);
  size_t length = random_length();
  size_before = size_of(REFERENCE);
  note("%s %lld %zu", kinds[kind].name, (long long)offset, length);
  switch (kind) {
    case WRITE: write_range(offset, length); break;
    case READ: read_range("read", offset, length); break;
    case TRUNCATE: ON_BOTH("ftruncate", ftruncate(file[side], offset)); break;
    case TRUNCATE_BY_NAME: ON_BOTH("truncate", truncate(path[side], offset)); break;
    case MAPPED_READ: mapped(false, offset, length); break;
    case MAPPED_WRITE: mapped(true, offset, length); break;
    case FALLOCATE: allocate(0, offset, length); break;
    case KEEP: allocate(1, offset, length); break;
    case PUNCH: allocate(2, offset, length); break;
    case ZERO: allocate(3, offset, length); break;
    case ZERO_KEEP: allocate(4, offset, length); break;
    case REOPEN: reopen(0); break;
    // Seldom, or the file would never grow.
    case REOPEN_EMPTY: reopen(random_below(4) == 0 ? O_TRUNC : 0); break;
    case FSYNC: ON_BOTH("fsync", side == REFERENCE ? 0 : fsync(file[side])); break;
    case APPEND: append(length); break;
    case READ_ALL: read_all("read all"); break;
    case SEEK_FOR_DATA: seek(true, offset); break;
    case SEEK_FOR_HOLE: seek(false, offset); break;
    case DIRECT_READ: direct_io(false, offset, length); break;
    case DIRECT_WRITE: direct_io(true, offset, length); break;
    case COPY: copy(offset, length); break;
    case KEPT_READ: use_kept(false, offset, length); break;
    case KEPT_WRITE: use_kept(true, offset, length); break;
    case KEPT_SYNC: sync_kept(); break;
    case KEEP_MAPPING: keep_mapping(kept_bytes); break;
    case COPY_OUT: copy_out(offset, length); break;
    case KINDS: break;
  }
  off_t size[SIDES] = {size_of(MOUNTED), size_of(REFERENCE)};
  if (size[MOUNTED] != size[REFERENCE])
    differ("size after %s: %lld on the mount, %lld on the local disk", kinds[kind].name, (long long)size[MOUNTED],
           (long long)size[REFERENCE]);
}

/* Whether `number` is in a list like 0,5,17. */
static bool is_listed(const char *list, long number) {
  while (*list != '\0') {
    char *end;
    if (strtol(list, &end, 10) == number) return true;
    list = *end == ',' ? end + 1 : end;
    if (*end != ',' && *end != '\0') break;
  }
  return false;
}

int main(int count, char **arguments) {
  off_t offset_max = 3 << 20;
  const char *only = NULL;
  int option;
  while ((option = getopt(count, arguments, "m:h:o:")) != -1) {
    if (option == 'm') offset_max = atoll(optarg);
    else if (option == 'h') held_path = optarg;
    else if (option == 'o') only = optarg;
    else return 2;
  }
  if (count - optind != 4 || offset_max <= 0) {
    fprintf(stderr, "usage: file_exerciser MOUNTED REFERENCE SEED OPERATIONS [-m BYTES] [-h PATH] [-o LIST]\n");
    return 2;
  }
  path[MOUNTED] = arguments[optind];
  path[REFERENCE] = arguments[optind + 1];
  seed = strtoull(arguments[optind + 2], NULL, 10);
  long operations = atol(arguments[optind + 3]);
  // The file outgrows the largest offset by writes there and by appends.
  buffer_bytes = (size_t)offset_max + 2 * LENGTH_MAX + (size_t)operations * APPEND_MAX;
  for (int side = 0; side < SIDES; side++) {
    if (posix_memalign((void **)&buffer[side], PAGE, buffer_bytes) != 0) give_up("memory");
    unlink(path[side]);
    file[side] = open(path[side], O_RDWR | O_CREAT | O_EXCL, 0644);
    if (file[side] < 0) give_up(path[side]);
  }
  if (posix_memalign((void **)&data, PAGE, LENGTH_MAX + 2 * PAGE) != 0) give_up("memory");
  find_supported();
  keep_mapping((size_t)offset_max / 2 & ~(size_t)(PAGE - 1));
  int held = -1;
  if (held_path != NULL && (held = open(held_path, O_RDWR)) < 0) give_up(held_path);

  for (operation = 0; operation < operations; operation++)
    if (only == NULL || is_listed(only, operation)) run_operation(offset_max);
  size_before = size_of(REFERENCE);
  note("the end");
  read_all("read at the end");
  reopen(0);
  read_all("read after the last open");
  if (held >= 0) close(held);
  for (int side = 0; side < SIDES; side++) {
    close(file[side]);
    unlink(path[side]);
    snprintf(history[0], sizeof history[0], "%s.other", path[side]);
    unlink(history[0]);
  }
  printf("ok: %ld operations\n", operations);
  return 0;
}
