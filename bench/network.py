"""Compare pyruntime-bridge with the CNI plugins bridge, host-local, portmap and firewall: `python3 bench/network.py`.

    --hook PROGRAM  the hook to measure (default: that of this checkout)
    --rounds N      how often each is measured (default 30)
    --json FILE     every single measurement

Both give a container one IPv4 address, masquerading and a published port, in turn, in one go, within a network
namespace that is made for it. "first" is a container alone, for which pyruntime-bridge makes its bridge and its table
(and removes them afterwards; the plugins never remove theirs); "next" is one beside another. Needs root and the
plugins in /usr/lib/cni (Debian: containernetworking-plugins).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = Path("/usr/lib/cni")

CHAIN: dict[str, dict[str, Any]] = {
    "bridge": {
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/16"}]]},
    },
    "portmap": {"capabilities": {"portMappings": True}},
    "firewall": {},
}
MAPPING = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}


class Plugins:
    """The CNI plugins, called one after the other as an engine does it."""

    name = "CNI plugins"

    def __init__(self, work: Path) -> None:
        self.data = str(work / "ipam")
        self.results: dict[str, Any] = {}

    def set_up(self, container: str, pid: int, publish: bool) -> None:
        result = None
        for plugin in CHAIN:
            result = self._call(plugin, "ADD", container, pid, publish, result)
        self.results[container] = result

    def tear_down(self, container: str, pid: int, publish: bool) -> None:
        for plugin in reversed(CHAIN):
            self._call(plugin, "DEL", container, pid, publish, self.results[container])

    def _call(self, plugin: str, verb: str, container: str, pid: int, publish: bool, previous: Any) -> Any:
        config = {**CHAIN[plugin], "cniVersion": "0.4.0", "name": "bench", "type": plugin}
        if plugin == "bridge":
            config["ipam"] = {**config["ipam"], "dataDir": self.data}
        if plugin == "portmap" and publish:
            config["runtimeConfig"] = {"portMappings": [MAPPING]}
        if previous is not None:
            config["prevResult"] = previous
        environment = {
            "CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_NETNS": f"/proc/{pid}/ns/net",
            "CNI_IFNAME": "eth0", "CNI_PATH": str(PLUGINS), "PATH": os.defpath + ":/usr/sbin:/sbin",
        }  # fmt: skip
        output = _run([str(PLUGINS / plugin)], json.dumps(config), environment)
        return json.loads(output) if output.strip() else None


class Hook:
    """pyruntime-bridge, called as a runtime does it: an empty environment, the state on standard input."""

    name = "pyruntime-bridge"

    def __init__(self, program: Path, work: Path) -> None:
        self.argv = [str(program), "--state-dir", str(work / "state")]

    def set_up(self, container: str, pid: int, publish: bool) -> None:
        self._call(container, pid, ["--publish", "8080:80"] if publish else [])

    def tear_down(self, container: str, pid: int, publish: bool) -> None:
        self._call(container, 0, [])

    def _call(self, container: str, pid: int, options: list[str]) -> None:
        status = "created" if pid else "stopped"
        state = {"ociVersion": "1.0.2", "id": container, "status": status, "pid": pid, "bundle": "/"}
        _run([*self.argv, *options], json.dumps(state), {})


def _run(argv: list[str], text: str, environment: dict[str, str]) -> str:
    done = subprocess.run(argv, input=text, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{argv[0]}: {done.stdout}{done.stderr}")
    return done.stdout


def measure(program: Path, work: Path, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by case and contestant. Runs in a network namespace of its own."""
    contestants: list[Plugins | Hook] = [Plugins(work), Hook(program, work)]
    results: dict[str, dict[str, list[float]]] = {}
    for title in ("first", "next"):
        neighbours = [_namespace() for _ in contestants] if title == "next" else []
        for one, neighbour in zip(contestants, neighbours, strict=False):
            one.set_up("neighbour", neighbour.pid, False)
        for number in range(rounds):
            for one in contestants:
                container = _namespace()
                name = f"{title}{number}"
                for verb, call in (("set up", one.set_up), ("tear down", one.tear_down)):
                    spent = _timed(call, name, container.pid)
                    results.setdefault(f"{verb}, {title}", {}).setdefault(one.name, []).append(spent)
                container.kill()
                container.wait()
        for one, neighbour in zip(contestants, neighbours, strict=False):
            one.tear_down("neighbour", neighbour.pid, False)
            neighbour.kill()
            neighbour.wait()
    return results


def _timed(call: Callable[[str, int, bool], None], name: str, pid: int) -> float:
    begin = time.perf_counter()
    call(name, pid, True)
    return (time.perf_counter() - begin) * 1e3


def _namespace() -> subprocess.Popen[bytes]:
    """A process in a new network namespace, which stands in for a container."""
    own = os.readlink("/proc/self/ns/net")
    process = subprocess.Popen(["unshare", "--net", "sleep", "600"])
    while os.readlink(f"/proc/{process.pid}/ns/net") == own:
        time.sleep(0.001)
    return process


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare pyruntime-bridge with CNI plugins.")
    hook = ROOT / "bin" / "pyruntime-bridge"
    parser.add_argument("--hook", type=Path, default=hook, metavar="PROGRAM", help="the hook to measure")
    parser.add_argument("--rounds", type=int, default=30, help="how often each is measured (default 30)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every measurement")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if os.geteuid() or not (PLUGINS / "portmap").exists():
        parser.error(f"this needs root and the CNI plugins in {PLUGINS}")
    if not options.inside:
        os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv, "--inside"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="pyruntime-bench-") as name:
        results = measure(options.hook, Path(name), options.rounds)
    for title, series in results.items():
        print(f"\n{title}")
        base = statistics.median(series[Plugins.name])
        for contestant, values in series.items():
            middle = statistics.median(values)
            low, _, high = statistics.quantiles(values, n=4)
            print(f"  {contestant:<18} {middle:7.1f} ms   ({low:.1f} to {high:.1f})   x{middle / base:.2f}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
