"""What a program that may be killed is given: directories of ours, the appliance that was built before, a token."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from h2k.base.children import RUN, cleaned_up
from h2k.base.errors import H2kError

NAMES = ("TMPDIR", "LIBGUESTFS_CACHEDIR", "VIRT_V2V_TMPDIR")


@pytest.mark.parametrize(("given", "cache", "large"), [
    ({}, "DEFAULT", "DEFAULT"),
    ({"TMPDIR": "t"}, "t", "t"),
    ({"TMPDIR": "t", "LIBGUESTFS_CACHEDIR": "c"}, "c", "c"),
    ({"LIBGUESTFS_CACHEDIR": "c", "VIRT_V2V_TMPDIR": "v"}, "c", "v"),
])  # fmt: skip
def test_large_files_and_the_appliance_stay_where_they_would_be(
    given: dict[str, str], cache: str, large: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("t", "c", "v", "DEFAULT"):
        (tmp_path / name).mkdir()
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setattr("h2k.base.children.LARGE", str(tmp_path / "DEFAULT"))
    with cleaned_up("h2k-test-") as environment:
        assert environment["LIBGUESTFS_CACHEDIR"] == str(tmp_path / cache)
        files = Path(environment["VIRT_V2V_TMPDIR"])
        assert files.parent == tmp_path / large and files.name == f"h2k-test-{environment[RUN]}"
        assert stat.S_IMODE(files.stat().st_mode) == 0o711
    assert not files.exists() and not Path(environment["TMPDIR"]).exists()


def test_a_place_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRT_V2V_TMPDIR", str(tmp_path / "none"))
    with pytest.raises(H2kError, match="none: No such file") as caught, cleaned_up("h2k-test-"):
        pass
    assert "VIRT_V2V_TMPDIR" in caught.value.hint
