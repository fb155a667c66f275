/* A disk that fails when told to: preloaded into a process by the tests of the storage.
 *
 * Every sync adds a byte to $SYNCS. While the file $FAIL_SYNC exists, syncs fail with EIO; while $FAIL_WRITE
 * exists, writes to files whose name ends in "-wal" fail with ENOSPC after the number of writes that it says.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int exists(const char *variable) {
    const char *path = getenv(variable);
    return path != NULL && access(path, F_OK) == 0;
}

static void count_sync(void) {
    const char *path = getenv("SYNCS");
    int fd = path == NULL ? -1 : open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd >= 0) {
        ssize_t ignored = write(fd, ".", 1);
        (void)ignored;
        close(fd);
    }
}

static int sync_or_fail(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    count_sync();
    if (exists("FAIL_SYNC")) {
        errno = EIO;
        return -1;
    }
    return real(fd);
}

int fsync(int fd) { return sync_or_fail("fsync", fd); }
int fdatasync(int fd) { return sync_or_fail("fdatasync", fd); }

static int is_log(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 4 && strncmp(path + length - 4, "-wal", 4) == 0;
}

static int has_no_room(int fd) {
    static int writes_left = -1;
    const char *path = getenv("FAIL_WRITE");
    FILE *file = path == NULL ? NULL : fopen(path, "r");
    if (file == NULL) {
        writes_left = -1;
        return 0;
    }
    int said = 0;
    if (fscanf(file, "%d", &said) != 1) said = 0;
    fclose(file);
    if (!is_log(fd)) return 0;
    if (writes_left < 0) writes_left = said;
    if (writes_left > 0) {
        writes_left--;
        return 0;
    }
    errno = ENOSPC;
    return 1;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
    ssize_t (*real)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    return has_no_room(fd) ? -1 : real(fd, bytes, count, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    ssize_t (*real)(int, const void *, size_t, off_t) =
        (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    return has_no_room(fd) ? -1 : real(fd, bytes, count, offset);
}
