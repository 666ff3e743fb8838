"""The look at one guest of a survey: its row, whatever became of it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base.errors import InUse, Unknown
from h2k.base.finding import Finding
from h2k.disk.reader import ReaderEnded
from h2k.engine.pool import Ended
from h2k.fleet import look
from h2k.fleet.look import READY as CAN
from h2k.fleet.look import REFUSED_CLASS, UNKNOWN, Row, actions, blank, row_of
from h2k.fleet.sources import DISK, MISSING, OVA, VMX, Source


def row(name: str = "web", kind: str = CAN, **more: Any) -> Row:
    return {**blank(Source(f"/exports/{name}.qcow2", DISK, f"/exports/{name}.qcow2", name, "/exports")), "class": kind, **more}


def found(what: str, state: str, repair: str = "") -> dict[str, Any]:
    return Finding(what, state, "a subject", "what was seen", repair).as_json()


def test_a_guest_that_could_not_be_read_has_its_reason() -> None:
    source = Source("/exports/web.qcow2", DISK, "/nowhere", "web")
    hung = row_of(Ended(source, None, "this guest could not be read: it took longer than 3 s", "look alone", 1, 3.0))
    assert (hung["class"], hung["seconds"]) == (UNKNOWN, 3.0) and "longer than 3 s" in hung["reason"]
    refused = row_of(Ended(source, None, "/nowhere: /nowhere: the image is empty", "copy it", 3))
    assert (refused["class"], refused["reason"], refused["actions"]) == (REFUSED_CLASS, "the image is empty", ["copy it"])
    assert row_of(Ended(source, None, "/nowhere: /nowhere is truncated", "", 3))["reason"] == "is truncated"
    assert row_of(Ended(source, row(), seconds=1.0))["class"] == CAN


def test_a_disk_with_a_checkpoint_is_flagged_though_it_is_refused(tmp_path: Path) -> None:
    guid = "A1B2C3D4-0000-1111-2222-0123456789AB"
    for name in ("app.vhdx", f"app_{guid}.avhdx", "web.vhdx"):
        (tmp_path / name).touch()
    told = {}
    for name in ("app.vhdx", f"app_{guid}.avhdx", "web.vhdx"):
        source = Source(str(tmp_path / name), DISK, str(tmp_path / name), name)
        told[name] = row_of(Ended(source, None, "refused", "", 3))["flags"]
    assert told == {"app.vhdx": ["snapshot"], f"app_{guid}.avhdx": ["snapshot"], "web.vhdx": []}


@pytest.mark.parametrize(("kind", "version", "tools", "count"), [
    (DISK, (2, 10), ["VMware Tools 12"], 0), (VMX, (2, 10), ["VMware Tools 12"], 4), (OVA, (2, 10), [], 3), (VMX, (2, 4), ["VMware Tools 12"], 0),
])  # fmt: skip
def test_how_often_the_first_boot_restarts(kind: str, version: Any, tools: list[str], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """pnputil, online-disks, qemu-ga, and the tools of the hypervisor that it comes from."""
    monkeypatch.setattr(look, "_virt_v2v", lambda: version)
    listed = [Finding("hypervisor-tools-present", "warning", name, "e") for name in tools]
    seen: Any = SimpleNamespace(proposal=SimpleNamespace(findings=listed), report=SimpleNamespace(guest={"arch": "amd64"}))
    with_agent: Any = SimpleNamespace(drivers=SimpleNamespace(has_guest_agent_msi=lambda arch: arch == "amd64"))
    assert look._restarts(with_agent, Source("/g", kind, "/g", "g"), seen) == count


def test_the_owner_reads_first_what_stops_the_guest() -> None:
    listed = [Finding("b", "warning", "s", "e", "later"), Finding("a", "refused", "s", "e", "now"), Finding("c", "ok", "s", "e", "never")]
    assert actions([*listed, *listed]) == ["a: now", "b: later"]


def test_a_guest_that_somebody_writes_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def in_use(infos: Any) -> None:
        asked.extend(infos)
        raise InUse("/g.raw", "in use by the running domain web")

    monkeypatch.setattr(look, "_require_disk", lambda path: None)
    monkeypatch.setattr(look, "probe", lambda path, form: (path, form))
    monkeypatch.setattr(look, "require_unwritten", in_use)
    monkeypatch.setattr(look, "reader_of", lambda infos: pytest.fail("read"))
    with pytest.raises(Unknown, match=r"source-running: /g\.raw: in use by the running domain web"):
        look.look(None, Source("/g.raw", DISK, "/g.raw", "g"))  # type: ignore[arg-type]
    assert asked == [(Path("/g.raw"), None)]


@pytest.mark.parametrize("where", ["opening", "reading", "met by a hook", "nowhere"])
def test_a_reader_that_crashed_makes_its_guest_unknown(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook takes the error for the guest's own: a hive that can't be read, a store that is no store."""
    ended = ReaderEnded("/g.raw: the file system reader crashed", hint="another way")
    reader = contextlib.nullcontext(SimpleNamespace(failure=""))

    def opened(infos: Any) -> Any:
        if where == "opening":
            raise ended
        return reader

    monkeypatch.setattr(look, "reader_of", opened)
    told = pytest.raises(Unknown, match="the file system reader crashed") if where != "nowhere" else contextlib.nullcontext()
    with told, look._reading([]) as found:
        if where == "reading":
            raise ended
        found.failure = ended.message if where == "met by a hook" else ""


def test_a_list_entry_without_file_is_unknown() -> None:
    assert blank(Source("/x", MISSING, "/x", "x"))["class"] == UNKNOWN
