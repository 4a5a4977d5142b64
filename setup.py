"""What pyproject.toml cannot say: two things that are compiled for the machine they are installed on.

The compiled launcher takes the place of the shell script, where there is a compiler; see launcher/launcher.c for what
it gains. Without a compiler the script bin/pyruntime is installed, which does the same. The modules of the hot path go
into one file for the Python that installs them; see tools/compile.py. Another Python ignores it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from setuptools import Distribution, setup
from setuptools.command.build import build  # noqa: F401  (loads setuptools' own distutils before the next import)
from setuptools.command.build_py import build_py

from distutils.command.build_scripts import build_scripts  # isort: skip

SOURCE = "launcher/launcher.c"


class BuildScripts(build_scripts):
    """Copy the scripts, then compile the one that has to be fast over its copy."""

    def run(self) -> None:
        super().run()
        target = os.path.join(self.build_dir, "pyruntime")
        compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
        if not compiler:
            return
        # Static: a third of the start-up time. Not every system has the static C library.
        for extra in (["-static"], []):
            command = [compiler, "-O2", *extra, "-o", target + ".compiled", SOURCE]
            if subprocess.run(command, check=False, capture_output=True).returncode == 0:
                os.replace(target + ".compiled", target)
                return


class BuildModules(build_py):
    """Copy the modules, then compile the hot ones together. In an editable installation `make` does that."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            package = os.path.join(self.build_lib, "pyruntime")
            subprocess.run([sys.executable, "tools/compile.py", "--to-install", package], check=True)


class PlatformDistribution(Distribution):
    """A wheel of ours fits the processor that its launcher was compiled for."""

    def has_ext_modules(self) -> bool:
        return True


setup(cmdclass={"build_py": BuildModules, "build_scripts": BuildScripts}, distclass=PlatformDistribution)
