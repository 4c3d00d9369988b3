"""Debian's packages for what is missing on this machine: told, and installed where that is allowed.

Used by ``tests/run`` and by the benchmarks; it needs nothing but the standard library.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

__all__ = ["SYSTEM_PATH", "install_packages", "missing_packages"]

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing_packages(python: str, commands: Mapping[str, str], files: Mapping[str, str] | None = None) -> list[str]:
    """The packages for what is not here: commands, files (patterns), and what that Python needs to build extensions."""
    missing = [package for command, package in commands.items() if shutil.which(command, path=SYSTEM_PATH) is None]
    missing += [package for pattern, package in (files or {}).items() if not glob.glob(pattern)]
    probe = (
        "import os, sysconfig\n"
        "print(os.path.exists(sysconfig.get_path('include') + '/Python.h'))\n"
        "try: import ensurepip, venv; print(True)\n"
        "except ImportError: print(False)"
    )
    headers, venv = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=True).stdout.split()
    if headers != "True":
        missing.append("python3-dev")
    if venv != "True":
        missing.append("python3-venv")
    if missing and not Path("/usr/include/stdlib.h").exists():
        missing.append("libc6-dev")
    return missing


def install_packages(packages: list[str]) -> None:
    """Install what is missing where that is allowed; else say so and go on."""
    privilege: list[str] = [] if os.geteuid() == 0 else ["sudo", "-n"]
    apt = shutil.which("apt-get", path=SYSTEM_PATH)
    if privilege and (not shutil.which("sudo") or subprocess.run([*privilege, "true"], check=False).returncode):
        apt = None
    if apt is None:
        print(f"missing, and not to be installed from here: {' '.join(packages)} (Debian's names)", flush=True)
        return
    print(f"\n=== installing {' '.join(packages)}", flush=True)
    command = [*privilege, "env", "DEBIAN_FRONTEND=noninteractive", apt, "-qq", "-o", "Dpkg::Use-Pty=0"]
    install = [*command, "install", "-y", "--no-install-recommends", *packages]
    if subprocess.run(install, check=False, stdout=subprocess.DEVNULL).returncode:
        subprocess.run([*command, "update"], check=False)
        if subprocess.run(install, check=False).returncode:
            print(f"apt-get could not install {' '.join(packages)}", flush=True)
