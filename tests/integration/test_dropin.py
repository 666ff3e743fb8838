"""h2k-v2v in virt-v2v's place: the same command line, answers, failures and statuses; in report mode only added files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.convert.v2v_options import OPTIONS
from tests.matrix import option_differences

ROOT = Path(__file__).resolve().parents[2]
H2K, V2V, QEMU_IMG = (ROOT / "wrappers" / name for name in ("h2k", "h2k-v2v", "h2k-qemu-img"))
STAND_IN = ROOT / "tests" / "guests" / "stand_in_outputs.py"
Env = dict[str, str]
needs_virt_v2v = pytest.mark.skipif(shutil.which("virt-v2v") is None, reason="needs virt-v2v")


def run(*argv: Any, env: Optional[Env] = None, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL, check=False, **more,
    )  # fmt: skip


def recorded(path: Path) -> list[list[str]]:
    return [json.loads(line)["argv"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def stand_in(tmp_path: Path) -> Env:
    """The environment in which "virt-v2v" is the recording stand-in."""
    directory = tmp_path / "bin"
    directory.mkdir()
    shutil.copy(STAND_IN, directory / "virt-v2v")
    (directory / "virt-v2v").chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}", "STAND_IN_RECORD": str(tmp_path / "record"), "H2K_KVM": "no"}


@pytest.mark.parametrize("dashes", ["-", "--"])
@pytest.mark.parametrize("glued", [False, True])
def test_all_options_at_once_arrive_unchanged_and_in_order(
    dashes: str, glued: bool, stand_in: Env, tmp_path: Path
) -> None:
    argv: list[str] = []
    for option in (o for o in OPTIONS if o.side != "question" and len(o.name) > 1):
        value = [] if not option.value else [f"v {option.name}"]
        argv += [f"{dashes}{option.name}={value[0]}"] if glued and value else [f"{dashes}{option.name}", *value]
    done = run(V2V, *argv, "-i", "ova", "-o", "glance", "guest", env={**stand_in, "H2K_MODE": "report"})
    assert done.returncode == 0, done.stderr
    assert recorded(tmp_path / "record") == [[*argv, "-i", "ova", "-o", "glance", "guest"]]


@needs_virt_v2v
def test_the_virt_v2v_here_has_the_options_that_the_table_gives_its_version() -> None:
    assert option_differences() == []


@needs_virt_v2v
@pytest.mark.parametrize(
    "argv",
    [
        ["--help"], ["--version"], ["-V"], ["--machine-readable"], ["--long-options"], ["--short-options"],
        ["-i", "disk", "GUEST", "--print-source"], ["--in-place", "-i", "disk", "GUEST"], ["-it", "vddk", "-io", "?"],
        # its own failures
        ["-i", "disk", "/nonexistent/g.img", "-o", "local", "-os", "OUT"],
        ["-i", "vmx", "/nonexistent/g.vmx", "-o", "local", "-os", "OUT"],
        ["-i", "disk", "GUEST", "-o", "local", "-os", "/nonexistent"],
        ["-i", "disk", "GUEST", "-o", "local"],
        ["-i", "floppy", "GUEST", "-o", "null"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_answers_and_failures_are_virt_v2vs_own(argv: list[str], tmp_path: Path) -> None:
    disk = tmp_path / "g.img"
    disk.write_bytes(bytes(1024 * 1024))
    argv = [{"GUEST": str(disk), "OUT": str(tmp_path)}.get(word, word) for word in argv]
    theirs, ours = run("virt-v2v", *argv), run(V2V, *argv, env={"H2K_KVM": "no"})
    assert ours.returncode == theirs.returncode
    assert without_times(ours.stdout) == without_times(theirs.stdout)
    missing = [line for line in theirs.stderr.splitlines() if line not in ours.stderr.splitlines()]
    assert missing == []


@pytest.mark.parametrize("tool", ["virt-v2v", "qemu-img"])
def test_a_link_to_the_wrapper_may_have_the_tools_name(tool: str, tmp_path: Path) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    (place / tool).symlink_to({"virt-v2v": V2V, "qemu-img": QEMU_IMG}[tool])
    env = {"PATH": f"{place}:{os.environ['PATH']}", "H2K_KVM": "no"}
    for argv in (["--version"], ["--nonsense"]):
        theirs, ours = run(tool, *argv), run(tool, *argv, env=env, timeout=60)
        assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)


@pytest.mark.parametrize("tool", ["virt-v2v", "qemu-img"])
def test_a_script_of_the_tools_name_ends_with_a_clear_line(tool: str, tmp_path: Path) -> None:
    script = tmp_path / tool
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {V2V if tool == "virt-v2v" else QEMU_IMG} "$@"\n')
    script.chmod(0o755)
    done = run(script, "--version", env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert f"the {tool} on PATH leads back to h2k" in done.stderr


def without_times(text: str) -> list[str]:
    """virt-v2v's progress lines begin with the time."""
    return [line.partition("]")[2] if line.startswith("[") else line for line in text.splitlines()]


@needs_virt_v2v
@pytest.mark.parametrize("argv", [["--nonsense"], ["--bandwidth"], ["-o", "nowhere", "-i", "disk", "x"]], ids=" ".join)
def test_a_wrong_option_is_told_by_virt_v2v(argv: list[str]) -> None:
    theirs, ours = run("virt-v2v", *argv), run(V2V, *argv, env={"H2K_KVM": "no"})
    assert ours.returncode == theirs.returncode != 0
    assert theirs.stderr.splitlines()[-1] in ours.stderr


@needs_virt_v2v
def test_open_files_are_virt_v2vs_too(tmp_path: Path) -> None:
    answers = []
    for number, program in enumerate(("virt-v2v", V2V)):
        path = tmp_path / str(number)
        with open(path, "w", encoding="utf-8") as file:
            os.set_inheritable(file.fileno(), True)
            done = run(program, f"--machine-readable=fd:{file.fileno()}", "--version", pass_fds=[file.fileno()])
        answers.append((done.returncode, done.stdout, path.read_text()))
    assert answers[0] == answers[1]


def test_a_signal_is_passed_on(stand_in: Env, tmp_path: Path) -> None:
    program = Path(stand_in["PATH"].split(":")[0]) / "virt-v2v"
    program.write_text(f"#!/bin/sh\ntrap 'echo ended > {tmp_path}/ended; exit 9' TERM\n: > {tmp_path}/up\nwhile :; do sleep 0.1; done\n")
    with subprocess.Popen(
        [sys.executable, str(V2V), "guest"], env={**os.environ, **stand_in, "H2K_MODE": "report"}, stderr=subprocess.DEVNULL
    ) as child:
        for _ in range(600):
            if (tmp_path / "up").exists():
                break
            time.sleep(0.1)
        child.send_signal(signal.SIGTERM)
        assert child.wait() == 9
    assert (tmp_path / "ended").exists()


# Report mode


def tree(directory: Path) -> dict[str, str]:
    """Every file that a script could see, by its digest; ours lie in NAME.h2k."""
    files = (p for p in sorted(directory.rglob("*")) if p.is_file() and ".h2k" not in str(p))
    return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes().replace(bytes(directory), b"OUT")).hexdigest() for p in files}


BREAKS = {
    "as it should": {},
    "no drivers": {"VIRTIO_WIN": "/nonexistent/virtio-win.iso"},
    "a hook that raises": {"HOOKS": "raise RuntimeError('a mistake')"},
    "a hook that is no Python": {"HOOKS": "def ("},
}


@pytest.mark.parametrize("how", BREAKS)
def test_report_mode_adds_files_and_nothing_else(
    how: str, guest: Any, drivers: Path, stand_in: Env, tmp_path: Path, v2v_env: Env
) -> None:
    source = guest("win2022").disks[0]
    env = {**stand_in, **v2v_env, "H2K_MODE": "report", "VIRTIO_WIN": str(drivers), **BREAKS[how]}
    extra = []
    if "HOOKS" in env:
        (tmp_path / "hooks").mkdir()
        text = "META = {'name': 'bad', 'summary': 'fails', 'answers': []}\ndef propose(guest, options):\n    yield from ()\n    "
        (tmp_path / "hooks" / "01-bad.py").write_text(env.pop("HOOKS") if "def (" in env["HOOKS"] else text + env.pop("HOOKS") + "\n")
        extra = ["--h2k-hooks", str(tmp_path / "hooks")]
    seen = []
    for name, program in (("theirs", "virt-v2v"), ("ours", V2V)):
        out = tmp_path / name
        out.mkdir()
        done = run(program, "-i", "disk", source, "-o", "local", "-os", out, "-on", "g", *(extra if program == V2V else []), env=env)
        seen.append((done.returncode, done.stdout, tree(out)))
    assert seen[0] == seen[1]
    record = tmp_path / "ours" / "g.h2k" / "report.json"
    status = {"as it should": 4, "a hook that raises": 1}.get(how)  # the others never came to a guest
    assert (json.loads(record.read_text())["status"] if record.exists() else None) == status, done.stderr


def test_report_mode_ends_as_virt_v2v_did(stand_in: Env, tmp_path: Path) -> None:
    env = {**stand_in, "H2K_MODE": "report", "STAND_IN_STATUS": "7"}
    assert run(V2V, "-i", "disk", "x.img", "-o", "local", "-os", tmp_path, env=env).returncode == 7
    env["H2K_MODE"] = "repair"
    assert run(V2V, "-i", "disk", "x.img", "-o", "local", "-os", tmp_path, env=env).returncode == 7
