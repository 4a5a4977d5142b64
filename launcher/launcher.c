/* The compiled launcher: bin/pyruntime in a few system calls, and the seal of pyruntime/kernel/seal.py without a first
 * interpreter.
 *
 * It is optional. Where there is a C compiler at installation, this program is installed in place of the shell script
 * bin/pyruntime and does exactly the same, only sooner: a shell costs 0.7 ms, and an interpreter that only replaces
 * itself by one out of the container's reach costs 6 ms (CVE-2019-5736). Everything it decides, Python checks again:
 * kernel/seal.py asks the kernel whether the interpreter is sealed, and does it itself if not.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FSOPEN = 430, FSCONFIG = 431, FSMOUNT = 432, EXECVEAT = SYS_execveat, CLOSE_RANGE = 436 };
enum { SET_FLAG = 0, SET_STRING = 1, CREATE = 6 };
enum { CLOEXEC = 1, RDONLY_NOSUID_NODEV = 0x1 | 0x2 | 0x4 };

/* The verbs that a container shares our executable with; see SEALED_VERBS in pyruntime/__main__.py. */
static const char *const sealed_verbs[] = {"create", "run", "exec", "restore", "mounts", NULL};

/* What the replacement keeps of the environment; see ENVIRONMENT in pyruntime/kernel/seal.py. */
static const char *const kept_variables[] = {
    "DBUS_SESSION_BUS_ADDRESS", "HOME", "LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "LOGNAME", "NOTIFY_SOCKET",
    "PATH", "PYRUNTIME_PROFILE", "TERM", "TMPDIR", "TZ", "USER", "XDG_RUNTIME_DIR", NULL,
};

/* What the loader and the C library of the interpreter would obey; and two variables that Python obeys in spite of -E:
 * they say where it is, and so where its library is. */
static const char *const removed_variables[] = {
    "LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "GLIBC_TUNABLES", "GCONV_PATH", "LOCPATH", "NLSPATH",
    "PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__", NULL,
};

static char bin[PATH_MAX];          /* the directory that this program lies in */
static char package[PATH_MAX + 64]; /* the directory of the Python package */
static char version[32] = "3";      /* of the interpreter that the package is installed for */

static int readable(const char *path) { return access(path, R_OK) == 0; }

static int is_one_of(const char *word, const char *const *list) {
    for (; *list; list++)
        if (strcmp(word, *list) == 0)
            return 1;
    return 0;
}

/* Beside bin/ (a checkout, pip --target), or in the site-packages of one Python version: the one installed last. */
static int find_package(void) {
    char pattern[PATH_MAX + 96];
    struct stat found, newest = {0};
    glob_t matches;

    snprintf(package, sizeof package, "%s/../pyruntime", bin);
    snprintf(pattern, sizeof pattern, "%s/__main__.py", package);
    if (readable(pattern))
        return 1;
    package[0] = 0;
    snprintf(pattern, sizeof pattern, "%s/../lib/python3*/*-packages/pyruntime", bin);
    if (glob(pattern, GLOB_NOSORT, NULL, &matches) != 0)
        return 0;
    for (size_t i = 0; i < matches.gl_pathc; i++) {
        const char *path = matches.gl_pathv[i];
        if (stat(path, &found) != 0 || (package[0] && found.st_mtime <= newest.st_mtime))
            continue;
        newest = found;
        snprintf(package, sizeof package, "%s", path);
        const char *start = strstr(path, "/../lib/python");
        if (start)
            sscanf(start, "/../lib/python%31[0-9.]", version);
    }
    return package[0] != 0;
}

/* An interpreter that `pyruntime seal` has put out of the containers' reach, else the one of this installation. */
static int find_interpreter(char *python, size_t size) {
    static const char *const places[] = {"/run/pyruntime-interpreter/bin", bin, NULL, "/usr/bin", "/usr/local/bin"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        if (places[i])
            snprintf(python, size, "%s/python%s", places[i], version);
        else
            snprintf(python, size, "%s/../.venv/bin/python3", bin);
        if (access(python, X_OK) == 0)
            return 1;
    }
    return 0;
}

/* The main program, and instead of it its .pyc, if that was made from this very source: Python would compile the source
 * anew at each start. The first 16 bytes of a .pyc: magic number, flags, time and size of the source (PEP 552). */
static void find_script(char *script, size_t size, const char *python) {
    char path[PATH_MAX + 128], real[PATH_MAX];
    struct stat source;
    unsigned int head[4];
    snprintf(script, size, "%s/__main__.py", package);
    const char *minor = strstr(version, "3.");
    if (!minor && realpath(python, real)) /* a checkout: ask the name of the interpreter */
        minor = strstr(strrchr(real, '/'), "3.");
    if (!minor || stat(script, &source) != 0)
        return;
    snprintf(path, sizeof path, "%s/__pycache__/__main__.cpython-3%d.pyc", package, atoi(minor + 2));
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    if (read(file, head, sizeof head) == sizeof head && head[1] == 0 && head[2] == (unsigned int)source.st_mtime &&
        head[3] == (unsigned int)source.st_size)
        snprintf(script, size, "%s", path);
    close(file);
}

/* Which word is the verb only the full parser knows, so any word counts, as in must_seal() of __main__.py. */
static int must_seal(int count, char **words) {
    if (count > 0 && words[0][0] != '-')
        return is_one_of(words[0], sealed_verbs);
    for (int i = 0; i < count; i++)
        if (is_one_of(words[i], sealed_verbs))
            return 1;
    return 0;
}

/* Our own cgroup.procs, in any hierarchy where we may write it: an open descriptor, or -1. */
static int open_own_cgroup(void) {
    static const char *const roots[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
    char text[4096], path[4096 + 64];
    int file = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (length <= 0)
        return -1;
    text[length] = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        char *names = strchr(line, ':'), *inside = names ? strchr(names + 1, ':') : NULL;
        if (!inside)
            continue;
        *inside++ = 0;
        if (strncmp(++names, "name=", 5) == 0)
            names += 5;
        for (size_t i = 0; i < (*names ? 1 : sizeof roots / sizeof *roots); i++) {
            snprintf(path, sizeof path, "%s/%s%s/cgroup.procs", roots[i], names, inside);
            if ((file = open(path, O_WRONLY | O_CLOEXEC)) >= 0)
                return file;
        }
    }
    return -1;
}

/* Have the kernel begin the wait that it makes whoever moves a process between cgroups go through.
 *
 * All moves take one lock (cgroup_threadgroup_rwsem), which lets everybody else be fast by making the first who takes
 * it wait for a grace period of RCU, 5 to 20 ms; those who come soon after do not wait. The container's process will be
 * moved in 10 ms from now, so a helper takes the lock now: it moves itself to the cgroup that it is in. Where it cannot,
 * nothing is lost but time. Returns the helper's pid, which Python reaps when it has made its own move, or -1.
 */
static long begin_cgroup_wait(void) {
    long pid = syscall(SYS_clone, 0, 0, 0, 0, 0); /* no signal at its end: nobody may take it for a child of theirs */
    if (pid != 0)
        return pid;
    if (syscall(CLOSE_RANGE, 0, ~0U, 0) == 0) { /* who reads our output must not have to wait for the helper's end */
        int file = open_own_cgroup();
        if (file >= 0 && write(file, "0", 1) < 0)
            _exit(1);
    }
    _exit(0);
}

/* The interpreter's file on a detached overlay with no upper layer, whose super block nobody can make writable. */
static int open_sealed(const char *python) {
    char real[PATH_MAX], lower[2 * PATH_MAX + 80];
    if (!realpath(python, real))
        return -1;
    char *name = strrchr(real, '/');
    *name++ = 0;
    /* Colons and backslashes would have to be escaped; Python does that. */
    if (strpbrk(real, ":\\,") || strpbrk(package, ":\\,"))
        return -1;
    snprintf(lower, sizeof lower, "%s:%s", real[0] ? real : "/", package);
    long context = syscall(FSOPEN, "overlay", CLOEXEC);
    if (context < 0)
        return -1;
    if (syscall(FSCONFIG, context, SET_STRING, "source", "pyruntime", 0) != 0 ||
        syscall(FSCONFIG, context, SET_STRING, "lowerdir", lower, 0) != 0 ||
        syscall(FSCONFIG, context, SET_FLAG, "ro", NULL, 0) != 0 ||
        syscall(FSCONFIG, context, CREATE, NULL, NULL, 0) != 0)
        return -1;
    long mount = syscall(FSMOUNT, context, CLOEXEC, RDONLY_NOSUID_NODEV);
    if (mount < 0)
        return -1;
    close((int)context);
    struct stat status;
    int file = openat((int)mount, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    close((int)mount);
    /* One that is only the stub of a shared libpython may look for that beside itself: Python knows what to do. */
    if (file >= 0 && (fstat(file, &status) != 0 || status.st_size < 1 << 20)) {
        close(file);
        return -1;
    }
    return file;
}

static char **kept_environment(char **all) {
    static char *kept[sizeof kept_variables / sizeof *kept_variables];
    size_t count = 0;
    for (; *all; all++) {
        const char *equals = strchr(*all, '=');
        for (const char *const *name = kept_variables; equals && *name; name++)
            if (strlen(*name) == (size_t)(equals - *all) && strncmp(*all, *name, strlen(*name)) == 0 &&
                count < sizeof kept / sizeof *kept - 1)
                kept[count++] = *all;
    }
    kept[count] = NULL;
    return kept;
}

int main(int argc, char **argv, char **environment) {
    char python[PATH_MAX + 64], script[PATH_MAX + 128];
    ssize_t length = readlink("/proc/self/exe", bin, sizeof bin - 1);
    char *slash = length > 0 ? strrchr(bin, '/') : NULL;
    if (!slash) {
        fprintf(stderr, "pyruntime: cannot read /proc/self/exe: is /proc mounted?\n");
        return 1;
    }
    *slash = 0;
    for (const char *const *name = removed_variables; *name; name++)
        unsetenv(*name); /* takes it out of `environment`, in place */
    if (!find_package()) {
        fprintf(stderr, "pyruntime: the package pyruntime is not installed beside %s: install it again\n", bin);
        return 1;
    }
    if (!find_interpreter(python, sizeof python)) {
        fprintf(stderr, "pyruntime: no python%s in %s, /usr/bin or /usr/local/bin: install Python %s (3.11 or newer)\n",
                version, bin, version);
        return 1;
    }
    find_script(script, sizeof script, python);
    char **command = malloc(sizeof *command * (size_t)(argc + 16));
    if (!command)
        return 1;
    size_t at = 0;
    const char *const options[] = {python, "-I", "-S", "-E", "-B", "-X", "utf8"};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        command[at++] = (char *)options[i];
    size_t rest = at;
    char helper[32] = "";
    int starts = must_seal(argc - 1, argv + 1);
    if (starts) {
        long pid = begin_cgroup_wait();
        if (pid > 0) {
            snprintf(helper, sizeof helper, "helper=%ld", pid);
            command[at++] = "-X";
            command[at++] = helper;
            rest = at;
        }
    }
    if (starts && strncmp(python, "/run/", 5) != 0) {
        int file = open_sealed(python);
        if (file >= 0) {
            command[at++] = "-X";
            command[at++] = "sealed=overlay";
            command[at++] = script;
            for (int i = 0; i < argc; i++)
                command[at++] = argv[i];
            command[at] = NULL;
            syscall(EXECVEAT, file, "", command, kept_environment(environment), AT_EMPTY_PATH);
            close(file);
        }
    }
    at = rest;
    command[at++] = script;
    for (int i = 0; i < argc; i++)
        command[at++] = argv[i];
    command[at] = NULL;
    execve(python, command, environment);
    fprintf(stderr, "pyruntime: cannot execute %s: %s\n", python, strerror(errno));
    return 1;
}
