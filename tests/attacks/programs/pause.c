/* A program that does nothing for as long as it is let. */
#include <unistd.h>

int main(void)
{
    for (;;)
        pause();
}
