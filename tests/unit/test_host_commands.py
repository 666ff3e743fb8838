"""`h2k drivers`: a table of what a guest gets, for its own bus; status 4 where a package is missing. `h2k doctor`: its one end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base.doctor import Check
from h2k.base.errors import H2kError, UsageError
from h2k.cli import host_commands
from h2k.cli.main import main
from h2k.config.driver_plan import load_plan
from tests.guests.virtio_win import RELEASES, make_tree
from tests.unit.engine_world import World
from tests.unit.memory_reader import windows_guest


@pytest.mark.parametrize(
    ("known", "given", "storage"),
    [
        ("virtio", [], {"viostor.inf"}),
        ("virtio-scsi", [], {"vioscsi.inf"}),
        ("virtio-scsi", ["--bus", "virtio"], {"viostor.inf"}),
        ("virtio", ["--bus", "sata"], set()),
    ],
)
def test_the_packages_of_the_guest_s_own_bus(
    known: str, given: list[str], storage: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextlib.contextmanager
    def reader(images: Any) -> Iterator[None]:
        yield

    drivers = make_tree(tmp_path / "virtio-win", omit=[r for r in RELEASES if r != "2k22"])
    monkeypatch.setattr("h2k.cli.host_commands.open_guest_files", lambda images: World(tmp_path / "g.h2k").files)
    monkeypatch.setattr("h2k.cli.host_commands.open_reader", reader)
    monkeypatch.setattr("h2k.cli.host_commands.Guest", lambda reader, root: windows_guest())
    monkeypatch.setattr("h2k.cli.host_commands.known_bus", lambda files: known)
    main(["drivers", "g", "--drivers", str(drivers), *given, "--json"])
    infs = {row.get("inf") for row in json.loads(capsys.readouterr().out)["drivers"]}
    assert infs & {"viostor.inf", "vioscsi.inf"} == storage and "netkvm.inf" in infs


class Source:
    """A virtio-win that has everything but what a test takes away."""

    lacks: tuple[str, ...] = ()

    def find(self, plan: Any, role: Any, windows: Any) -> Any:
        if role.name in self.lacks:
            raise H2kError(f"no {role.inf} for this Windows\x1b[31m")
        return SimpleNamespace(directory=f"{role.service}/2k22/amd64", inf=SimpleNamespace(name=role.inf))


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Source:
    source = Source()

    @contextlib.contextmanager
    def opened(*_: Any) -> Iterator[Any]:
        yield SimpleNamespace(drivers=source, plan=load_plan(), request=SimpleNamespace(root=None, bus=None))

    monkeypatch.setattr(host_commands, "open_tools", opened)
    monkeypatch.setattr(host_commands, "open_reader", opened)
    monkeypatch.setattr(host_commands, "open_guest_files", lambda images: SimpleNamespace(images=()))
    monkeypatch.setattr(host_commands, "known_bus", lambda files: "virtio")
    monkeypatch.setattr(host_commands, "Guest", lambda reader, root: SimpleNamespace(windows=None))
    return source


def test_every_package_is_there(source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drivers", "g"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "virtio-blk      viostor.inf  viostor/2k22/amd64" in lines and not any("vioscsi" in line for line in lines)


def test_a_missing_package_is_told_and_is_status_4(source: Source, capsys: pytest.CaptureFixture[str]) -> None:
    source.lacks = ("virtio-net",)
    assert main(["drivers", "g"]) == 4
    told = capsys.readouterr().out
    assert any(line.startswith("virtio-net") and "MISSING: no netkvm.inf" in line for line in told.splitlines()) and "\x1b" not in told
    assert main(["drivers", "g", "--json"]) == 4
    assert [row["role"] for row in json.loads(capsys.readouterr().out)["drivers"] if "missing" in row] == ["virtio-net"]


def test_what_is_missing_is_told_with_h2k_s_own_options(source: Source, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def find(plan: Any, role: Any, windows: Any) -> Any:
        raise H2kError("nothing for this Windows, or convert with --h2k-bus sata")

    monkeypatch.setattr(source, "find", find)
    monkeypatch.setattr(host_commands, "Guest", lambda reader, root: SimpleNamespace(windows=None))
    monkeypatch.setattr(host_commands, "known_bus", lambda files: "virtio")
    assert main(["drivers", "g", "--json"]) == 4
    assert {row["missing"] for row in json.loads(capsys.readouterr().out)["drivers"]} == {"nothing for this Windows, or convert with --bus sata"}
    main(["drivers", "g"])
    assert "--h2k-" not in capsys.readouterr().out


# doctor


@pytest.mark.parametrize(("fine", "status"), [(True, 0), (False, 4)])
def test_doctor_prints_its_checks_and_its_status(
    fine: bool, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host_commands, "host_doctor", lambda: [Check("KVM", fine, "as it is", "install it")])
    monkeypatch.setattr(host_commands, "_writer_check", lambda: Check("writer", True, "direct", needed=""))
    assert main(["doctor", "--json"]) == status
    content = json.loads(capsys.readouterr().out)
    assert content["status"] == status and [c["name"] for c in content["checks"]] == ["KVM", "writer"]
    assert main(["doctor"]) == status and "KVM" in capsys.readouterr().out


@pytest.mark.parametrize(("error", "status"), [(ZeroDivisionError("by zero"), 1), (OSError(5, "Input/output error", "/boot"), 1), (UsageError("policy.yaml: no"), 2)])
def test_doctor_that_fails_ends_as_every_run_does(
    error: Exception, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Any:
        raise error

    monkeypatch.setattr(host_commands, "host_doctor", fail)
    assert main(["doctor", "--json"]) == status
    seen = capsys.readouterr()
    assert json.loads(seen.out)["status"] == status and seen.err.startswith("h2k: ") and "Traceback" not in seen.err
