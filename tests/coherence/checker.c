/*
 * Finds out whether several mounts of one file system show the same at all times. Knows nothing of the file system:
 * its mount points are arguments. `coherence.test.ts` and `scripts/coherence` build it:
 *
 *     gcc -std=gnu11 -O2 -pthread -o checker tests/coherence/(all).c
 *
 *     checker look SEED OPERATIONS DIR1 DIR2 [DIR3 ...] [options]
 *     checker race SEED SECONDS    DIR1 DIR2 [DIR3 ...] [options]
 *
 * look: one operation at a time on a mount, and looks at it from other mounts at once, compared with a model (look.c).
 *     --count           go on after a stale look, and print how many there were of each kind
 *     --buffered        open, read or write, and close again; these three choose, and all is done without them
 *     --handles         files and directories that are kept open
 *     --mmap            mappings that are kept
 *     --mapped-writes   writes through mappings with msync(2) after them, too
 *     --settle MS       with --count: a mount has shown everything after this long (1500)
 *
 * race: threads on every mount work on few objects at once; what each has seen must be explained by one order of all
 * operations (race.c).
 *     --only LIST       of registers,overlap,append,names,attributes,replace
 *     --threads N       on each mount (2)
 *     --pause MS        between two operations of a thread, on average
 *     --faults          EIO, ENOTCONN, ETIMEDOUT and ESTALE are no errors: nobody knows what such an operation did; and
 *                       a write counts when a close(2) after it has succeeded
 *     --no-mapped       no looks through mappings
 *     --allow-torn      a read of several pages may see some before and some after a write
 *     --strict          ranges that overlap: one order of all operations for each byte, instead of "nothing old"
 *     --epoch COUNT     operations after which the history is checked and dropped (30000)
 *     --hang SECONDS    an operation that takes longer at the end hangs (120)
 *
 * Both: --json prints the result as JSON on the last line. --inject WHAT makes an answer wrong now and then, for the
 * test that wrong answers are found; an unknown WHAT prints the list.
 *
 * Exit code 0: nothing is wrong. 1: something is. 2: wrong usage, or the directories can't be used.
 */
#include "checker.h"

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct options options = {
  .settle_ms = 1500, .threads = 2, .only = EVERYTHING, .mapped = true,
  .epoch_operations = 30000, .epoch_seconds = 10, .hang_seconds = 120,
};

uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

void sleep_ms(double ms) {
  struct timespec wait = {(time_t)(ms / 1000), (long)((ms - 1000 * (double)(time_t)(ms / 1000)) * 1e6)};
  nanosleep(&wait, NULL);
}

void *grow(void *memory, size_t bytes) {
  void *grown = realloc(memory, bytes);
  if (grown == NULL) give_up("memory");
  return grown;
}

void *allocate(size_t bytes) { return memset(grow(NULL, bytes), 0, bytes); }

void give_up(const char *format, ...) {
  int error = errno;
  va_list args;
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fprintf(stderr, ": %s\n", strerror(error));
  exit(2);
}

const char *errno_name(int error) {
  const char *name = error == 0 ? "ok" : strerrorname_np(error);
  return name == NULL ? "unknown errno" : name;
}

long read_fully(int fd, void *buffer, size_t length, int64_t offset) {
  size_t done = 0;
  while (done < length) {
    ssize_t count = pread(fd, (char *)buffer + done, length - done, offset + (int64_t)done);
    if (count < 0) return -errno;
    if (count == 0) break;
    done += (size_t)count;
  }
  return (long)done;
}

/* ---- mappings */

static _Thread_local sigjmp_buf bus_error;
static _Thread_local volatile bool is_copying;

static void on_bus_error(int signal_number) {
  if (is_copying) siglongjmp(bus_error, 1);
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

void catch_bus_errors(void) {
  struct sigaction action = {.sa_handler = on_bus_error, .sa_flags = SA_NODEFER};
  sigaction(SIGBUS, &action, NULL);
}

bool copy_mapped(void *to, const volatile void *from, size_t length) {
  if (sigsetjmp(bus_error, 1) != 0) {
    is_copying = false;
    return false;
  }
  is_copying = true;
  if (length == 8) *(uint64_t *)to = *(const volatile uint64_t *)from;
  else memcpy(to, (const void *)from, length);
  is_copying = false;
  return true;
}

/* ---- trees */

void remove_tree(const char *path) {
  if (unlink(path) == 0) return;
  DIR *dir = opendir(path);
  if (dir == NULL) return;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    char below[PATH_BYTES];
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (snprintf(below, sizeof below, "%s/%s", path, entry->d_name) < (int)sizeof below) remove_tree(below);
  }
  closedir(dir);
  rmdir(path);
}

/* ---- the command line */

static void usage(void) {
  fprintf(stderr, "usage: checker look SEED OPERATIONS DIR1 DIR2 [DIR3 ...] [options]\n"
                  "       checker race SEED SECONDS DIR1 DIR2 [DIR3 ...] [options]\n"
                  "The options are at the head of checker.c.\n");
  exit(2);
}

static unsigned parse_only(char *list) {
  static const char *const names[] = {"registers", "overlap", "append", "names", "attributes", "replace"};
  unsigned only = 0;
  for (char *word = strtok(list, ","); word != NULL; word = strtok(NULL, ",")) {
    int i = 0;
    while (i < PARTS && strcmp(word, names[i]) != 0) i++;
    if (i == PARTS) usage();
    only |= 1u << i;
  }
  return only;
}

enum { COUNT = 256, BUFFERED, HANDLES, MMAP, MAPPED_WRITES, SETTLE, ONLY, THREADS, PAUSE, FAULTS, NO_MAPPED,
       ALLOW_TORN, STRICT, EPOCH, HANG, JSON, INJECT };

static const struct option flags[] = {
  {"count", no_argument, NULL, COUNT}, {"buffered", no_argument, NULL, BUFFERED},
  {"handles", no_argument, NULL, HANDLES}, {"mmap", no_argument, NULL, MMAP},
  {"mapped-writes", no_argument, NULL, MAPPED_WRITES}, {"settle", required_argument, NULL, SETTLE},
  {"only", required_argument, NULL, ONLY}, {"threads", required_argument, NULL, THREADS},
  {"pause", required_argument, NULL, PAUSE}, {"faults", no_argument, NULL, FAULTS},
  {"no-mapped", no_argument, NULL, NO_MAPPED}, {"allow-torn", no_argument, NULL, ALLOW_TORN},
  {"strict", no_argument, NULL, STRICT}, {"epoch", required_argument, NULL, EPOCH},
  {"hang", required_argument, NULL, HANG}, {"json", no_argument, NULL, JSON},
  {"inject", required_argument, NULL, INJECT}, {0},
};

int main(int count, char **arguments) {
  for (int flag; (flag = getopt_long(count, arguments, "", flags, NULL)) != -1;) {
    switch (flag) {
      case COUNT: options.count = true; break;
      case BUFFERED: options.by_name = true; break;
      case HANDLES: options.by_handle = true; break;
      case MMAP: options.by_mapping = true; break;
      case MAPPED_WRITES: options.mapped_writes = true; break;
      case SETTLE: options.settle_ms = atoi(optarg); break;
      case ONLY: options.only = parse_only(optarg); break;
      case THREADS: options.threads = atoi(optarg); break;
      case PAUSE: options.pause_ms = atoi(optarg); break;
      case FAULTS: options.faults = true; break;
      case NO_MAPPED: options.mapped = false; break;
      case ALLOW_TORN: options.allow_torn = true; break;
      case STRICT: options.strict = true; break;
      case EPOCH: options.epoch_operations = atol(optarg); break;
      case HANG: options.hang_seconds = atof(optarg); break;
      case JSON: options.json = true; break;
      case INJECT: options.inject = optarg; break;
      default: usage();
    }
  }
  if (!options.by_name && !options.by_handle && !options.by_mapping)
    options.by_name = options.by_handle = options.by_mapping = true;
  arguments += optind;
  options.mounts = count - optind - 3;
  if (options.mounts < 2 || options.mounts > MOUNTS_MAX) usage();
  options.seed = strtoull(arguments[1], NULL, 10);
  options.operations = atol(arguments[2]);
  options.seconds = atof(arguments[2]);
  for (int i = 0; i < options.mounts; i++) options.mount[i] = arguments[3 + i];
  setvbuf(stdout, NULL, _IOLBF, 0);
  signal(SIGPIPE, SIG_IGN);
  umask(0);
  catch_bus_errors();
  if (strcmp(arguments[0], "look") == 0) return look();
  if (strcmp(arguments[0], "race") == 0) return race();
  usage();
}
