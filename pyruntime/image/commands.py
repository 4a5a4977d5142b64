"""The commands of `pyruntime-image` and their flags."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import sys
from typing import Any, NoReturn

from pyruntime import VERSION
from pyruntime.errors import RuntimeFailure
from pyruntime.image import bundle, choose, convert, overlay, report, store, userns
from pyruntime.image.documents import ImageError, explain
from pyruntime.image.limits import Limits
from pyruntime.image.progress import Progress
from pyruntime.image.source import open_source

PROGRAM = "pyruntime-image"
_ABOUT = "Turn an image archive into a bundle, look into it, check it."
_SIZE = re.compile(r"([0-9]{1,15})([KMGT]?)(?:i?B)?", re.IGNORECASE)
_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ImageError(f"{message}; `{self.prog} --help` lists what there is")


def _size(value: str) -> int:
    match = _SIZE.fullmatch(value)
    if not match:
        raise argparse.ArgumentTypeError(f"{value!r} is not a size such as 500M or 20G")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2].upper()]


def _count(value: str) -> int:
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number")
    return int(value)


def _platform(value: str) -> str:
    if not _PLATFORM.fullmatch(value):
        raise argparse.ArgumentTypeError(f"{value!r} is not OS/ARCHITECTURE[/VARIANT]")
    return value


def _words(value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value!r}: {error}") from None


def _selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="OCI image layout (directory or tar) or docker-archive; - is stdin"
    )
    parser.add_argument("--tag", help="which image: a name, a tag, a digest, or an image ID of a docker-archive")
    parser.add_argument(
        "--platform", type=_platform, metavar="OS/ARCH[/VARIANT]", help=f"default: {choose.host_platform()}"
    )


def _limits(parser: argparse.ArgumentParser) -> None:
    usual = Limits()
    group = parser.add_argument_group("limits (0 switches one off)")
    group.add_argument(
        "--max-size", type=_size, default=usual.size, metavar="SIZE", help="all layers unpacked, default 64G"
    )
    group.add_argument("--max-entries", type=_count, default=usual.entries, metavar="N", help="default %(default)s")
    group.add_argument(
        "--max-ratio", type=_count, default=usual.ratio, metavar="N", help="unpacked to compressed, default %(default)s"
    )


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description=_ABOUT, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    unpack = commands.add_parser("unpack", help="make a bundle of an image", allow_abbrev=False)
    _selection(unpack)
    unpack.add_argument("bundle", metavar="BUNDLE", help="the directory to make")
    unpack.add_argument("--mode", choices=("flat", "overlay"), default="flat", help="default: flat")
    unpack.add_argument("--store", metavar="DIR", help="where overlay mode keeps layers")
    unpack.add_argument(
        "--overlay-mount", choices=("container", "host"), default="container",
        help="who mounts the overlay: the runtime with the container (default), or we, now, for runtimes that cannot "
        "mount on / (crun); a hook unmounts it, `mount` mounts it again",
    )  # fmt: skip
    unpack.add_argument("--force", action="store_true", help="replace an existing bundle")
    unpack.add_argument("--sync", action="store_true", help="have everything on disk before the bundle appears")
    unpack.add_argument("--quiet", action="store_true", help="no progress")
    unpack.add_argument("--uid-map", action="append", default=[], metavar="CONTAINER:HOST:SIZE")
    unpack.add_argument("--gid-map", action="append", default=[], metavar="CONTAINER:HOST:SIZE")
    unpack.add_argument(
        "--volumes", choices=("bind", "tmpfs", "none"), default="bind",
        help="the image's volumes: directories in the bundle, filled from the image (default), memory, or nothing",
    )  # fmt: skip
    _limits(unpack)
    group = unpack.add_argument_group("in place of what the image says")
    group.add_argument("--env", action="append", default=[], metavar="NAME[=VALUE]")
    group.add_argument("--user", metavar="USER[:GROUP]")
    group.add_argument(
        "--entrypoint", type=_words, metavar="COMMAND", help="one string, split like a shell does; '' is none"
    )
    group.add_argument("--workdir", metavar="DIR")
    group.add_argument("--hostname")
    group.add_argument("--mount", action="append", default=[], metavar="type=bind,source=…,destination=…[,ro]")
    group.add_argument("--read-only", action="store_true", help="a read-only root file system")
    group.add_argument("--terminal", action="store_true", help="give the process a terminal")
    unpack.epilog = "What follows `--` takes the place of the image's Cmd."

    for name, text in (
        ("inspect", "show an image's manifest and configuration"),
        ("list", "list the images of a source"),
    ):
        command = commands.add_parser(name, help=text, allow_abbrev=False)
        if name == "inspect":
            _selection(command)
        else:
            command.add_argument("source", metavar="SOURCE")
        command.add_argument("--json", action="store_true", help="for programs")
    for name, text in (("mount", "mount the rootfs of an overlay bundle on the host"), ("umount", "unmount it")):
        commands.add_parser(name, help=text, allow_abbrev=False).add_argument("bundle", metavar="BUNDLE")
    verify = commands.add_parser("verify", help="read all layers and check every digest", allow_abbrev=False)
    _selection(verify)
    verify.add_argument("--quiet", action="store_true", help="no progress")
    _limits(verify)
    return parser


def _limits_of(options: argparse.Namespace) -> Limits:
    return Limits(options.max_size, options.max_entries, options.max_ratio)


def _overrides(options: argparse.Namespace, args: list[str] | None) -> convert.Overrides:
    overrides = convert.Overrides()
    overrides.args = args
    overrides.cwd = options.workdir
    overrides.entrypoint = options.entrypoint
    overrides.env = options.env
    overrides.hostname = options.hostname
    overrides.mounts = [convert.parse_mount(value) for value in options.mount]
    overrides.read_only = options.read_only
    overrides.terminal = options.terminal
    overrides.user = options.user
    return overrides


def _mapping(options: argparse.Namespace) -> userns.Mapping | None:
    uids = userns.parse(options.uid_map, "--uid-map")
    gids = userns.parse(options.gid_map, "--gid-map")
    if os.geteuid() != 0:
        own = userns.granted()
        return userns.Mapping(uids or own.uids, gids or own.gids)
    return userns.Mapping(uids or gids, gids or uids) if uids or gids else None


def _unpack(options: argparse.Namespace, args: list[str] | None) -> None:
    overrides = _overrides(options, args)
    mapping = _mapping(options)
    rootless = os.geteuid() != 0
    host_mount = options.mode == "overlay" and options.overlay_mount == "host"
    if host_mount and (rootless or mapping is not None):
        raise ImageError("--overlay-mount host: mounting on the host needs root, and no mapping of ids")
    where = options.store or store.default_path()

    def work() -> None:
        source = open_source(options.source)
        image = choose.choose(source, options.tag, options.platform)
        progress = Progress(sum(layer.size for layer in image.layers), len(image.layers), options.quiet)
        job = bundle.Job(image, options.bundle, progress)
        job.mode = options.mode
        job.store = where
        job.host_mount = host_mount
        job.mapping = mapping
        job.rootless = rootless
        job.replace = options.force
        job.sync = options.sync
        job.limits = _limits_of(options)
        job.overrides = overrides
        job.volumes = options.volumes
        job.environ = dict(os.environ)
        if options.mode == "overlay":
            owner = mapping.root() if mapping is not None and not rootless else None
            store.Store.prepare(where, mapping, owner)
        try:
            bundle.make(job)
        finally:
            progress.close()

    if rootless and mapping is not None:
        # Everything that follows is done as root of a user namespace, where the layers' owners exist.
        userns.run(mapping, work)
    else:
        work()


def _verify(options: argparse.Namespace) -> None:
    source = open_source(options.source)
    image = choose.choose(source, options.tag, options.platform)
    progress = Progress(sum(layer.size for layer in image.layers), len(image.layers), options.quiet)
    try:
        result = report.verify(image, _limits_of(options), progress)
    finally:
        progress.close()
    print(result)


def _run(argv: list[str]) -> None:
    args: list[str] | None = None
    if "--" in argv:
        split = argv.index("--")
        argv, args = argv[:split], argv[split + 1 :]
    options = _build_parser().parse_args(argv)
    if args is not None and options.command != "unpack":
        raise ImageError(f"{options.command} takes no command after `--`")
    if options.command == "unpack":
        _unpack(options, args)
    elif options.command == "mount":
        overlay.mount(options.bundle)
    elif options.command == "umount":
        overlay.unmount(options.bundle)
    elif options.command == "verify":
        _verify(options)
    elif options.command == "inspect":
        source = open_source(options.source)
        print(report.inspect(choose.choose(source, options.tag, options.platform), options.json))
    else:
        print(report.listing(open_source(options.source), options.json))


def _terminated(_number: int, _frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: list[str]) -> int:
    """Run the program with the arguments `argv` (without its name). Returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    try:
        try:
            _run(argv)
        except SystemExit:  # argparse has printed its help
            pass
        _flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered must not fail a second time
        return 1
    except (RuntimeFailure, RecursionError, OSError) as error:
        return _failed(explain(error), 1)
    except KeyboardInterrupt:
        return _failed("interrupted; nothing of the new bundle remains", 130)
    return 0


def _flush() -> None:
    """What could not be written must not pass for success."""
    if sys.stdout is not None:  # closed by the caller
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ImageError(f"standard output: {error.strerror}") from None


def _failed(message: str, status: int) -> int:
    if sys.stderr is not None:
        sys.stderr.write(f"{PROGRAM}: {message}\n".encode("utf-8", "backslashreplace").decode())
    return status
