/* A program that crashes as soon as it has read certain bytes, or asks about a connection that has brought a certain
 * number of them: preloaded into it. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static const char POISON[] = "this kills";
static const unsigned long long DOSE = 4242;

static ssize_t taste(const void *data, size_t room, ssize_t length)
{
    size_t poison = strlen(POISON);
    if (length >= (ssize_t)poison && room >= poison && memcmp(data, POISON, poison) == 0)
        abort();
    return length;
}

ssize_t recv(int fd, void *data, size_t length, int flags)
{
    static ssize_t (*real)(int, void *, size_t, int);
    if (!real)
        real = (ssize_t (*)(int, void *, size_t, int))dlsym(RTLD_NEXT, "recv");
    return taste(data, length, real(fd, data, length, flags));
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    static ssize_t (*real)(int, struct msghdr *, int);
    ssize_t length;
    if (!real)
        real = (ssize_t (*)(int, struct msghdr *, int))dlsym(RTLD_NEXT, "recvmsg");
    length = real(fd, message, flags);
    if (message->msg_iovlen == 0)
        return length;
    return taste(message->msg_iov[0].iov_base, message->msg_iov[0].iov_len, length);
}

int getsockopt(int fd, int level, int name, void *restrict value, socklen_t *restrict length)
{
    static int (*real)(int, int, int, void *, socklen_t *);
    int result;
    if (!real)
        real = (int (*)(int, int, int, void *, socklen_t *))dlsym(RTLD_NEXT, "getsockopt");
    result = real(fd, level, name, value, length);
    if (result == 0 && level == IPPROTO_TCP && name == TCP_INFO && *length >= sizeof(struct tcp_info)
        && ((struct tcp_info *)value)->tcpi_bytes_received == DOSE)
        abort();
    return result;
}
