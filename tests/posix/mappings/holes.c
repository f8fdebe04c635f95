/*
 * SEEK_DATA and SEEK_HOLE know of what a mapping has stored and nobody has synced.
 *
 *     holes FILE
 *
 * Says "ok", or what was found.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096L
#define PAGES 64L
#define STORED 20L

static int failures;

static void check(int fd, off_t from, int whence, off_t expected) {
  off_t found = lseek(fd, from, whence);
  if (found == expected) return;
  printf("%s from %ld: %ld and not %ld\n", whence == SEEK_DATA ? "data" : "a hole", (long)from, (long)found,
         (long)expected);
  failures++;
}

int main(int count, char **words) {
  if (count != 2) return 2;
  int fd = open(words[1], O_RDWR | O_CREAT | O_TRUNC, 0644);
  if (fd < 0 || ftruncate(fd, PAGES * PAGE) != 0) return perror(words[1]), 1;
  char *map = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (map == MAP_FAILED) return perror("mmap"), 1;
  check(fd, 0, SEEK_DATA, -1);
  map[STORED * PAGE + 100] = 's';
  check(fd, 0, SEEK_DATA, STORED * PAGE);
  check(fd, STORED * PAGE, SEEK_HOLE, (STORED + 1) * PAGE);
  check(fd, (STORED + 1) * PAGE, SEEK_DATA, -1);
  if (map[STORED * PAGE + 100] != 's') puts("what was stored is lost"), failures++;
  if (failures == 0) puts("ok");
  return failures != 0;
}
