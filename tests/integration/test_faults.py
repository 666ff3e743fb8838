"""Each fault of the table in a made guest: found under its id, answered as promised, checked again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from h2k.engine.catalogue import ENTRIES
from tests.guests.fault_matrix import Bench, groups, pairs
from tests.guests.faults import FAULTS, NEW, OLD, Fault


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A bench whose repaired guests serve all tests here."""
    yield Bench(tmp_path_factory.mktemp("faults"))


def test_every_finding_has_a_fault() -> None:
    assert {fault.finding for fault in FAULTS} == {entry.id for entry in ENTRIES}


@pytest.mark.parametrize(("fault", "name"), pairs(), ids=lambda value: getattr(value, "name", value))
def test_fault_is_found_and_answered(bench: Bench, fault: Fault, name: str) -> None:
    """All but the repairs themselves, which are made in groups below (and one by one in `make faults`)."""
    row = bench.check(fault, name, repair=False)
    assert row.ok, row


GROUPS = [(name, group) for name in (NEW, OLD) for group in groups(name)]


@pytest.mark.parametrize(("name", "group"), GROUPS, ids=[f"{n}-{g[0].name}-and-{len(g) - 1}-more" for n, g in GROUPS])
def test_faults_are_repaired_together(bench: Bench, name: str, group: list[Fault]) -> None:
    row = bench.check_group(group, name)
    assert row.ok, row


def test_a_fault_is_put_into_a_disk_by_hand(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """python3 -m tests.guests.faults NAME DISK."""
    import shutil

    from tests.guests import faults

    disk = tmp_path / "disk.qcow2"
    shutil.copy(bench.repaired(NEW), disk)
    assert faults.main(["driver-start-override", str(disk)]) == 0
    assert faults.main(["list"]) == 0
    assert "driver-start-override" in capsys.readouterr().out
    assert disk.read_bytes() != bench.repaired(NEW).read_bytes()
