"""Running other programs: which one runs when a link to one of h2k's wrappers stands on PATH under its name, and how one fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2k.base.run import CommandFailed, find_program

WRAPPERS = Path(__file__).resolve().parents[2] / "wrappers"


@pytest.mark.parametrize(("tool", "wrapper"), [("virt-v2v", "h2k-v2v"), ("qemu-img", "h2k-qemu-img")])
def test_the_real_tool_behind_the_link_is_found_by_every_command(
    tool: str, wrapper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links, real = tmp_path / "links", tmp_path / "real"
    links.mkdir()
    real.mkdir()
    (links / tool).symlink_to(WRAPPERS / wrapper)
    (real / tool).write_text("#!/bin/sh\n")
    (real / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{links}:{real}")
    assert find_program(tool) == str(real / tool)
    assert find_program(str(links / tool)) == str(links / tool)
    monkeypatch.setenv("PATH", str(links))
    assert find_program(tool) == tool


def test_a_full_disk_is_told_by_its_file_and_not_by_a_command_that_would_end_so_again() -> None:
    said = "a warning\nqemu-img: /g.h2k/overlay-0.qcow2: Could not write qcow2 header: No space left on device\n"
    error = CommandFailed(["/usr/bin/qemu-img", "create", "x"], 1, said)
    assert error.message == "/g.h2k/overlay-0.qcow2: Could not write qcow2 header: No space left on device"
    assert error.hint == "free some space, then give the same command" and error.stderr == said
