/*
 * Stores into the last page of a file, past its end, are not seen when the file has grown over them, whatever makes it
 * grow: it reads as zeros there, through the mapping and otherwise. What is stored afterwards counts.
 *
 *     past_the_end MOUNT1/FILE MOUNT2/FILE
 *
 * Says "ok", or what was seen.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BYTES 16384
#define PAGE 4096
#define END 1000

enum way { TRUNCATE_A_BIT, TRUNCATE, WRITE, WRITE_IN_PAGE, APPEND, RESERVE, ZERO, COPY, THERE, WAYS };
static const char *const ways[WAYS] = {
    "a truncate in the page", "a truncate", "a write", "a write into the page",
    "an append", "fallocate", "fallocate with zeros", "copy_file_range", "a truncate through the other mount",
};
static int failures;

static void check(int is_right, const char *what) {
  if (!is_right) perror(what), exit(1);
}

static int opened(const char *path, int flags) {
  int fd = open(path, flags, 0644);
  check(fd >= 0, path);
  return fd;
}

static void grow(enum way way, int fd, const char *here, const char *there) {
  char data[END];
  memset(data, 'd', END);
  int other = way == APPEND ? opened(here, O_WRONLY | O_APPEND) : -1;
  char source[4096];
  if (way == COPY) {
    snprintf(source, sizeof source, "%s.source", here);
    other = opened(source, O_RDWR | O_CREAT);
    check(write(other, data, END) == END, source);
  }
  loff_t from = 0, to = 9000;
  int is_done = 0;
  switch (way) {
    case TRUNCATE_A_BIT: is_done = ftruncate(fd, 3000) == 0; break;
    case TRUNCATE: is_done = ftruncate(fd, 10000) == 0; break;
    case WRITE: is_done = pwrite(fd, data, END, to) == END; break;
    case WRITE_IN_PAGE: is_done = pwrite(fd, data, END, 3000) == END; break;
    case APPEND: is_done = write(other, data, END) == END; break;
    case RESERVE: is_done = fallocate(fd, 0, 0, 10000) == 0; break;
    case ZERO: is_done = fallocate(fd, FALLOC_FL_ZERO_RANGE, 9000, END) == 0; break;
    case COPY: is_done = copy_file_range(other, &from, fd, &to, END, 0) == END; break;
    case THERE: is_done = truncate(there, 10000) == 0; break;
    default: break;
  }
  check(is_done, ways[way]);
  if (other >= 0) close(other);
}

/* Of the first page: the data, what was stored in it, and zeros up to what has made it grow. */
static void compare(enum way way, const char *how, const char *bytes, const char *expected, int count) {
  for (int i = 0; i < count; i++) {
    if (bytes[i] == expected[i]) continue;
    printf("after %s, %s: byte %d is %d and not %d\n", ways[way], how, i, bytes[i], expected[i]);
    failures++;
    return;
  }
}

static void check_way(enum way way, const char *here, const char *there) {
  char expected[PAGE] = {0}, data[PAGE];
  unlink(here);
  int fd = opened(here, O_RDWR | O_CREAT);
  memset(expected, 'a', END);
  check(write(fd, expected, END) == END, here);
  char *map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  check(map != MAP_FAILED, "mmap");
  memset(map + END - 10, 's', PAGE - END + 10);
  memset(expected + END - 10, 's', 10);
  grow(way, fd, here, there);
  int end = way == TRUNCATE_A_BIT ? 3000 : way == WRITE_IN_PAGE ? 3000 + END : way == APPEND ? END + END : PAGE;
  if (way == WRITE_IN_PAGE) memset(expected + 3000, 'd', END);
  if (way == APPEND) memset(expected + END, 'd', END);
  check(pread(fd, data, PAGE, 0) == end, "pread");
  compare(way, "read", data, expected, end);
  compare(way, "mapped", map, expected, end);
  // Of what another mount has done, a mapping's size knows when it was asked for.
  struct stat now;
  check(fstat(fd, &now) == 0, "fstat");
  expected[END + 500] = map[END + 500] = 'n';
  check(msync(map, PAGE, MS_SYNC) == 0, "msync");
  int other = opened(there, O_RDONLY);
  check(pread(other, data, PAGE, 0) == end, "pread there");
  compare(way, "read there after another store", data, expected, end);
  check(pread(fd, data, PAGE, 0) == end, "pread");
  compare(way, "read after another store", data, expected, end);
  close(other);
  munmap(map, BYTES);
  close(fd);
}

int main(int count, char **words) {
  if (count != 3) return 2;
  for (int way = 0; way < WAYS; way++) check_way((enum way)way, words[1], words[2]);
  if (failures == 0) puts("ok");
  return failures != 0;
}
