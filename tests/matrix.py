"""`make matrix`: h2k with the virt-v2v, QEMU, libvirt and Python of each Debian, in a root of its own.

In each root: doctor, mypy, the unit tests, a conversion with repair to -o local (two disks, VMware Tools, virtio-scsi where
virt-v2v has --block-driver), verify, rollback, a second output, the demo with one boot cycle, a part of the boot lab, and the
DEB by apt. A table comes out; what a step's programs said is in ROOT/trial/h2k/build/matrix-inside/output.log.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from h2k import __version__
from tests.dependencies import GIVEN, makefile_list
from tests.package.root import CERTIFICATES, WORK, Root, bring_checkout, make_root

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "matrix"
PLACE = ROOT / "build" / "matrix-inside"  # of what the steps make, in the root
ARCHIVES = ROOT / ".cache" / "package-archives"
SUITES = ("bookworm", "trixie", "sid")
MORE = {"bookworm": (), "trixie": ("rhsrvany",), "sid": ("rhsrvany",)}
STEPS = ("doctor", "types", "unit", "convert", "second output", "boot cycle", "boot lab", "DEB")
LAB = "unrepaired_stops_on_virtio or bootstrap_then_final"  # both firmwares, both boots; the whole lab takes an hour
DOCUMENT = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- made by: make matrix -->", "<!-- end -->"
H2K, V2V = ROOT / "wrappers" / "h2k", ROOT / "wrappers" / "h2k-v2v"
# What a root may lack: it runs where KVM may not be, and the drivers are made ones.
NOT_JUDGED = {"KVM", "virtio-win", "rhsrvany.exe"}


@dataclasses.dataclass
class Row:
    """What one suite has, what came of each step, "ok" or why not, and on which day."""

    suite: str
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    steps: dict[str, str] = dataclasses.field(default_factory=dict)
    days: dict[str, str] = dataclasses.field(default_factory=dict)


# In the root: `python3 -m tests.matrix --inside STEP`


def _output(*argv: Any, status: int = 0) -> str:
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    with open(PLACE / "output.log", "a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(map(str, argv))}\n{done.stdout}{done.stderr}ended with {done.returncode}\n")
    if done.returncode != status:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RuntimeError(f"{Path(str(argv[0])).name} ended with {done.returncode}: {' / '.join(said[-3:])[:300]}")
    return done.stdout


def option_differences() -> list[str]:
    """In which options the virt-v2v here and our table of its version differ; two that it never lists are none."""
    from h2k.convert.v2v_options import OPTIONS
    from h2k.convert.v2v_scripts import installed_version

    version = installed_version()
    argv = (["virt-v2v", f"--{which}-options"] for which in ("long", "short"))
    said = {word.lstrip("-") for a in argv for word in subprocess.run(a, capture_output=True, text=True, check=True).stdout.split()}

    def number(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(".")))

    known = {
        spelling
        for o in OPTIONS
        if (o.since is None or number(o.since) <= version) and (o.until is None or version <= number(o.until))
        for spelling in (o.name, *o.letter)
    }
    return sorted(said ^ (known - {"long-options", "short-options"}))


def _doctor(_: Path) -> str:
    done = subprocess.run([str(H2K), "doctor", "--json"], capture_output=True, text=True, check=False)
    lacking = [c["name"] for c in json.loads(done.stdout)["checks"] if not c["ok"] and c["name"] not in NOT_JUDGED]
    if lacking:
        return f"lacks {', '.join(lacking)}"
    differ = option_differences()
    return f"other options than in the table: {', '.join(differ)[:200]}" if differ else "ok"


def _types(_: Path) -> str:
    own = ["mypy", "--python-version", f"{sys.version_info.major}.{sys.version_info.minor}"]
    _output(*own, "h2k")
    for hook in sorted((ROOT / "hooks").glob("*.py")):
        _output(*own, "--no-error-summary", hook)
    return "ok"


def _unit(_: Path) -> str:
    return _pytest("-m", "unit", "-n", "2", "tests/unit")


def _lab(_: Path) -> str:
    return _pytest("-m", "integration or lab", "tests/boot/test_lab.py", "-k", LAB)


def _pytest(*argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *argv],
        cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    (PLACE / "output.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    if "passed" not in done.stdout or re.search(r"\b[0-9]+ error", done.stdout):
        return " / ".join((done.stdout + done.stderr).strip().splitlines()[-2:])[:300]
    failed = re.findall(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    return "ok" if done.returncode == 0 else f"{len(failed)} failed: {', '.join(failed[:3])}"


def _made(place: Path) -> tuple[Path, Path]:
    """A .vmx with two disks and VMware Tools, and made drivers, made once; the stand-in for rhsrvany.exe only where there
    is none."""
    from h2k.base.host import runner_programs
    from tests.guests.build import BuiltGuest, build, write_vmx
    from tests.guests.virtio_win import make_runner, make_tree

    if runner_programs() is None:
        os.environ["VIRT_TOOLS_DATA_DIR"] = str(make_runner(place / "virt-tools"))
    vmx, drivers = place / "vmware" / "win2022.vmx", place / "drivers"
    if vmx.exists() and drivers.exists():
        return vmx, drivers
    guest = build(["win2022"], place / "made")["win2022"]
    data = place / "made" / "data.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(data), "64M"], check=True)
    make_tree(drivers)
    return write_vmx(BuiltGuest(guest.name, guest.firmware, (*guest.disks, data)), vmx.parent), drivers


def _empty(place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    return place


def _has_block_driver() -> bool:
    return "block-driver" in _output("virt-v2v", "--long-options")


def _convert(place: Path) -> str:
    vmx, drivers = _made(place)
    out = _empty(place / "out")
    bus = ["--block-driver", "virtio-scsi"] if _has_block_driver() else []
    _output(V2V, "-i", "vmx", vmx, "-o", "local", "-os", out, "--h2k-drivers", drivers, *bus)
    looking = ["--drivers", drivers, "--json"]  # the bus is in the description
    changes = json.loads(_output(H2K, "verify", out / "win2022.xml", *looking))["changes"]
    if changes or not (out / "win2022-sdb").exists():
        return f"{len(changes)} changes are left"
    _output(H2K, "rollback", out / "win2022.xml")
    _output(H2K, "verify", out / "win2022.xml", *looking, status=4)
    return f"ok ({bus[1] if bus else 'virtio'})"


def _second(place: Path) -> str:
    mode = "kubevirt" if "output:kubevirt" in _output("virt-v2v", "--machine-readable").split() else "qemu"
    vmx, drivers = _made(place)
    out = _empty(place / mode)
    _output(V2V, "-i", "vmx", vmx, "-o", mode, "-os", out, "--h2k-drivers", drivers)
    return f"ok ({mode})"


def _demo(_: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.demo", "build/demo"], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    said = (done.stdout + done.stderr).strip().splitlines()
    if done.returncode == 0:
        return "ok" if any("BOOTED" in line for line in said) else "no boot: " + " / ".join(said[-1:])[:200]
    return f"ended with {done.returncode}: {' / '.join(said[-2:])[:300]}"


INSIDE: dict[str, Callable[[Path], str]] = {
    "doctor": _doctor, "types": _types, "unit": _unit, "convert": _convert, "second output": _second, "boot cycle": _demo,
    "boot lab": _lab,
}  # fmt: skip


def inside(step: str) -> str:
    """One step in the root; whatever goes wrong is its result."""
    PLACE.mkdir(parents=True, exist_ok=True)
    (PLACE / "output.log").unlink(missing_ok=True)
    try:
        return INSIDE[step](PLACE)
    except (RuntimeError, OSError, ValueError, KeyError, subprocess.SubprocessError) as e:
        return " ".join(f"{type(e).__name__}: {e}".split())[:300]


# Outside


VERSIONS = {
    "virt-v2v": ("virt-v2v", "--version"), "QEMU": ("qemu-system-x86_64", "--version"), "libvirt": ("libvirtd", "--version"),
    "libguestfs": ("guestfish", "--version"), "Python": ("python3", "--version"),
}  # fmt: skip


def open_root(suite: str, places: Path) -> Root:
    """The suite's root with what `make deps` brings; one that was made before is used again."""
    path = places / suite
    ready = path / WORK.lstrip("/") / "ready"
    packages = [*makefile_list("RUNTIME"), *makefile_list("TESTING"), *GIVEN, *MORE.get(suite, ())]
    if ready.exists() and ready.read_text(encoding="utf-8").split() == packages:
        return Root(path, ARCHIVES)
    root = Root(path, ARCHIVES) if (path / "usr/bin/apt-get").exists() else make_root(path, ARCHIVES, suite)
    (path / WORK.lstrip("/")).mkdir(exist_ok=True)
    root.apt("install", *packages)
    ready.write_text("\n".join(packages), encoding="utf-8")
    return root


def earlier(suite: str, places: Path) -> Row:
    """What earlier runs in the suite's root came to: a step that is not wished keeps its result, and its day."""
    path = places / suite / WORK.lstrip("/") / "results.json"
    return Row(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Row(suite)


def run_suite(suite: str, places: Path, steps: Sequence[str], deb: Optional[Path]) -> Row:
    """Every wished step in one suite."""
    root = open_root(suite, places)
    place = bring_checkout(root)
    row = earlier(suite, places)
    for name, argv in VERSIONS.items():
        found = re.search(r"\d+\.\d+(\.\d+)?", root.run(*argv).stdout)
        row.versions[name] = found[0] if found else "?"
    env = {"PIP_CERT": CERTIFICATES, "PYTHONDONTWRITEBYTECODE": "1"}
    for step in steps:
        if step == "DEB":
            row.steps[step] = _deb(root, deb) if deb is not None else "not built"
        else:
            argv = root.inside(["python3", "-m", "tests.matrix", "--inside", step], place=place)
            done = subprocess.run(argv, env={**_plain(), **env}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            row.steps[step] = (done.stdout.strip().splitlines() or [done.stderr.strip()[-300:] or "no answer"])[-1]
        row.days[step] = datetime.date.today().isoformat()
        print(f"{suite}: {step}: {row.steps[step]}", flush=True)
        (root / f"{WORK}/results.json").write_text(json.dumps(dataclasses.asdict(row)), encoding="utf-8")
    return row


def _plain() -> dict[str, str]:
    from tests.package.root import ENVIRONMENT

    return dict(ENVIRONMENT)


def _deb(root: Root, deb: Path) -> str:
    try:
        root.apt("install", root.bring(deb))
        said = root.run("h2k", "--version").stdout
        root.run("h2k", "hooks", "list")
        root.apt("purge", "h2k-v2v")
    except AssertionError as e:
        return " ".join(str(e).split())[:300]
    return "ok" if __version__ in said else said.strip()


def table(rows: Sequence[Row]) -> Iterator[str]:
    """As Markdown."""
    heads = ["Debian", *VERSIONS, *STEPS]
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        cells = [row.suite, *(row.versions.get(n, "") for n in VERSIONS), *(row.steps.get(s, "") for s in STEPS)]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(argv: Sequence[str]) -> int:
    """python3 -m tests.matrix [--roots DIR] [--step STEP]… [--write] [SUITE…]"""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inside", choices=sorted(INSIDE), help=argparse.SUPPRESS)
    parser.add_argument("--roots", type=Path, default=BUILD, help="where the suites' roots are or will be")
    parser.add_argument("--step", action="append", choices=STEPS, help="this one only; may be repeated")
    parser.add_argument("--write", action="store_true", help="put the table into docs/compatibility.md")
    parser.add_argument("suites", nargs="*", default=SUITES)
    given = parser.parse_args(argv)
    if given.inside:
        print(inside(given.inside))
        return 0
    steps = given.step or STEPS
    deb = None
    if "DEB" in steps:
        built = subprocess.run([sys.executable, "packaging/build.py", "deb"], cwd=ROOT, capture_output=True, text=True, check=True)
        deb = Path(built.stdout.strip().splitlines()[-1])
    rows = [run_suite(suite, given.roots, steps, deb) for suite in given.suites]
    if given.write:
        rows = [*rows, *(earlier(suite, given.roots) for suite in SUITES if suite not in given.suites)]
        rows.sort(key=lambda row: SUITES.index(row.suite))
    lines = [f"h2k {_version()}, {_days(rows)}:", "", *table(rows)]
    print("\n".join(lines))
    if given.write:
        text = DOCUMENT.read_text(encoding="utf-8")
        before, after = text.partition(BEGIN)[0], text.partition(END)[2]
        DOCUMENT.write_text("\n".join([before + BEGIN, "", *lines, "", END]) + after, encoding="utf-8")
    return 0 if all(row.steps[step].startswith("ok") for row in rows for step in steps if row.suite in given.suites) else 1


def _version() -> str:
    """As the changelog names it."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("\n## ")[2].partition("\n")[0]


def _days(rows: Sequence[Row]) -> str:
    days = sorted({day for row in rows for day in row.days.values()})
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "not run"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
