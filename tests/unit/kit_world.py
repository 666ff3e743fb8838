"""What the tests of the Windows kit share: images of an ISO, answers, a row of evidence."""

from __future__ import annotations

import copy
from typing import Any

from tests.windows.answer_file import Answers
from tests.windows.media import Image

SHA = "ab" * 32


def an_image(build: int = 20348, server: bool = True, arch: str = "amd64", index: int = 1, name: str = "Windows") -> Image:
    return Image(index, name, "ServerStandardEval", arch, build, server, "en-US")


def answers(build: int = 20348, server: bool = True, arch: str = "amd64", firmware: str = "uefi") -> Answers:
    return Answers(an_image(build, server, arch), firmware)


SIDE: dict[str, Any] = {"tool": "h2k-v2v", "status": 0, "outcome": "starts", "lab": "starts", "reason": ""}
ROW: dict[str, Any] = {
    "run": "win2022-uefi-healthy-20260101T000000Z-abcdef01", "stand_in": False, "fault": "healthy", "into": "source",
    "answer": "ready", "firmware": "uefi", "virtio_win_sha256": SHA, "files_sha256": SHA, "versions": {"h2k": "0.2.0"},
    "windows": {"name": "Windows Server 2022", "release": "win2022", "build": 20348, "arch": "amd64", "iso_sha256": SHA},
    "with": SIDE, "without": {**SIDE, "tool": "virt-v2v"},
}  # fmt: skip


def a_row(run: str = "", with_h2k: str = "starts", without: str = "starts", labs: tuple[str, str] = ("", ""), **more: Any) -> dict[str, Any]:
    """A row; the lab agrees unless `labs` says what it did with and without h2k."""
    row = copy.deepcopy({**ROW, **more})
    row["run"] = run or row["run"]
    row["with"].update(outcome=with_h2k, lab=labs[0] or with_h2k)
    row["without"].update(outcome=without, lab=labs[1] or without)
    for side in ("with", "without"):
        if row[side]["lab"] not in ("starts", "stops", "silent", "restarts"):
            row[side]["lab"] = "not tried"
    return row
