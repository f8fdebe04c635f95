/*
 * One of the processes of tests/exerciser.ts: does what it is told on stdin, one line a system call or a few, and answers
 * on stdout with a line "RESULT BYTES" and then so many bytes. RESULT is what the call returned, or -errno. It thinks
 * nothing: what the answers must be is for who tells it.
 *
 *     exerciser_worker DIRECTORY
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLOTS 16
#define PAGE 4096

static int fds[SLOTS];
static uint8_t *maps[SLOTS];
static size_t map_bytes[SLOTS];
static uint8_t *buffer;
static size_t buffer_bytes;

static uint8_t *room(size_t bytes) {
  if (bytes > buffer_bytes) {
    free(buffer);
    buffer_bytes = bytes * 2;
    if (posix_memalign((void **)&buffer, PAGE, buffer_bytes) != 0) abort();
  }
  return buffer;
}

/* The bytes of a seed, as tests/exerciser.ts makes them: xorshift32 (Marsaglia), little-endian. */
static void fill(uint8_t *to, size_t length, uint32_t state) {
  for (size_t i = 0; i < length; i++) {
    if (i % 4 == 0) {
      state ^= state << 13;
      state ^= state >> 17;
      state ^= state << 5;
    }
    to[i] = state >> (i % 4 * 8);
  }
}

static void answer(long long result, const uint8_t *bytes, size_t length) {
  printf("%lld %zu\n", result, length);
  if (length > 0) fwrite(bytes, 1, length, stdout);
  fflush(stdout);
}

static long long checked(long long result) { return result < 0 ? -errno : result; }

/* All of it, or the error that came first. */
static long long write_all(int fd, size_t length, long long offset) {
  for (size_t done = 0; done < length;) {
    ssize_t count = offset < 0 ? write(fd, buffer + done, length - done)
                               : pwrite(fd, buffer + done, length - done, offset + done);
    if (count <= 0) return count < 0 ? -errno : -EIO;
    done += count;
  }
  return length;
}

/*
 * The kernel never asks how long a mapped file is: what another mount has added is there once somebody has asked. It passes
 * over an answer that crossed an invalidation, though fstat shows it, so SEEK_END has to say what the mapping goes by.
 */
static int reaches(int fd, long long end) {
  for (int tries = 0; tries < 100; tries++) {
    if (lseek(fd, 0, SEEK_END) >= end) return 1;
    usleep(1000);
  }
  errno = ERANGE;
  return 0;
}

/* A mapping of [offset, offset + length), which need not begin at a page; returns where that byte is. */
static uint8_t *map(int fd, int flags, long long offset, size_t length, void **base, size_t *bytes) {
  if (!reaches(fd, offset + length)) return NULL;
  long long start = offset / PAGE * PAGE;
  *bytes = length + (offset - start);
  *base = mmap(NULL, *bytes, PROT_READ | PROT_WRITE, flags, fd, start);
  return *base == MAP_FAILED ? NULL : (uint8_t *)*base + (offset - start);
}

static void run(char *line) {
  char what[32], name[300], other[300];
  int slot = 0;
  long long a = 0, b = 0, c = 0, d = 0;
  struct stat status;
  void *base;
  size_t bytes;
  if (sscanf(line, "%31s", what) != 1) return answer(-EINVAL, NULL, 0);
  if (sscanf(line, "open %d %299s %lld", &slot, name, &a) == 3) {
    fds[slot] = open(name, O_RDWR | O_CLOEXEC | (int)a, 0644);
    return answer(checked(fds[slot]) < 0 ? checked(fds[slot]) : 0, NULL, 0);
  }
  if (sscanf(line, "close %d", &slot) == 1) {
    if (maps[slot] != NULL) munmap(maps[slot], map_bytes[slot]);
    maps[slot] = NULL;
    return answer(checked(close(fds[slot])), NULL, 0);
  }
  if (sscanf(line, "write %d %lld %lld %lld", &slot, &a, &b, &c) == 4) {
    fill(room(b), b, c);
    return answer(write_all(fds[slot], b, a), NULL, 0);
  }
  if (sscanf(line, "append %299s %lld %lld", name, &a, &b) == 3) {
    int fd = open(name, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0) return answer(-errno, NULL, 0);
    fill(room(a), a, b);
    long long result = write_all(fd, a, -1);
    long long closed = checked(close(fd));
    return answer(closed < 0 ? closed : result, NULL, 0);
  }
  if (sscanf(line, "read %d %lld %lld", &slot, &a, &b) == 3) {
    long long count = checked(pread(fds[slot], room(b), b, a));
    return answer(count, buffer, count < 0 ? 0 : count);
  }
  if (sscanf(line, "truncate %d %lld", &slot, &a) == 2) return answer(checked(ftruncate(fds[slot], a)), NULL, 0);
  if (sscanf(line, "truncname %299s %lld", name, &a) == 2) return answer(checked(truncate(name, a)), NULL, 0);
  if (sscanf(line, "fallocate %d %lld %lld %lld", &slot, &a, &b, &c) == 4) {
    return answer(checked(fallocate(fds[slot], a, b, c)), NULL, 0);
  }
  if (sscanf(line, "copy %299s %lld %d %lld %lld", name, &a, &slot, &b, &c) == 5) {
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return answer(-errno, NULL, 0);
    loff_t from = a, to = b;
    while (to < b + c) {
      ssize_t count = copy_file_range(fd, &from, fds[slot], &to, b + c - to, 0);
      if (count < 0) d = -errno;
      if (count <= 0) break;
    }
    close(fd);
    return answer(d < 0 ? d : to - b, NULL, 0);
  }
  if (sscanf(line, "mapread %d %lld %lld %lld", &slot, &a, &b, &c) == 4) {
    /* Through a private mapping what is stored is nobody else's. */
    uint8_t *at = map(fds[slot], c ? MAP_PRIVATE : MAP_SHARED, a, b, &base, &bytes);
    if (at == NULL) return answer(-errno, NULL, 0);
    memcpy(room(b), at, b);
    if (c) memset(at, 0x5a, b);
    munmap(base, bytes);
    return answer(b, buffer, b);
  }
  if (sscanf(line, "mapwrite %d %lld %lld %lld", &slot, &a, &b, &c) == 4) {
    uint8_t *at = map(fds[slot], MAP_SHARED, a, b, &base, &bytes);
    if (at == NULL) return answer(-errno, NULL, 0);
    fill(at, b, c);
    long long result = checked(msync(base, bytes, MS_SYNC));
    munmap(base, bytes);
    return answer(result, NULL, 0);
  }
  if (sscanf(line, "mapkept %d %lld", &slot, &a) == 2) {
    /* A mapping from the file's start that stays. */
    if (fstat(fds[slot], &status) < 0) return answer(-errno, NULL, 0);
    if (maps[slot] == NULL) {
      map_bytes[slot] = a;
      maps[slot] = mmap(NULL, a, PROT_READ, MAP_SHARED, fds[slot], 0);
      if (maps[slot] == MAP_FAILED) {
        maps[slot] = NULL;
        return answer(-errno, NULL, 0);
      }
    }
    bytes = map_bytes[slot] < (size_t)status.st_size ? map_bytes[slot] : (size_t)status.st_size;
    if (!reaches(fds[slot], bytes)) return answer(-errno, NULL, 0);
    memcpy(room(bytes + 1), maps[slot], bytes);
    return answer(bytes, buffer, bytes);
  }
  if (sscanf(line, "seek %d %lld %lld", &slot, &a, &b) == 3) return answer(checked(lseek(fds[slot], a, b)), NULL, 0);
  if (sscanf(line, "stat %d", &slot) == 1) {
    long long result = checked(fstat(fds[slot], &status));
    if (result < 0) return answer(result, NULL, 0);
    int64_t figures[2] = {status.st_size, status.st_blocks};
    return answer(0, (uint8_t *)figures, sizeof figures);
  }
  if (sscanf(line, "rename %299s %299s", name, other) == 2) return answer(checked(rename(name, other)), NULL, 0);
  if (sscanf(line, "unlink %299s", name) == 1) return answer(checked(unlink(name)), NULL, 0);
  if (sscanf(line, "fsync %d", &slot) == 1) return answer(checked(fsync(fds[slot])), NULL, 0);
  answer(-EINVAL, NULL, 0);
}

int main(int argc, char **argv) {
  char line[1024];
  if (argc != 2 || chdir(argv[1]) != 0) {
    fprintf(stderr, "usage: exerciser_worker DIRECTORY\n");
    return 2;
  }
  while (fgets(line, sizeof line, stdin) != NULL) run(line);
  return 0;
}
