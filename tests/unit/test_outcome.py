"""How a run ended: status, word and sentence of findings, changes, proof and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

from h2k.base.errors import BadData, H2kError, NotVerified, Refused, UsageError
from h2k.base.finding import Finding
from h2k.engine import outcome as outcomes
from h2k.engine.outcome import Outcome

BROKEN = Finding("driver-not-boot-start", "broken", "viostor", "Start is 3", "set it")
DOMAIN = Finding("boot-disk-ambiguous", "broken", "vda", "another is first")
REFUSED = Finding("volume-encrypted", "refused", "C:", "BitLocker", "decrypt it")
WARNING = Finding("hive-dirty", "warning", "SYSTEM", "unknown")


@pytest.mark.parametrize(
    ("end", "status", "word", "sentence"),
    [
        (lambda: outcomes.of_source([WARNING], (), ()), 0, "OK TO CONVERT", "nothing is to be installed or repaired"),
        (lambda: outcomes.of_source([BROKEN], ("viostor", "netkvm"), ("hive-dirty",)), 0, "OK TO CONVERT",
         "will install viostor, netkvm; will repair hive-dirty"),
        (lambda: outcomes.of_result([WARNING], 0), 0, "READY", "healthy: every check holds"),
        (lambda: outcomes.of_result([], 2), 4, "NOT READY", "2 changes to make"),
        (lambda: outcomes.of_result([BROKEN], 0), 4, "NOT READY", "nothing to change on the disks, and wrong all the same: driver-not-boot-start, viostor: Start is 3"),
        (lambda: outcomes.of_result([BROKEN, DOMAIN, BROKEN], 3), 4, "NOT READY",
         "3 changes to make: driver-not-boot-start, boot-disk-ambiguous"),
        (lambda: outcomes.of_repair([BROKEN], 3, ["SYSTEM is dirty", "more"]), 5, "NOT VERIFIED",
         "the repair did not verify and was thrown away: SYSTEM is dirty"),
        (lambda: outcomes.of_repair([BROKEN], 3, []), 0, "READY", "repaired and verified: 3 changes"),
        (lambda: outcomes.of_repair([BROKEN], 1, [], "converted"), 0, "READY", "converted: 1 change"),
        (lambda: outcomes.of_repair([DOMAIN], 0, []), 0, "READY",
         "the disks are healthy; right in h2k's domains: boot-disk-ambiguous, vda: another is first"),
        (lambda: outcomes.of_repair([WARNING], 0, []), 0, "READY", "healthy: every check holds"),
        (lambda: outcomes.not_windows("debian"), 0, "LEFT ALONE", "not Windows (debian): left as it is"),
        (lambda: outcomes.after_commit(Refused("no pool"), "repaired"), 1, "FAILED", "repaired; but no pool"),
    ],
)  # fmt: skip
def test_an_end(end: Callable[[], Outcome], status: int, word: str, sentence: str) -> None:
    found = end()
    assert (found.status, found.word, found.sentence) == (status, word, sentence)


def test_every_refusal_is_told_with_its_way_out_and_explained_once() -> None:
    for found in (outcomes.of_source([REFUSED, BROKEN, REFUSED], ("x",), ()), outcomes.of_result([REFUSED, REFUSED], 3)):
        assert (found.status, found.word, found.next) == (3, "REFUSED", ("h2k explain volume-encrypted",))
        assert found.sentence == "; ".join(["volume-encrypted, C:: BitLocker → decrypt it"] * 2)


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (UsageError("x"), 2, "USAGE ERROR"), (Refused("x"), 3, "REFUSED"), (BadData("x"), 3, "REFUSED"),
        (NotVerified("x"), 5, "NOT VERIFIED"), (H2kError("x"), 1, "FAILED"),
    ],
)  # fmt: skip
def test_an_error(error: H2kError, status: int, word: str) -> None:
    assert outcomes.of_error(error) == Outcome(status, word, "x")


@pytest.mark.parametrize("status", [0, 2, 3, 4, 5, 77])
def test_another_program_s_status_has_not_our_meaning(status: int) -> None:
    error = H2kError("qemu-img ended")
    error.exit_status = status
    assert outcomes.of_error(error) == Outcome(status, "FAILED", "qemu-img ended")


@pytest.mark.parametrize(
    ("findings", "todo", "alone"),
    [([DOMAIN], 0, True), ([DOMAIN, WARNING], 0, True), ([DOMAIN], 1, False), ([DOMAIN, BROKEN], 0, False), ([DOMAIN, REFUSED], 0, False),
     ([], 0, False)],
)  # fmt: skip
def test_only_the_domains_are_wrong(findings: list[Finding], todo: int, alone: bool) -> None:
    assert outcomes.only_domains_wrong(findings, todo) == alone


def test_what_was_broken_is_repaired_only_when_the_run_is_ready() -> None:
    states = [[f.state for f in outcomes.settled([BROKEN, WARNING], Outcome(0, word, ""))] for word in ("READY", "OK TO CONVERT", "FAILED")]
    assert states == [["repaired", "warning"], ["broken", "warning"], ["broken", "warning"]]


def test_every_word_is_in_the_table_for_people() -> None:
    table = (Path(__file__).resolve().parents[2] / "docs" / "exit-status.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in table.splitlines() if line.startswith("| ")]
    told = {(status, word.strip()) for statuses, words in rows for status in statuses.split(", ") for word in words.replace(";", ",").split(",")}
    assert {(str(status), word) for status, word in outcomes.WORDS.items()} <= told
    assert {("0", outcomes.OK_TO_CONVERT), ("0", outcomes.LEFT_ALONE)} <= told
