/*
 * System calls that no common program makes in the way that a test needs. `probe COMMAND ARGS`: exit code 0 when
 * all was as POSIX says, else a line on stderr and 1. Built by tests/harness/probe.ts.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *format, ...) {
  int error = errno;
  va_list args;
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fprintf(stderr, " (errno %d: %s)\n", error, strerror(error));
  exit(1);
}

#define CHECK(condition, ...) do { if (!(condition)) fail(__VA_ARGS__); } while (0)

static int open_or_fail(const char *path, int flags) {
  int fd = open(path, flags, 0644);
  CHECK(fd >= 0, "open %s", path);
  return fd;
}

static void write_all(int fd, const void *data, size_t length) {
  const char *at = data;
  while (length > 0) {
    ssize_t count = write(fd, at, length);
    CHECK(count > 0, "write");
    at += count;
    length -= count;
  }
}

static double now_ms(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

/* Bytes that depend on the file's name and the offset, so that a misplaced block shows. */
static void pattern(unsigned char *buffer, size_t length, uint32_t seed) {
  uint32_t state = seed * 2654435761u + 1;
  for (size_t i = 0; i < length; i++) {
    state = state * 1664525u + 1013904223u;
    buffer[i] = state >> 24;
  }
}

static size_t size_of(unsigned number) { return (number * 7919u) % 65536u; }

/* fill DIR LOG FROM TO: makes files of up to 64 KiB in subdirectories; after close() returned its number goes to
   LOG (on another file system). Ends at the first error with code 3 and says so on stdout. */
static int fill(char **argv) {
  const char *dir = argv[0];
  int log = open_or_fail(argv[1], O_WRONLY | O_CREAT | O_APPEND);
  static unsigned char buffer[65536];
  for (unsigned number = atoi(argv[2]); number < (unsigned)atoi(argv[3]); number++) {
    char path[PATH_MAX], line[32];
    snprintf(path, sizeof path, "%s/d%u", dir, number / 100);
    if (number % 100 == 0 && mkdir(path, 0755) < 0 && errno != EEXIST) goto stopped;
    snprintf(path, sizeof path, "%s/d%u/f%u", dir, number / 100, number);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0) goto stopped;
    size_t length = size_of(number);
    pattern(buffer, length, number);
    for (size_t at = 0; at < length;) {
      ssize_t count = write(fd, buffer + at, length - at);
      if (count <= 0) goto stopped;
      at += count;
    }
    if (close(fd) < 0) goto stopped;
    write_all(log, line, snprintf(line, sizeof line, "%u\n", number));
    continue;
  stopped:
    printf("stopped at %s: %s\n", path, strerror(errno));
    return 3;
  }
  return 0;
}

/* verify DIR LOG: each file of LOG is there and whole. Prints how many. */
static int verify(char **argv) {
  FILE *log = fopen(argv[1], "r");
  CHECK(log != NULL, "open %s", argv[1]);
  static unsigned char expected[65536], actual[65537];
  unsigned number, count = 0;
  while (fscanf(log, "%u", &number) == 1) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/d%u/f%u", argv[0], number / 100, number);
    int fd = open_or_fail(path, O_RDONLY);
    size_t length = 0;
    for (ssize_t got; (got = read(fd, actual + length, sizeof actual - length)) != 0; length += got) {
      CHECK(got > 0, "read %s at %zu", path, length);
    }
    close(fd);
    errno = 0;
    CHECK(length == size_of(number), "%s has %zu bytes instead of %zu", path, length, size_of(number));
    pattern(expected, length, number);
    CHECK(memcmp(expected, actual, length) == 0, "%s has other content", path);
    count++;
  }
  printf("%u\n", count);
  return 0;
}

/* names DIR: a name of each single byte, and names of 255 bytes; found again by readdir and by lookup. */
static int names(char **argv) {
  CHECK(chdir(argv[0]) == 0, "chdir");
  unsigned made = 0;
  for (int byte = 1; byte < 256; byte++) {
    if (byte == '/') continue;
    char name[260];
    snprintf(name, sizeof name, "x%cy", byte);
    close(open_or_fail(name, O_WRONLY | O_CREAT | O_EXCL));
    memset(name, byte, 255);
    name[255] = 0;
    close(open_or_fail(name, O_WRONLY | O_CREAT | O_EXCL));
    made += 2;
  }
  char longer[257];
  memset(longer, 'z', 256);
  longer[256] = 0;
  CHECK(open(longer, O_WRONLY | O_CREAT, 0644) < 0 && errno == ENAMETOOLONG, "a name of 256 bytes");
  DIR *dir = opendir(".");
  CHECK(dir != NULL, "opendir");
  unsigned seen = 0;
  for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    struct stat info;
    CHECK(lstat(entry->d_name, &info) == 0, "lstat of a listed name");
    CHECK(info.st_ino == entry->d_ino, "inode number of a listed name");
    seen++;
  }
  closedir(dir);
  errno = 0;
  CHECK(seen == made, "%u names listed, %u made", seen, made);
  return 0;
}

/* bigdir DIR DIRECTORIES COUNT: microseconds an entry to create, list, stat and remove, each step over all of the
   directories before the next, so that caches have the same time to forget whatever the shape. */
static int bigdir(char **argv) {
  int directories = atoi(argv[1]), count = atoi(argv[2]), total = directories * count;
  char name[64];
  mkdir(argv[0], 0755);
  CHECK(chdir(argv[0]) == 0, "chdir");
  for (int d = 0; d < directories; d++) {
    snprintf(name, sizeof name, "%d", d);
    CHECK(mkdir(name, 0755) == 0, "mkdir");
  }
  double start = now_ms();
  for (int i = 0; i < total; i++) {
    snprintf(name, sizeof name, "%d/entry-%08d", i / count, i % count);
    close(open_or_fail(name, O_WRONLY | O_CREAT | O_EXCL));
  }
  double created = now_ms();
  for (int d = 0; d < directories; d++) {
    snprintf(name, sizeof name, "%d", d);
    DIR *dir = opendir(name);
    CHECK(dir != NULL, "opendir");
    int listed = 0;
    while (readdir(dir) != NULL) listed++;
    closedir(dir);
    errno = 0;
    CHECK(listed == count + 2, "%d listed", listed);
  }
  double read = now_ms();
  // What the kernel keeps for a second would answer for small directories only.
  usleep(1100 * 1000);
  double looking = now_ms();
  for (int i = 0; i < total; i++) {
    struct stat info;
    snprintf(name, sizeof name, "%d/entry-%08d", i / count, i % count);
    CHECK(stat(name, &info) == 0, "stat");
  }
  double stated = now_ms();
  usleep(1100 * 1000);
  double removing = now_ms();
  for (int i = 0; i < total; i++) {
    snprintf(name, sizeof name, "%d/entry-%08d", i / count, i % count);
    CHECK(unlink(name) == 0, "unlink");
  }
  double removed = now_ms();
  printf("%.2f %.2f %.2f %.2f\n", (created - start) * 1e3 / total, (read - created) * 1e3 / total,
         (stated - looking) * 1e3 / total, (removed - removing) * 1e3 / total);
  return 0;
}

/* append FILE PROCESSES LINES: all append at once, then each line is there once and whole. */
static int append(char **argv) {
  int processes = atoi(argv[1]), lines = atoi(argv[2]);
  for (int process = 0; process < processes; process++) {
    if (fork() != 0) continue;
    int fd = open_or_fail(argv[0], O_WRONLY | O_CREAT | O_APPEND);
    for (int line = 0; line < lines; line++) {
      char text[256];
      int length = snprintf(text, sizeof text, "%d %d ", process, line);
      int end = length + 10 + (process * 31 + line * 17) % 150;
      memset(text + length, 'a' + process, end - length);
      text[end] = '\n';
      ssize_t count = write(fd, text, end + 1);
      CHECK(count == end + 1, "append of %d bytes: %zd", end + 1, count);
    }
    CHECK(close(fd) == 0, "close");
    exit(0);
  }
  int bad = 0;
  for (int process = 0, status; process < processes; process++) {
    wait(&status);
    if (status != 0) bad++;
  }
  errno = 0;
  CHECK(bad == 0, "%d writers failed", bad);
  FILE *file = fopen(argv[0], "r");
  CHECK(file != NULL, "open");
  char *seen = calloc(processes, lines), text[512];
  int found = 0;
  while (fgets(text, sizeof text, file) != NULL) {
    int process, line, at;
    CHECK(sscanf(text, "%d %d %n", &process, &line, &at) == 2 && process < processes && line < lines, "torn: %s",
          text);
    int end = at + 10 + (process * 31 + line * 17) % 150;
    CHECK((int)strlen(text) == end + 1 && text[end] == '\n', "torn line %d of writer %d", line, process);
    for (int i = at; i < end; i++) CHECK(text[i] == 'a' + process, "mixed line %d of writer %d", line, process);
    CHECK(!seen[process * lines + line], "line %d of writer %d twice", line, process);
    seen[process * lines + line] = 1;
    found++;
  }
  errno = 0;
  CHECK(found == processes * lines, "%d lines of %d", found, processes * lines);
  return 0;
}

static void expect_content(int fd, off_t offset, const char *text, const char *what) {
  char buffer[256];
  ssize_t length = strlen(text);
  ssize_t count = pread(fd, buffer, sizeof buffer, offset);
  CHECK(count >= length && memcmp(buffer, text, length) == 0, "%s: got %zd bytes", what, count);
}

/* open_files DIR: unlink while open, rename over an open file, hard links. */
static int open_files(char **argv) {
  CHECK(chdir(argv[0]) == 0, "chdir");
  struct stat info, other;

  int fd = open_or_fail("unlinked", O_RDWR | O_CREAT);
  write_all(fd, "before", 6);
  CHECK(unlink("unlinked") == 0, "unlink");
  CHECK(access("unlinked", F_OK) < 0 && errno == ENOENT, "the name is gone");
  write_all(fd, " after", 6);
  expect_content(fd, 0, "before after", "unlinked file");
  CHECK(fstat(fd, &info) == 0 && info.st_nlink == 0 && info.st_size == 12, "fstat of an unlinked file");
  CHECK(ftruncate(fd, 3) == 0 && fstat(fd, &info) == 0 && info.st_size == 3, "ftruncate of an unlinked file");
  CHECK(close(fd) == 0, "close");

  int target = open_or_fail("target", O_RDWR | O_CREAT);
  write_all(target, "old", 3);
  int source = open_or_fail("source", O_RDWR | O_CREAT);
  write_all(source, "new", 3);
  CHECK(rename("source", "target") == 0, "rename over an open file");
  expect_content(target, 0, "old", "the replaced file, still open");
  expect_content(source, 0, "new", "the renamed file");
  CHECK(fstat(target, &info) == 0 && info.st_nlink == 0, "the replaced file has no name");
  int again = open_or_fail("target", O_RDONLY);
  expect_content(again, 0, "new", "the new name");
  close(target), close(source), close(again);

  int first = open_or_fail("first", O_RDWR | O_CREAT);
  write_all(first, "shared", 6);
  CHECK(mkdir("other", 0755) == 0, "mkdir");
  CHECK(link("first", "other/second") == 0, "link");
  CHECK(fstat(first, &info) == 0 && info.st_nlink == 2, "two links");
  CHECK(stat("other/second", &other) == 0 && other.st_ino == info.st_ino && other.st_size == 6, "same inode");
  CHECK(link("first", "other/second") < 0 && errno == EEXIST, "link over a name");
  int second = open_or_fail("other/second", O_WRONLY);
  CHECK(pwrite(second, "SHARED!", 7, 0) == 7, "pwrite");
  expect_content(first, 0, "SHARED!", "through the other name");
  CHECK(unlink("first") == 0 && fstat(second, &info) == 0 && info.st_nlink == 1, "one link left");
  close(first), close(second);
  CHECK(link("other", "directory") < 0 && errno == EPERM, "link of a directory");
  return 0;
}

static void expect_bytes(int fd, off_t offset, size_t length, int byte, const char *what) {
  static unsigned char buffer[1 << 20];
  while (length > 0) {
    size_t part = length < sizeof buffer ? length : sizeof buffer;
    ssize_t count = pread(fd, buffer, part, offset);
    CHECK(count > 0, "%s: pread at %lld: %zd", what, (long long)offset, count);
    errno = 0;
    for (ssize_t i = 0; i < count; i++) {
      CHECK(buffer[i] == byte, "%s: byte %d at %lld", what, buffer[i], (long long)offset + i);
    }
    offset += count, length -= count;
  }
}

/* shapes DIR: truncate up and down, sparse files over block ends, SEEK_HOLE, fallocate, mmap. */
static int shapes(char **argv) {
  CHECK(chdir(argv[0]) == 0, "chdir");
  struct stat info;
  const off_t far = 400ll << 20; /* past several blocks */

  int fd = open_or_fail("truncated", O_RDWR | O_CREAT);
  char *ones = malloc(1 << 20);
  memset(ones, 1, 1 << 20);
  write_all(fd, ones, 1 << 20);
  CHECK(ftruncate(fd, 1000) == 0, "truncate down");
  CHECK(ftruncate(fd, 1 << 20) == 0, "truncate up");
  expect_bytes(fd, 0, 1000, 1, "kept");
  expect_bytes(fd, 1000, (1 << 20) - 1000, 0, "what was cut off reads as zeros");
  CHECK(ftruncate(fd, 0) == 0 && fstat(fd, &info) == 0 && info.st_size == 0, "truncate to nothing");
  CHECK(ftruncate(fd, far) == 0 && fstat(fd, &info) == 0 && info.st_size == far, "truncate far up");
  CHECK(info.st_blocks * 512 < 10 << 20, "a hole takes no space: %lld blocks", (long long)info.st_blocks);
  expect_bytes(fd, far - 4096, 4096, 0, "end of a hole");
  close(fd);

  fd = open_or_fail("sparse", O_RDWR | O_CREAT);
  CHECK(pwrite(fd, ones, 5000, far) == 5000, "pwrite far behind the end");
  CHECK(pwrite(fd, ones, 100, 100 << 20) == 100, "pwrite into the hole");
  CHECK(fstat(fd, &info) == 0 && info.st_size == far + 5000, "size of a sparse file");
  close(fd);
  fd = open_or_fail("sparse", O_RDWR);
  expect_bytes(fd, far, 5000, 1, "far data");
  expect_bytes(fd, 100 << 20, 100, 1, "data in the hole");
  expect_bytes(fd, (100 << 20) + 100, 1 << 20, 0, "hole behind data");
  expect_bytes(fd, 0, 1 << 20, 0, "hole at the start");
  off_t data = lseek(fd, 0, SEEK_DATA), hole = lseek(fd, far, SEEK_HOLE);
  CHECK(data >= 0 && data <= 100 << 20, "SEEK_DATA: %lld", (long long)data);
  CHECK(hole == far + 5000, "SEEK_HOLE: %lld", (long long)hole);
  CHECK(lseek(fd, far + 5000, SEEK_DATA) < 0 && errno == ENXIO, "SEEK_DATA past the end");
  CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, far, 1000) == 0, "punch a hole");
  expect_bytes(fd, far, 1000, 0, "punched");
  expect_bytes(fd, far + 1000, 4000, 1, "behind the punched hole");
  CHECK(fallocate(fd, 0, 0, far + 10000) == 0 && fstat(fd, &info) == 0 && info.st_size == far + 10000, "fallocate");
  close(fd);

  fd = open_or_fail("mapped", O_RDWR | O_CREAT);
  size_t length = 3 << 20;
  CHECK(ftruncate(fd, length) == 0, "ftruncate");
  char *map = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(map != MAP_FAILED, "mmap");
  for (size_t i = 0; i < length; i += 4096) memset(map + i, 'm', 4096);
  CHECK(msync(map, length, MS_SYNC) == 0, "msync");
  expect_bytes(fd, 0, length, 'm', "mapped bytes through read");
  CHECK(pwrite(fd, "WRITE", 5, 1 << 20) == 5, "pwrite");
  CHECK(memcmp(map + (1 << 20), "WRITE", 5) == 0, "written bytes through the map");
  memset(map, 'n', 4096);
  CHECK(munmap(map, length) == 0 && close(fd) == 0, "munmap");
  fd = open_or_fail("mapped", O_RDONLY);
  expect_bytes(fd, 0, 4096, 'n', "mapped bytes after munmap");
  map = mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0);
  CHECK(map != MAP_FAILED && map[2 << 20] == 'm', "mmap to read");
  close(fd);
  return 0;
}

/* attributes DIR: nanosecond timestamps and modes survive; an open for writing does not touch mtime. */
static int attributes(char **argv) {
  CHECK(chdir(argv[0]) == 0, "chdir");
  umask(0);
  struct stat info;
  int fd = open("moded", O_RDWR | O_CREAT, 04751);
  CHECK(fd >= 0 && fstat(fd, &info) == 0 && (info.st_mode & 07777) == 04751, "mode %o", info.st_mode);
  struct timespec set[2] = {{1234567890, 123456789}, {987654321, 987654321}};
  CHECK(futimens(fd, set) == 0, "futimens");
  CHECK(close(fd) == 0, "close");
  CHECK(stat("moded", &info) == 0, "stat");
  CHECK(info.st_atim.tv_sec == 1234567890 && info.st_atim.tv_nsec == 123456789, "atime");
  CHECK(info.st_mtim.tv_sec == 987654321 && info.st_mtim.tv_nsec == 987654321, "mtime");
  CHECK(symlink("to/nowhere", "link") == 0, "symlink");
  char target[64];
  CHECK(readlink("link", target, sizeof target) == 10 && memcmp(target, "to/nowhere", 10) == 0, "readlink");
  CHECK(lstat("link", &info) == 0 && S_ISLNK(info.st_mode) && info.st_size == 10, "lstat");
  CHECK(mkfifo("fifo", 0640) == 0 && stat("fifo", &info) == 0 && S_ISFIFO(info.st_mode), "mkfifo");
  CHECK(mkdir("dir", 0755) == 0 && mkdir("dir/sub", 0755) == 0, "mkdir");
  CHECK(stat("dir", &info) == 0 && info.st_nlink == 3, "links of a directory: %ld", (long)info.st_nlink);
  CHECK(rmdir("dir") < 0 && errno == ENOTEMPTY, "rmdir of a directory that is not empty");
  CHECK(rename("dir", "dir/sub/inside") < 0 && errno == EINVAL, "rename into itself");
  CHECK(renameat2(AT_FDCWD, "moded", AT_FDCWD, "link", RENAME_NOREPLACE) < 0 && errno == EEXIST, "RENAME_NOREPLACE");
  CHECK(renameat2(AT_FDCWD, "moded", AT_FDCWD, "link", RENAME_EXCHANGE) == 0, "RENAME_EXCHANGE");
  CHECK(lstat("moded", &info) == 0 && S_ISLNK(info.st_mode), "exchanged");
  return 0;
}

int main(int argc, char **argv) {
  static const struct { const char *name; int arguments; int (*run)(char **); } commands[] = {
      {"fill", 4, fill},     {"verify", 2, verify},         {"names", 1, names},   {"bigdir", 3, bigdir},
      {"append", 3, append}, {"open_files", 1, open_files}, {"shapes", 1, shapes}, {"attributes", 1, attributes}};
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
    if (argc == commands[i].arguments + 2 && strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argv + 2);
  }
  fprintf(stderr, "usage: probe COMMAND ARGS\n");
  return 2;
}
