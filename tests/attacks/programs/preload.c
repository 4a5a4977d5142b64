/* A library of the image that leaves a file wherever it is loaded. */
#include <fcntl.h>

__attribute__((constructor)) static void loaded(void)
{
    int unused = open("loaded", O_WRONLY | O_CREAT, 0666);

    (void)unused;
}
