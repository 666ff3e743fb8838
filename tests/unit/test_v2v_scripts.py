"""Which first-boot scripts a version of virt-v2v stages, and so whether it needs rhsrvany.exe."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Optional

import pytest

from h2k.base.run import CommandFailed
from h2k.convert import v2v_scripts
from h2k.convert.v2v_scripts import NEWEST, SCRIPTS, installed_version, read_version, restarts, shown, staged


@pytest.mark.parametrize(
    ("text", "version", "said"),
    [
        ("virt-v2v 2.2.0\n", (2, 2), "virt-v2v 2.2"),
        ("virt-v2v 2.3.7", (2, 4), "virt-v2v 2.4"),
        ("virt-v2v 2.7.1rhel=9,release=4.el9", (2, 8), "virt-v2v 2.8"),
        ("virt-v2v 2.10.0", (2, 10), "virt-v2v 2.10"),
        ("virt-v2v: not found", NEWEST, "virt-v2v"),
        ("", NEWEST, "virt-v2v"),
    ],
)
def test_versions(text: str, version: tuple[int, int], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_version(text) == version
    assert shown(version) == said
    monkeypatch.setattr(v2v_scripts, "run", lambda *_, **__: SimpleNamespace(stdout=text.encode()))
    assert installed_version() == version


def test_a_virt_v2v_that_is_not_there_is_taken_for_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(argv: Any, **_: Any) -> None:
        raise CommandFailed(argv, 127, "")

    monkeypatch.setattr(v2v_scripts, "run", missing)
    assert installed_version() == NEWEST


@pytest.mark.parametrize(
    ("version", "tools", "files", "options", "names"),
    [
        ((2, 2), [], [], [], []),
        ((2, 2), ["VMware Tools 12"], [], [], ["uninstall VMware Tools"]),
        ((2, 2), ["QEMU guest agent"], ["guest agent"], [], ["qemu-ga"]),
        ((2, 2), [], [], [("mac", "52:54:00:01:02:03:ip:192.0.2.5,192.0.2.1,24")], ["network-configure"]),
        ((2, 2), [], [], [("mac", "52:54:00:01:02:03:network:default"), ("firstboot", "x")], []),
        ((2, 4), [], [], [], ["pnputil install drivers"]),
        ((2, 6), [], [], [("firstboot", "x.bat")], ["pnputil install drivers", "online-disks", "firstboot"]),
        (NEWEST, ["Parallels Tools"], [], [("mac", None)], ["pnputil install drivers", "online-disks", "uninstall Parallels tools"]),
    ],
)
def test_scripts(
    version: tuple[int, int], tools: list[str], files: list[str], options: list[tuple[str, Optional[str]]], names: list[str]
) -> None:
    assert [script.name for script in staged(version, tools, files, options)] == names


@pytest.mark.parametrize(("version", "count"), [((2, 4), 0), ((2, 6), 2), (NEWEST, 2)])
def test_each_script_restarts_the_guest_once_where_virt_v2v_does_that(version: tuple[int, int], count: int) -> None:
    assert restarts(version, SCRIPTS[:2]) == count


def test_the_table_is_well_formed() -> None:
    assert len({script.name for script in SCRIPTS}) == len(SCRIPTS)
    for script in SCRIPTS:
        assert script.when in ("always", "option", "tool", "file") and bool(script.what) == (script.when != "always")
