"""The evidence: a row fits its schema whatever a guest said, stand-ins are marked, and the digests cover every file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Optional

import jsonschema
import pytest

from tests.unit.kit_world import SHA, answers
from tests.windows import evidence
from tests.windows.agent import Seen
from tests.windows.boots import STARTS, STOPS, Judged, Start
from tests.windows.convert import Converted
from tests.windows.evidence import MANIFEST, Bench, Side, close, keep, write_row
from tests.windows.faults import HEALTHY, SOURCE, KitFault
from tests.windows.media import Media
from tests.windows.tables import SCHEMA_FILE, table

SCHEMA = json.loads(SCHEMA_FILE.read_text())
BENCH = Bench(Media(Path("a.iso"), SHA, "EVAL", False, ()), answers(), SHA, "sata", True)


@pytest.fixture(autouse=True)
def no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "tool_versions", lambda: {"h2k": "0.2.0", "virt-v2v": "2.2.0"})


def row(with_h2k: Side, without: Side, bench: Bench = BENCH) -> dict[str, Any]:
    made = bench.row(KitFault(HEALTHY, SOURCE), with_h2k, without, SHA, 60)
    jsonschema.Draft7Validator(SCHEMA).validate(table([made]))
    return made


def converted(status: int = 0, state: Optional[Path] = None) -> Converted:
    return Converted("h2k-v2v", status, Path("log"), state=state)


def test_a_row_says_what_was_seen() -> None:
    seen = Seen("Windows 20348", bound={"VEN_1AF4&DEV_1042": "viostor", "VEN_8086&DEV_2922": "storahci"}, addresses=("192.0.2.10",), stops=1)
    made = row(Side(converted(), Start(STARTS, seen=seen), Judged(STARTS), 0), Side(converted(), Start(STOPS, "0x7B"), Judged(STOPS, "0x7B")))
    assert made["with"]["bound"] == {"VEN_1AF4&DEV_1042": "viostor"} and made["with"]["stops"] == 1
    assert made["with"]["outcome"] == STARTS and made["without"]["reason"] == "0x7B" and made["windows"]["answered"] == "Windows 20348"
    assert not made["stand_in"]


@pytest.mark.parametrize(("addresses", "stand_in", "kept"), [
    (("192.0.2.10", "198.51.100.20", "198.51.100.21", "10.0.0.1"), False, True), (("192.0.2.10", "198.51.100.20"), False, False),
    ((), False, False), ((), True, None),
])  # fmt: skip
def test_all_addresses_of_the_source_must_be_there(addresses: tuple[str, ...], stand_in: bool, kept: Optional[bool]) -> None:
    seen = Seen(addresses=addresses, stand_in=stand_in)
    assert row(Side(converted(), Start(STARTS, seen=seen)), Side(converted(1)))["with"]["addresses_kept"] is kept


@pytest.mark.parametrize(("status", "outcome"), [(3, "refused"), (1, "failed"), (5, "failed"), (-9, "failed"), (0, "not tried")])
def test_a_conversion_without_a_start_has_an_outcome_too(status: int, outcome: str) -> None:
    assert row(Side(converted(status)), Side(converted(status)))["with"]["outcome"] == outcome


def test_what_a_guest_says_is_cut_and_printable() -> None:
    seen = Seen("\x1b[31m" + "x" * 1000, bound={"VEN_1AF4" + "&" * 1000: "s" * 1000}, addresses=("y" * 1000,) * 500)
    made = row(Side(converted(), Start("silent", "r\n" * 1000, seen)), Side(converted(1)))
    assert "\x1b" not in json.dumps(made) and len(made["with"]["addresses"]) == 100


@pytest.mark.parametrize("bench", [BENCH, dataclasses.replace(BENCH, media=dataclasses.replace(BENCH.media, stand_in=True))])
@pytest.mark.parametrize("said", [True, False])
def test_a_stand_in_is_marked_by_the_media_and_by_who_answers(bench: Bench, said: bool) -> None:
    made = row(Side(converted(), Start(STARTS, seen=Seen(stand_in=said))), Side(converted(1)), bench)
    assert made["stand_in"] is (said or bench.media.stand_in)


def test_findings_come_from_the_record(tmp_path: Path) -> None:
    findings = [{"id": "nic-ghost", "state": "broken"}, {"id": "bcd-missing", "state": "ok"}, "x", {"state": "broken"}]
    (tmp_path / "report.json").write_text(json.dumps({"word": "READY", "findings": findings}))
    made = row(Side(converted(state=tmp_path)), Side(converted(1)))
    assert made["with"]["findings"] == ["", "nic-ghost"] and made["with"]["word"] == "READY"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"findings": 3}'])
def test_a_record_that_is_none_is_an_empty_one(content: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content)
    assert row(Side(converted(state=tmp_path)), Side(converted(1)))["with"]["findings"] == []


def test_the_manifest_covers_every_file_and_its_digest_is_the_rows(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log").write_text("x")
    digest = close(tmp_path)
    text = (tmp_path / MANIFEST).read_text()
    assert text == f"{hashlib.sha256(b'x').hexdigest()}  a/log\n" and digest == hashlib.sha256(text.encode()).hexdigest()
    write_row(tmp_path, {"run": "r"})
    assert close(tmp_path) == digest


def test_records_are_kept_and_disks_and_links_are_not(tmp_path: Path) -> None:
    state, place = tmp_path / "source.h2k", tmp_path / "kept"
    (state / "runs").mkdir(parents=True)
    for name in ("runs/1.json", "final.xml", "undo.qcow2"):
        (state / name).write_text("x")
    (state / "link.json").symlink_to("/etc/passwd")
    (tmp_path / "log").write_text("log")
    keep(Converted("h2k-v2v", 0, tmp_path / "log", state=state), place)
    kept = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert kept == {"log", "NAME.h2k/runs/1.json", "NAME.h2k/final.xml"}


def test_no_host_and_no_user_is_in_a_row() -> None:
    assert set(row(Side(converted()), Side(converted()))["versions"]) == {"h2k", "virt-v2v", "kernel", "distribution", "kvm"}
