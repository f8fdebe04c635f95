/*
 * A file is mapped, stored to and truncated through one mount, while it is written and read through another: all go on.
 *
 *     truncated MOUNT1/FILE MOUNT2/FILE SECONDS
 *
 * Says "ok", or which of them stood still.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define BYTES 65536
#define LEAST (BYTES / 2)

static const char *here, *there;
static volatile int is_over;
static __thread sigjmp_buf past_the_end;

enum actor { STORE, TRUNCATE, WRITE, READ, ACTORS };
static const char *const names[ACTORS] = {"storing", "truncating", "writing", "reading"};
static volatile long counts[ACTORS];

static void on_bus_error(int number) {
  (void)number;
  siglongjmp(past_the_end, 1);
}

static int opened(const char *path) {
  int fd = open(path, O_RDWR | O_CREAT, 0644);
  if (fd < 0) perror(path), exit(1);
  return fd;
}

static void *act(void *argument) {
  enum actor actor = (enum actor)(long)argument;
  int fd = opened(actor <= TRUNCATE ? here : there);
  unsigned seed = (unsigned)actor + 1;
  char buffer[5000] = {0};
  char *map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  while (!is_over) {
    unsigned at = (unsigned)rand_r(&seed) % BYTES;
    if (actor == STORE && sigsetjmp(past_the_end, 1) == 0) map[at] = 'm';
    if (actor == TRUNCATE && ftruncate(fd, LEAST + at / 2) != 0) perror("ftruncate"), exit(1);
    if (actor == WRITE && pwrite(fd, buffer, sizeof buffer, at) < 0) perror("pwrite"), exit(1);
    if (actor == READ && pread(fd, buffer, sizeof buffer, at) < 0) perror("pread"), exit(1);
    counts[actor]++;
    if (actor == STORE && at % 64 == 0) usleep(100);
  }
  return NULL;
}

int main(int count, char **words) {
  if (count != 4) return 2;
  here = words[1], there = words[2];
  signal(SIGBUS, on_bus_error);
  if (ftruncate(opened(here), BYTES) != 0) return perror("ftruncate"), 1;
  pthread_t thread;
  for (long actor = 0; actor < ACTORS; actor++) pthread_create(&thread, NULL, act, (void *)actor);
  sleep((unsigned)atoi(words[3]));
  long before[ACTORS];
  for (int actor = 0; actor < ACTORS; actor++) before[actor] = counts[actor];
  // Long enough for a slow machine; a wait that nothing ends is longer.
  for (int i = 0; i < 100; i++) {
    int moved = 0;
    for (int actor = 0; actor < ACTORS; actor++) moved += counts[actor] > before[actor];
    if (moved == ACTORS) {
      puts("ok");
      fflush(stdout);
      _exit(0);
    }
    usleep(100000);
  }
  for (int actor = 0; actor < ACTORS; actor++)
    if (counts[actor] == before[actor]) printf("%s stands still after %ld\n", names[actor], before[actor]);
  fflush(stdout);
  _exit(1);
}
