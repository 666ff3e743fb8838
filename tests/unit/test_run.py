"""Which program runs when a link to one of h2k's wrappers stands on PATH under the name of the tool."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2k.base.run import find_program

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
