/* peer FILE: what a hostile process of a container does to strangers in its pid namespace.
 *
 * Polls /proc for processes of the runtime (they have __main__.py in their command line, which anybody may read), tries
 * to open their executable, root, working directory, memory and standard input, and writes what it got to FILE. An
 * open counts if the process still is the runtime's afterwards: it may just have become the container's program. */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int report;

static int is_ours(int pid)
{
    char path[64], text[4096];
    ssize_t length;
    int fd;

    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    fd = open(path, O_RDONLY);
    if (fd < 0)
        return 0;
    length = read(fd, text, sizeof text);
    close(fd);
    return length > 0 && memmem(text, length, "__main__", 8) != NULL;
}

static void attempt(int pid, const char *name, int flags)
{
    char path[64], line[128];
    int fd;

    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    fd = open(path, flags | O_CLOEXEC);
    if (fd < 0)
        return;
    close(fd);
    if (is_ours(pid) && write(report, line, snprintf(line, sizeof line, "opened %s\n", name)) < 0)
        exit(1);
}

int main(int argc, char **argv)
{
    long seen = 0;

    if (argc != 2)
        return 2;
    report = open(argv[1], O_WRONLY | O_CREAT | O_APPEND, 0666);
    for (;;) {
        DIR *proc = opendir("/proc");
        struct dirent *entry;

        while (proc && (entry = readdir(proc))) {
            int pid = atoi(entry->d_name);

            if (!isdigit(entry->d_name[0]) || pid == getpid() || pid == 1 || !is_ours(pid))
                continue;
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
}
