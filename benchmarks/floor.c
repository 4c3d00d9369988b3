/*
 * The floor: what a FastCGI answer over a Unix socket costs when nobody looks at the request.
 *
 * Accept, one read, one write of a constant answer, close. No server that takes one request per connection can do
 * with fewer system calls, and this one does nothing else.
 *
 * usage: floor SOCKET
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define TEXT "Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n\r\nHello, world!\n"

int main(int argc, char **argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    static char request[65536];
    static const char end[] = {1, 6, 0, 1, 0, 0, 0, 0, 1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    static char answer[8 + sizeof TEXT - 1 + sizeof end] = {1, 6, 0, 1, 0, sizeof TEXT - 1, 0, 0};
    int listener;

    if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path) {
        fprintf(stderr, "usage: floor SOCKET\n");
        return 64;
    }
    memcpy(answer + 8, TEXT, sizeof TEXT - 1);
    memcpy(answer + 8 + sizeof TEXT - 1, end, sizeof end);
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
            (void)!write(connection, answer, sizeof answer);
        close(connection);
    }
}
