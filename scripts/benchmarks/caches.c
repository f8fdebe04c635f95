/*
 * Measures what caches cost and bring: on any directory, and between two mount points of one file system. Prints one JSON
 * object. `scripts/benchmarks/caches.ts` runs it on a cluster and on a local directory.
 *
 *     caches stat DIR FILES SECONDS        stat(2) of every file of a tree again and again
 *     caches read DIR MIB SECONDS          pread(2) of 4 KiB at random of a warm file
 *     caches openread DIR FILES SECONDS    open, read all, close of small files
 *     caches list DIR FILES SECONDS        opendir, readdir to the end, closedir
 *     caches small DIR FILES               creat, write 4 KiB, close; then open, read, close of each once
 *     caches pingpong DIR1 DIR2 SECONDS    a write through one mount, a read of it through the other, and back
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096
#define PER_DIRECTORY 100
#define SAMPLES_MAX 1000000

static char block[BLOCK];

static double now_s(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void give_up(const char *what) {
  perror(what);
  exit(1);
}

static void file_path(char *path, size_t size, const char *dir, int i) {
  snprintf(path, size, "%s/caches/%d/file-%d", dir, i / PER_DIRECTORY, i);
}

static void write_file(const char *path, int flags) {
  int fd = open(path, O_WRONLY | O_CREAT | flags, 0644);
  if (fd < 0 || write(fd, block, BLOCK) != BLOCK || close(fd) != 0) give_up(path);
}

static void read_file(const char *path) {
  char data[BLOCK];
  int fd = open(path, O_RDONLY);
  if (fd < 0 || read(fd, data, BLOCK) != BLOCK || read(fd, data, BLOCK) != 0 || close(fd) != 0) give_up(path);
}

static void make_directories(const char *dir, int files) {
  char path[4096];
  snprintf(path, sizeof path, "%s/caches", dir);
  mkdir(path, 0755);
  for (int i = 0; i <= files / PER_DIRECTORY; i++) {
    snprintf(path, sizeof path, "%s/caches/%d", dir, i);
    mkdir(path, 0755);
  }
}

static void make_files(const char *dir, int files) {
  char path[4096];
  struct stat status;
  make_directories(dir, files);
  for (int i = 0; i < files; i++) {
    file_path(path, sizeof path, dir, i);
    if (stat(path, &status) != 0) write_file(path, O_TRUNC);
  }
}

static void list(const char *path, int wanted) {
  DIR *directory = opendir(path);
  if (directory == NULL) give_up(path);
  int count = 0;
  while (readdir(directory) != NULL) count++;
  closedir(directory);
  if (count != wanted + 2) give_up("entries are missing");
}

typedef void operation(const char *dir, int i);

static void do_stat(const char *dir, int i) {
  char path[4096];
  struct stat status;
  file_path(path, sizeof path, dir, i);
  if (stat(path, &status) != 0 || status.st_size != BLOCK) give_up(path);
}

static void do_open_read(const char *dir, int i) {
  char path[4096];
  file_path(path, sizeof path, dir, i);
  read_file(path);
}

static void do_list(const char *dir, int i) {
  char path[4096];
  snprintf(path, sizeof path, "%s/caches/%d", dir, i / PER_DIRECTORY);
  list(path, PER_DIRECTORY);
}

/* One round to warm up, then as many as the time allows. */
static void repeat(const char *dir, int count, int step, double seconds, operation *run) {
  for (int i = 0; i < count; i += step) run(dir, i);
  long done = 0;
  double start = now_s(), end = start;
  while (end - start < seconds) {
    for (int i = 0; i < count; i += step, done++) run(dir, i);
    end = now_s();
  }
  printf("{\"operations\":%ld,\"seconds\":%.3f,\"perSecond\":%.0f}\n", done, end - start, (double)done / (end - start));
}

static void random_reads(const char *dir, long mib, double seconds) {
  char path[4096];
  long blocks = mib * 1024 * 1024 / BLOCK;
  snprintf(path, sizeof path, "%s/caches.dat", dir);
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd < 0) give_up(path);
  for (long i = 0; i < blocks; i++)
    if (write(fd, block, BLOCK) != BLOCK) give_up(path);
  close(fd);
  fd = open(path, O_RDONLY);
  for (long i = 0; i < blocks; i++)
    if (read(fd, block, BLOCK) != BLOCK) give_up(path);
  uint64_t random = 88172645463325252ull;
  long done = 0;
  double start = now_s(), end = start;
  while (end - start < seconds) {
    for (int i = 0; i < 1000; i++, done++) {
      random ^= random << 13, random ^= random >> 7, random ^= random << 17;
      if (pread(fd, block, BLOCK, (off_t)(random % (uint64_t)blocks) * BLOCK) != BLOCK) give_up(path);
    }
    end = now_s();
  }
  printf("{\"operations\":%ld,\"seconds\":%.3f,\"perSecond\":%.0f}\n", done, end - start, (double)done / (end - start));
}

static void small_files(const char *dir, int files) {
  char path[4096];
  make_directories(dir, files);
  double start = now_s();
  for (int i = 0; i < files; i++) {
    file_path(path, sizeof path, dir, i);
    write_file(path, O_EXCL);
  }
  double made = now_s();
  for (int i = 0; i < files; i++) do_open_read(dir, i);
  double read = now_s();
  printf("{\"created\":%.0f,\"read\":%.0f}\n", files / (made - start), files / (read - made));
}

static int compare(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double samples[4][SAMPLES_MAX];

static double percentile(double *of, long count, double part) {
  qsort(of, (size_t)count, sizeof *of, compare);
  return of[(long)((double)(count - 1) * part)] * 1e6;
}

/* Each side writes a number and the other must read it. What one call to the nameserver takes is measured by statfs(2). */
static void ping_pong(const char *const dirs[2], double seconds) {
  char path[4096];
  int fds[2];
  uint64_t number = 0;
  long count = 0;
  struct statfs space;
  for (int side = 0; side < 2; side++) {
    snprintf(path, sizeof path, "%s/caches.pingpong", dirs[side]);
    fds[side] = open(path, O_RDWR | O_CREAT, 0644);
    if (fds[side] < 0 || pwrite(fds[side], block, BLOCK, 0) != BLOCK) give_up(path);
  }
  for (double start = now_s(); now_s() - start < seconds && count < SAMPLES_MAX; count++) {
    int side = (int)(count & 1);
    double begun = now_s();
    number++;
    memcpy(block, &number, sizeof number);
    if (pwrite(fds[side], block, BLOCK, 0) != BLOCK) give_up("write");
    double written = now_s();
    memset(block, 0, sizeof number);
    if (pread(fds[1 - side], block, BLOCK, 0) != BLOCK) give_up("read");
    double read = now_s();
    if (memcmp(block, &number, sizeof number) != 0) {
      fprintf(stderr, "STALE: another number than %lu was read\n", (unsigned long)number);
      exit(1);
    }
    if (statfs(dirs[side], &space) != 0) give_up("statfs");
    samples[0][count] = written - begun;
    samples[1][count] = read - written;
    samples[2][count] = read - begun;
    samples[3][count] = now_s() - read;
  }
  const char *const names[4] = {"write", "read", "handOver", "oneCall"};
  printf("{\"handOvers\":%ld", count);
  for (int i = 0; i < 4; i++)
    printf(",\"%sUs\":{\"median\":%.0f,\"p99\":%.0f}", names[i], percentile(samples[i], count, 0.5),
           percentile(samples[i], count, 0.99));
  printf("}\n");
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  if (argc == 5 && strcmp(what, "pingpong") == 0) {
    ping_pong((const char *const[2]){argv[2], argv[3]}, atof(argv[4]));
    return 0;
  }
  if (argc == 4 && strcmp(what, "small") == 0) {
    small_files(argv[2], atoi(argv[3]));
    return 0;
  }
  if (argc == 5 && strcmp(what, "read") == 0) {
    random_reads(argv[2], atol(argv[3]), atof(argv[4]));
    return 0;
  }
  operation *run = strcmp(what, "stat") == 0 ? do_stat
                   : strcmp(what, "openread") == 0 ? do_open_read
                   : strcmp(what, "list") == 0 ? do_list : NULL;
  if (argc != 5 || run == NULL) {
    fprintf(stderr, "usage: at the head of caches.c\n");
    return 2;
  }
  int files = atoi(argv[3]) / PER_DIRECTORY * PER_DIRECTORY;
  make_files(argv[2], files);
  repeat(argv[2], files, run == do_list ? PER_DIRECTORY : 1, atof(argv[4]), run);
  return 0;
}
