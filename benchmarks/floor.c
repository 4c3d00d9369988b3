/*
 * The floor: what a FastCGI answer over a Unix socket costs when nobody looks at the request.
 *
 * Accept, one read, one write of a constant answer, close. No server that takes one request per connection can do
 * with fewer system calls, and this one does nothing else.
 *
 * usage: floor SOCKET SIZE
 *
 * SIZE is that of the answer's body, in bytes; it has to fit into one record.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BODY "Hello, world!\n"
#define HEAD "Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n"
#define LARGEST 65535

/* One STDOUT record with head and body, the empty one that ends it, END_REQUEST. Returns the size of all that. */
static size_t encode(char *answer, size_t size) {
    static const char end[] = {1, 6, 0, 1, 0, 0, 0, 0, 1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    const char record[] = {1, 6, 0, 1, 0, 0, 0, 0};
    size_t head = sprintf(answer + sizeof record, HEAD, size);
    size_t content = head + size;

    memcpy(answer, record, sizeof record);
    answer[4] = content >> 8;
    answer[5] = content & 255;
    for (size_t i = 0; i < size; i++)
        answer[sizeof record + head + i] = BODY[i % (sizeof BODY - 1)];
    memcpy(answer + sizeof record + content, end, sizeof end);
    return sizeof record + content + sizeof end;
}

int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    static char request[65536], answer[LARGEST + 64];
    size_t size, length;
    int listener;

    if (argc != 3 || strlen(argv[1]) >= sizeof address.sun_path || (size = strtoul(argv[2], NULL, 10)) > LARGEST - 100) {
        fprintf(stderr, "usage: floor SOCKET SIZE\n");
        return 64;
    }
    length = encode(answer, size);
    strcpy(address.sun_path, argv[1]);
    signal(SIGPIPE, SIG_IGN); /* nginx leaves early when its client does, at the end of every run */
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 128)) {
        perror(argv[1]);
        return 1;
    }
    for (;;) {
        int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0)
            continue;
        if (read(connection, request, sizeof request) > 0)
            (void)!write(connection, answer, length);
        close(connection);
    }
}
