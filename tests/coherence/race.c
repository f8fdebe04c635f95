/*
 * `checker race`: threads, each bound to a mount, do operations on few objects at once and record what each answered,
 * with the times at which it began and returned. The history is taken in epochs, so that memory is bounded: all threads
 * pause, each part checks its objects, and the next epoch begins with new files under the same names. An epoch does not
 * end while an operation hangs, so that what others did meanwhile and what is seen afterwards are in one history.
 *
 * Of an operation that failed under --faults nobody knows what it did: it may take effect at any time from its start
 * on. Objects of such an epoch are not used again; the next one has names of its own.
 */
#include "race.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* An operation that is under way that long keeps the epoch open. */
#define LONG_NS 200000000ull
/* And so long after that, for what is old is seen then if ever. */
#define CALM_NS 2000000000ull
/* But not beyond that many times its operations. */
#define EPOCH_FACTOR 10
#define TOLD_MAX 5
#define KINDS_MAX 32

const char *const what_names[WHATS] = {
  [REGISTER_WRITE] = "register write", [REGISTER_READ] = "register read", [REGISTER_READ_NAME] = "register read by name",
  [REGISTER_READ_MAPPED] = "mapped read", [OVERLAP_WRITE] = "overlap write", [OVERLAP_READ] = "overlap read",
  [APPEND_WRITE] = "append", [APPEND_READ] = "log read", [APPEND_SIZE] = "log size", [NAME_CREATE] = "create",
  [NAME_UNLINK] = "unlink", [NAME_RENAME] = "rename", [NAME_STAT] = "stat", [NAME_OPEN] = "open",
  [NAME_READDIR] = "readdir", [MODE_SET] = "chmod", [MODE_GET] = "stat of mode", [TIME_SET] = "utimensat",
  [TIME_GET] = "stat of time", [REPLACE] = "replace", [REPLACE_OPEN] = "open of replaced",
  [REPLACE_STAT] = "stat of replaced",
};

struct worker workers[THREADS_MAX];
int worker_count;
unsigned epoch;
uint64_t epoch_start;
bool is_same_device[MOUNTS_MAX][MOUNTS_MAX];
atomic_long mappings_refused_by_race, torn_excused, unchecked;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static _Atomic bool is_running, is_over;
static unsigned running_epoch;
/* Operations of this epoch of which nobody knows what they did. */
static atomic_long unknown_in_epoch;
static unsigned generation;
static char base_name[64];

/* ---- telling */

static struct { const char *name; long count; } errors[KINDS_MAX];
static long error_count;
static pthread_mutex_t telling = PTHREAD_MUTEX_INITIALIZER;

void wrong(const char *kind, const char *format, ...) {
  pthread_mutex_lock(&telling);
  int i = 0;
  while (errors[i].name != NULL && strcmp(errors[i].name, kind) != 0) i++;
  errors[i].name = kind;
  error_count++;
  if (++errors[i].count <= TOLD_MAX) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "WRONG %s (epoch %u): ", kind, epoch);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
  }
  pthread_mutex_unlock(&telling);
}

int mount_of(const struct record *record) { return record->thread == SETUP_THREAD ? 0 : workers[record->thread].mount; }

void describe_stamp(char *text, size_t bytes, uint64_t stamp) {
  unsigned from = (unsigned)(stamp >> 48) - 1, thread = (unsigned)(stamp >> 40 & 0xff);
  unsigned long long number = stamp & 0xffffffffffull;
  char when[40] = "";
  if (stamp == 0) {
    snprintf(text, bytes, "zeros");
    return;
  }
  if (from != epoch % 0xffff) snprintf(when, sizeof when, " of epoch %u", from);
  if (thread == SETUP_THREAD) snprintf(text, bytes, "the set-up%s", when);
  else snprintf(text, bytes, "write #%llu of thread %u%s", number, thread, when);
}

void describe_record(char *text, size_t bytes, const struct record *record) {
  char value[100], end[40] = "nobody knows when";
  bool has_stamp = record->what <= OVERLAP_WRITE || record->what == APPEND_WRITE || record->what == TIME_SET ||
                   record->what == TIME_GET || record->what == REPLACE || record->what == REPLACE_OPEN;
  if (has_stamp) describe_stamp(value, sizeof value, record->value);
  else if (record->what >= NAME_CREATE && record->what <= NAME_READDIR)
    snprintf(value, sizeof value, "%c: %llu", 'a' + (int)record->extra, (unsigned long long)record->value);
  else if (record->what == MODE_SET || record->what == MODE_GET)
    snprintf(value, sizeof value, "%llo", (unsigned long long)record->value);
  else snprintf(value, sizeof value, "%llu", (unsigned long long)record->value);
  if (record->thread == SETUP_THREAD) {
    snprintf(text, bytes, "the set-up [%s]", value);
    return;
  }
  if (record->end != NEVER)
    snprintf(end, sizeof end, "%.6f", (double)(record->end - epoch_start) / 1e9);
  snprintf(text, bytes, "%s by thread %d on mount %d [%s] from %.6f to %s s", what_names[record->what], record->thread,
           mount_of(record) + 1, value, (double)(record->start - epoch_start) / 1e9, end);
}

/* ---- recording */

uint64_t begin(struct worker *worker, enum what what) {
  uint64_t now = now_ns();
  worker->busy_with = what_names[what];
  if (worker->busy_since == 0) worker->busy_since = now;
  return now;
}

static struct record *record(struct worker *worker, enum what what, int object, uint64_t start, uint64_t end,
                             uint64_t value) {
  if (worker->count == worker->capacity) {
    worker->capacity = worker->capacity == 0 ? 4096 : worker->capacity * 2;
    worker->records = grow(worker->records, worker->capacity * sizeof *worker->records);
  }
  struct record *made = &worker->records[worker->count++];
  *made = (struct record){start, end, value, .what = (uint8_t)what, .object = (uint8_t)object, .thread = (uint8_t)worker->id};
  worker->by_what[what]++;
  return made;
}

static bool is_change(enum what what) {
  return what == REGISTER_WRITE || what == OVERLAP_WRITE || what == APPEND_WRITE || what == NAME_CREATE ||
         what == NAME_UNLINK || what == NAME_RENAME || what == MODE_SET || what == TIME_SET ||
         what == REPLACE;
}

struct record *finish(struct worker *worker, enum what what, int object, uint64_t start, uint64_t value) {
  bool is_lost = is_change(what) && is_injected(worker, "unknown") && one_in(&worker->random, 50);
  worker->unknown += is_lost;
  unknown_in_epoch += is_lost;
  return record(worker, what, object, start, is_lost ? NEVER : now_ns(), value);
}

static bool is_fault(int error) {
  return error == EIO || error == ENOTCONN || error == ETIMEDOUT || error == ESTALE || error == ESHUTDOWN;
}

bool is_worth_a_retry(int error, uint64_t since) {
  if (!options.faults || !is_fault(error) || now_ns() - since > 60000000000ull) return false;
  sleep_ms(100);
  return true;
}

int acknowledged(int fd) {
  if (!options.faults) return 0;
  int copy = dup(fd);
  return copy < 0 ? -1 : close(copy);
}

bool failed(struct worker *worker, enum what what, int object, uint64_t start, uint64_t value, int error) {
  bool is_unknown = options.faults && is_fault(error);
  if (!is_unknown)
    wrong("unexpected errno", "%s of object %d by thread %d on mount %d: %s", what_names[what], object, worker->id,
          worker->mount + 1, errno_name(error));
  worker->unknown++;
  if (is_change(what)) {
    unknown_in_epoch++;
    record(worker, what, object, start, NEVER, value);
  }
  return is_unknown;
}

uint32_t keep_bulk(struct worker *worker, const uint64_t *words, size_t count) {
  if (worker->bulk_count + count > worker->bulk_capacity) {
    worker->bulk_capacity = 2 * worker->bulk_capacity + count + 4096;
    worker->bulk = grow(worker->bulk, worker->bulk_capacity * sizeof *worker->bulk);
  }
  memcpy(worker->bulk + worker->bulk_count, words, count * sizeof *words);
  worker->bulk_count += count;
  return (uint32_t)(worker->bulk_count - count);
}

static uint64_t stamp_of(uint64_t thread, uint64_t number) {
  return (uint64_t)((epoch + 1) % 0xffff) << 48 | thread << 40 | number;
}

uint64_t next_stamp(const struct worker *worker) { return stamp_of((uint64_t)worker->id, worker->count); }

uint64_t setup_stamp(int object) { return stamp_of(SETUP_THREAD, (uint64_t)object); }

const struct record **gather(unsigned kinds, int object, size_t *count) {
  size_t found = 0;
  for (int round = 0;; round++) {
    const struct record **list = round == 0 ? NULL : allocate((found + 1) * sizeof *list);
    found = 0;
    for (int i = 0; i < worker_count; i++) {
      for (size_t k = 0; k < workers[i].count; k++) {
        const struct record *candidate = &workers[i].records[k];
        if (candidate->object != object || (kinds >> candidate->what & 1) == 0) continue;
        if (list != NULL) list[found] = candidate;
        found++;
      }
    }
    *count = found;
    if (list != NULL) return list;
  }
}

/* ---- answers made wrong on purpose */

static const char *const injections[] = {
  "register-stale", "register-torn", "register-early", "mapped-stale", "overlap-stale", "overlap-torn", "append-lost",
  "append-twice", "append-torn", "append-order", "append-size", "append-read", "names-create", "names-stat",
  "names-readdir", "attributes-mode", "attributes-time", "replace-stale", "replace-absent", "errno",
  // Not wrong: operations that were done, and others that were not, count as failed.
  "unknown",
};

static void check_inject(void) {
  if (options.inject == NULL) return;
  for (size_t i = 0; i < sizeof injections / sizeof injections[0]; i++)
    if (strcmp(options.inject, injections[i]) == 0) return;
  fprintf(stderr, "--inject takes one of:");
  for (size_t i = 0; i < sizeof injections / sizeof injections[0]; i++) fprintf(stderr, " %s", injections[i]);
  fprintf(stderr, "\n");
  exit(2);
}

bool is_injected(struct worker *worker, const char *what) {
  return options.inject != NULL && strcmp(options.inject, what) == 0 && one_in(&worker->random, 50);
}

uint64_t inject_old(struct worker *worker, const char *what, int slot, uint64_t value) {
  if (options.inject == NULL || strcmp(options.inject, what) != 0) return value;
  if (worker->old_count[slot]++ == 0) worker->old_value[slot] = value;
  if (worker->old_count[slot] < 8) return value;
  worker->old_count[slot] = 0;
  return worker->old_value[slot];
}

/* ---- files */

void race_path(char path[PATH_BYTES], int mount, const char *name, int index) {
  snprintf(path, PATH_BYTES, "%.300s/%s/%u/%s-%d", options.mount[mount], base_name, generation, name, index);
}

void setup_file(const char *name, int index, const void *content, size_t length) {
  char path[PATH_BYTES], beside[PATH_BYTES + 8];
  race_path(path, (int)(epoch % (unsigned)options.mounts), name, index);
  snprintf(beside, sizeof beside, "%s.new", path);
  for (uint64_t start = now_ns();;) {
    int fd = open(beside, O_RDWR | O_CREAT | O_TRUNC, 0600);
    bool is_made = fd >= 0 && pwrite(fd, content, length, 0) == (ssize_t)length && fsync(fd) == 0;
    int error = errno;
    if (fd >= 0 && close(fd) != 0) is_made = false;
    if (is_made && rename(beside, path) == 0) return;
    if (is_made) error = errno;
    if (is_worth_a_retry(error, start)) continue;
    wrong("set-up", "%s: %s", path, errno_name(error));
    return;
  }
}

static void make_generation(void) {
  char path[PATH_BYTES];
  snprintf(path, sizeof path, "%.300s/%s/%u", options.mount[0], base_name, generation);
  for (uint64_t start = now_ns(); mkdir(path, 0700) != 0 && errno != EEXIST;)
    if (!is_worth_a_retry(errno, start)) give_up("%s", path);
}

static void find_same_devices(void) {
  struct stat status[MOUNTS_MAX];
  for (int i = 0; i < options.mounts; i++)
    if (stat(options.mount[i], &status[i]) != 0) give_up("%s", options.mount[i]);
  for (int i = 0; i < options.mounts; i++)
    for (int k = 0; k < options.mounts; k++) is_same_device[i][k] = status[i].st_dev == status[k].st_dev;
}

/* ---- threads */

static void forget_files(struct worker *worker) {
  static const size_t register_bytes[OBJECTS_MAX] = {PAGE, PAGE, PAGE, 16 * PAGE};
  for (int i = 0; i < OBJECTS_MAX; i++) {
    int *fds[] = {&worker->register_fd[i], &worker->overlap_fd[i], &worker->log_fd[i], &worker->attribute_fd[i]};
    for (int k = 0; k < 4; k++) {
      if (*fds[k] >= 0) close(*fds[k]);
      *fds[k] = -1;
    }
    if (worker->register_map[i] != NULL) munmap(worker->register_map[i], register_bytes[i]);
    worker->register_map[i] = NULL;
    worker->log_size[i] = 0;
  }
  if (worker->names_dir != NULL) closedir(worker->names_dir);
  worker->names_dir = NULL;
}

/* For --inject unknown: an operation that was never done, and of which nobody knows that. */
static void pretend(struct worker *worker) {
  static const enum what changes[] = {REGISTER_WRITE, APPEND_WRITE, NAME_CREATE, NAME_UNLINK, NAME_RENAME, MODE_SET};
  enum what what = changes[random_below(&worker->random, 6)];
  bool is_name = what == NAME_CREATE || what == NAME_UNLINK || what == NAME_RENAME;
  failed(worker, what, (int)random_below(&worker->random, 2), now_ns(),
         what == MODE_SET ? 0777 : is_name ? UINT64_MAX : next_stamp(worker), EIO);
}

static void run_operation(struct worker *worker) {
  static void (*const parts[])(struct worker *) = {race_registers, race_overlap, race_append, race_names,
                                                   race_attributes, race_replace};
  unsigned part;
  do part = (unsigned)random_below(&worker->random, PARTS);
  while ((options.only >> part & 1) == 0);
  parts[part](worker);
  if (is_injected(worker, "unknown") && one_in(&worker->random, 100)) pretend(worker);
  if (is_injected(worker, "errno")) failed(worker, NAME_STAT, 0, now_ns(), 0, EIO);
  uint64_t took = now_ns() - worker->busy_since;
  if (took > worker->longest_ns) {
    worker->longest_ns = took;
    worker->longest_name = worker->busy_with;
  }
  worker->busy_since = 0;
  worker->operations++;
}

static void *run_worker(void *argument) {
  struct worker *worker = argument;
  unsigned seen = 0;
  for (;;) {
    pthread_mutex_lock(&mutex);
    worker->is_idle = true;
    pthread_cond_broadcast(&changed);
    while (!is_over && running_epoch == seen) pthread_cond_wait(&changed, &mutex);
    seen = running_epoch;
    worker->is_idle = false;
    pthread_mutex_unlock(&mutex);
    if (is_over) return NULL;
    while (is_running) {
      run_operation(worker);
      if (options.pause_ms > 0) sleep_ms((double)random_below(&worker->random, 2000ull * (uint64_t)options.pause_ms) / 1000);
    }
    worker->busy_with = "close";
    worker->busy_since = now_ns();
    forget_files(worker);
    worker->busy_since = 0;
  }
}

static void start_workers(void) {
  worker_count = options.mounts * options.threads;
  if (worker_count > THREADS_MAX) {
    fprintf(stderr, "more than %d threads\n", THREADS_MAX);
    exit(2);
  }
  for (int i = 0; i < worker_count; i++) {
    struct worker *worker = &workers[i];
    worker->id = i;
    worker->mount = i % options.mounts;
    worker->random = mix(options.seed * 1000 + (uint64_t)i);
    for (int k = 0; k < OBJECTS_MAX; k++)
      worker->register_fd[k] = worker->overlap_fd[k] = worker->log_fd[k] = worker->attribute_fd[k] = -1;
    int error = pthread_create(&worker->thread, NULL, run_worker, worker);
    if (error != 0) {
      errno = error;
      give_up("thread");
    }
  }
}

/* ---- the result */

static long sum_of_operations(void) {
  long sum = 0;
  for (int i = 0; i < worker_count; i++) sum += workers[i].operations;
  return sum;
}

static void print_json(double seconds, long unknown) {
  printf("{\"mode\":\"race\",\"seed\":%llu,\"operations\":%ld,\"seconds\":%.2f,\"epochs\":%u,\"errors\":%ld,"
         "\"unknown\":%ld,\"torn_excused\":%ld,\"mappings_refused\":%ld,\"unchecked\":%ld,\"kinds\":{",
         (unsigned long long)options.seed, sum_of_operations(), seconds, epoch, error_count, unknown, torn_excused,
         mappings_refused_by_race, unchecked);
  for (int what = 0; what < WHATS; what++) {
    long count = 0;
    for (int i = 0; i < worker_count; i++) count += workers[i].by_what[what];
    printf("%s\"%s\":%ld", what == 0 ? "" : ",", what_names[what], count);
  }
  printf("},\"wrong\":{");
  for (int i = 0; errors[i].name != NULL; i++)
    printf("%s\"%s\":%ld", i == 0 ? "" : ",", errors[i].name, errors[i].count);
  printf("},\"longest_ms\":[");
  for (int mount = 0; mount < options.mounts; mount++) {
    uint64_t longest = 0;
    for (int i = 0; i < worker_count; i++)
      if (workers[i].mount == mount && workers[i].longest_ns > longest) longest = workers[i].longest_ns;
    printf("%s%.1f", mount == 0 ? "" : ",", (double)longest / 1e6);
  }
  printf("]}\n");
}

static void print_result(double seconds) {
  long unknown = 0;
  for (int i = 0; i < worker_count; i++) unknown += workers[i].unknown;
  for (int mount = 0; mount < options.mounts; mount++) {
    const struct worker *slowest = &workers[mount];
    for (int i = 0; i < worker_count; i++)
      if (workers[i].mount == mount && workers[i].longest_ns > slowest->longest_ns) slowest = &workers[i];
    printf("mount %d: longest operation %.1f ms (%s)\n", mount + 1, (double)slowest->longest_ns / 1e6,
           slowest->longest_name == NULL ? "none" : slowest->longest_name);
  }
  for (int i = 0; errors[i].name != NULL; i++) printf("wrong, %s: %ld\n", errors[i].name, errors[i].count);
  printf("%s: %ld operations in %.1f s (%.0f/s), %u epochs, %ld errors, %ld outcomes unknown, %ld torn by the kernel, "
         "%ld mappings refused, %ld unchecked\n",
         error_count == 0 ? "ok" : "WRONG", sum_of_operations(), seconds, (double)sum_of_operations() / seconds, epoch,
         error_count, unknown, torn_excused, mappings_refused_by_race, unchecked);
  if (options.json) print_json(seconds, unknown);
}

/* ---- epochs */

static const struct { void (*setup)(void), (*check)(void); } parts[] = {
  {setup_registers, check_registers}, {setup_overlap, check_overlap}, {setup_append, check_append},
  {setup_names, check_names}, {setup_attributes, check_attributes}, {setup_replace, check_replace},
};

static void begin_epoch(void) {
  for (int i = 0; i < worker_count; i++) workers[i].count = workers[i].bulk_count = 0;
  if (unknown_in_epoch > 0) generation++;
  unknown_in_epoch = 0;
  make_generation();
  for (unsigned i = 0; i < PARTS; i++)
    if (options.only >> i & 1) parts[i].setup();
  epoch_start = now_ns();
  pthread_mutex_lock(&mutex);
  is_running = true;
  running_epoch = epoch + 1;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
}

static bool is_someone_stuck(void) {
  for (int i = 0; i < worker_count; i++) {
    uint64_t since = workers[i].busy_since, now = now_ns();
    if (since != 0 && now > since && now - since > LONG_NS) return true;
  }
  return false;
}

static void wait_for_end_of_epoch(uint64_t deadline) {
  long before = sum_of_operations();
  for (uint64_t last_stuck = 0;;) {
    sleep_ms(10);
    if (is_someone_stuck()) last_stuck = now_ns();
    long done = sum_of_operations() - before;
    double seconds = (double)(now_ns() - epoch_start) / 1e9;
    bool is_full = done >= options.epoch_operations || seconds >= options.epoch_seconds;
    if (now_ns() >= deadline || done >= EPOCH_FACTOR * options.epoch_operations) return;
    if (is_full && now_ns() - last_stuck > CALM_NS) return;
  }
}

/* False when a thread does not come back. */
static bool pause_workers(double started) {
  is_running = false;
  uint64_t from = now_ns();
  for (;;) {
    const struct worker *busy = NULL;
    for (int i = 0; i < worker_count; i++)
      if (!workers[i].is_idle) busy = &workers[i];
    if (busy == NULL) return true;
    if ((double)(now_ns() - from) / 1e9 > options.hang_seconds) {
      wrong("hang", "thread %d on mount %d is in %s since %.0f s", busy->id, busy->mount + 1, busy->busy_with,
            (double)(now_ns() - busy->busy_since) / 1e9);
      print_result((double)now_ns() / 1e9 - started);
      fflush(NULL);
      _exit(1);
    }
    sleep_ms(1);
  }
}

int race(void) {
  check_inject();
  find_same_devices();
  snprintf(base_name, sizeof base_name, "race-%llu-%d", (unsigned long long)options.seed, getpid());
  char base[PATH_BYTES];
  snprintf(base, sizeof base, "%.300s/%s", options.mount[0], base_name);
  if (mkdir(base, 0700) != 0) give_up("%s", base);
  start_workers();
  double started = (double)now_ns() / 1e9;
  const uint64_t deadline = now_ns() + (uint64_t)(options.seconds * 1e9);
  do {
    begin_epoch();
    wait_for_end_of_epoch(deadline);
    pause_workers(started);
    for (unsigned i = 0; i < PARTS; i++)
      if (options.only >> i & 1) parts[i].check();
    epoch++;
  } while (now_ns() < deadline);
  double seconds = (double)now_ns() / 1e9 - started;
  pthread_mutex_lock(&mutex);
  is_over = true;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
  for (int i = 0; i < worker_count; i++) pthread_join(workers[i].thread, NULL);
  remove_tree(base);
  print_result(seconds);
  return error_count == 0 ? 0 : 1;
}
