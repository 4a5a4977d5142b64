"""A directory that behaves like a resctrl mount, as far as the runtime can tell.

As a program (`python fake_resctrl.py TREE MODULE_PATH ARGUMENT...`) it is the runtime under test, to which that
directory is the mounted resctrl: mkdir makes the files of a group, rmdir takes them away, a task moves from one group
to the other, a schema is merged into the file. The real one needs a processor that has it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

ROOT_SCHEMATA = "    L3:0=fffff;1=fffff\n    MB:0=100;1=100\n"
INFO = {
    "L3": {"cbm_mask": "fffff", "min_cbm_bits": "1", "num_closids": "16"},
    "MB": {"bandwidth_gran": "10", "delay_linear": "1", "min_bandwidth": "10", "num_closids": "8"},
    "L3_MON": {"mon_features": "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes", "num_rmids": "4"},
}


class FakeResctrl:
    """The tree at `root`. Its methods stand in for os.mkdir, os.rmdir and os.write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def build(self) -> FakeResctrl:
        self.root.mkdir()
        for resource, files in INFO.items():
            (self.root / "info" / resource).mkdir(parents=True)
            for name, text in files.items():
                (self.root / "info" / resource / name).write_text(text + "\n")
        (self.root / "info" / "last_cmd_status").write_text("ok\n")
        self._fill(self.root)
        return self

    def group(self, name: str, schemata: str) -> Path:
        """A class that an administrator made."""
        self.mkdir(str(self.root / name))
        (self.root / name / "schemata").write_text(schemata)
        return self.root / name

    def groups(self) -> list[str]:
        """The classes and monitoring groups there are, below the root."""
        found = [path.parent for path in self.root.rglob("tasks") if path.parent != self.root]
        return sorted(str(path.relative_to(self.root)) for path in found)

    def tasks(self, name: str = "") -> list[int]:
        return [int(word) for word in (self.root / name / "tasks").read_text().split()]

    def _fill(self, group: Path) -> None:
        (group / "tasks").write_text("")
        for domain in ("mon_L3_00", "mon_L3_01"):
            (group / "mon_data" / domain).mkdir(parents=True)
            for number, name in enumerate(("llc_occupancy", "mbm_total_bytes", "mbm_local_bytes")):
                (group / "mon_data" / domain / name).write_text(f"{1000 + number}\n")
        if group.parent.name != "mon_groups":
            (group / "schemata").write_text(ROOT_SCHEMATA)
            (group / "mon_groups").mkdir()

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        group = Path(path)
        monitoring = group.parent.name == "mon_groups"
        used = sum(1 for name in self.groups() if monitoring or "/" not in name)
        # One monitor and one class belong to the root.
        if used + 1 >= (4 if monitoring else 8) and not group.exists():
            self.say("Out of RMIDs" if monitoring else "Out of CLOSIDs")
            raise OSError(28, "No space left on device")
        os.mkdir(path, mode)
        self._fill(group)

    def rmdir(self, path: str) -> None:
        """The tasks of a class go back to the root's, those of a monitoring group stay in their class."""
        group = Path(path)
        if not group.is_dir():
            raise FileNotFoundError(2, "No such file or directory")
        for directory, names, files in os.walk(group, topdown=False):
            for name in files:
                os.unlink(os.path.join(directory, name))
            for name in names:
                os.rmdir(os.path.join(directory, name))
        os.rmdir(group)

    def write(self, descriptor: int, data: bytes) -> int:
        """What a write to the file behind `descriptor` does; other files are written as ever."""
        file = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if self.root not in file.parents:
            return os.write(descriptor, data)
        text = data.decode()
        if file.name == "tasks":
            self._move(file.parent, text.strip())
        elif file.name == "schemata":
            self._merge(file, text)
        with (self.root / "log").open("a") as log:
            log.write(f"{file.relative_to(self.root)} {text.strip()!r}\n")
        return len(data)

    def _move(self, group: Path, pid: str) -> None:
        os.kill(int(pid), 0)
        monitoring = group.parent.name == "mon_groups"
        if monitoring and pid not in (group.parent.parent / "tasks").read_text().split():
            self.say("Can't move task to different control group")
            raise OSError(22, "Invalid argument")
        for other in self.root.rglob("tasks"):
            if (other.parent.parent.name == "mon_groups") == monitoring or not monitoring:
                left = [word for word in other.read_text().split() if word != pid]
                other.write_text("".join(word + "\n" for word in left))
        with (group / "tasks").open("a") as tasks:
            tasks.write(pid + "\n")

    def _merge(self, file: Path, text: str) -> None:
        there = {
            name: rest for name, _, rest in (line.strip().partition(":") for line in file.read_text().splitlines())
        }
        for line in text.splitlines():
            resource, _, domains = line.partition(":")
            if resource not in there:
                self.say(f"Unknown or unsupported resource name '{resource}'")
                raise OSError(22, "Invalid argument")
            parts = [part.partition("=") for part in f"{there[resource]};{domains}".split(";")]
            values = {domain: value for domain, _, value in parts}
            there[resource] = ";".join(f"{domain}={value}" for domain, value in values.items())
        file.write_text("".join(f"    {resource}:{domains}\n" for resource, domains in there.items()))

    def say(self, text: str) -> None:
        (self.root / "info" / "last_cmd_status").write_text(text + "\n")

    def patch(self, module: Any) -> None:
        """Make the module `pyruntime.container.resctrl` see this tree as the mounted resctrl."""
        fake = self

        class Os:
            mkdir = staticmethod(fake.mkdir)
            rmdir = staticmethod(fake.rmdir)
            write = staticmethod(fake.write)

            def __getattr__(self, name: str) -> object:
                return getattr(os, name)

        module.os = Os()
        module.mount_point = lambda: str(fake.root)


def main(tree: str, modules: str, *arguments: str) -> None:
    """The runtime, with the tree in place of resctrl; not sealed, as the sealed interpreter would be another one."""
    sys.path.insert(0, modules)
    from pyruntime.cli.main import main as runtime
    from pyruntime.container import resctrl

    FakeResctrl(Path(tree)).patch(resctrl)
    status = runtime(["pyruntime", *arguments], None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
