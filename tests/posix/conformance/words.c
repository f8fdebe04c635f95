/* The words of a script: numbers, names of constants, and text with escapes. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "interpreter.h"

#define TEXTS_MAX 16

#define NAME(constant) { #constant, constant }
static const struct { const char *name; int64_t value; } names[] = {
  NAME(O_RDONLY), NAME(O_WRONLY), NAME(O_RDWR), NAME(O_CREAT), NAME(O_EXCL), NAME(O_TRUNC), NAME(O_APPEND),
  NAME(O_DIRECTORY), NAME(O_NOFOLLOW), NAME(O_PATH), NAME(O_TMPFILE), NAME(O_NONBLOCK), NAME(O_SYNC), NAME(O_DSYNC),
  NAME(O_NOATIME), NAME(O_CLOEXEC), NAME(O_NOCTTY), NAME(O_DIRECT), NAME(O_LARGEFILE), NAME(O_ASYNC),
  NAME(S_IFREG), NAME(S_IFDIR), NAME(S_IFIFO), NAME(S_IFBLK), NAME(S_IFCHR), NAME(S_IFSOCK), NAME(S_IFLNK),
  NAME(R_OK), NAME(W_OK), NAME(X_OK), NAME(F_OK), NAME(SEEK_SET), NAME(SEEK_CUR), NAME(SEEK_END), NAME(SEEK_DATA),
  NAME(SEEK_HOLE), NAME(AT_SYMLINK_NOFOLLOW), NAME(AT_SYMLINK_FOLLOW), NAME(AT_REMOVEDIR), NAME(AT_EACCESS),
  NAME(AT_EMPTY_PATH), NAME(RENAME_NOREPLACE), NAME(RENAME_EXCHANGE), NAME(RENAME_WHITEOUT),
  NAME(FALLOC_FL_KEEP_SIZE), NAME(FALLOC_FL_PUNCH_HOLE), NAME(FALLOC_FL_ZERO_RANGE), NAME(FALLOC_FL_COLLAPSE_RANGE),
  NAME(FALLOC_FL_INSERT_RANGE), NAME(FALLOC_FL_UNSHARE_RANGE), NAME(XATTR_CREATE), NAME(XATTR_REPLACE),
  NAME(LOCK_SH), NAME(LOCK_EX), NAME(LOCK_UN), NAME(LOCK_NB), NAME(F_SETLK), NAME(F_SETLKW), NAME(F_GETLK),
  NAME(F_OFD_SETLK), NAME(F_OFD_SETLKW), NAME(F_OFD_GETLK), NAME(F_RDLCK), NAME(F_WRLCK), NAME(F_UNLCK),
  NAME(PROT_READ), NAME(PROT_WRITE), NAME(PROT_EXEC), NAME(PROT_NONE), NAME(MAP_SHARED), NAME(MAP_PRIVATE),
};

void wrong(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  fprintf(stderr, "\n");
  exit(2);
}

static int64_t one_number(const char *word, size_t length) {
  char copy[64];
  if (length == 0 || length >= sizeof copy) wrong("no number: %s", word);
  memcpy(copy, word, length);
  copy[length] = 0;
  char *end;
  int64_t value = (int64_t)strtoll(copy, &end, 0);
  if (*end == 0) return value;
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (strcmp(names[i].name, copy) == 0) return names[i].value;
  wrong("no number: %s", word);
}

int64_t number(const char *word) {
  int64_t value = 0;
  for (;;) {
    size_t length = strcspn(word, "|");
    value |= one_number(word, length);
    if (word[length] == 0) return value;
    word += length + 1;
  }
}

static char *texts[TEXTS_MAX];
static int texts_used;

void forget_texts(void) {
  while (texts_used > 0) free(texts[--texts_used]);
}

/* Writes what the word stands for to `to`, unless that is NULL. The value: its length. */
static size_t expand(const char *word, const char *end, char *to) {
  size_t length = 0;
  while (word < end) {
    const char *bytes = word;
    size_t count = 1, times = 1;
    char byte;
    if (*word == '{') {
      const char *star = memchr(word, '*', (size_t)(end - word));
      if (star == NULL) wrong("no * in %s", word);
      bytes = word + 1;
      count = (size_t)(star - bytes);
      char *brace;
      times = strtoul(star + 1, &brace, 10);
      if (*brace != '}') wrong("no } in %s", word);
      word = brace + 1;
    } else if (*word == '\\' && word[1] == 'x') {
      byte = (char)strtoul((char[]){word[2], word[3], 0}, NULL, 16);
      bytes = &byte;
      word += 4;
    } else if (*word == '\\') {
      byte = word[1] == 's' ? ' ' : word[1] == 'n' ? '\n' : word[1];
      bytes = &byte;
      word += 2;
    } else {
      word++;
    }
    for (size_t i = 0; i < times; i++, length += count)
      if (to != NULL) memcpy(to + length, bytes, count);
  }
  return length;
}

char *text(const char *word, size_t *length) {
  if (length != NULL) *length = 0;
  if (strcmp(word, "EMPTY") == 0) return "";
  if (strcmp(word, "BAD") == 0) return (char *)1;
  if (texts_used == TEXTS_MAX) wrong("too many words");
  if (strncmp(word, "/fd/", 4) == 0) {
    int count = asprintf(&texts[texts_used], "/proc/self/fd/%d", descriptor(word + 4));
    if (count < 0) wrong("asprintf");
    if (length != NULL) *length = (size_t)count;
    return texts[texts_used++];
  }
  const char *end = word + strlen(word);
  size_t bytes = expand(word, end, NULL);
  char *expanded = texts[texts_used++] = malloc(bytes + 1);
  expand(word, end, expanded);
  expanded[bytes] = 0;
  if (length != NULL) *length = bytes;
  return expanded;
}
