/*
 * `checker race`, attributes: mode and time of files that nobody writes, each a register. Times are unique, so that
 * check_atomic does; there are not enough modes for that, so that their order is searched for (check_search). Both are
 * on one inode, and a change of one must not bring back an old value of the other.
 */
#include "order.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES 3
#define FIRST_MODE 0600
#define FIRST_SECOND 1000000000ll

/*
 * Stamps as times. The seconds alone say which it is, and the nanoseconds must be those that belong to them: the kernel
 * sets the two one after the other, so that a look by the same mount meanwhile may get one of each.
 */
static uint64_t seconds_of(uint64_t stamp) {
  uint64_t thread = stamp >> 40 & 0xff;
  return (stamp >> 48 & 7) << 26 | (thread == SETUP_THREAD ? THREADS_MAX : thread) << 20 | (stamp & 0xfffff);
}

static struct timespec time_of(uint64_t stamp) {
  uint64_t second = seconds_of(stamp);
  return (struct timespec){FIRST_SECOND + (time_t)second, (long)(mix(second) % 1000000000)};
}

/* The stamp, as far as seconds tell; 0 for a time that is torn. */
static uint64_t stamp_of(struct timespec time) {
  uint64_t second = (uint64_t)(time.tv_sec - FIRST_SECOND), thread = second >> 20 & 0x3f;
  uint64_t from = (epoch + 1) % 0xffff;
  if ((uint64_t)time.tv_nsec != mix(second) % 1000000000) return 0;
  // Of an epoch before this one when the bits are not ours.
  if ((second >> 26) != (from & 7)) from = from > 0 ? from - 1 : 0;
  return from << 48 | (thread == THREADS_MAX ? SETUP_THREAD : thread) << 40 | (second & 0xfffff);
}

void setup_attributes(void) {
  char path[PATH_BYTES];
  for (int file = 0; file < FILES; file++) {
    setup_file("attributes", file, "", 0);
    race_path(path, (int)(epoch % (unsigned)options.mounts), "attributes", file);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, time_of(setup_stamp(file))};
    for (uint64_t start = now_ns(); utimensat(AT_FDCWD, path, times, 0) != 0;) {
      if (is_worth_a_retry(errno, start)) continue;
      wrong("set-up", "utimensat %s: %s", path, errno_name(errno));
      break;
    }
  }
}

/* The descriptor that the thread keeps, or -1 to go by the name. */
static int kept(struct worker *worker, int file, const char *path) {
  int *fd = &worker->attribute_fd[file];
  if (one_in(&worker->random, 2)) return -1;
  if (*fd < 0) *fd = open(path, O_RDONLY);
  return *fd;
}

void race_attributes(struct worker *worker) {
  int file = (int)random_below(&worker->random, FILES);
  char path[PATH_BYTES];
  struct stat status;
  race_path(path, worker->mount, "attributes", file);
  uint64_t which = random_below(&worker->random, 8);
  enum what what = which < 2 ? MODE_SET : which < 4 ? TIME_SET : MODE_GET;
  begin(worker, what);
  int fd = kept(worker, file, path);
  long result;
  uint64_t value = 0, start = begin(worker, what);
  if (what == MODE_SET) {
    // Few bits for those who are not root: others could take the file away from us.
    mode_t mode = FIRST_MODE | (mode_t)random_below(&worker->random, 0200);
    value = mode;
    result = fd >= 0 ? fchmod(fd, mode) : chmod(path, mode);
  } else if (what == TIME_SET) {
    value = next_stamp(worker);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, time_of(value)};
    result = fd >= 0 ? futimens(fd, times) : utimensat(AT_FDCWD, path, times, 0);
  } else {
    result = fd >= 0 ? fstat(fd, &status) : stat(path, &status);
  }
  if (result != 0) {
    failed(worker, what, file, start, value, errno);
    if (worker->attribute_fd[file] >= 0) close(worker->attribute_fd[file]);
    worker->attribute_fd[file] = -1;
    return;
  }
  if (what != MODE_GET) {
    finish(worker, what, file, start, value);
    return;
  }
  value = inject_old(worker, "attributes-mode", file, status.st_mode & 07777);
  struct record mode = *finish(worker, MODE_GET, file, start, value);
  struct record *time = finish(worker, TIME_GET, file, start, 0);
  time->end = mode.end;
  time->extra = (uint32_t)status.st_mtim.tv_nsec;
  time->value = inject_old(worker, "attributes-time", FILES + file, stamp_of(status.st_mtim));
}

/* ---- checking */

static bool apply(const struct record *record, struct state *state) {
  if (record->what == MODE_GET) return state->a == record->value;
  state->a = record->value;
  return true;
}

static bool is_look(const struct record *record) { return record->what == MODE_GET; }

static void tell_torn(const char *name, const struct record *look, const struct record **times, size_t count) {
  for (size_t i = 0; i < count; i++) {
    bool is_concurrent = times[i]->start <= look->end && look->start <= times[i]->end;
    if (times[i]->what != TIME_SET || !is_concurrent) continue;
    if (!is_same_device[mount_of(look)][mount_of(times[i])]) continue;
    torn_excused++;
    return;
  }
  char text[200];
  describe_record(text, sizeof text, look);
  wrong("attributes torn", "%s: %s gave a time that nobody set (%u ns)", name, text, look->extra);
}

static void check_times(int file) {
  size_t count, used = 0;
  char name[40];
  const struct record **times = gather(1u << TIME_SET | 1u << TIME_GET, file, &count);
  const struct record first = {.value = setup_stamp(file), .what = TIME_SET, .thread = SETUP_THREAD};
  struct access *accesses = allocate((count + 1) * sizeof *accesses);
  snprintf(name, sizeof name, "time of attributes %d", file);
  accesses[used++] = (struct access){0, 0, first.value, true, &first};
  for (size_t i = 0; i < count; i++) {
    bool is_write = times[i]->what == TIME_SET;
    if (times[i]->value == 0) tell_torn(name, times[i], times, count);
    else accesses[used++] = (struct access){times[i]->start, times[i]->end, times[i]->value, is_write, times[i]};
  }
  check_atomic("attributes time", name, accesses, used);
  free(accesses);
  free(times);
}

void check_attributes(void) {
  for (int file = 0; file < FILES; file++) {
    size_t count;
    char name[40];
    const struct record **modes = gather(1u << MODE_SET | 1u << MODE_GET, file, &count);
    snprintf(name, sizeof name, "mode of attributes %d", file);
    check_search("attributes mode", name, modes, count, (struct state){.a = FIRST_MODE}, apply, is_look);
    free(modes);
    check_times(file);
  }
}
