"""h2k doctor: what h2k needs of the host, what it can do without, and the way to what lacks."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest
from click.testing import CliRunner

from h2k.base import doctor
from h2k.base.doctor import Check, lines, summary
from h2k.base.run import CommandFailed
from h2k.cli import host_commands
from h2k.cli.main import cli
from h2k.config.policy import Policy


class Host:
    """A host that has everything, until something is taken away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
        self.programs = {name for name, *_ in doctor._PROGRAMS} | {"libvirtd"}
        self.modules = {module.name for module in doctor._MODULES}
        self.place, self.kvm = place, True
        for name in ("boot/vmlinuz-6", "firmware/50.json", "tools/rhsrvany.exe", "virtio-win/virtio-win-1.2.iso"):
            (place / name).parent.mkdir()
            (place / name).write_bytes(b"")
        self.drivers: Optional[Path] = place / "virtio-win/virtio-win-1.2.iso"
        monkeypatch.setattr(doctor, "kvm_works", lambda: self.kvm)
        monkeypatch.setattr(doctor, "virtio_win_path", lambda: self.drivers)
        monkeypatch.setattr(doctor, "BOOT", place / "boot")
        monkeypatch.setattr(doctor, "DESCRIPTORS", place / "firmware")
        monkeypatch.setattr(doctor, "_SAYS", {})
        monkeypatch.setattr(doctor, "_SOCKETS", {name: place / name for name in doctor._DAEMONS})
        monkeypatch.setattr(doctor, "_find", lambda name: f"/usr/bin/{name}" if name in self.programs else "")
        monkeypatch.setattr(doctor, "run", self.run)
        monkeypatch.setattr(importlib.util, "find_spec", self.find_spec)
        monkeypatch.setenv("VIRT_TOOLS_DATA_DIR", str(place / "tools"))

    def find_spec(self, name: str, package: Optional[str] = None) -> Optional[ModuleSpec]:
        return ModuleSpec(name, None) if name in self.modules else None

    def run(self, argv: Sequence[str], **_: Any) -> Any:
        if argv[0].endswith("nbdkit"):
            raise CommandFailed(argv, None, "")
        return SimpleNamespace(stdout=f"{Path(argv[0]).name} version 2.7.1rhel=9 (of 1 May)\n".encode())

    def lacking(self) -> dict[str, Check]:
        return {check.name: check for check in doctor.doctor() if not check.ok}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    return Host(monkeypatch, tmp_path)


def test_a_host_that_has_everything(host: Host) -> None:
    assert host.lacking() == {}
    assert summary(doctor.doctor()) == "READY for conversions and boots"
    details = {check.name: check.detail for check in doctor.doctor()}
    assert details["virt-v2v"] == "2.7.1rhel /usr/bin/virt-v2v"
    assert details["nbdkit"] == "/usr/bin/nbdkit", "a program that does not answer has no version"
    assert details["virtio-win"].endswith("virtio-win-1.2.iso")


@pytest.mark.parametrize(
    ("module", "ok", "said"),
    [
        ("pytsk3", True, "not here: disks are read in an appliance, seconds slower"),
        ("rich", True, "not here: plain lines instead of progress bars"),
        ("jinja2", True, "not here: h2k report --html writes no page"),
        ("PIL", True, "not here: screenshots are kept unread: a guest without signals settles later"),
        ("hivex", False, "install the hivex bindings"),
    ],
)
def test_a_missing_module_is_told_and_only_the_needed_ones_are_wrong(module: str, ok: bool, said: str, host: Host) -> None:
    host.modules.remove(module)
    (check,) = [c for c in doctor.doctor() if c.name == f"python {module}"]
    assert check.ok is ok and said in (check.detail, check.hint)
    assert list(host.lacking()) == ([] if ok else [f"python {module}"])


@pytest.mark.parametrize("name", [name for name, *_, needed in doctor._PROGRAMS if needed])
def test_a_missing_program_is_told_with_the_way_on_both_families(name: str, host: Host) -> None:
    host.programs.remove(name)
    assert list(host.lacking()) == [name]
    told = list(lines(doctor.doctor()))
    at = next(i for i, line in enumerate(told) if line.startswith(f"LOOK {name}"))
    assert told[at + 1] == f"     → install {name}"
    assert told[at + 2].startswith("     → Debian: apt install ") and told[at + 3].startswith("     → EL, Fedora: dnf install ")
    assert told[-1].endswith("READY for h2k boot: virsh" if name == "virsh" else f"NOT READY for conversions: {name}")


def test_every_thing_that_lacks_has_a_way_on_both_families(host: Host) -> None:
    host.programs, host.modules, host.drivers = set(), set(), None
    for file in host.place.rglob("*"):
        if file.is_file():
            file.unlink()
    lacking = host.lacking()
    assert {"virt-v2v", "libvirt", "kernel", "python lxml", "UEFI firmware", "virtio-win", "rhsrvany.exe"} <= set(lacking)
    assert [c.name for c in lacking.values() if not (c.hint and c.debian and c.el)] == []
    assert "virtio-win.iso" in lacking["virtio-win"].debian and "dnf install virtio-win" in lacking["virtio-win"].el
    assert "apt install rhsrvany" in lacking["rhsrvany.exe"].debian
    assert lacking["rhsrvany.exe"].el == "dnf install mingw-srvany-redistributable"


def test_els_name_of_qemu_is_as_good(host: Host) -> None:
    host.programs -= {"qemu-system-x86_64"}
    host.programs |= {"qemu-kvm"}
    assert host.lacking() == {}


@pytest.mark.parametrize(
    ("programs", "socket", "ok", "detail"),
    [
        ({"libvirtd"}, "libvirtd", True, "libvirtd listens"),
        ({"virtqemud", "virtnetworkd"}, "virtqemud", True, "virtqemud listens"),
        ({"virtqemud", "libvirtd"}, "libvirtd", True, "libvirtd listens"),
        ({"virtqemud"}, "virtqemud", False, "virtqemud without virtnetworkd"),
        ({"virtqemud", "virtnetworkd"}, "", True, "virtqemud is installed; it listens on no socket of the system's"),
        (set(), "", False, "neither libvirtd nor virtqemud"),
    ],
)
def test_one_daemon_of_libvirt_or_the_modular_ones(programs: set[str], socket: str, ok: bool, detail: str, host: Host) -> None:
    host.programs = (host.programs - {"libvirtd"}) | programs
    if socket:
        (host.place / socket).touch()
    (check,) = [c for c in doctor.doctor() if c.name == "libvirt"]
    assert (check.ok, check.detail) == (ok, detail)


def test_without_kvm_it_is_only_slow(host: Host) -> None:
    host.kvm = False
    assert list(host.lacking()) == ["KVM"]
    assert summary(doctor.doctor()) == "READY for conversions and boots, slower: KVM"


@pytest.mark.parametrize(
    ("wanted", "answer", "ok", "words"),
    [
        ("auto", ("direct", ""), True, "direct: "),
        ("auto", ("appliance", "nbdfuse missing"), False, "appliance, which takes longer: nbdfuse missing"),
        ("appliance", ("appliance", "the policy says so"), True, "the policy says so"),
    ],
)
def test_which_writer_it_will_be(
    wanted: str, answer: tuple[str, str], ok: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_commands, "load_policy", lambda: Policy(writer=wanted))
    monkeypatch.setattr(host_commands, "expected", lambda given: answer)
    check = host_commands._writer_check()
    assert check.ok is ok and words in check.detail and check.needed == ""


def test_the_command(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_commands, "expected", lambda wanted: ("direct", ""))
    done = CliRunner().invoke(cli, ["doctor"], standalone_mode=False)
    assert done.return_value == 0 and done.output.splitlines()[-1] == "h2k: READY for conversions and boots"
    host.programs.remove("virt-v2v")
    done = CliRunner().invoke(cli, ["doctor", "--json"], standalone_mode=False)
    assert done.return_value == 4
    (row,) = [row for row in json.loads(done.output)["checks"] if not row["ok"]]
    assert row["name"] == "virt-v2v" and row["debian"] == "apt install virt-v2v"
