"""`python -m erp_sync_tests [pytest's arguments]`: the whole suite, and what it needs beside Python.

MariaDB, Chromium and PHP are installed through apt where they are missing. Exits as pytest does; a run that collects no
test is a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = {
    "mariadbd": ("mariadb-server-core", "mariadb-client-core"),
    "mariadb-install-db": ("mariadb-server-core", "mariadb-client-core"),
    "chromium": ("chromium",),
    "php": ("php-cli",),
}
"""Program = the Debian packages that bring it."""


def missing_packages() -> list[str]:
    """Debian packages to install, each once."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    needed = [
        package for program, names in PACKAGES.items() if not shutil.which(program, path=path) for package in names
    ]
    return list(dict.fromkeys(needed))


def install(packages: list[str]) -> None:
    """Raises SystemExit with one clear line where that cannot be done."""
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise SystemExit(f"the tests need MariaDB's server, Chromium and PHP (in Debian: {names}): install them first")
    if os.geteuid() != 0:
        raise SystemExit(f"the tests need packages that only root can install: sudo apt-get install {names}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", "-qq", *command], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"apt-get {command[0]} failed, the tests need {names}:\n{done.stdout}{done.stderr}")


def main(arguments: list[str]) -> int:
    packages = missing_packages()
    if packages:
        print(f"installing through apt-get: {' '.join(packages)}", flush=True)
        install(packages)
    os.chdir(Path(__file__).parent.parent)
    return int(pytest.main(["-n", "2", *arguments]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
