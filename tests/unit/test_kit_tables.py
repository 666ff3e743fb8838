"""Tables that people send: checked, joined, disagreements first, no markup let through, and no stand-in is a proof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import UsageError
from tests.unit.kit_world import a_row
from tests.windows.tables import EMPTY, disagreements, main, markdown, merge, proven, read_table, remarks, table, verdict

ROOT = Path(__file__).resolve().parents[2]


def written(path: Path, *rows: Any, **more: Any) -> Path:
    path.write_text(json.dumps({**table(rows), **more}))
    return path


def test_a_table_is_read_back(tmp_path: Path) -> None:
    assert read_table(written(tmp_path / "t.json", a_row())) == [a_row()]


@pytest.mark.parametrize("content", [
    "", "[]", "{}", "nul", '{"schema": 2, "rows": []}', '{"schema": 1, "rows": [{}]}', "[" * 100_000, '{"schema": 1, "rows": [], "x": 1}',
], ids=range(8))  # fmt: skip
def test_what_is_no_table_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(UsageError, match=r"t\.json: "):
        read_table(tmp_path / "t.json")


@pytest.mark.parametrize(("change", "place"), [
    ({"fault": "<script>"}, "rows/0/fault"), ({"stand_in": "no"}, "rows/0/stand_in"), ({"run": "x" * 500}, "rows/0/run"),
    ({"answer": "x" * 1000}, "rows/0/answer"), ({"firmware": "coreboot"}, "rows/0/firmware"), ({"more": 1}, "rows/0"),
    ({"files_sha256": "0"}, "rows/0/files_sha256"),
])  # fmt: skip
def test_a_row_that_is_not_the_kits_is_told_with_its_place(change: dict[str, Any], place: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=place):
        read_table(written(tmp_path / "t.json", {**a_row(), **change}))


def test_a_row_without_stand_in_is_none(tmp_path: Path) -> None:
    row = a_row()
    del row["stand_in"]
    with pytest.raises(UsageError, match="stand_in"):
        read_table(written(tmp_path / "t.json", row))


def test_a_file_that_is_too_large_or_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_table(tmp_path / "none.json")
    monkeypatch.setattr("tests.windows.tables.TABLE_LIMIT", 10)
    with pytest.raises(UsageError, match="larger than"):
        read_table(written(tmp_path / "t.json", a_row()))


@pytest.mark.parametrize(("guest", "lab", "found"), [
    ("starts", "stops", 1), ("stops", "starts", 1), ("silent", "starts", 1), ("stops", "silent", 0), ("starts", "not tried", 0),
    ("refused", "starts", 0),
])  # fmt: skip
def test_a_disagreement_needs_two_that_were_tried(guest: str, lab: str, found: int) -> None:
    assert len(disagreements(a_row(with_h2k=guest, labs=(lab, "")))) == found


def test_disagreements_come_first_then_what_speaks_against_h2k() -> None:
    rows = [
        a_row("c-fine", fault="a"), a_row("b-against", with_h2k="stops", fault="b"),
        a_row("a-lab", with_h2k="starts", without="stops", labs=("starts", "starts"), fault="z"),
    ]  # fmt: skip
    ordered = merge([rows[:1], rows[1:]])
    assert [row["run"] for row in ordered] == ["a-lab", "b-against", "c-fine"]
    text = markdown(ordered)
    assert text.startswith("**The boot lab and the guest disagree in 1 of 3 rows:**")
    assert "without: the guest stops, the lab starts" in text and text.count("DISAGREES") == 1


def test_a_run_counts_once_and_two_stories_of_it_are_refused() -> None:
    assert len(merge([[a_row()], [a_row()]])) == 1
    with pytest.raises(UsageError, match="two tables tell different things"):
        merge([[a_row()], [a_row(with_h2k="stops")]])


@pytest.mark.parametrize(("with_h2k", "without", "said"), [
    ("starts", "stops", "starts only with h2k"), ("starts", "starts", "starts with or without h2k"),
    ("stops", "starts", "starts only without h2k"), ("silent", "stops", "does not start"),
    ("refused", "stops", "refused, and it does not start"), ("refused", "starts", "refused, and it would have started"),
])  # fmt: skip
def test_the_verdict(with_h2k: str, without: str, said: str) -> None:
    assert verdict(a_row(with_h2k=with_h2k, without=without)) == said


def test_what_a_guest_lost_is_told_and_a_stand_in_had_nothing_to_lose() -> None:
    row = a_row()
    row["with"].update(addresses_kept=False, data_disk=False, stops=2)
    row["without"].update(addresses_kept=None, data_disk=True, stops=0)
    assert remarks(row, "with") == ["addresses lost", "data disk not at its letter", "2 stops in its event log"] and not remarks(row, "without")
    assert "starts (status 0); addresses lost; data disk" in markdown([row])
    assert remarks({**row, "stand_in": True}, "with") == []
    row["with"]["outcome"] = "stops"
    assert remarks(row, "with") == []


def test_markup_of_a_sender_is_text() -> None:
    row = a_row(without="stops")
    row["without"]["reason"] = "<img src=x> [a](b) | c\n# d `e`"
    line = markdown([row]).splitlines()[-1]
    assert "\\<img" in line and "\\[a\\]" in line and "\\|" in line and "\\`e\\`" in line


def test_a_stand_in_is_called_so_and_proves_nothing() -> None:
    row = a_row(stand_in=True)
    assert "STAND-IN, not Windows" in markdown([row])
    with pytest.raises(UsageError, match="a stand-in's row proves nothing"):
        proven([a_row("other"), row])


def test_proven_names_the_builds() -> None:
    text = proven([a_row()])
    assert "1 rows, 1 faults, on: win2022 20348" in text and EMPTY not in text


def test_the_document_is_made_of_the_tables_in_docs_evidence() -> None:
    rows = merge(read_table(path) for path in sorted((ROOT / "docs" / "evidence").glob("*.json")))
    assert (ROOT / "docs" / "proven.md").read_text(encoding="utf-8") == proven(rows)


def test_the_command_joins_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = [str(written(tmp_path / f"{n}.json", a_row(n))) for n in ("a", "b")]
    assert main(["merge", *tables, "-o", str(tmp_path / "all.json"), "--proven", str(tmp_path / "proven.md")]) == 0
    assert len(read_table(tmp_path / "all.json")) == 2
    assert "win2022" in (tmp_path / "proven.md").read_text() and "| guest |" in capsys.readouterr().out


def test_the_command_writes_nothing_of_a_stand_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "t.json", a_row(stand_in=True))
    assert main(["merge", str(file), "-o", str(tmp_path / "all.json"), "--proven", str(tmp_path / "proven.md")]) == 2
    assert not (tmp_path / "all.json").exists() and not (tmp_path / "proven.md").exists()
    assert "h2k-evidence: " in capsys.readouterr().err


def test_nothing_is_proven_by_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "--proven", str(tmp_path / "proven.md")]) == 0
    assert EMPTY in (tmp_path / "proven.md").read_text() and capsys.readouterr().out == "no rows\n"
