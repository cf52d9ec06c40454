/* A system that does not cut trains (UDP_SEGMENT): preloaded into a program, refuses each with the error number in the file
 * MPROXY_TEST_TRAINS, and counts there how many it has refused. The file is two 32-bit numbers. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

struct page {
    int32_t error;
    uint32_t refused;
};

static struct page *open_page(void)
{
    const char *path = getenv("MPROXY_TEST_TRAINS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *page = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(struct page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    return page == MAP_FAILED ? NULL : page;
}

static int is_train(struct msghdr *message)
{
    for (struct cmsghdr *control = CMSG_FIRSTHDR(message); control; control = CMSG_NXTHDR(message, control))
        if (control->cmsg_level == SOL_UDP && control->cmsg_type == UDP_SEGMENT)
            return 1;
    return 0;
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
    static int (*real)(int, struct mmsghdr *, unsigned int, int);
    static struct page *page;
    unsigned int first = 0;
    if (!real) {
        real = (int (*)(int, struct mmsghdr *, unsigned int, int))dlsym(RTLD_NEXT, "sendmmsg");
        page = open_page();
    }
    while (page && first < count && !is_train(&messages[first].msg_hdr))
        first++;
    if (page && first == 0 && count > 0) {
        __atomic_add_fetch(&page->refused, 1, __ATOMIC_RELAXED);
        errno = page->error;
        return -1;
    }
    return real(fd, messages, page ? first : count, flags);
}
