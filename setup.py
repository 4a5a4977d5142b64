"""What pyproject.toml cannot say: the compiled launcher takes the place of the shell script, where there is a compiler.

See launcher/launcher.c for what it gains. Without a compiler the script bin/pyruntime is installed, which does the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from setuptools import Distribution, setup
from setuptools.command.build import build  # noqa: F401  (loads setuptools' own distutils before the next import)
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


class PlatformDistribution(Distribution):
    """A wheel of ours fits the processor that its launcher was compiled for."""

    def has_ext_modules(self) -> bool:
        return True


setup(cmdclass={"build_scripts": BuildScripts}, distclass=PlatformDistribution)
