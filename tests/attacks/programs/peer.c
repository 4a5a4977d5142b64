/* peer FILE: what a hostile process of a container does to strangers in its pid namespace.
 *
 * Polls /proc for processes whose program is none of the container's (no link to it can be read, or it leads out), tries
 * to open their executable, root, working directory and memory, and their descriptors, and writes what it got to FILE.
 * Ends when /stop exists. */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int report;

static void attempt(int pid, const char *name, int flags)
{
    char path[64], line[128];
    int fd;

    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    fd = open(path, flags | O_CLOEXEC);
    if (fd < 0)
        return;
    close(fd);
    if (write(report, line, snprintf(line, sizeof line, "opened %s\n", name)) < 0)
        exit(1);
}

int main(int argc, char **argv)
{
    char path[64], text[4096];
    long seen = 0;

    if (argc != 2)
        return 2;
    report = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0666);
    while (access("/stop", F_OK)) {
        DIR *proc = opendir("/proc");
        struct dirent *entry;

        while (proc && (entry = readdir(proc))) {
            int pid = atoi(entry->d_name), fd, length;

            if (!isdigit(entry->d_name[0]) || pid == getpid() || pid == 1)
                continue;
            snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
            fd = open(path, O_RDONLY);
            length = fd < 0 ? -1 : read(fd, text, sizeof text);
            if (fd >= 0)
                close(fd);
            if (length <= 0 || !memmem(text, length, "__main__", 8))
                continue; /* not the runtime */
            if (!seen++ && write(report, "seen\n", 5) < 0)
                return 1;
            attempt(pid, "exe", O_RDONLY);
            attempt(pid, "root", O_RDONLY);
            attempt(pid, "cwd", O_RDONLY);
            attempt(pid, "mem", O_RDWR);
            attempt(pid, "environ", O_RDONLY);
            attempt(pid, "fd/0", O_RDONLY);
        }
        if (proc)
            closedir(proc);
    }
    return 0;
}
