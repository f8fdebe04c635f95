/*
 * One of the processes of tests/posix/shared_tree.ts: system calls of all kinds on few names of one tree, drawn at random,
 * while others do the same there through this mount and another one. What each does is not known beforehand, but which errors
 * it may have in a tree that others change: any other one (EIO, EAGAIN of a busy server ...) ends the program. ESTALE is counted:
 * Linux itself answers so when it looks up a directory that is in use, and that another mount has moved, while this one renames.
 *
 *     shared_tree TREE SEED CALLS USER
 *
 * USER: 0, or an ordinary user, who has no other group. Prints "KIND DONE REFUSED STALE" for each kind of call; exit code 1: an
 * error that may not be, told on stderr.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 4
#define REACH 200000
#define ERRORS_MAX 8

static int root;
static bool is_user;
static uint64_t state;
static int held[SLOTS] = {-1, -1, -1, -1};
static char buffer[70000];
static sigjmp_buf past_the_end;

static unsigned draw(unsigned below) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (state >> 33) % below;
}

static int one_of(int count, const int *values) { return values[draw(count)]; }
#define PICK(...) one_of(sizeof (int[]){__VA_ARGS__} / sizeof(int), (int[]){__VA_ARGS__})

/* Up to three names of five: most that is done meets what others do. */
static const char *path(void) {
  static char paths[4][16];
  static int next;
  char *at = paths[next = (next + 1) % 4];
  int length = 0;
  for (unsigned names = PICK(1, 1, 2, 2, 3), i = 0; i < names; i++) {
    if (i > 0) at[length++] = '/';
    at[length++] = "abcde"[draw(5)];
  }
  at[length] = '\0';
  return at;
}

/* ---- calls: each gives -1 and errno, or what is not negative */

static int opened(int flags) { return openat(root, path(), flags | O_NONBLOCK, 0666); }

/* A regular file, if a few tries find one; -1 and ENXIO: something else. */
static int regular(int flags) {
  int fd = -1;
  for (int tries = 0; tries < 6; tries++) {
    struct stat status;
    fd = opened(flags);
    if (fd < 0 && errno != ENOENT && errno != ENOTDIR && errno != ENXIO && errno != EISDIR) return fd;
    if (fd < 0) continue;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) return fd;
    close(fd);
    errno = ENXIO;
    fd = -1;
  }
  return fd;
}

static int closing(int fd, int result) {
  int error = errno;
  if (close(fd) < 0 && result >= 0) return -1;
  errno = error;
  return result;
}

static int create(void) {
  int fd = opened(PICK(O_RDWR, O_WRONLY, O_RDONLY) | O_CREAT | PICK(0, 0, O_EXCL, O_TRUNC, O_APPEND));
  return fd < 0 ? fd : closing(fd, 0);
}

static int do_mkdir(void) { return mkdirat(root, path(), PICK(0777, 0777, 02777)); }
static int do_mknod(void) { return mknodat(root, path(), PICK(S_IFREG, S_IFIFO, S_IFSOCK) | 0666, 0); }
static int do_symlink(void) { return symlinkat(path(), root, path()); }
static int do_link(void) { return linkat(root, path(), root, path(), 0); }
static int do_unlink(void) { return unlinkat(root, path(), 0); }
static int do_rmdir(void) { return unlinkat(root, path(), AT_REMOVEDIR); }
static int do_rename(void) { return renameat2(root, path(), root, path(), PICK(0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE)); }
static int do_chmod(void) { return fchmodat(root, path(), PICK(0777, 0777, 06777, 0666 | S_IXUSR), 0); }
static int do_chown(void) { return fchownat(root, path(), PICK(-1, 0, 1000), PICK(-1, 0, 1000), AT_SYMLINK_NOFOLLOW); }

static int do_stat(void) {
  struct stat status;
  return fstatat(root, path(), &status, PICK(0, AT_SYMLINK_NOFOLLOW));
}

static int do_statx(void) {
  struct statx status;
  return statx(root, path(), PICK(0, AT_STATX_FORCE_SYNC), STATX_ALL, &status);
}

static int do_statfs(void) {
  struct statfs status;
  return fstatfs(root, &status);
}

static int do_access(void) { return faccessat(root, path(), PICK(F_OK, R_OK, W_OK), 0); }

static int do_readlink(void) { return readlinkat(root, path(), buffer, sizeof buffer); }

static int do_utimens(void) {
  struct timespec times[2] = {{.tv_sec = draw(1000000), .tv_nsec = draw(1000)}, {.tv_nsec = PICK(UTIME_NOW, UTIME_OMIT, 7)}};
  return utimensat(root, path(), times, PICK(0, AT_SYMLINK_NOFOLLOW));
}

static int do_list(void) {
  int fd = opened(O_RDONLY | O_DIRECTORY);
  DIR *dir = fd < 0 ? NULL : fdopendir(fd);
  if (dir == NULL) return -1;
  errno = 0;
  while (readdir(dir) != NULL) continue;
  int error = errno;
  closedir(dir);
  errno = error;
  return error == 0 ? 0 : -1;
}

/* Works in a directory that others may move or remove meanwhile. */
static int do_chdir(void) {
  int fd = opened(O_PATH | O_DIRECTORY);
  if (fd < 0) return fd;
  int result = fchdir(fd);
  if (result == 0) result = PICK(0, 1) == 0 ? mkdir(path(), 0777) : getcwd(buffer, sizeof buffer) == NULL ? -1 : 0;
  int error = errno;
  if (fchdir(root) < 0) abort();
  errno = error;
  return closing(fd, result);
}

static int do_read(void) {
  int fd = regular(O_RDONLY);
  return fd < 0 ? fd : closing(fd, pread(fd, buffer, 1 + draw(sizeof buffer), draw(REACH)));
}

static int do_write(void) {
  int fd = regular(PICK(O_WRONLY, O_RDWR) | PICK(0, 0, O_APPEND, O_DSYNC));
  return fd < 0 ? fd : closing(fd, pwrite(fd, buffer, 1 + draw(PICK(100, 5000, sizeof buffer)), draw(REACH)));
}

static int do_truncate(void) {
  int fd = regular(O_WRONLY | PICK(0, O_TRUNC));
  return fd < 0 ? fd : closing(fd, ftruncate(fd, draw(REACH)));
}

static int do_fallocate(void) {
  int fd = regular(O_RDWR);
  int mode = PICK(0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE);
  return fd < 0 ? fd : closing(fd, fallocate(fd, mode, draw(REACH), 1 + draw(50000)));
}

static int do_seek(void) {
  int fd = regular(O_RDONLY);
  return fd < 0 ? fd : closing(fd, (int)lseek(fd, draw(REACH), PICK(SEEK_DATA, SEEK_HOLE)));
}

static int do_copy(void) {
  int from = regular(O_RDONLY);
  if (from < 0) return from;
  int to = regular(O_WRONLY);
  if (to < 0) return closing(from, -1);
  loff_t source = draw(REACH), target = draw(REACH);
  return closing(from, closing(to, (int)copy_file_range(from, &source, to, &target, 1 + draw(50000), 0)));
}

static int do_fsync(void) {
  int fd = regular(O_RDWR);
  return fd < 0 ? fd : closing(fd, PICK(0, 1) == 0 ? fsync(fd) : fdatasync(fd));
}

static void on_bus_error(int number) { siglongjmp(past_the_end, number); }

/* The page may be cut off at any time. */
static int do_map(void) {
  int fd = regular(O_RDWR);
  if (fd < 0) return fd;
  volatile char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, PICK(MAP_SHARED, MAP_SHARED, MAP_PRIVATE), fd, 0);
  if (page == MAP_FAILED) return closing(fd, -1);
  if (sigsetjmp(past_the_end, 1) == 0) page[draw(4096)] += 1;
  int result = PICK(0, 1) == 0 ? msync((void *)page, 4096, MS_SYNC) : 0;
  munmap((void *)page, 4096);
  return closing(fd, result);
}

static int do_unnamed(void) {
  int fd = opened(O_TMPFILE | O_RDWR);
  if (fd < 0) return fd;
  if (write(fd, "unnamed", 7) != 7) return closing(fd, -1);
  char own[40];
  snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
  return closing(fd, linkat(AT_FDCWD, own, root, path(), AT_SYMLINK_FOLLOW));
}

static const char *xattr(void) {
  static const char *const names[] = {"user.a", "user.b", "user.c"};
  return names[draw(3)];
}

/* A user ACL entry for 1000 beside the others; version 2 of posix_acl_xattr.h. */
static const uint8_t acl[] = {2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 232, 3, 0, 0, 4, 0, 7, 0, 255, 255, 255, 255,
  16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 7, 0, 255, 255, 255, 255};

static int do_setxattr(void) { return setxattr(path(), xattr(), buffer, draw(200), PICK(0, 0, XATTR_CREATE, XATTR_REPLACE)); }
static int do_getxattr(void) { return (int)getxattr(path(), xattr(), buffer, sizeof buffer); }
static int do_listxattr(void) { return (int)listxattr(path(), buffer, sizeof buffer); }
static int do_removexattr(void) { return removexattr(path(), xattr()); }

static int do_acl(void) {
  const char *name = PICK(0, 1) == 0 ? "system.posix_acl_access" : "system.posix_acl_default";
  return PICK(0, 1) == 0 ? setxattr(path(), name, acl, sizeof acl, 0) : removexattr(path(), name);
}

static int do_lock(void) {
  int fd = regular(O_RDWR);
  struct flock range = {.l_type = PICK(F_RDLCK, F_WRLCK), .l_start = draw(100), .l_len = draw(100)};
  if (fd < 0) return fd;
  return closing(fd, PICK(0, 1) == 0 ? flock(fd, PICK(LOCK_SH, LOCK_EX) | LOCK_NB) : fcntl(fd, F_OFD_SETLK, &range));
}

static int do_hold(void) {
  int *slot = &held[draw(SLOTS)];
  int fd = regular(O_RDWR);
  if (fd < 0) return fd;
  int result = *slot < 0 ? 0 : close(*slot);
  *slot = fd;
  return result;
}

/* Whatever became of its name. */
static int do_held(void) {
  int fd = held[draw(SLOTS)];
  struct stat status;
  if (fd < 0) return 0;
  switch (draw(6)) {
    case 0: return pwrite(fd, buffer, 1 + draw(9000), draw(REACH)) < 0 ? -1 : 0;
    case 1: return pread(fd, buffer, 1 + draw(9000), draw(REACH)) < 0 ? -1 : 0;
    case 2: return ftruncate(fd, draw(REACH));
    case 3: return fstat(fd, &status);
    case 4: return fsync(fd);
    default: return fgetxattr(fd, "user.a", buffer, sizeof buffer) < 0 && errno != ENODATA ? -1 : 0;
  }
}

/* ---- which errors each may have, besides those of a path that others change */

static const struct kind {
  const char *name;
  int (*call)(void);
  int weight;
  int errors[ERRORS_MAX];
} kinds[] = {
  {"create", create, 12, {EEXIST, EISDIR, ENXIO}},
  {"mkdir", do_mkdir, 9, {EEXIST}},
  {"mknod", do_mknod, 4, {EEXIST}},
  {"symlink", do_symlink, 3, {EEXIST}},
  {"link", do_link, 5, {EEXIST, EPERM}},
  {"unlink", do_unlink, 9, {EISDIR}},
  {"rmdir", do_rmdir, 6, {ENOTEMPTY}},
  {"rename", do_rename, 9, {EEXIST, EISDIR, ENOTEMPTY, EINVAL}},
  {"chmod", do_chmod, 3, {0}},
  {"chown", do_chown, 3, {0}},
  {"stat", do_stat, 5, {0}},
  {"statx", do_statx, 2, {0}},
  {"statfs", do_statfs, 1, {0}},
  {"access", do_access, 2, {0}},
  {"readlink", do_readlink, 2, {EINVAL}},
  {"utimens", do_utimens, 3, {0}},
  {"list", do_list, 5, {0}},
  {"chdir", do_chdir, 3, {EEXIST}},
  {"read", do_read, 5, {ENXIO, EISDIR}},
  {"write", do_write, 6, {ENXIO, EISDIR}},
  {"truncate", do_truncate, 3, {ENXIO, EISDIR}},
  {"fallocate", do_fallocate, 3, {ENXIO, EISDIR}},
  {"seek", do_seek, 2, {ENXIO, EISDIR}},
  {"copy", do_copy, 3, {ENXIO, EISDIR, EINVAL}},
  {"fsync", do_fsync, 1, {ENXIO, EISDIR}},
  {"map", do_map, 3, {ENXIO, EISDIR}},
  {"unnamed", do_unnamed, 2, {EEXIST, EPERM}},
  {"setxattr", do_setxattr, 4, {EEXIST, ENODATA, EPERM}},
  {"getxattr", do_getxattr, 2, {ENODATA, EPERM}},
  {"listxattr", do_listxattr, 2, {0}},
  {"removexattr", do_removexattr, 2, {ENODATA, EPERM}},
  {"acl", do_acl, 2, {EACCES, ENODATA}},
  {"lock", do_lock, 2, {ENXIO, EISDIR, EAGAIN}},
  {"hold", do_hold, 4, {ENXIO, EISDIR}},
  {"held", do_held, 8, {0}},
};
#define KINDS (sizeof kinds / sizeof *kinds)

static bool may_be(const struct kind *kind, int error) {
  if (error == ENOENT || error == ENOTDIR || error == ELOOP) return kind->call != do_held;
  if (is_user && (error == EACCES || error == EPERM)) return true;
  for (int i = 0; i < ERRORS_MAX; i++)
    if (error == kind->errors[i] && error != 0) return true;
  return false;
}

int main(int count, char **words) {
  if (count != 5) return fprintf(stderr, "usage: shared_tree TREE SEED CALLS USER\n"), 2;
  root = open(words[1], O_RDONLY | O_DIRECTORY);
  state = 0x9e3779b97f4a7c15ull * (strtoul(words[2], NULL, 10) + 1);
  const long calls = strtol(words[3], NULL, 10);
  const uid_t user = (uid_t)strtoul(words[4], NULL, 10);
  is_user = user != 0;
  umask(0);
  if (root < 0 || fchdir(root) < 0) return perror(words[1]), 2;
  if (is_user && (setgroups(0, NULL) < 0 || setgid(user) < 0 || setuid(user) < 0)) return perror("setuid"), 2;
  signal(SIGBUS, on_bus_error);
  unsigned total = 0;
  long done[KINDS] = {0}, refused[KINDS] = {0}, stale[KINDS] = {0};
  for (size_t i = 0; i < KINDS; i++) total += kinds[i].weight;
  for (long made = 0; made < calls; made++) {
    size_t i = 0;
    for (unsigned left = draw(total); left >= (unsigned)kinds[i].weight; i++) left -= kinds[i].weight;
    const uint64_t before = state;
    if (kinds[i].call() >= 0) {
      done[i]++;
      continue;
    }
    if (errno == ESTALE && kinds[i].call != do_held) {
      stale[i]++;
      continue;
    }
    refused[i]++;
    if (may_be(&kinds[i], errno)) continue;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    fprintf(stderr, "%s: %s (at %lld.%03ld, state %llx)\n", kinds[i].name, strerror(errno), (long long)now.tv_sec,
      now.tv_nsec / 1000000, (unsigned long long)before);
    return 1;
  }
  for (int i = 0; i < SLOTS; i++)
    if (held[i] >= 0 && close(held[i]) < 0) return perror("close"), 1;
  for (size_t i = 0; i < KINDS; i++) printf("%s %ld %ld %ld\n", kinds[i].name, done[i], refused[i], stale[i]);
  return 0;
}
