/*
 * `checker race`, append logs: records of 100 bytes, appended with O_APPEND by all threads. In the end every record that
 * was acknowledged is there exactly once and whole, records lie in the order in which they were written (as far as one
 * write had returned before the other began), and every mount shows the same. A look at a log while it grows never shows
 * fewer records than had been acknowledged before it began, nor more than had been begun, and what it reads stays so.
 */
#include "order.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOGS 2
#define RECORD 100
/* A log does not grow beyond that in one epoch. */
#define LOG_BYTES_MAX (2u << 20)
#define READ_BYTES 4000

static void fill(uint8_t record[RECORD], uint64_t stamp) {
  uint64_t word = stamp;
  for (int i = 0; i < RECORD; i += 8) {
    memcpy(record + i, &word, i + 8 <= RECORD ? 8 : (size_t)(RECORD - i));
    word = mix(word + 1);
  }
}

static uint64_t hash_of(const uint8_t *bytes, size_t length) {
  uint64_t hash = length;
  for (size_t i = 0; i < length; i++) hash = (hash ^ bytes[i]) * 0x100000001b3ull;
  return hash;
}

void setup_append(void) {
  for (int log = 0; log < LOGS; log++) setup_file("log", log, "", 0);
}

static int open_log(struct worker *worker, int log, int flags) {
  char path[PATH_BYTES];
  race_path(path, worker->mount, "log", log);
  return open(path, flags);
}

static int kept(struct worker *worker, int log, uint64_t start) {
  int *fd = &worker->log_fd[log];
  if (*fd < 0) *fd = open_log(worker, log, O_RDWR | O_APPEND);
  if (*fd < 0) failed(worker, APPEND_SIZE, log, start, 0, errno);
  return *fd;
}

static void forget(struct worker *worker, int log) {
  close(worker->log_fd[log]);
  worker->log_fd[log] = -1;
}

static void do_append(struct worker *worker, int log) {
  uint8_t bytes[RECORD];
  bool by_name = one_in(&worker->random, 4);
  uint64_t stamp = next_stamp(worker), opening = begin(worker, APPEND_WRITE);
  if (is_injected(worker, "append-lost")) {
    finish(worker, APPEND_WRITE, log, opening, stamp);
    return;
  }
  int fd = by_name ? open_log(worker, log, O_WRONLY | O_APPEND) : kept(worker, log, opening);
  if (fd < 0) {
    if (by_name) failed(worker, APPEND_SIZE, log, opening, 0, errno);
    return;
  }
  fill(bytes, stamp);
  if (is_injected(worker, "append-torn")) bytes[50] ^= 1;
  uint64_t start = begin(worker, APPEND_WRITE);
  ssize_t count = write(fd, bytes, RECORD);
  if (is_injected(worker, "append-twice")) count = write(fd, bytes, RECORD);
  if (is_injected(worker, "append-order")) start = begin(worker, APPEND_WRITE) + 20000000;
  if (count == RECORD && acknowledged(fd) != 0) count = -1;
  if (count == RECORD) finish(worker, APPEND_WRITE, log, start, stamp);
  else {
    failed(worker, APPEND_WRITE, log, start, stamp, count < 0 ? errno : EIO);
    if (!by_name) forget(worker, log);
  }
  if (by_name && close(fd) != 0) failed(worker, APPEND_SIZE, log, start, 0, errno);
}

static void do_size(struct worker *worker, int log) {
  struct stat status;
  char path[PATH_BYTES];
  bool by_name = one_in(&worker->random, 2);
  uint64_t start = begin(worker, APPEND_SIZE);
  int fd = by_name ? -1 : kept(worker, log, start);
  if (!by_name && fd < 0) return;
  race_path(path, worker->mount, "log", log);
  start = begin(worker, APPEND_SIZE);
  if ((by_name ? stat(path, &status) : fstat(fd, &status)) != 0) {
    failed(worker, APPEND_SIZE, log, start, 0, errno);
    return;
  }
  finish(worker, APPEND_SIZE, log, start, inject_old(worker, "append-size", log, (uint64_t)status.st_size));
}

/* Reads from some records before the end that the thread knows of. `value`: where the read ended; `extra`: where it
 * began; in the bulk: the hash of the whole records that it gave. */
static void do_read(struct worker *worker, int log) {
  uint8_t bytes[READ_BYTES];
  bool by_name = one_in(&worker->random, 3);
  uint64_t opening = begin(worker, APPEND_READ);
  int fd = by_name ? open_log(worker, log, O_RDONLY) : kept(worker, log, opening);
  if (fd < 0) {
    if (by_name) failed(worker, APPEND_READ, log, opening, 0, errno);
    return;
  }
  uint64_t known = worker->log_size[log] / RECORD * RECORD;
  uint64_t from = known > 1000 ? known - 1000 : 0;
  uint64_t start = begin(worker, APPEND_READ);
  ssize_t count = pread(fd, bytes, READ_BYTES, (off_t)from);
  int error = errno;
  if (by_name) close(fd);
  if (count < 0) {
    failed(worker, APPEND_READ, log, start, 0, error);
    if (!by_name) forget(worker, log);
    return;
  }
  if (count > 30 && is_injected(worker, "append-read")) bytes[30] ^= 1;
  struct record *record = finish(worker, APPEND_READ, log, start, from + (uint64_t)count);
  record->extra = (uint32_t)from;
  uint64_t hash = hash_of(bytes, (size_t)(count / RECORD * RECORD));
  record->extra2 = keep_bulk(worker, &hash, 1);
  if (from + (uint64_t)count > worker->log_size[log]) worker->log_size[log] = from + (uint64_t)count;
}

void race_append(struct worker *worker) {
  int log = (int)random_below(&worker->random, LOGS);
  uint64_t which = random_below(&worker->random, 10);
  if (which < 5 && worker->log_size[log] < LOG_BYTES_MAX) do_append(worker, log);
  else if (which < 7) do_size(worker, log);
  else do_read(worker, log);
}

/* ---- checking */

/* The log as a mount shows it. Returns its size, or -1. */
static long read_log(int mount, int log, uint8_t **bytes) {
  char path[PATH_BYTES];
  race_path(path, mount, "log", log);
  *bytes = allocate(2 * LOG_BYTES_MAX);
  long size;
  uint64_t start = now_ns();
  do {
    int fd = open(path, O_RDONLY);
    size = fd < 0 ? -errno : read_fully(fd, *bytes, 2 * LOG_BYTES_MAX, 0);
    if (fd >= 0) close(fd);
  } while (size < 0 && is_worth_a_retry((int)-size, start));
  if (size < 0) wrong("append final read", "log %d by mount %d: %s", log, mount + 1, errno_name((int)-size));
  return size;
}

/* Which write made each record of the log; NULL: none did. */
static void identify(int log, const uint8_t *bytes, size_t count, const struct record **made) {
  for (size_t i = 0; i < count; i++) {
    uint64_t stamp, thread, number;
    uint8_t should[RECORD];
    memcpy(&stamp, bytes + i * RECORD, 8);
    thread = stamp >> 40 & 0xff;
    number = stamp & 0xffffffffffull;
    fill(should, stamp);
    const struct record *record = NULL;
    if (stamp >> 48 == (epoch + 1) % 0xffff && thread < (uint64_t)worker_count && number < workers[thread].count)
      record = &workers[thread].records[number];
    bool is_ours = record != NULL && record->what == APPEND_WRITE && record->object == log && record->value == stamp;
    if (is_ours && memcmp(should, bytes + i * RECORD, RECORD) == 0) made[i] = record;
    else wrong("append torn", "log %d: record %zu (at %zu) is not what anybody wrote; it begins %016llx", log, i,
               i * RECORD, (unsigned long long)stamp);
  }
}

static int compare_pointers(const void *left, const void *right) {
  const struct record *a = *(const struct record *const *)left, *b = *(const struct record *const *)right;
  return a < b ? -1 : a > b;
}

static void check_content(int log, const struct record **writes, size_t written, const struct record **made,
                          size_t count) {
  char a[200], b[200];
  // Lost or twice.
  const struct record **found = allocate((count + 1) * sizeof *found);
  size_t known = 0;
  for (size_t i = 0; i < count; i++)
    if (made[i] != NULL) found[known++] = made[i];
  qsort(found, known, sizeof *found, compare_pointers);
  for (size_t i = 0; i + 1 < known; i++) {
    if (found[i] != found[i + 1]) continue;
    describe_record(a, sizeof a, found[i]);
    wrong("append twice", "log %d: %s is there twice", log, a);
  }
  for (size_t i = 0; i < written; i++) {
    if (writes[i]->end == NEVER || bsearch(&writes[i], found, known, sizeof *found, compare_pointers) != NULL) continue;
    describe_record(a, sizeof a, writes[i]);
    wrong("append lost", "log %d: %s was acknowledged and is not there", log, a);
  }
  free(found);
  // No record lies after one that was begun only when it had returned.
  const struct record *first_end = NULL;
  for (size_t i = count; i-- > 0;) {
    if (made[i] == NULL) continue;
    if (first_end != NULL && first_end->end < made[i]->start) {
      describe_record(a, sizeof a, made[i]);
      describe_record(b, sizeof b, first_end);
      wrong("append order", "log %d: %s (record %zu) lies before %s", log, a, i, b);
      break;
    }
    if (first_end == NULL || made[i]->end < first_end->end) first_end = made[i];
  }
}

static int compare_times(const void *left, const void *right) {
  uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
  return a < b ? -1 : a > b;
}

/* How many of the sorted times are below `time`. */
static size_t count_before(const uint64_t *times, size_t count, uint64_t time) {
  size_t low = 0, high = count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (times[middle] < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

static bool has_concurrent_write(const struct record *look, const struct record **writes, size_t written) {
  for (size_t i = 0; i < written; i++)
    if (is_same_device[mount_of(look)][mount_of(writes[i])] && writes[i]->start <= look->end &&
        look->start <= writes[i]->end)
      return true;
  return false;
}

static void check_looks(int log, const struct record **writes, size_t written, const uint8_t *bytes, size_t size) {
  size_t count;
  char text[200];
  const struct record **looks = gather(1u << APPEND_READ | 1u << APPEND_SIZE, log, &count);
  uint64_t *starts = allocate((written + 1) * sizeof *starts), *ends = allocate((written + 1) * sizeof *ends);
  for (size_t i = 0; i < written; i++) {
    starts[i] = writes[i]->start;
    ends[i] = writes[i]->end;
  }
  qsort(starts, written, sizeof *starts, compare_times);
  qsort(ends, written, sizeof *ends, compare_times);
  for (size_t i = 0; i < count; i++) {
    const struct record *look = looks[i];
    uint64_t least = RECORD * count_before(ends, written, look->start);
    uint64_t most = RECORD * count_before(starts, written, look->end + 1);
    bool is_read = look->what == APPEND_READ;
    const char *kind = is_read ? "append read" : "append size";
    describe_record(text, sizeof text, look);
    // A read that was full ended there and not at the end of the log.
    bool is_full = is_read && look->value == look->extra + READ_BYTES;
    if (look->value < least && !is_full)
      wrong(kind, "log %d: %s shows %llu bytes, and %llu had been acknowledged before", log, text,
            (unsigned long long)look->value, (unsigned long long)least);
    if (look->value > most)
      wrong(kind, "log %d: %s shows %llu bytes, and only %llu had been begun", log, text,
            (unsigned long long)look->value, (unsigned long long)most);
    if (look->value % RECORD != 0) {
      // The kernel shows parts of a write by the same mount that is under way.
      if (has_concurrent_write(look, writes, written)) torn_excused++;
      else wrong(kind, "log %d: %s shows %llu bytes, part of a record", log, text, (unsigned long long)look->value);
    }
    uint64_t to = look->extra + (look->value - look->extra) / RECORD * RECORD;
    if (is_read && to <= size && hash_of(bytes + look->extra, to - look->extra) != workers[look->thread].bulk[look->extra2])
      wrong("append content", "log %d: %s gave something else between %u and %llu than was there in the end", log, text,
            look->extra, (unsigned long long)to);
  }
  free(looks);
  free(starts);
  free(ends);
}

void check_append(void) {
  for (int log = 0; log < LOGS; log++) {
    uint8_t *bytes = NULL;
    long size = read_log(0, log, &bytes);
    for (int mount = 1; mount < options.mounts && size >= 0; mount++) {
      uint8_t *others = NULL;
      long other = read_log(mount, log, &others);
      long common = other < size ? other : size, first = 0;
      while (first < common && bytes[first] == others[first]) first++;
      if (other >= 0 && (other != size || first < common))
        wrong("append final read", "log %d: mount 1 shows %ld bytes, mount %d %ld; they differ from %ld on", log, size,
              mount + 1, other, first);
      free(others);
    }
    if (size < 0) {
      free(bytes);
      continue;
    }
    if (size % RECORD != 0) wrong("append torn", "log %d: its %ld bytes are no whole records", log, size);
    size_t written, count = (size_t)size / RECORD;
    const struct record **writes = gather(1u << APPEND_WRITE, log, &written);
    const struct record **made = allocate((count + 1) * sizeof *made);
    identify(log, bytes, count, made);
    check_content(log, writes, written, made, count);
    check_looks(log, writes, written, bytes, (size_t)size);
    free(bytes);
    free(made);
    free(writes);
  }
}
