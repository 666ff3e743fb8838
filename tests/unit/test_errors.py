"""The expected failures: each has its exit status, one line, and a way out; all of it fit to be shown."""

from __future__ import annotations

import pytest

from h2k.base.errors import BadData, H2kError, InUse, NotVerified, Refused, Unknown, UsageError


@pytest.mark.parametrize(
    ("kind", "status"), [(H2kError, 1), (UsageError, 2), (Refused, 3), (BadData, 3), (NotVerified, 5), (Unknown, 1)]
)
def test_each_kind_has_its_status(kind: type[H2kError], status: int) -> None:
    """README.md's table; what can't be read beforehand is no reason to stop."""
    error = kind("disk.qcow2: damaged", hint="copy it again")
    assert (error.exit_status, str(error), str(kind("x"))) == (status, "disk.qcow2: damaged (copy it again)", "x")


def test_somebody_who_uses_an_image_is_a_refusal_with_its_finding() -> None:
    error = InUse("/g-sda", "in use by web")
    assert isinstance(error, Refused) and (error.subject, error.who) == ("/g-sda", "in use by web")
    assert str(error) == "source-running: /g-sda: in use by web (shut it down, then give the same command)"


def test_what_is_shown_steers_no_terminal_and_tells_no_secret() -> None:
    error = H2kError("a\x1b[2Jb\nc", hint="esx://root:hunter2@host", commands=("h2k fix\x07", "password=hunter2"))
    assert "\x1b" not in error.message and "\n" not in error.message
    assert "hunter2" not in str(error) + "".join(error.commands) and "\x07" not in error.commands[0]
