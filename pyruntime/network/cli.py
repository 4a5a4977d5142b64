"""pyruntime-bridge: an OCI hook that gives a container a network on a bridge. Runtime spec, `hooks`.

Called as createRuntime (or prestart) hook it sets the network up, as poststop hook it tears it down; the state that
the runtime writes to its standard input says which. It prints nothing when all is well. A failure is one line on
standard error and exit status 1, which makes the runtime give the container up.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from pyruntime.errors import RuntimeFailure
from pyruntime.network.options import OPTIONS, Settings, annotate, parse
from pyruntime.network.state import State

PROGRAM = "pyruntime-bridge"

USAGE = f"""\
usage: {PROGRAM} [OPTION...] < STATE
       {PROGRAM} [--state-dir DIRECTORY] --list

An OCI hook that gives a container a network: list it under hooks.createRuntime and, with the same options, under
hooks.poststop in config.json. Each option can also be given to one container as an annotation:
"org.pyruntime.network.publish": "8080:80,53:53/udp".

"""


def main(argv: Sequence[str]) -> int:
    """The program. `argv` are its arguments without its name. Returns the exit status."""
    try:
        if "--help" in argv or "-h" in argv:
            print(USAGE + _options(), end="")
        elif "--version" in argv:
            from pyruntime import VERSION

            print(f"{PROGRAM} {VERSION}")
        elif "--list" in argv:
            _list(parse([word for word in argv if word != "--list"]))
        else:
            _hook(parse(argv))
        _flush()
    except RuntimeFailure as failure:
        _say(str(failure))
        return failure.status
    except OSError as error:
        _say(str(error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"))
        return 1
    return 0


def _flush() -> None:
    """What could not be written must not pass for success."""
    if sys.stdout is not None:  # closed by the caller
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            pass  # nobody reads on
        except OSError as error:
            raise RuntimeFailure(f"standard output: {error.strerror}") from None


def _say(words: str) -> None:
    """One line on standard error, if there is one."""
    if sys.stderr is not None:
        print(f"{PROGRAM}: {words}", file=sys.stderr)


def _hook(settings: Settings) -> None:
    state = _read_state()
    container = state["id"]
    if state.get("status") == "stopped" or not state.get("pid"):
        from pyruntime.network.attach import detach, names_of, sweep

        with State(settings.state_dir) as store:
            found = names_of(store, container)
            if found:
                detach(store, found)
            sweep(store)
        return
    if settings.annotations:
        annotate(settings, state.get("annotations") or {})
    settings.check()
    if settings.mode == "none":
        return
    pid = state["pid"]
    try:
        netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise RuntimeFailure(f"process {pid} of container {container} is gone") from None
    if os.path.samestat(os.fstat(netns), os.stat("/proc/self/ns/net")):
        _say(f"{container} shares the network of the host: nothing to set up")
        return
    from pyruntime.network.attach import attach, detach

    with State(settings.state_dir) as store:
        record = attach(store, settings, container, netns)
        if record is None:
            return
        if settings.dns or settings.dns_search or settings.dns_options or settings.hosts or settings.extra_hosts:
            from pyruntime.network import names

            try:
                rootfs, hostname = _config(state)
                files = names.texts(settings, record["addresses"], hostname)
                names.give(store, record["veth"], files, pid, rootfs)
            except BaseException:
                detach(store, [record["veth"]])
                raise


def _read_state() -> dict[str, Any]:
    if sys.stdin is None or sys.stdin.isatty():
        raise RuntimeFailure("this is an OCI hook: a runtime calls it with the container's state; see --help", 2)
    try:
        state = json.load(sys.stdin.buffer)
    except (ValueError, RecursionError) as error:
        raise RuntimeFailure(f"the state on standard input is not JSON: {error}") from None
    if not isinstance(state, dict) or not isinstance(state.get("id"), str) or not state["id"]:
        raise RuntimeFailure("the state on standard input has no container id")
    if not isinstance(state.get("pid", 0), int) or isinstance(state.get("pid"), bool):
        raise RuntimeFailure("the pid in the state on standard input is not a number")
    annotations = state.get("annotations") or {}
    if not isinstance(annotations, dict) or not all(isinstance(value, str) for value in annotations.values()):
        raise RuntimeFailure("the annotations in the state on standard input are not an object of strings")
    return state


def _config(state: dict[str, Any]) -> tuple[str, str]:
    """Path of the rootfs and host name of the container, as config.json in its bundle has them."""
    path = f"{state.get('bundle', '.')}/config.json"
    try:
        with open(path, "rb") as file:
            config = json.load(file)
        rootfs = os.path.join(os.path.dirname(path), config["root"]["path"])
        hostname = config.get("hostname", "")
    except (ValueError, KeyError, TypeError) as error:
        raise RuntimeFailure(f"{path}: root.path cannot be read: {error!r}") from None
    return rootfs, hostname if hostname.isprintable() and " " not in hostname else ""


def _list(settings: Settings) -> None:
    print(f"{'CONTAINER':<24} {'BRIDGE':<15} {'INTERFACE':<15} {'ADDRESSES':<32} PUBLISHED")
    with State(settings.state_dir) as store:
        for record in sorted(store.records(), key=lambda record: str(record["id"])):
            published = []
            for protocol, host, host_port, port, count in record["publish"]:
                where = "" if host is None else f"[{host}]:" if ":" in host else f"{host}:"
                more = "" if count == 1 else f" (+{count - 1})"
                published.append(f"{where}{host_port}:{port}/{protocol}{more}")
            addresses = " ".join(record["addresses"])
            print(
                f"{record['id']:<24} {record['bridge']:<15} {record['ifname']:<15} {addresses:<32} "
                f"{' '.join(published)}".rstrip()
            )


def _options() -> str:
    lines = ["options:"]
    for name, option in OPTIONS.items():
        head = f"  --{name}" + (f" {option.value}" if option.value else "")
        text = option.help + ("; may be repeated" if option.many else "")
        lines.append(f"{head:<29} {text}" if len(head) < 29 else f"{head}\n{'':<29} {text}")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
