/* A file system without hard links, preloaded into a process by the tests of the seal.
 *
 * While the file $WRITE_LATER exists, who writes to a file whose name ends in "-seal" waits.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int refuse(void) {
    errno = EPERM;
    return -1;
}

int link(const char *from, const char *to) { return refuse(); }
int linkat(int from, const char *name, int to, const char *new_name, int flags) { return refuse(); }

static int is_seal(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 5 && strncmp(path + length - 5, "-seal", 5) == 0;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    ssize_t (*real)(int, const void *, size_t) = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    const char *later = getenv("WRITE_LATER");
    while (later != NULL && is_seal(fd) && access(later, F_OK) == 0) usleep(10000);
    return real(fd, bytes, count);
}
