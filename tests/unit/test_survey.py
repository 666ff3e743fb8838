"""The survey as a document: classes, groups, changes, the exit status, its schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import NOT_READY, READY, REFUSED, UsageError
from h2k.base.finding import Finding
from h2k.engine.examination import SOURCE, Examination
from h2k.engine.hooks import Proposal
from h2k.engine.pool import Ended
from h2k.engine.report import Report
from h2k.fleet import look, survey
from h2k.fleet.look import READY as CAN
from h2k.fleet.look import REFUSED_CLASS, REPAIRS, UNKNOWN, Row, blank, row_of
from h2k.fleet.rate import Rate
from h2k.fleet.sources import DISK, Source
from h2k.fleet.survey import changes, document, groups, read_survey, status_of

ROOT = Path(__file__).resolve().parents[2]


def row(name: str = "web", kind: str = CAN, **more: Any) -> Row:
    return {**blank(Source(f"/exports/{name}.qcow2", DISK, f"/exports/{name}.qcow2", name, "/exports")), "class": kind, **more}


def found(what: str, state: str, repair: str = "") -> dict[str, Any]:
    return Finding(what, state, "a subject", "what was seen", repair).as_json()


@pytest.mark.parametrize(
    ("classes", "status"),
    [((CAN,), READY), ((CAN, REPAIRS), READY), ((CAN, UNKNOWN), NOT_READY), ((UNKNOWN, REFUSED_CLASS, CAN), REFUSED), ((), READY)],
)
def test_the_status_is_that_of_the_worst_class(classes: tuple[str, ...], status: int) -> None:
    assert status_of([row(kind=kind) for kind in classes]) == status


def test_the_same_finding_is_one_group_with_one_thing_to_do() -> None:
    dirty = found("hive-dirty", "broken", "replayed")
    rows = [row(f"web{n}", REPAIRS, findings=[dirty, dirty], repairs=["hive-dirty"]) for n in range(142)]
    rows.append(row("old", REFUSED_CLASS, findings=[found("volume-dirty", "refused", "chkdsk"), found("nic-ghost", "broken")]))
    listed = groups(rows)
    assert [(g["id"], g["state"], g["count"]) for g in listed] == [("volume-dirty", "refused", 1), ("hive-dirty", "broken", 142)]
    assert listed[0]["action"] == "chkdsk; or go on in spite of it: --accept volume-dirty"
    assert "fleet run" in listed[1]["action"] and listed[1]["guests"][0] == "/exports/web0.qcow2"


def test_the_same_reason_of_other_files_is_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(n, REFUSED_CLASS, reason=f"/exports/{n}.qcow2: the image is empty", actions=["copy it again"]) for n in "abc"]
    rows += [row(n, UNKNOWN, reason="running") for n in "de"]
    assert [(g["id"], g["count"], g["action"]) for g in groups(rows)] == [("the image is empty", 3, "copy it again"), ("running", 2, "")]
    monkeypatch.setattr(survey, "SHOWN_IN_GROUP", 2)
    assert len(groups(rows)[0]["guests"]) == 2 and groups(rows)[0]["count"] == 3


def test_what_changed_since_the_last_survey() -> None:
    old = [row("a"), row("b", REFUSED_CLASS, reason="empty"), row("c")]
    new = [row("a"), row("b", CAN), row("d")]
    told = {(c["key"][9:-6], c["change"], c["was"], c["now"]) for c in changes(old, new)}
    assert told == {("b", "class", REFUSED_CLASS, CAN), ("b", "reason", "empty", ""), ("d", "new", None, CAN), ("c", "gone", CAN, None)}
    assert changes(new, new) == []


def test_the_document_keeps_its_schema_and_is_read_again(tmp_path: Path) -> None:
    rows = [row("a", bytes=1000, findings=[found("x", "warning", "y")]), row("b", UNKNOWN, reason="running")]
    content = document(rows, Rate(100.0, "2026-11-27", "made"), ["a note"], document([row("a")], None))
    assert content["guests"][0]["estimate"] == 10 and content["guests"][1]["estimate"] is None
    assert content["classes"] == {CAN: 1, REPAIRS: 0, UNKNOWN: 1, REFUSED_CLASS: 0} and content["bytes"] == 1000
    path = tmp_path / "survey.json"
    path.write_text(json.dumps(content))
    assert read_survey(path) == content


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema": 2}, "a survey of schema 2; this h2k reads 1"),
        ({"guests": [{"key": "a"}]}, "guests/0"),
        ({"guests": None}, "guests: "),
    ],
)
def test_another_file_is_no_survey(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    path = tmp_path / "survey.json"
    path.write_text(json.dumps({**document([row()], None), **change}))
    with pytest.raises(UsageError, match=why):
        read_survey(path)
    path.write_text("[]")
    with pytest.raises(UsageError, match="not a survey of h2k"):
        read_survey(path)


def test_docs_have_the_schema() -> None:
    assert json.loads((ROOT / "docs" / "schemas" / "survey.json").read_text()) == survey.schema()


def test_remedies_are_spelled_as_h2k_spells_them() -> None:
    source = Source("/exports/web.qcow2", DISK, "/nowhere", "web")
    error = row_of(Ended(source, None, "no driver: give --h2k-drivers PATH", "or --h2k-bus sata", 3))
    assert (error["reason"], error["actions"]) == ("no driver: give --drivers PATH", ["or --bus sata"])
    why = Finding("driver-unsigned", "refused", "viostor", "see --h2k-drivers", "convert with --h2k-bus sata")
    seen = Examination(Proposal((why,), (), ()), (), Report(findings=[why]), SOURCE)
    told = look._seen(seen, None)
    assert told["actions"] == ["driver-unsigned: convert with --bus sata"]
    (listed,) = groups([row(kind=REFUSED_CLASS, findings=told["findings"], repairs=[])])
    assert listed["action"] == "convert with --bus sata; or go on in spite of it: --accept driver-unsigned"
    assert "--h2k-" not in json.dumps([told, listed])
