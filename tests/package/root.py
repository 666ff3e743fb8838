"""A clean Debian root to install packages in: debootstrap from the archives that this machine is configured for."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Optional

SUITE = "bookworm"
APT = ("apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-confold", "--no-install-recommends")
# Nothing of the machine's own environment helps a package along.
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
WORK = "/trial"  # in the root: what the tests bring and make


class Root:
    """A root to run commands in, without the checkout."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, inside: str) -> Path:
        return self.path / inside.lstrip("/")

    def run(
        self, *argv: object, env: Optional[Mapping[str, str]] = None, status: int = 0, user: str = "root"
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the root, in /trial; fails with its output when it ends with another status."""
        words = [str(a) for a in argv]
        done = subprocess.run(
            ["chroot", f"--userspec={user}", str(self.path), "/usr/bin/env", "-C", WORK, *words],
            env={**ENVIRONMENT, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def apt(self, *argv: object) -> str:
        """apt-get in the root; returns what it printed."""
        return self.run(*APT, *argv).stdout

    def bring(self, source: Path, name: str = "") -> str:
        """Copy a file or a directory to /trial; returns its path in the root."""
        target = f"{WORK}/{name or source.name}"
        subprocess.run(["cp", "-r", "--sparse=always", "-T", str(source), str(self / target)], check=True)
        return target

    def version(self, package: str) -> str:
        """The version of an installed package."""
        return self.run("dpkg-query", "-W", "-f=${Version}", package).stdout

    def traces(self, word: str) -> set[str]:
        """Every path outside /trial whose name has a word in it."""
        pruned = ["(", "-path", WORK, "-o", "-path", "/var/cache/apt/archives", ")", "-prune"]
        return set(self.run("find", "/", "-xdev", *pruned, "-o", "-name", f"*{word}*", "-print").stdout.splitlines())


@contextlib.contextmanager
def clean_root(path: Path, archives: Path) -> Iterator[Root]:
    """A minimal root at `path`, removed afterwards; packages are kept in `archives` for the next time."""
    _remove(path)
    for directory in (path, archives):
        directory.mkdir(parents=True, exist_ok=True)
    mirrors = configured_archives()
    log = path.with_suffix(".log")
    argv = ["debootstrap", "--variant=minbase", f"--cache-dir={archives.resolve()}", SUITE, str(path), mirrors[SUITE]]
    with open(log, "w", encoding="utf-8") as out:
        done = subprocess.run(argv, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, f"{argv} ended with {done.returncode}\n{log.read_text(encoding='utf-8')[-4000:]}"
    _configure(path, mirrors)
    try:
        for what, where in (
            (["-t", "proc", "proc"], "proc"),
            (["-t", "sysfs", "sys"], "sys"),
            (["--rbind", "--make-rslave", "/dev"], "dev"),
            (["--bind", str(archives.resolve())], "var/cache/apt/archives"),
        ):
            subprocess.run(["mount", *what, str(path / where)], check=True)
        root = Root(path)
        root.apt("update")
        yield root
    finally:
        _remove(path)


def _configure(path: Path, mirrors: Mapping[str, str]) -> None:
    """The machine's archives and how it reaches them; no service is started in a root that is no machine."""
    lines = [f"deb {uri} {suite} main\n" for suite, uri in mirrors.items()]
    (path / "etc/apt/sources.list").write_text("".join(lines), encoding="utf-8")
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    reaching = [line for line in dump.splitlines(keepends=True) if line.startswith("Acquire::")]
    (path / "etc/apt/apt.conf.d/90machine").write_text("".join(reaching), encoding="utf-8")
    shutil.copy("/etc/resolv.conf", path / "etc/resolv.conf")
    policy = path / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    policy.chmod(0o755)
    (path / WORK.lstrip("/")).mkdir()


def _remove(path: Path) -> None:
    """Unmount all that is mounted below, also by a run that was killed; only then remove."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    for where in [m for m in reversed(mounted) if m.startswith(f"{path.resolve()}/")]:
        subprocess.run(["umount", "--lazy", where], check=True)
    subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=True)


def configured_archives() -> dict[str, str]:
    """Suite → URI of the archives that this machine takes Debian from, in either form of its sources."""
    wanted = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
    found: dict[str, str] = {}
    etc = Path("/etc/apt")
    for path in sorted(etc.glob("sources.list.d/*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
            fields = dict(re.findall(r"^([\w-]+):\s*(.*)$", stanza, re.MULTILINE))
            if "main" in fields.get("Components", "").split() and "deb" in fields.get("Types", "").split():
                for suite in fields["Suites"].split():
                    found.setdefault(suite, fields["URIs"].split()[0])
    for path in (etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list"))):
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for uri, suite in re.findall(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s.*\bmain\b", text, re.MULTILINE):
            found.setdefault(suite, uri)
    assert SUITE in found, f"/etc/apt names no archive of {SUITE}"
    return {suite: found[suite] for suite in wanted if suite in found}
