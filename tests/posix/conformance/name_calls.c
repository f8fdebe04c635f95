/* Calls on names: making, removing, renaming, and the attributes of what a path leads to. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include "interpreter.h"

#define CALL(name) static void name##_call(char **word, int words)
#define UNUSED (void)words

static char *path(const char *word) { return text(word, NULL); }

CALL(mkdir) { UNUSED; answer(mkdir(path(word[0]), (mode_t)number(word[1]))); }
CALL(mkdirat) { UNUSED; answer(mkdirat(descriptor(word[0]), path(word[1]), (mode_t)number(word[2]))); }
CALL(rmdir) { UNUSED; answer(rmdir(path(word[0]))); }
CALL(unlink) { UNUSED; answer(unlink(path(word[0]))); }
CALL(unlinkat) { UNUSED; answer(unlinkat(descriptor(word[0]), path(word[1]), (int)number(word[2]))); }
CALL(link) { UNUSED; answer(link(path(word[0]), path(word[1]))); }
CALL(symlink) { UNUSED; answer(symlink(path(word[0]), path(word[1]))); }
CALL(rename) { UNUSED; answer(rename(path(word[0]), path(word[1]))); }
CALL(chmod) { UNUSED; answer(chmod(path(word[0]), (mode_t)number(word[1]))); }
CALL(chdir) { UNUSED; answer(chdir(path(word[0]))); }
CALL(access) { UNUSED; answer(access(path(word[0]), (int)number(word[1]))); }
CALL(truncate) { UNUSED; answer(truncate(path(word[0]), number(word[1]))); }
CALL(umask) { UNUSED; say("%03o", umask((mode_t)number(word[0]))); }

/* mknod PATH MODE [MAJOR MINOR] */
CALL(mknod) {
  dev_t device = words > 3 ? makedev((unsigned)number(word[2]), (unsigned)number(word[3])) : 0;
  answer(mknod(path(word[0]), (mode_t)number(word[1]), device));
}

/* linkat DIRECTORY PATH DIRECTORY PATH FLAGS */
CALL(linkat) {
  UNUSED;
  answer(linkat(descriptor(word[0]), path(word[1]), descriptor(word[2]), path(word[3]), (int)number(word[4])));
}

CALL(renameat2) {
  UNUSED;
  answer(renameat2(AT_FDCWD, path(word[0]), AT_FDCWD, path(word[1]), (unsigned)number(word[2])));
}

/* readlink PATH [ROOM] */
CALL(readlink) {
  static char target[8192];
  size_t room = words > 1 ? (size_t)number(word[1]) : sizeof target;
  ssize_t length = readlink(path(word[0]), target, room);
  if (length < 0) answer(length);
  else say("%zd %.*s", length, length > 100 ? 100 : (int)length, target);
}

CALL(chown) { UNUSED; answer(chown(path(word[0]), (uid_t)number(word[1]), (gid_t)number(word[2]))); }
CALL(lchown) { UNUSED; answer(lchown(path(word[0]), (uid_t)number(word[1]), (gid_t)number(word[2]))); }

/* The call itself: the C library has its own ideas about flags. */
CALL(fchmodat2) {
#ifdef SYS_fchmodat2
  long call = SYS_fchmodat2;
#else
  long call = 452;
#endif
  UNUSED;
  answer(syscall(call, AT_FDCWD, path(word[0]), (mode_t)number(word[1]), (int)number(word[2])));
}

CALL(faccessat2) {
#ifdef SYS_faccessat2
  long call = SYS_faccessat2;
#else
  long call = 439;
#endif
  UNUSED;
  answer(syscall(call, AT_FDCWD, path(word[0]), (int)number(word[1]), (int)number(word[2])));
}

/* now, omit, or SECONDS[.NANOSECONDS] */
static struct timespec time_of(const char *word) {
  if (strcmp(word, "now") == 0) return (struct timespec){0, UTIME_NOW};
  if (strcmp(word, "omit") == 0) return (struct timespec){0, UTIME_OMIT};
  char *end;
  long long seconds = strtoll(word, &end, 10);
  return (struct timespec){(time_t)seconds, *end == '.' ? strtol(end + 1, NULL, 10) : 0};
}

/* utimensat PATH ATIME MTIME [FLAGS], or PATH null; times as above */
CALL(utimensat) {
  if (strcmp(word[1], "null") == 0) {
    answer(syscall(SYS_utimensat, AT_FDCWD, path(word[0]), NULL, words > 2 ? (int)number(word[2]) : 0));
    return;
  }
  struct timespec times[2] = {time_of(word[1]), time_of(word[2])};
  answer(syscall(SYS_utimensat, AT_FDCWD, path(word[0]), times, words > 3 ? (int)number(word[3]) : 0));
}

CALL(futimens) {
  UNUSED;
  struct timespec times[2] = {time_of(word[1]), time_of(word[2])};
  answer(syscall(SYS_utimensat, descriptor(word[0]), NULL, times, 0));
}

static struct sockaddr_un socket_address(const char *word) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path(word));
  return address;
}

/* bind PATH: makes a socket there. With a name for it as well it goes on to listen. */
CALL(bind) {
  struct sockaddr_un address = socket_address(word[0]);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int result = bind(fd, (struct sockaddr *)&address, sizeof address);
  int error = errno;
  if (result == 0 && words > 1) {
    listen(fd, 16);
    remember(word[1], fd);
  } else {
    close(fd);
  }
  errno = error;
  answer(result);
}

CALL(connect) {
  UNUSED;
  struct sockaddr_un address = socket_address(word[0]);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int result = connect(fd, (struct sockaddr *)&address, sizeof address);
  int error = errno;
  close(fd);
  errno = error;
  answer(result);
}

CALL(getcwd) {
  UNUSED, (void)word;
  char where[8192];
  if (getcwd(where, sizeof where) == NULL) answer(-1);
  else say("ends in %s", strrchr(where, '/'));
}

/* statfs PATH: what does not depend on the disk's size */
CALL(statfs) {
  UNUSED;
  struct statfs status;
  if (answer(statfs(path(word[0]), &status)))
    say(" names of %ld, files %d", (long)status.f_namelen, status.f_files > 0 && status.f_ffree <= status.f_files);
}

/* install PATH MODE: puts this program there. exec PATH runs it, and tells who it was then. */
CALL(install) {
  UNUSED;
  static char buffer[1 << 20];
  int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  ssize_t count = read(from, buffer, sizeof buffer);
  close(from);
  int to = open(path(word[0]), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
  if (to < 0 || write(to, buffer, (size_t)count) != count || fchmod(to, (mode_t)number(word[1])) != 0) answer(-1);
  else answer(0);
  if (to >= 0) close(to);
}

/* run NAME PATH: starts it, and it runs until "stop NAME", or the end of the case. */
CALL(run) {
  UNUSED;
  char *program = path(word[1]);
  int ends[2], started[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0 || pipe2(started, O_CLOEXEC) != 0) wrong("run");
  pid_t pid = fork();
  if (pid == 0) {
    dup2(ends[1], 0);
    execve(program, (char *[]){program, "wait", NULL}, (char *[]){NULL});
    int error = errno;
    if (write(started[1], &error, sizeof error) < 0) _exit(2);
    _exit(1);
  }
  close(ends[1]);
  close(started[1]);
  int error = 0;
  ssize_t count = read(started[0], &error, sizeof error); /* nothing, once it is another program */
  close(started[0]);
  if (count > 0) waitpid(pid, NULL, 0); /* until then it has open what we have */
  remember(word[0], ends[0]);
  errno = error;
  answer(pid < 0 || count > 0 ? -1 : 0);
}

CALL(stop) {
  UNUSED;
  int fd = descriptor(word[0]);
  char byte;
  shutdown(fd, SHUT_WR);
  ssize_t count = read(fd, &byte, 1); /* its end is closed when it has gone, after its program */
  forget(word[0]);
  close(fd);
  while (waitpid(-1, NULL, WNOHANG) > 0) continue;
  answer(count);
}

/* mount PATH: a tmpfs there. unmount PATH */
CALL(mount) { UNUSED; answer(mount("none", path(word[0]), "tmpfs", 0, "size=1m")); }
CALL(unmount) { UNUSED; answer(umount2(path(word[0]), MNT_DETACH | UMOUNT_NOFOLLOW)); }

CALL(exec) {
  UNUSED;
  char *program = path(word[0]);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) wrong("pipe2");
  pid_t pid = fork();
  if (pid == 0) {
    dup2(ends[1], 1);
    execve(program, (char *[]){program, "who", NULL}, (char *[]){NULL});
    dprintf(1, "%s", strerrorname_np(errno));
    _exit(1);
  }
  close(ends[1]);
  char told[200];
  ssize_t count = pid < 0 ? -1 : read(ends[0], told, sizeof told);
  close(ends[0]);
  if (pid > 0) waitpid(pid, NULL, 0);
  if (count < 0) answer(-1);
  else say("%.*s", (int)count, told);
}

const struct call name_calls[] = {
  {"mkdir", 2, 2, mkdir_call}, {"mkdirat", 3, 3, mkdirat_call}, {"rmdir", 1, 1, rmdir_call},
  {"unlink", 1, 1, unlink_call}, {"unlinkat", 3, 3, unlinkat_call}, {"link", 2, 2, link_call},
  {"linkat", 5, 5, linkat_call}, {"symlink", 2, 2, symlink_call}, {"rename", 2, 2, rename_call},
  {"renameat2", 3, 3, renameat2_call}, {"chmod", 2, 2, chmod_call}, {"fchmodat2", 3, 3, fchmodat2_call},
  {"chown", 3, 3, chown_call}, {"lchown", 3, 3, lchown_call}, {"chdir", 1, 1, chdir_call},
  {"getcwd", 0, 0, getcwd_call}, {"access", 2, 2, access_call}, {"faccessat2", 3, 3, faccessat2_call},
  {"truncate", 2, 2, truncate_call}, {"umask", 1, 1, umask_call}, {"mknod", 2, 4, mknod_call},
  {"readlink", 1, 2, readlink_call}, {"utimensat", 2, 4, utimensat_call}, {"futimens", 3, 3, futimens_call},
  {"bind", 1, 2, bind_call}, {"connect", 1, 1, connect_call}, {"statfs", 1, 1, statfs_call},
  {"install", 2, 2, install_call}, {"exec", 1, 1, exec_call}, {"run", 2, 2, run_call},
  {"stop", 1, 1, stop_call}, {"mount", 1, 1, mount_call}, {"unmount", 1, 1, unmount_call}, {NULL, 0, 0, NULL},
};
