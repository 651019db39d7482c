/* Preloaded into a server by the end-to-end tests: a disk that is slow or fails. The file that
 * SHARKLOCK_SHIM names says how, and is read at every sync: a number of milliseconds, or "EIO". */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* 0: the sync may go on; otherwise an errno. */
static int obey(void) {
    const char *path = getenv("SHARKLOCK_SHIM");
    char order[16] = {0};
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    ssize_t got = read(file, order, sizeof order - 1);
    close(file);
    if (got >= 3 && strncmp(order, "EIO", 3) == 0) return EIO;
    long ms = got > 0 ? atol(order) : 0;
    if (ms > 0) {
        struct timespec pause = {ms / 1000, (ms % 1000) * 1000000};
        nanosleep(&pause, NULL);
    }
    return 0;
}

static int sync_by(const char *name, int fd) {
    int refused = obey();
    if (refused) {
        errno = refused;
        return -1;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(fd);
}

int fsync(int fd) { return sync_by("fsync", fd); }
int fdatasync(int fd) { return sync_by("fdatasync", fd); }
