/* A program that crashes as soon as it has read certain bytes: preloaded into it. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static const char POISON[] = "this kills";

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
