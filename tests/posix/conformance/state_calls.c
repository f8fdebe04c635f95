/* What there is: attributes and which of them a call has changed, listings, extended attributes, handles. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#include "interpreter.h"

#define CALL(name) static void name##_call(char **word, int words)
#define UNUSED (void)words
#define SNAPSHOTS_MAX 8192
#define RECENT_SECONDS 120
#define BUFFER_BYTES 65536

static char buffer[BUFFER_BYTES];

static const char *type_name(unsigned mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return "file";
    case S_IFDIR: return "dir";
    case S_IFLNK: return "link";
    case S_IFIFO: return "fifo";
    case S_IFSOCK: return "socket";
    case S_IFBLK: return "block";
    case S_IFCHR: return "char";
    default: return "?";
  }
}

static bool look(const char *word, int flags, struct statx *status) {
  return statx(AT_FDCWD, text(word, NULL), flags, STATX_BASIC_STATS | STATX_BTIME, status) == 0;
}

/* The size of a directory is the file system's own affair. */
static void tell(const struct statx *status) {
  say("%s %04o %u:%u links %u", type_name(status->stx_mode), status->stx_mode & 07777, status->stx_uid, status->stx_gid,
      status->stx_nlink);
  if (!S_ISDIR(status->stx_mode)) say(" size %llu", (unsigned long long)status->stx_size);
  if (S_ISBLK(status->stx_mode) || S_ISCHR(status->stx_mode)) say(" device %u:%u", status->stx_rdev_major, status->stx_rdev_minor);
}

static void tell_if(bool is_there, const struct statx *status) {
  if (is_there) tell(status);
  else answer(-1);
}

/* stat PATH, lstat PATH, fstat NAME: type, mode, owners, links, size, device */
CALL(stat) { UNUSED; struct statx status; tell_if(look(word[0], 0, &status), &status); }
CALL(lstat) { UNUSED; struct statx status; tell_if(look(word[0], AT_SYMLINK_NOFOLLOW, &status), &status); }
CALL(fstat) {
  UNUSED;
  struct statx status;
  tell_if(statx(descriptor(word[0]), "", AT_EMPTY_PATH, STATX_BASIC_STATS, &status) == 0, &status);
}

/* exists PATH: only whether */
CALL(exists) { UNUSED; struct statx status; say(look(word[0], AT_SYMLINK_NOFOLLOW, &status) ? "yes" : "no"); }

/* times PATH: those that can be set */
CALL(times) {
  UNUSED;
  struct statx status;
  if (!look(word[0], AT_SYMLINK_NOFOLLOW, &status)) {
    answer(-1);
    return;
  }
  say("atime %lld.%09u mtime %lld.%09u", (long long)status.stx_atime.tv_sec, status.stx_atime.tv_nsec,
      (long long)status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec);
}

/* recent PATH: which times are about now */
CALL(recent) {
  UNUSED;
  struct statx status;
  if (!look(word[0], AT_SYMLINK_NOFOLLOW, &status)) {
    answer(-1);
    return;
  }
  const struct { const char *name; int64_t seconds; } times[] = {
    {"atime", status.stx_atime.tv_sec}, {"mtime", status.stx_mtime.tv_sec}, {"ctime", status.stx_ctime.tv_sec},
    {"btime", status.stx_mask & STATX_BTIME ? status.stx_btime.tv_sec : 0},
  };
  int64_t now = time(NULL);
  say("recent:");
  for (size_t i = 0; i < 4; i++)
    if (llabs(now - times[i].seconds) < RECENT_SECONDS) say(" %s", times[i].name);
}

/* same PATH PATH: two names of one inode? */
CALL(same) {
  UNUSED;
  struct statx a, b;
  if (!look(word[0], AT_SYMLINK_NOFOLLOW, &a) || !look(word[1], AT_SYMLINK_NOFOLLOW, &b)) answer(-1);
  else say(a.stx_ino == b.stx_ino && a.stx_dev_major == b.stx_dev_major && a.stx_dev_minor == b.stx_dev_minor ? "same" : "others");
}

/* ---- what changes: snap NAME PATH, later changed NAME PATH; fsnap and fchanged with descriptors */

static struct { char name[64]; struct statx status; } snapshots[SNAPSHOTS_MAX];
static int snapshots_used;

static struct statx *snapshot(const char *word, bool may_add) {
  char name[64];
  snprintf(name, sizeof name, "%.30s %.30s", case_name(), word);
  for (int i = snapshots_used - 1; i >= 0; i--)
    if (strcmp(snapshots[i].name, name) == 0) return &snapshots[i].status;
  if (!may_add || snapshots_used == SNAPSHOTS_MAX) wrong("snapshot %s", name);
  memcpy(snapshots[snapshots_used].name, name, sizeof name);
  return &snapshots[snapshots_used++].status;
}

static bool is_equal(struct statx_timestamp a, struct statx_timestamp b) {
  return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static void tell_changes(const struct statx *before, const struct statx *after) {
  if (before->stx_ino != after->stx_ino) {
    say("another inode");
    return;
  }
  say("changed:");
  if (!is_equal(before->stx_atime, after->stx_atime)) say(" atime");
  if (!is_equal(before->stx_mtime, after->stx_mtime)) say(" mtime");
  if (!is_equal(before->stx_ctime, after->stx_ctime)) say(" ctime");
  if (!is_equal(before->stx_btime, after->stx_btime)) say(" btime");
  if (before->stx_mode != after->stx_mode) say(" mode %04o", after->stx_mode & 07777);
  if (before->stx_uid != after->stx_uid || before->stx_gid != after->stx_gid) say(" owner %u:%u", after->stx_uid, after->stx_gid);
  if (before->stx_nlink != after->stx_nlink) say(" links %+d", (int)after->stx_nlink - (int)before->stx_nlink);
  if (!S_ISDIR(after->stx_mode) && before->stx_size != after->stx_size) say(" size %llu", (unsigned long long)after->stx_size);
}

CALL(snap) { UNUSED; answer(look(word[1], AT_SYMLINK_NOFOLLOW, snapshot(word[0], true)) ? 0 : -1); }
CALL(changed) {
  UNUSED;
  struct statx after;
  if (look(word[1], AT_SYMLINK_NOFOLLOW, &after)) tell_changes(snapshot(word[0], false), &after);
  else answer(-1);
}
CALL(fsnap) {
  UNUSED;
  answer(statx(descriptor(word[1]), "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, snapshot(word[0], true)));
}
CALL(fchanged) {
  UNUSED;
  struct statx after;
  if (statx(descriptor(word[1]), "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &after) == 0)
    tell_changes(snapshot(word[0], false), &after);
  else answer(-1);
}

/* blocks PATH: 512-byte blocks; blocked PATH: whether there are any */
CALL(blocks) {
  UNUSED;
  struct statx status;
  if (look(word[0], AT_SYMLINK_NOFOLLOW, &status)) say("%llu", (unsigned long long)status.stx_blocks);
  else answer(-1);
}

/* ---- listings */

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* list PATH: the names, sorted, each with its d_type */
CALL(list) {
  UNUSED;
  DIR *directory = opendir(text(word[0], NULL));
  if (directory == NULL) {
    answer(-1);
    return;
  }
  char *names[512];
  size_t count = 0;
  errno = 0;
  for (struct dirent *entry; (entry = readdir(directory)) != NULL && count < 512;)
    if (asprintf(&names[count++], "%s(%s)", entry->d_name, type_name(DTTOIF(entry->d_type))) < 0) wrong("asprintf");
  if (errno != 0) answer(-1);
  closedir(directory);
  qsort(names, count, sizeof names[0], compare_names);
  for (size_t i = 0; i < count; i++) {
    say(i == 0 ? "%s" : " %s", names[i]);
    free(names[i]);
  }
}

/* getdents NAME [ROOM]: how many entries one call brings, or its error */
CALL(getdents) {
  size_t room = words > 1 ? (size_t)number(word[1]) : sizeof buffer;
  long bytes = syscall(SYS_getdents64, descriptor(word[0]), buffer, room);
  if (bytes < 0) answer(bytes);
  else if (bytes == 0) say("end");
  else say("entries");
}

/* ---- extended attributes: setxattr PATH NAME VALUE FLAGS; with l: of a symlink itself; with f: by a descriptor */

static void tell_value(ssize_t length) {
  if (length < 0) answer(length);
  else say("%zd %.*s", length, length > 64 ? 64 : (int)length, buffer);
}

static size_t room_of(char **word, int words) { return words > 2 ? (size_t)number(word[2]) : sizeof buffer; }

CALL(getxattr) { tell_value(getxattr(text(word[0], NULL), text(word[1], NULL), buffer, room_of(word, words))); }
CALL(lgetxattr) { tell_value(lgetxattr(text(word[0], NULL), text(word[1], NULL), buffer, room_of(word, words))); }
CALL(fgetxattr) { tell_value(fgetxattr(descriptor(word[0]), text(word[1], NULL), buffer, room_of(word, words))); }
CALL(setxattr) {
  UNUSED;
  size_t length;
  char *value = text(word[2], &length);
  answer(setxattr(text(word[0], NULL), text(word[1], NULL), value, length, (int)number(word[3])));
}
CALL(lsetxattr) {
  UNUSED;
  size_t length;
  char *value = text(word[2], &length);
  answer(lsetxattr(text(word[0], NULL), text(word[1], NULL), value, length, (int)number(word[3])));
}
CALL(fsetxattr) {
  UNUSED;
  size_t length;
  char *value = text(word[2], &length);
  answer(fsetxattr(descriptor(word[0]), text(word[1], NULL), value, length, (int)number(word[3])));
}
CALL(removexattr) { UNUSED; answer(removexattr(text(word[0], NULL), text(word[1], NULL))); }
CALL(lremovexattr) { UNUSED; answer(lremovexattr(text(word[0], NULL), text(word[1], NULL))); }
CALL(fremovexattr) { UNUSED; answer(fremovexattr(descriptor(word[0]), text(word[1], NULL))); }

/* listxattr PATH [ROOM]: the names, sorted */
CALL(listxattr) {
  ssize_t length = listxattr(text(word[0], NULL), buffer, words > 1 ? (size_t)number(word[1]) : sizeof buffer);
  if (length < 0 || (words > 1 && number(word[1]) == 0)) {
    answer(length);
    return;
  }
  char *names[512];
  size_t count = 0;
  for (char *at = buffer; at < buffer + length && count < 512; at += strlen(at) + 1) names[count++] = at;
  qsort(names, count, sizeof names[0], compare_names);
  say("%zu:", count);
  for (size_t i = 0; i < count; i++) say(" %.40s", names[i]);
}

/* ---- flags of inodes, and handles */

/* flag NAME: FS_IOC_GETFLAGS, of those that users know (i, a, d); setflag NAME i|a|d|- */
CALL(flags) {
  UNUSED;
  int flags = 0;
  if (ioctl(descriptor(word[0]), FS_IOC_GETFLAGS, &flags) < 0) answer(-1);
  else say("flags %s%s%s", flags & FS_IMMUTABLE_FL ? "i" : "", flags & FS_APPEND_FL ? "a" : "", flags & FS_NODUMP_FL ? "d" : "");
}
CALL(setflags) {
  UNUSED;
  int flags = 0, fd = descriptor(word[0]);
  if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0) {
    answer(-1);
    return;
  }
  flags &= ~(FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL);
  if (strchr(word[1], 'i')) flags |= FS_IMMUTABLE_FL;
  if (strchr(word[1], 'a')) flags |= FS_APPEND_FL;
  if (strchr(word[1], 'd')) flags |= FS_NODUMP_FL;
  answer(ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

/* reopen NAME PATH FLAGS: opens by the handle of what the path leads to */
CALL(reopen) {
  UNUSED;
  struct { struct file_handle head; unsigned char bytes[128]; } handle = {.head.handle_bytes = 128};
  int mount_id, fd = -1;
  if (name_to_handle_at(AT_FDCWD, text(word[1], NULL), &handle.head, &mount_id, 0) == 0) {
    int root = open(".", O_RDONLY | O_CLOEXEC);
    fd = open_by_handle_at(root, &handle.head, (int)number(word[2]) | O_CLOEXEC);
    int error = errno;
    close(root);
    errno = error;
  }
  int error = errno;
  remember(word[0], fd);
  errno = error;
  answer(fd < 0 ? -1 : 0);
}

const struct call state_calls[] = {
  {"stat", 1, 1, stat_call}, {"lstat", 1, 1, lstat_call}, {"fstat", 1, 1, fstat_call}, {"exists", 1, 1, exists_call},
  {"times", 1, 1, times_call}, {"recent", 1, 1, recent_call}, {"same", 2, 2, same_call}, {"snap", 2, 2, snap_call},
  {"changed", 2, 2, changed_call}, {"fsnap", 2, 2, fsnap_call}, {"fchanged", 2, 2, fchanged_call},
  {"blocks", 1, 1, blocks_call}, {"list", 1, 1, list_call}, {"getdents", 1, 2, getdents_call},
  {"getxattr", 2, 3, getxattr_call}, {"lgetxattr", 2, 3, lgetxattr_call}, {"fgetxattr", 2, 3, fgetxattr_call},
  {"setxattr", 4, 4, setxattr_call}, {"lsetxattr", 4, 4, lsetxattr_call}, {"fsetxattr", 4, 4, fsetxattr_call},
  {"removexattr", 2, 2, removexattr_call}, {"lremovexattr", 2, 2, lremovexattr_call},
  {"fremovexattr", 2, 2, fremovexattr_call}, {"listxattr", 1, 2, listxattr_call}, {"flags", 1, 1, flags_call},
  {"setflags", 2, 2, setflags_call}, {"reopen", 3, 3, reopen_call}, {NULL, 0, 0, NULL},
};
