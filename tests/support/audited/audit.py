"""The runtime under the eye of a second, stricter audit hook: tests start it by the `pyruntime` beside this file.

The runtime's own hook ends the init silently when something is about to be loaded by name (container/init.py). This
one, which the product does not contain, sees the other one being armed and from then on allows the process nothing but
the events that steps are known to cause. Above all, no file is opened by a `str`: our own code names the files of a
container in bytes, while the interpreter's search for modules, source lines and codecs names them in str. Whatever else
happens ends the process at once, with a line on standard error that `support.runtime` makes a failure of the test.
"""

import posix
import sys

FOUND = b"AUDIT: "
MAIN = __file__.removesuffix("/tests/support/audited/audit.py") + "/pyruntime/__main__.py"

# See the audit events table of Python. Everything here acts on descriptors, or on paths that the step names itself.
ALLOWED = frozenset(
    """
    ctypes.addressof ctypes.cdata ctypes.get_errno ctypes.set_errno fcntl.fcntl fcntl.ioctl
    os.chdir os.chmod os.chown os.getxattr os.listdir os.listxattr os.mkdir os.remove os.rmdir os.setxattr os.symlink
    os.utime socket.__new__ socket.bind socket.sendmsg sys.addaudithook
    """.split()
)

armed = False


def watch(event: str, arguments: tuple[object, ...]) -> None:
    global armed  # noqa: PLW0603
    if not armed:
        # The runtime's hook is armed: this is the process that enters the container.
        armed = event == "sys.addaudithook"
    elif event == "open":
        if type(arguments[0]) is str:
            refuse(event, arguments[0].encode("utf-8", "surrogateescape"))
    elif event not in ALLOWED:
        refuse(event, arguments[0].encode("utf-8", "replace") if arguments and type(arguments[0]) is str else b"")


def refuse(event: str, what: bytes) -> None:
    try:
        posix.write(2, FOUND + event.encode() + b" " + what[:200] + b"\n")
    finally:
        posix._exit(99)


def start() -> int:
    main: dict[str, object] = {"__name__": "audited", "__file__": MAIN}
    with open(MAIN, encoding="utf-8") as file:
        exec(compile(file.read(), MAIN, "exec"), main)
    load_hot = main["load_hot"]

    def load_and_watch(directory: str, section: int) -> None:
        load_hot(directory, section)  # type: ignore[operator]
        if section == 1:  # the sealed interpreter is to be watched as well
            from pyruntime.kernel import seal

            protect = seal.protect
            seal.protect = lambda script, arguments: protect(__file__, arguments)

    main["load_hot"] = load_and_watch
    sys.addaudithook(watch)
    return main["start"]()  # type: ignore[operator, no-any-return]


if __name__ == "__main__":
    import gc

    gc.disable()
    status = start()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
    posix._exit(status)
