/* swap A B: exchange the two names with renameat2(2) until standard input ends; then print how often. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    struct pollfd input = {0, POLLIN, 0};
    unsigned long count = 0;

    if (argc != 3)
        return 2;
    for (;;) {
        for (int i = 0; i < 64; i++, count++) {
            if (renameat2(AT_FDCWD, argv[1], AT_FDCWD, argv[2], RENAME_EXCHANGE)) {
                perror("renameat2");
                return 1;
            }
        }
        if (poll(&input, 1, 0))
            break;
    }
    printf("%lu\n", count);
    return 0;
}
