"""Builds the source tarball, the DEB and the RPM from the files that git knows: `make deb`, `make rpm`.

The version has one place, `__version__` in h2k/__init__.py; what the packages' changelogs say comes from CHANGELOG.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
from collections.abc import Sequence
from email.utils import format_datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "h2k-v2v"
EL9_SITE = "/usr/lib/python3.9/site-packages"
_ENTRY = re.compile(r"^## (\S+) \((\d{4}-\d{2}-\d{2})\)\n+(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Release:
    """One entry of CHANGELOG.md: its version, its day, and what is new, one item a text."""

    version: str
    day: datetime.datetime
    items: tuple[str, ...]


def the_version() -> str:
    """h2k's version, from its one place."""
    found = _VERSION.search((ROOT / "h2k" / "__init__.py").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit("h2k/__init__.py: no __version__")
    return found[1]


def releases() -> tuple[Release, ...]:
    """CHANGELOG.md, the newest version first; SystemExit when that is not h2k's version."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = tuple(
        Release(
            version,
            datetime.datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=datetime.timezone.utc),
            tuple(" ".join(item.split()) for item in re.split(r"^- ", items, flags=re.MULTILINE) if item.strip()),
        )
        for version, day, items in _ENTRY.findall(text)
    )
    if not found or found[0].version != the_version():
        raise SystemExit(f"CHANGELOG.md: its first entry is not {the_version()}, the version in h2k/__init__.py")
    return found


def run(argv: Sequence[object], cwd: Path) -> None:
    """Run a builder; its output goes to CWD.log, beside the tree that it builds, and is shown when it fails."""
    log = cwd.with_name(f"{cwd.name}.log")
    with open(log, "w", encoding="utf-8") as out:
        done = subprocess.run([str(a) for a in argv], cwd=cwd, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        sys.stderr.write(log.read_text(encoding="utf-8"))
        raise SystemExit(f"{argv[0]} ended with status {done.returncode}; its log is {log}")


def source(out: Path, version: str) -> Path:
    """The unpacked source in OUT/NAME-VERSION, with its tarball beside it; returns the directory."""
    tree = out / f"{NAME}-{version}"
    tree.mkdir(parents=True)
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listing.stdout.decode().split("\0")):
        if (ROOT / name).is_file():  # one that was deleted and not yet committed is not
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    if version != the_version():
        for path, pattern in (("h2k/__init__.py", _VERSION), ("CHANGELOG.md", re.compile(r"^## (\S+) \(\d", re.MULTILINE))):
            text = (tree / path).read_text(encoding="utf-8")
            (tree / path).write_text(pattern.sub(lambda m: m[0].replace(m[1], version), text, count=1), encoding="utf-8")
    run(["packaging/man", tree / "man"], tree)
    spec = tree / "packaging" / f"{NAME}.spec"
    text = spec.read_text(encoding="utf-8").replace("@VERSION@", version).replace("@CHANGELOG@", _rpm_changes(version))
    spec.write_text(text, encoding="utf-8")
    _pack(tree)
    return tree


def _pack(tree: Path) -> Path:
    """The tarball of a tree, the same bytes for the same content: names in order, one time, no owner."""
    stamp = int(releases()[0].day.timestamp())

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = stamp
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    path = tree.with_name(f"{tree.name}.tar.gz")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tree, tree.name, filter=plain)
    return path


def _rpm_changes(version: str) -> str:
    entries = []
    for number, release in enumerate(releases()):
        shown = version if number == 0 else release.version
        items = "\n".join(f"- {item}" for item in release.items)
        entries.append(f"* {release.day:%a %b %d %Y} {_maintainer()} - {shown}-1\n{items}")
    return "\n\n".join(entries)


def _debian_changes(version: str) -> str:
    entries = []
    for number, release in enumerate(releases()):
        shown = version if number == 0 else release.version
        items = "\n".join(textwrap.fill(f"  * {item}", 78, subsequent_indent="    ") for item in release.items)
        entries.append(
            f"{NAME} ({shown}-1) unstable; urgency=medium\n\n{items}\n\n"
            f" -- {_maintainer()}  {format_datetime(release.day)}\n"
        )
    return "\n".join(entries)


def _maintainer() -> str:
    control = (ROOT / "packaging" / "debian" / "control").read_text(encoding="utf-8")
    return next(line.partition(": ")[2] for line in control.splitlines() if line.startswith("Maintainer: "))


def deb(out: Path, version: str) -> Path:
    """The source and binary packages in OUT; returns the .deb."""
    tree = source(out, version)
    tree.with_name(f"{tree.name}.tar.gz").rename(out / f"{NAME}_{version}.orig.tar.gz")
    shutil.copytree(tree / "packaging" / "debian", tree / "debian")
    (tree / "debian" / "changelog").write_text(_debian_changes(version), encoding="utf-8")
    run(["dpkg-buildpackage", "-us", "-uc"], tree)
    return out / f"{NAME}_{version}-1_all.deb"


def rpm(out: Path, version: str) -> Path:
    """The source and binary packages in OUT; returns the binary one.

    On a host without Fedora's macros, such as Debian, it is made for EL 9: its paths, and no compiled code.
    """
    tree = source(out, version)
    defines = [f"{what} {out}" for what in ("_topdir", "_sourcedir", "_srcrpmdir", "_rpmdir")]
    defines.append("_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm")
    shown = subprocess.run(["rpm", "--eval", "%{?python3_sitelib}"], capture_output=True, text=True, check=True).stdout
    if not shown.strip():
        defines += [f"python3_sitelib {EL9_SITE}", "__brp_python_bytecompile %{nil}", "dist .el9"]
    options = [word for define in defines for word in ("--define", define)]
    run(["rpmbuild", "-ba", "--nodeps", *options, f"packaging/{NAME}.spec"], tree)
    return next(out.glob(f"{NAME}-{version}-*.noarch.rpm"))


def example(out: Path, version: str) -> Path:
    """The example of a package that brings a hook; returns the .deb."""
    tree = out / "example-hook"
    shutil.copytree(ROOT / "packaging" / "example-hook", tree)
    run(["dpkg-buildpackage", "-us", "-uc", "-b"], tree)
    return next(out.glob("*_all.deb"))


KINDS = {"source": source, "deb": deb, "rpm": rpm, "example": example}


def main(argv: Sequence[str]) -> int:
    """python3 packaging/build.py KIND [--version V] [--out DIR]"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--version", help="build as another version, to try upgrades", default=the_version())
    parser.add_argument("--out", type=Path, help="directory, made anew [default: build/KIND]")
    given = parser.parse_args(argv)
    out = (given.out or ROOT / "build" / given.kind).resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    print(KINDS[given.kind](out, given.version))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
