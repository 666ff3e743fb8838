"""A clean Debian root to install packages in: debootstrap from the archives that this machine is configured for."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Optional

CHECKOUT = Path(__file__).resolve().parents[2]
MACHINES_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
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
CERTIFICATES = f"{WORK}/certificates.crt"  # the machine's; the package ca-certificates writes the file of their usual name anew


# Runs in a mount and a process namespace of its own: what it mounts and starts ends with it. The root becomes a real one
# (pivot_root), for a libvirtd in it makes mount namespaces itself, which a chroot refuses. cgroups stay the machine's.
INSIDE = """
set -e
root=$1 archives=$2 user=$3; shift 3
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount --bind "$archives" var/cache/apt/archives
mkdir -p mnt
pivot_root . mnt
cd /
umount -l /mnt
# Not by exec: this shell is process 1 here, and takes leave of whatever lost its parent. A QEMU that nobody waits for is
# one that libvirt can't stop.
chroot --userspec="$user" / /usr/bin/env -C "$@" || exit $?
"""


class Root:
    """A root to run commands in, without the checkout."""

    def __init__(self, path: Path, archives: Path) -> None:
        self.path, self.archives = path, archives

    def __truediv__(self, inside: str) -> Path:
        return self.path / inside.lstrip("/")

    def inside(self, argv: Sequence[object], user: str = "root", place: str = WORK) -> list[str]:
        """The command that runs another one in the root."""
        self.archives.mkdir(parents=True, exist_ok=True)
        own = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-c", INSIDE, "sh"]
        return [*own, str(self.path.resolve()), str(self.archives.resolve()), user, place, *map(str, argv)]

    def run(
        self, *argv: object, env: Optional[Mapping[str, str]] = None, status: int = 0, user: str = "root"
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the root, in /trial; fails with its output when it ends with another status."""
        done = subprocess.run(
            self.inside(argv, user), env={**ENVIRONMENT, **(env or {})}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def show(self, *argv: object, place: str = WORK, env: Optional[Mapping[str, str]] = None) -> int:
        """Run a command in the root on our own terminal; its exit status."""
        full = {**ENVIRONMENT, **(env or {})}
        return subprocess.run(self.inside(argv, place=place), env=full, stdin=subprocess.DEVNULL, check=False).returncode

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
def clean_root(path: Path, archives: Path, suite: str = SUITE) -> Iterator[Root]:
    """A minimal root at `path`, removed afterwards; packages are kept in `archives` for the next time."""
    remove(path)
    try:
        yield make_root(path, archives, suite)
    finally:
        remove(path)


def make_root(path: Path, archives: Path, suite: str = SUITE) -> Root:
    """A minimal root of a suite at `path`, which must not be there."""
    for directory in (path, archives):
        directory.mkdir(parents=True, exist_ok=True)
    mirrors = configured_archives(suite)
    log = path.with_suffix(".log")
    argv = ["debootstrap", "--variant=minbase", f"--cache-dir={archives.resolve()}", suite, str(path), mirrors[suite]]
    with open(log, "w", encoding="utf-8") as out:
        done = subprocess.run(argv, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0, f"{argv} ended with {done.returncode}\n{log.read_text(encoding='utf-8')[-4000:]}"
    _configure(path, mirrors)
    root = Root(path, archives)
    root.apt("update")
    return root


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


def bring_checkout(root: Root, name: str = "h2k") -> str:
    """The checkout, as git knows it and as it is now, in /trial; and how this machine reaches PyPI. Its path in the root."""
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={CHECKOUT}", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=CHECKOUT, capture_output=True, check=True,
    )  # fmt: skip
    for file in filter(None, listing.stdout.decode().split("\0")):
        target = root / f"{WORK}/{name}/{file}"
        if (CHECKOUT / file).is_file():  # one that was deleted and not yet committed is not
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / file, target)
    for file, target in (("/etc/pip.conf", "/etc/pip.conf"), (MACHINES_CERTIFICATES, CERTIFICATES)):
        if Path(file).exists():
            shutil.copy(file, root / target)
    return f"{WORK}/{name}"


def remove(path: Path) -> None:
    """Remove a root. What was mounted in it ended with the command that ran there."""
    subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=True)


def configured_archives(suite: str = SUITE) -> dict[str, str]:
    """Suite → URI of the archives that this machine takes Debian from, in either form of its sources; another suite
    than the machine's own is looked for in the same places."""
    found = {name.replace(SUITE, suite): uri for name, uri in _sources().items()}
    assert suite in found, f"/etc/apt names no archive of {SUITE}"
    wanted = (suite,) if suite == "sid" else (suite, f"{suite}-updates", f"{suite}-security")
    return {name: found[name] for name in wanted if name in found}


def _sources() -> dict[str, str]:
    """Suite → URI, as the machine is configured."""
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
    return found
