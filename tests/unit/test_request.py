"""What a request opens of this host: the program that runs a first boot as a service."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2k.base.errors import UsageError
from h2k.engine import request
from h2k.engine.request import Request, open_tools
from tests.guests.pe import make_pe


def test_the_hosts_runner_comes_with_its_machine_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRT_TOOLS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(request, "virtio_win_path", lambda given: None)
    with open_tools(Request()) as tools:
        assert tools.runner is None and tools.options("result", None).runner is None
    for data, machine in ((make_pe("x86", b"made rhsrvany.exe"), "x86"), (make_pe("amd64", b"made"), "amd64"), (b"a stand-in", "")):
        (tmp_path / "rhsrvany.exe").write_bytes(data)
        with open_tools(Request()) as tools:
            runner = tools.options("result", None).runner
        assert runner is not None and (runner.name, runner.data, runner.machine) == ("rhsrvany.exe", data, machine)
    (tmp_path / "rhsrvany.exe").write_bytes(bytes(request.MAX_RUNNER + 1))
    with pytest.raises(UsageError, match="too many"), open_tools(Request()):
        pass
    (tmp_path / "rhsrvany.exe").unlink()
    (tmp_path / "rhsrvany.exe").mkdir()
    with pytest.raises(UsageError, match="can't be read"), open_tools(Request()):
        pass
