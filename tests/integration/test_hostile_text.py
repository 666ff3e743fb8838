"""What a guest, a file or a command line says, through whole commands: printable in every output, one line, no secrets."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.guests.build import cached
from tests.guests.surgery import Surgery
from tests.integration.test_dropin import STAND_IN, Env, recorded
from tests.integration.virthost import H2K

V2V, QEMU_IMG = H2K.with_name("h2k-v2v"), H2K.with_name("h2k-qemu-img")
SECRET = "S3cret"
# An escape sequence, a line of its own, and a mark that turns the direction of writing.
FILTER = "evil\x1b[2J\r\nh2k: READY: healthy\u202e"
UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # all but line breaks and tabs


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guest whose class filter has such a name."""
    path = tmp_path_factory.mktemp("hostile") / "g-sda"
    path.write_bytes(cached()["win7-x86"].disks[0].read_bytes())
    value = ",".join(f"{byte:02x}" for byte in (FILTER + "\0PartMgr\0\0").encode("utf-16-le"))
    with Surgery(path) as disk:
        disk.registry("SYSTEM", f'[$cs\\Control\\Class\\{{4d36e967-e325-11ce-bfc1-08002be10318}}]\n"UpperFilters"=hex(7):{value}\n')
    return path


def run(*argv: Any, **more: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, **more)
    assert "-v" in argv or "Traceback" not in done.stdout + done.stderr, done.stderr
    return done


def fit(text: str, place: str) -> None:
    assert not UNFIT.search(text), f"{place}: {UNFIT.findall(text)}"
    assert not re.search(r"^h2k: READY: healthy", text, re.MULTILINE), f"{place}: {text}"


@pytest.mark.parametrize("command", ["plan", "verify --json"])
def test_registry_text_is_printable_in_pipes(command: str, hostile: Path, drivers: Path) -> None:
    done = run(H2K, *command.split(), hostile, "--drivers", drivers)
    fit(done.stdout, command)
    fit(done.stderr, command)
    assert "evil" in done.stdout


def test_registry_text_is_printable_in_files(hostile: Path, drivers: Path, tmp_path: Path) -> None:
    disk = tmp_path / "g-sda"
    disk.write_bytes(hostile.read_bytes())
    assert run(H2K, "fix", disk, "--drivers", drivers).returncode == 0
    files = [path for path in (tmp_path / "g.h2k").rglob("*") if path.suffix in (".json", ".xml", ".cmd", ".txt", ".html", ".ps1")]
    files = files or [path for path in (tmp_path / "g-sda.h2k").rglob("*") if path.suffix in (".json", ".xml")]
    for path in files:
        if path.name != "journal.json":
            fit(path.read_text(encoding="utf-8").replace("\r\n", "\n"), path.name)
    assert any("evil" in path.read_text() for path in files)


def said_by(done: subprocess.CompletedProcess[str], *places: Path) -> str:
    """All that a run has said, and written below these places."""
    files = [path for place in places for path in place.rglob("*") if path.is_file() and path.suffix in (".json", ".xml", ".log", ".txt")]
    return done.stdout + done.stderr + "".join(path.read_text(errors="replace") for path in files)


def test_passwords_are_told_to_virt_v2v_alone(tmp_path: Path, v2v_env: Env) -> None:
    programs, out, record = tmp_path / "bin", tmp_path / "out", tmp_path / "record"
    programs.mkdir()
    out.mkdir()
    (programs / "virt-v2v").symlink_to(STAND_IN)
    env = {**os.environ, **v2v_env, "PATH": f"{programs}:{os.environ['PATH']}", "STAND_IN_RECORD": str(record), "STAND_IN_STATUS": "1"}
    secrets = ["-ic", f"esx://root:{SECRET}@192.0.2.1/?no_verify=1", "-oo", f"rhv-password={SECRET}", "--key", f"all:key:{SECRET}"]
    for more in (["--h2k-report", str(out / "r.h2k")], ["-v"]):
        done = run(V2V, *secrets, "web", "-o", "local", "-os", out, *more, env=env)
        assert SECRET not in said_by(done, out), more
        assert "***" in said_by(done, out), more
    assert all(SECRET in " ".join(argv) for argv in recorded(record)) and recorded(record)


@pytest.mark.parametrize(
    "argv",
    [
        [H2K, "verify", f"http://user:{SECRET}@192.0.2.1/disk"], [H2K, "-v", "verify", f"nbd://user:{SECRET}@192.0.2.1/disk"],
        [H2K, "verify", "--json", f"https://user:{SECRET}@192.0.2.1/disk"],
        [QEMU_IMG, "convert", "-O", "qcow2", f"nbds://user:{SECRET}@127.0.0.1:1/disk", "new.qcow2"],
    ],
)  # fmt: skip
def test_passwords_of_addresses_are_masked(argv: list[Any], tmp_path: Path) -> None:
    done = run(*argv, cwd=tmp_path)
    assert done.returncode != 0 and SECRET not in said_by(done, tmp_path)


# One line and a status


JOURNALS = {"wrong types": '{"phase": 3, "work": [], "stack": {}}', "deep": "[" * 200_000}


@pytest.mark.parametrize("kind", JOURNALS)
def test_a_journal_that_makes_no_sense_is_one_line(kind: str, drivers: Path, tmp_path: Path) -> None:
    disk, state = tmp_path / "g-sda", tmp_path / "g-sda.h2k"
    disk.write_bytes(cached()["win7-x86"].disks[0].read_bytes())
    before = disk.stat()
    state.mkdir(mode=0o711)
    (state / "journal.json").write_text(JOURNALS[kind])
    (state / "journal.json").chmod(0o600)
    for command in (["fix", disk, "--drivers", drivers], ["rollback", disk]):
        done = run(H2K, *command)
        assert done.returncode == 3 and "journal.json" in done.stderr and len(done.stderr.strip().splitlines()) <= 3, done.stderr
    assert (disk.stat().st_mtime_ns, disk.stat().st_size) == (before.st_mtime_ns, before.st_size)


@pytest.mark.parametrize("content", ["", "[" * 200_000, '{"status": "x"}'], ids=["empty", "deep", "status"])
def test_a_record_that_is_none_is_one_line(content: str, tmp_path: Path) -> None:
    state = tmp_path / "g.h2k"
    state.mkdir(mode=0o711)
    (state / "report.json").write_text(content)
    done = run(H2K, "report", state)
    assert done.returncode == 2 and "report.json" in done.stderr and len(done.stderr.strip().splitlines()) <= 3, done.stderr


def test_no_standard_output_and_one_that_nobody_reads(hostile: Path, drivers: Path) -> None:
    for shell in ('"$@" >&-', '"$@" | true', '"$@" > /dev/full'):
        done = run("bash", "-o", "pipefail", "-c", shell, "sh", H2K, "verify", hostile, "--drivers", drivers)
        assert done.returncode == 4, (shell, done.stderr)


def test_a_name_of_300_characters_is_refused_before_the_copy(tmp_path: Path, v2v_env: Env) -> None:
    (tmp_path / "g.vmdk").write_bytes(b"")
    subprocess.run(["qemu-img", "convert", "-O", "vmdk", cached()["win7-x86"].disks[0], tmp_path / "g.vmdk"], check=True)
    (tmp_path / "g.vmx").write_text(f'displayName = "{"x" * 300}"\nmemsize = "1024"\nscsi0.present = "TRUE"\nscsi0:0.fileName = "g.vmdk"\n')
    done = run(V2V, "-i", "vmx", tmp_path / "g.vmx", "-o", "local", "-os", tmp_path, env={**os.environ, **v2v_env})
    assert done.returncode == 3 and "domain-name-invalid" in done.stdout + done.stderr, done.stderr
    assert json.dumps(sorted(p.name for p in tmp_path.iterdir())) == '["g.vmdk", "g.vmx"]'
