/*
 * Records what a process does to the files below one directory: a library for LD_PRELOAD.
 *
 *     gcc -shared -fPIC -O1 -o shim.so shim.c -ldl -lpthread
 *     MFS_POWER_DIR=/real/path MFS_POWER_LOG=/elsewhere/log LD_PRELOAD=/path/shim.so PROGRAM
 *
 * Each change (creation, write, truncation, rename, removal) runs and is logged under one mutex, so the log's order
 * is the order in which they happened. An fsync is two records, before and after: what was written before the
 * first is on disk after the second, and others go on meanwhile. The layout of records is in recording.ts.
 *
 * What must not be forgotten is caught where it would slip by: stdio writes by calls inside libc, so fopen gives a
 * stream that writes through us; who looks functions up with dlsym gets ours. What can't be recorded (writing
 * through a shared mapping, O_SYNC) is logged as unsupported, and the reader of the log fails on it.
 * Paths are taken as they are: no "..", no symbolic link below the directory.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
  CREATE = 1, WRITE, TRUNCATE, ZERO, SYNC_START, SYNC_DONE, SYNC_ALL_START, SYNC_ALL_DONE,
  RENAME, UNLINK, MKDIR, RMDIR, LINK, MARK, UNSUPPORTED,
};

struct record {
  uint32_t length;      /* of all of it, this head included */
  uint16_t kind;
  uint16_t path_length; /* of the first path; the second is the rest of a RENAME or LINK */
  uint64_t file;        /* inode number */
  uint64_t at;          /* offset, new size, or token of a sync */
  uint64_t size;        /* of ZERO */
};

#define FDS 65536
#define STREAMS 256

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static uint64_t tokens;
static dev_t root_device;
/* Inode number of what a descriptor below the directory leads to; 0: not ours. Checked with fstat at each use. */
static uint64_t files[FDS];
static struct { FILE *stream; int fd; } streams[STREAMS];

__attribute__((constructor)) static void start(void) {
  const char *dir = getenv("MFS_POWER_DIR"), *log = getenv("MFS_POWER_LOG");
  if (dir == NULL || log == NULL) return;
  root_length = strlen(dir);
  if (root_length >= sizeof root) abort();
  memcpy(root, dir, root_length);
  struct stat st;
  if (stat(dir, &st) != 0) abort();
  root_device = st.st_dev;
  int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0) abort();
  /* High up, where no program that counts its descriptors closes it. */
  log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 1000);
  syscall(SYS_close, fd);
  if (log_fd < 0) abort();
}

static void add(int kind, uint64_t file, uint64_t at, uint64_t size, const char *path, const char *path2,
                const struct iovec *data, int count) {
  struct record head = {sizeof head, kind, path ? strlen(path) : 0, file, at, size};
  struct iovec parts[3 + 1024];
  int used = 0;
  parts[used++] = (struct iovec){&head, sizeof head};
  if (path) parts[used++] = (struct iovec){(void *)path, strlen(path)};
  if (path2) parts[used++] = (struct iovec){(void *)path2, strlen(path2)};
  if (count > 1000) abort();
  for (int i = 0; i < count; i++) if (data[i].iov_len > 0) parts[used++] = data[i];
  size_t total = 0;
  for (int i = 0; i < used; i++) total += parts[i].iov_len;
  head.length = total;
  if (syscall(SYS_writev, log_fd, parts, used) != (ssize_t)total) {
    static const char text[] = "power shim: the log can't be written\n";
    syscall(SYS_write, 2, text, sizeof text - 1);
    abort();
  }
}

static void unsupported(const char *what) { add(UNSUPPORTED, 0, 0, 0, what, NULL, NULL, 0); }

/* The path below the directory ("" for itself), or NULL when it lies elsewhere. */
static const char *below(int dirfd, const char *path, char *buffer) {
  if (log_fd < 0) return NULL;
  if (path[0] != '/') {
    char link[64];
    ssize_t length;
    if (dirfd == AT_FDCWD) {
      if (getcwd(buffer, PATH_MAX) == NULL) return NULL;
      length = strlen(buffer);
    } else {
      snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
      length = readlink(link, buffer, PATH_MAX - 1);
      if (length < 0) return NULL;
    }
    if (length + strlen(path) + 2 > PATH_MAX) return NULL;
    buffer[length] = '/';
    strcpy(buffer + length + 1, path);
    path = buffer;
  }
  if (strncmp(path, root, root_length) != 0) return NULL;
  if (path[root_length] == 0) return path + root_length;
  return path[root_length] == '/' ? path + root_length + 1 : NULL;
}

/* The inode of a descriptor that was opened below the directory; 0 for others. */
static uint64_t file_of(int fd) {
  if (log_fd < 0 || fd < 0 || fd >= FDS || files[fd] == 0) return 0;
  struct stat st;
  if (fstat(fd, &st) != 0 || st.st_dev != root_device || st.st_ino != files[fd]) return files[fd] = 0;
  return st.st_ino;
}

static void track(int fd) {
  struct stat st;
  if (fd >= FDS) abort();
  if (fd >= 0 && fstat(fd, &st) == 0) files[fd] = st.st_ino;
}

static int open_at(int dirfd, const char *path, int flags, mode_t mode) {
  char buffer[PATH_MAX];
  const char *ours = below(dirfd, path, buffer);
  if (ours == NULL) return syscall(SYS_openat, dirfd, path, flags, mode);
  pthread_mutex_lock(&mutex);
  int fd = syscall(SYS_openat, dirfd, path, flags, mode);
  int saved = errno;
  if (fd >= 0) {
    track(fd);
    if ((flags & O_ACCMODE) != O_RDONLY && (flags & (O_SYNC | O_DSYNC))) unsupported("O_SYNC");
    if ((flags & O_TMPFILE) == O_TMPFILE) unsupported("O_TMPFILE");
    if (flags & O_CREAT) add(CREATE, files[fd], 0, 0, ours, NULL, NULL, 0);
    if (flags & O_TRUNC) add(TRUNCATE, files[fd], 0, 0, NULL, NULL, NULL, 0);
  }
  pthread_mutex_unlock(&mutex);
  errno = saved;
  return fd;
}

#define MODE(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }

int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int dirfd, const char *path, int flags, ...) { MODE(flags) return open_at(dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) { MODE(flags) return open_at(dirfd, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd) {
  if (fd == log_fd && fd >= 0) return 0;
  if (fd >= 0 && fd < FDS) files[fd] = 0;
  return syscall(SYS_close, fd);
}

static int duplicated(int from, int to) {
  if (to >= 0 && to < FDS && from >= 0 && from < FDS) files[to] = files[from];
  return to;
}

int dup(int fd) { return duplicated(fd, syscall(SYS_dup, fd)); }
int dup3(int from, int to, int flags) { return duplicated(from, syscall(SYS_dup3, from, to, flags)); }
int dup2(int from, int to) { return from == to ? fcntl(from, F_GETFD) < 0 ? -1 : to : dup3(from, to, 0); }

static int control(int fd, int command, long argument) {
  int result = syscall(SYS_fcntl, fd, command, argument);
  return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? duplicated(fd, result) : result;
}

int fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  long argument = va_arg(list, long);
  va_end(list);
  return control(fd, command, argument);
}

int fcntl64(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  long argument = va_arg(list, long);
  va_end(list);
  return control(fd, command, argument);
}

/* One write of any kind; offset -1: at the descriptor's own. */
static ssize_t write_parts(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
  pthread_mutex_lock(&mutex);
  uint64_t file = file_of(fd);
  ssize_t done;
  if (offset >= 0) done = syscall(SYS_pwritev2, fd, parts, count, offset, 0, flags);
  else if (count == 1) done = syscall(SYS_write, fd, parts[0].iov_base, parts[0].iov_len);
  else done = syscall(SYS_writev, fd, parts, count);
  int saved = errno;
  if (file != 0 && done > 0) {
    int status = syscall(SYS_fcntl, fd, F_GETFL);
    struct stat st;
    if (offset >= 0 && (status & O_APPEND)) unsupported("pwrite with O_APPEND");
    if (flags & (RWF_SYNC | RWF_DSYNC | RWF_APPEND)) unsupported("flags of pwritev2");
    uint64_t at = offset >= 0 ? offset : syscall(SYS_lseek, fd, 0, SEEK_CUR) - done;
    struct iovec taken[1024];
    size_t left = done;
    int used = 0;
    for (; used < count && left > 0; used++) {
      taken[used] = parts[used];
      if (taken[used].iov_len > left) taken[used].iov_len = left;
      left -= taken[used].iov_len;
    }
    add(WRITE, file, at, 0, NULL, NULL, taken, used);
  }
  pthread_mutex_unlock(&mutex);
  errno = saved;
  return done;
}

static int is_ours(int fd) { return log_fd >= 0 && fd >= 0 && fd < FDS && files[fd] != 0; }

ssize_t write(int fd, const void *data, size_t size) {
  if (!is_ours(fd)) return syscall(SYS_write, fd, data, size);
  return write_parts(fd, &(struct iovec){(void *)data, size}, 1, -1, 0);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (!is_ours(fd)) return syscall(SYS_writev, fd, parts, count);
  return write_parts(fd, parts, count, -1, 0);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
  if (!is_ours(fd)) return syscall(SYS_pwrite64, fd, data, size, offset);
  return write_parts(fd, &(struct iovec){(void *)data, size}, 1, offset, 0);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
  if (!is_ours(fd)) return syscall(SYS_pwritev2, fd, parts, count, offset, 0, flags);
  return write_parts(fd, parts, count, offset, flags);
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
  return pwritev2(fd, parts, count, offset, flags);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
  return pwritev2(fd, parts, count, offset, 0);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
  return pwritev2(fd, parts, count, offset, 0);
}

/* Copies within the kernel: callers fall back to reading and writing. */
ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t size, unsigned flags) {
  if (is_ours(to)) { errno = ENOSYS; return -1; }
  return syscall(SYS_copy_file_range, from, from_at, to, to_at, size, flags);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) {
  if (is_ours(to)) { errno = EINVAL; return -1; }
  return syscall(SYS_sendfile, to, from, at, size);
}
ssize_t sendfile(int to, int from, off_t *at, size_t size) { return sendfile64(to, from, at, size); }

int ftruncate64(int fd, off64_t size) {
  pthread_mutex_lock(&mutex);
  uint64_t file = file_of(fd);
  int result = syscall(SYS_ftruncate, fd, size), saved = errno;
  if (file != 0 && result == 0) add(TRUNCATE, file, size, 0, NULL, NULL, NULL, 0);
  pthread_mutex_unlock(&mutex);
  errno = saved;
  return result;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }
int truncate64(const char *path, off64_t size) {
  int fd = open_at(AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
  if (fd < 0) return -1;
  int result = ftruncate64(fd, size), saved = errno;
  close(fd);
  errno = saved;
  return result;
}
int truncate(const char *path, off_t size) { return truncate64(path, size); }

int fallocate64(int fd, int mode, off64_t offset, off64_t size) {
  pthread_mutex_lock(&mutex);
  uint64_t file = file_of(fd);
  int result = syscall(SYS_fallocate, fd, mode, offset, size), saved = errno;
  if (file != 0 && result == 0) {
    struct stat st;
    fstat(fd, &st);
    if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) unsupported("fallocate");
    if (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) add(ZERO, file, offset, size, NULL, NULL, NULL, 0);
    if (!(mode & FALLOC_FL_KEEP_SIZE)) add(TRUNCATE, file, st.st_size, 0, NULL, NULL, NULL, 0);
  }
  pthread_mutex_unlock(&mutex);
  errno = saved;
  return result;
}
int fallocate(int fd, int mode, off_t offset, off_t size) { return fallocate64(fd, mode, offset, size); }
int posix_fallocate(int fd, off_t offset, off_t size) { return fallocate64(fd, 0, offset, size) == 0 ? 0 : errno; }
int posix_fallocate64(int fd, off64_t offset, off64_t size) { return posix_fallocate(fd, offset, size); }

static int flush(int call, int fd, int all) {
  if (!is_ours(fd) && !(all && log_fd >= 0)) return syscall(call, fd);
  pthread_mutex_lock(&mutex);
  uint64_t file = file_of(fd), token = ++tokens;
  add(all ? SYNC_ALL_START : SYNC_START, file, token, 0, NULL, NULL, NULL, 0);
  pthread_mutex_unlock(&mutex);
  int result = syscall(call, fd), saved = errno;
  pthread_mutex_lock(&mutex);
  if (result == 0) add(all ? SYNC_ALL_DONE : SYNC_DONE, file, token, 0, NULL, NULL, NULL, 0);
  pthread_mutex_unlock(&mutex);
  errno = saved;
  return result;
}

int fsync(int fd) { return flush(SYS_fsync, fd, 0); }
int fdatasync(int fd) { return flush(SYS_fdatasync, fd, 0); }
int syncfs(int fd) {
  struct stat st;
  if (log_fd < 0 || fstat(fd, &st) != 0 || st.st_dev != root_device) return syscall(SYS_syncfs, fd);
  return flush(SYS_syncfs, fd, 1);
}

/* Runs a change of names, and logs it when it came about. */
#define NAMES(dirfd, path, call, ...) \
  char buffer[PATH_MAX]; \
  const char *ours = below(dirfd, path, buffer); \
  if (ours == NULL) return call; \
  pthread_mutex_lock(&mutex); \
  int result = call, saved = errno; \
  if (result == 0) { __VA_ARGS__; } \
  pthread_mutex_unlock(&mutex); \
  errno = saved; \
  return result

int unlinkat(int dirfd, const char *path, int flags) {
  NAMES(dirfd, path, syscall(SYS_unlinkat, dirfd, path, flags),
        add(flags & AT_REMOVEDIR ? RMDIR : UNLINK, 0, 0, 0, ours, NULL, NULL, 0));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
  int result = unlink(path);
  return result != 0 && errno == EISDIR ? rmdir(path) : result;
}

static uint64_t inode_at(int dirfd, const char *path) {
  struct stat st;
  return fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 ? st.st_ino : 0;
}

int mkdirat(int dirfd, const char *path, mode_t mode) {
  NAMES(dirfd, path, syscall(SYS_mkdirat, dirfd, path, mode),
        add(MKDIR, inode_at(dirfd, path), 0, 0, ours, NULL, NULL, 0));
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
  char other[PATH_MAX];
  const char *target = below(to_dir, to, other);
  char source[PATH_MAX];
  if ((below(from_dir, from, source) == NULL) != (target == NULL)) unsupported("rename across the directory");
  NAMES(from_dir, from, syscall(SYS_renameat2, from_dir, from, to_dir, to, flags),
        if (flags & ~RENAME_NOREPLACE) unsupported("flags of renameat2");
        add(RENAME, 0, 0, 0, ours, target, NULL, 0));
}
int renameat(int from_dir, const char *from, int to_dir, const char *to) {
  return renameat2(from_dir, from, to_dir, to, 0);
}
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
  char other[PATH_MAX];
  const char *source = below(from_dir, from, other);
  NAMES(to_dir, to, syscall(SYS_linkat, from_dir, from, to_dir, to, flags),
        if (source == NULL) unsupported("link from elsewhere"); else add(LINK, 0, 0, 0, source, ours, NULL, 0));
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int symlinkat(const char *target, int dirfd, const char *path) {
  NAMES(dirfd, path, syscall(SYS_symlinkat, target, dirfd, path), unsupported("symlink"));
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset) {
  if (is_ours(fd) && (flags & MAP_SHARED) && (protection & PROT_WRITE)) {
    pthread_mutex_lock(&mutex);
    unsupported("writable shared mapping");
    pthread_mutex_unlock(&mutex);
  }
  return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
}
void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
  return mmap64(address, size, protection, flags, fd, offset);
}

/* What libc itself has under a name that is defined here too. */
static void *real(const char *name) {
  static void *(*lookup)(void *, const char *);
  if (lookup == NULL) lookup = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
  if (lookup == NULL) lookup = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.17");
  return lookup(RTLD_NEXT, name);
}

static ssize_t stream_write(void *cookie, const char *data, size_t size) {
  size_t done = 0;
  while (done < size) {
    ssize_t count = write((int)(intptr_t)cookie, data + done, size - done);
    if (count <= 0) return done; /* 0 tells stdio that it failed */
    done += count;
  }
  return done;
}

static int stream_close(void *cookie) {
  int fd = (int)(intptr_t)cookie;
  pthread_mutex_lock(&mutex);
  for (int i = 0; i < STREAMS; i++) if (streams[i].stream != NULL && streams[i].fd == fd) streams[i].stream = NULL;
  pthread_mutex_unlock(&mutex);
  return close(fd);
}

FILE *fopen64(const char *path, const char *mode) {
  char buffer[PATH_MAX];
  if (below(AT_FDCWD, path, buffer) == NULL || mode[0] == 'r') {
    FILE *(*open_real)(const char *, const char *) = real("fopen64");
    return open_real(path, mode);
  }
  if (strchr(mode, '+') != NULL) unsupported("fopen for both");
  int fd = open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_CLOEXEC | (mode[0] == 'a' ? O_APPEND : O_TRUNC), 0666);
  if (fd < 0) return NULL;
  cookie_io_functions_t functions = {.write = stream_write, .close = stream_close};
  FILE *stream = fopencookie((void *)(intptr_t)fd, "w", functions);
  if (stream == NULL) { close(fd); return NULL; }
  int slot = 0;
  pthread_mutex_lock(&mutex);
  while (slot < STREAMS && streams[slot].stream != NULL) slot++;
  if (slot == STREAMS) abort();
  streams[slot].stream = stream;
  streams[slot].fd = fd;
  pthread_mutex_unlock(&mutex);
  return stream;
}
FILE *fopen(const char *path, const char *mode) { return fopen64(path, mode); }

int fileno(FILE *stream) {
  int fd = -1;
  pthread_mutex_lock(&mutex);
  for (int i = 0; i < STREAMS; i++) if (streams[i].stream == stream) fd = streams[i].fd;
  pthread_mutex_unlock(&mutex);
  int (*real_fileno)(FILE *) = real("fileno");
  return fd >= 0 ? fd : real_fileno(stream);
}
int fileno_unlocked(FILE *stream) { return fileno(stream); }

/* What a caller of syscall(2) opens so would be written to unseen: he is told that he has to do with open. */
static long call_of(long number, long a, long b, long c, long d, long e, long f) {
  if (number == SYS_openat2) { errno = ENOSYS; return -1; }
  return syscall(number, a, b, c, d, e, f);
}

void *dlsym(void *handle, const char *name) {
#define OURS(function) if (strcmp(name, #function) == 0) return (void *)function;
  if (log_fd >= 0) {
    if (strcmp(name, "syscall") == 0) return (void *)call_of;
    OURS(open) OURS(open64) OURS(openat) OURS(openat64) OURS(creat) OURS(close) OURS(dup) OURS(dup2) OURS(dup3)
    OURS(fcntl) OURS(fcntl64) OURS(write) OURS(writev) OURS(pwrite) OURS(pwrite64) OURS(pwritev) OURS(pwritev64)
    OURS(pwritev2) OURS(copy_file_range) OURS(sendfile) OURS(sendfile64) OURS(ftruncate) OURS(ftruncate64)
    OURS(truncate) OURS(truncate64) OURS(fallocate) OURS(fallocate64) OURS(posix_fallocate) OURS(fsync)
    OURS(fdatasync) OURS(syncfs) OURS(unlink) OURS(unlinkat) OURS(rmdir) OURS(remove) OURS(mkdir) OURS(mkdirat)
    OURS(rename) OURS(renameat) OURS(renameat2) OURS(link) OURS(linkat) OURS(symlink) OURS(symlinkat) OURS(mmap)
    OURS(mmap64) OURS(fopen) OURS(fopen64) OURS(fileno)
  }
  static void *(*lookup)(void *, const char *);
  if (lookup == NULL) lookup = real("dlsym");
  return lookup(handle, name);
}
