/* A program that is killed behind the n-th system call of its worker, before it can note what the call has done:
 * preloaded into cproxy and sproxy.
 *
 * MPROXY_FAULTS names a file with three numbers, which whoever tests has before him, too: calls until death (0: it is
 * not to die), calls after that death until the next one, and how many deaths there were. A worker is what the process
 * in which this was loaded has as a child; with MPROXY_FAULTS_OF=2 what its children have, as the relay's keepers do.
 * Other processes are left alone. */

#define _GNU_SOURCE
#include "behind.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static struct { uint32_t left, again, deaths; } *faults;
static pid_t loaded_in;
static int of_grandchildren;

__attribute__((constructor)) static void load(void)
{
    const char *path = getenv("MPROXY_FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *place = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (place != MAP_FAILED)
        faults = place;
    loaded_in = getpid();
    of_grandchildren = getenv("MPROXY_FAULTS_OF") != NULL;
}

static void after(long result)
{
    int error = errno;
    if (faults == NULL || (result < 0 && error == EAGAIN) || getpid() == loaded_in
        || (getppid() == loaded_in) == of_grandchildren)
        return;
    if (faults->left > 0 && --faults->left == 0) {
        faults->left = faults->again;
        faults->again = 0;
        faults->deaths++;
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
    errno = error;
}

BEHIND(int, recvmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout),
       (fd, messages, count, flags, timeout))
BEHIND(int, sendmmsg, (int fd, struct mmsghdr *messages, unsigned count, int flags), (fd, messages, count, flags))
BEHIND(int, socket, (int domain, int type, int protocol), (domain, type, protocol))
BEHIND(int, setsockopt, (int fd, int level, int name, const void *value, socklen_t length),
       (fd, level, name, value, length))
BEHIND(ssize_t, splice, (int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags),
       (from, from_at, to, to_at, length, flags))
BEHIND(int, pipe2, (int *fds, int flags), (fds, flags))
BEHIND(int, rename, (const char *from, const char *to), (from, to))
BEHIND(ssize_t, pwrite64, (int fd, const void *data, size_t length, off64_t at), (fd, data, length, at))
BEHIND(int, ftruncate64, (int fd, off64_t length), (fd, length))
BEHIND(int, madvise, (void *start, size_t length, int advice), (start, length, advice))

/* Not the log, of which nothing is remembered. */
ssize_t write(int fd, const void *data, size_t length)
{
    static ssize_t (*real)(int, const void *, size_t);
    ssize_t result;
    if (!real)
        real = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    result = real(fd, data, length);
    if (fd > 2)
        after(result);
    return result;
}
