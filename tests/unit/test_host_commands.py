"""`h2k drivers`: the packages that a guest gets are those of its own bus."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from h2k.cli.main import main
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
