/* Calls on descriptors: opening, data, locks, mappings. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>
#include "interpreter.h"

#define CALL(name) static void name##_call(char **word, int words)
#define UNUSED (void)words
#define SHOWN_BYTES 64
#define BUFFER_BYTES (1 << 20)

static char buffer[BUFFER_BYTES];

static void opened(const char *name, int fd) {
  int error = errno;
  remember(name, fd);
  errno = error;
  answer(fd < 0 ? -1 : 0);
}

/* open NAME PATH FLAGS [MODE] */
CALL(open) {
  mode_t mode = words > 3 ? (mode_t)number(word[3]) : 0;
  opened(word[0], open(text(word[1], NULL), (int)number(word[2]) | O_CLOEXEC, mode));
}

/* openat NAME DIRECTORY PATH FLAGS [MODE] */
CALL(openat) {
  mode_t mode = words > 4 ? (mode_t)number(word[4]) : 0;
  opened(word[0], openat(descriptor(word[1]), text(word[2], NULL), (int)number(word[3]) | O_CLOEXEC, mode));
}

CALL(dup) { UNUSED; opened(word[0], dup(descriptor(word[1]))); }

CALL(close) {
  UNUSED;
  int fd = descriptor(word[0]);
  forget(word[0]);
  answer(close(fd));
}

/* Short data as text, long data as a sum; zeros as a count. */
static void tell_data(const char *data, ssize_t count) {
  if (count < 0) {
    answer(count);
    return;
  }
  say("%zd", count);
  ssize_t zeros = 0;
  while (zeros < count && data[zeros] == 0) zeros++;
  if (zeros > 0) say(" %zd zeros", zeros);
  data += zeros;
  count -= zeros;
  uint32_t sum = 2166136261u; /* FNV-1a */
  for (ssize_t i = 0; i < count; i++) sum = (sum ^ (uint8_t)data[i]) * 16777619u;
  if (count > SHOWN_BYTES) say(" sum %08x", sum);
  else for (ssize_t i = 0; i < count; i++) say(i == 0 ? (data[i] > 32 ? " %c" : " \\x%02x") : data[i] > 32 ? "%c" : "\\x%02x", data[i]);
}

/* read NAME COUNT, pread NAME COUNT OFFSET, write NAME TEXT, pwrite NAME TEXT OFFSET */
CALL(read) { UNUSED; ssize_t count = read(descriptor(word[0]), buffer, (size_t)number(word[1])); tell_data(buffer, count); }
CALL(pread) {
  UNUSED;
  ssize_t count = pread(descriptor(word[0]), buffer, (size_t)number(word[1]), number(word[2]));
  tell_data(buffer, count);
}
CALL(write) {
  UNUSED;
  size_t length;
  char *data = text(word[1], &length);
  answer(write(descriptor(word[0]), data, length));
}
CALL(pwrite) {
  UNUSED;
  size_t length;
  char *data = text(word[1], &length);
  answer(pwrite(descriptor(word[0]), data, length, number(word[2])));
}
/* From memory that is not there. */
CALL(readbad) { UNUSED; answer(read(descriptor(word[0]), (char *)1, (size_t)number(word[1]))); }
CALL(writebad) { UNUSED; answer(write(descriptor(word[0]), (char *)1, (size_t)number(word[1]))); }

CALL(lseek) { UNUSED; answer(lseek(descriptor(word[0]), number(word[1]), (int)number(word[2]))); }
CALL(ftruncate) { UNUSED; answer(ftruncate(descriptor(word[0]), number(word[1]))); }
CALL(fallocate) {
  UNUSED;
  answer(fallocate(descriptor(word[0]), (int)number(word[1]), number(word[2]), number(word[3])));
}
CALL(fchmod) { UNUSED; answer(fchmod(descriptor(word[0]), (mode_t)number(word[1]))); }
CALL(fchown) { UNUSED; answer(fchown(descriptor(word[0]), (uid_t)number(word[1]), (gid_t)number(word[2]))); }
CALL(fchdir) { UNUSED; answer(fchdir(descriptor(word[0]))); }
CALL(fsync) { UNUSED; answer(fsync(descriptor(word[0]))); }
CALL(fdatasync) { UNUSED; answer(fdatasync(descriptor(word[0]))); }
CALL(flock) { UNUSED; answer(flock(descriptor(word[0]), (int)number(word[1]))); }

/* getfl NAME: O_APPEND and the like; setfl NAME FLAGS */
CALL(getfl) {
  UNUSED;
  int flags = fcntl(descriptor(word[0]), F_GETFL);
  if (flags < 0) answer(flags);
  else say("%#o", flags);
}
CALL(setfl) { UNUSED; answer(fcntl(descriptor(word[0]), F_SETFL, (int)number(word[1]))); }

/* lock NAME COMMAND TYPE START LENGTH [WHENCE] */
CALL(lock) {
  struct flock lock = {
    .l_type = (short)number(word[2]), .l_whence = words > 5 ? (short)number(word[5]) : SEEK_SET,
    .l_start = number(word[3]), .l_len = number(word[4]),
  };
  int command = (int)number(word[1]);
  if (!answer(fcntl(descriptor(word[0]), command, &lock)) || (command != F_GETLK && command != F_OFD_GETLK)) return;
  if (lock.l_type == F_UNLCK) say(" free");
  else say(" %s %lld+%lld", lock.l_type == F_RDLCK ? "read" : "write", (long long)lock.l_start, (long long)lock.l_len);
}

/* copy FROM OFFSET TO OFFSET LENGTH FLAGS: copy_file_range; an offset of "at" is the descriptor's own */
CALL(copy) {
  UNUSED;
  off_t from = 0, to = 0, *from_at = NULL, *to_at = NULL;
  if (strcmp(word[1], "at") != 0) from = number(word[1]), from_at = &from;
  if (strcmp(word[3], "at") != 0) to = number(word[3]), to_at = &to;
  answer(copy_file_range(descriptor(word[0]), from_at, descriptor(word[2]), to_at, (size_t)number(word[4]), (unsigned)number(word[5])));
}

CALL(sendfile) { UNUSED; answer(sendfile(descriptor(word[0]), descriptor(word[1]), NULL, (size_t)number(word[2]))); }

/* mmap NAME LENGTH PROTECTION FLAGS OFFSET: whether it can be mapped, and what the mapping begins with */
CALL(mmap) {
  UNUSED;
  size_t length = (size_t)number(word[1]);
  int protection = (int)number(word[2]);
  char *map = mmap(NULL, length, protection, (int)number(word[3]), descriptor(word[0]), number(word[4]));
  if (map == MAP_FAILED) {
    answer(-1);
    return;
  }
  if (protection & PROT_READ) tell_data(map, length < SHOWN_BYTES ? (ssize_t)length : SHOWN_BYTES);
  else say("ok");
  munmap(map, length);
}

/* store NAME TEXT OFFSET: through a shared mapping */
CALL(store) {
  UNUSED;
  size_t length;
  char *data = text(word[1], &length);
  off_t offset = number(word[2]), page = offset & ~4095L;
  size_t mapped = (size_t)(offset - page) + length;
  char *map = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor(word[0]), page);
  if (map == MAP_FAILED) {
    answer(-1);
    return;
  }
  memcpy(map + (offset - page), data, length);
  answer(msync(map, mapped, MS_SYNC));
  munmap(map, mapped);
}

const struct call file_calls[] = {
  {"open", 3, 4, open_call}, {"openat", 4, 5, openat_call}, {"dup", 2, 2, dup_call}, {"close", 1, 1, close_call},
  {"read", 2, 2, read_call}, {"pread", 3, 3, pread_call}, {"write", 2, 2, write_call}, {"pwrite", 3, 3, pwrite_call},
  {"readbad", 2, 2, readbad_call}, {"writebad", 2, 2, writebad_call}, {"lseek", 3, 3, lseek_call},
  {"ftruncate", 2, 2, ftruncate_call}, {"fallocate", 4, 4, fallocate_call}, {"fchmod", 2, 2, fchmod_call},
  {"fchown", 3, 3, fchown_call}, {"fchdir", 1, 1, fchdir_call}, {"fsync", 1, 1, fsync_call},
  {"fdatasync", 1, 1, fdatasync_call}, {"flock", 2, 2, flock_call}, {"getfl", 1, 1, getfl_call},
  {"setfl", 2, 2, setfl_call}, {"lock", 5, 6, lock_call}, {"copy", 6, 6, copy_call},
  {"sendfile", 3, 3, sendfile_call}, {"mmap", 5, 5, mmap_call}, {"store", 3, 3, store_call}, {NULL, 0, 0, NULL},
};
