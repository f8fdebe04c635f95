/*
 * Reads a file while signals come whose handlers do not restart system calls, and says what became of it: a program that
 * does not expect EINTR from a file. Arguments: FILE, and "thread" to read in a second thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static volatile sig_atomic_t signals;

static void count(int signal_number) {
  (void)signal_number;
  signals++;
}

static void *read_file(void *path) {
  char data[100];
  int fd = open(path, O_RDONLY);
  ssize_t got = fd < 0 ? -1 : read(fd, data, sizeof data);
  if (got < 0)
    printf("%s, %d signals\n", strerror(errno), (int)signals);
  else
    printf("%d bytes, %d signals\n", (int)got, (int)signals);
  fflush(stdout);
  return NULL;
}

int main(int argc, char **argv) {
  struct sigaction action = {.sa_handler = count};
  struct itimerval often = {.it_interval = {.tv_usec = 100000}, .it_value = {.tv_usec = 100000}};
  pthread_t thread;
  sigaction(SIGUSR1, &action, NULL);
  sigaction(SIGALRM, &action, NULL);
  printf("ready\n");
  fflush(stdout);
  if (argc > 2 && strcmp(argv[2], "thread") == 0) {
    if (pthread_create(&thread, NULL, read_file, argv[1]) != 0) return 1;
    pthread_join(thread, NULL);
    return 0;
  }
  if (argc > 2 && strcmp(argv[2], "alarm") == 0) setitimer(ITIMER_REAL, &often, NULL);
  read_file(argv[1]);
  return 0;
}
