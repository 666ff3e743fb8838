"""The table of virt-v2v's options: each row, in every spelling, reaches virt-v2v unchanged, in order, and is understood."""

from __future__ import annotations

from typing import Any

import pytest

from h2k.base.errors import H2kError
from h2k.convert import v2v
from h2k.convert.v2v_command import parse
from h2k.convert.v2v_options import BY_LETTER, BY_NAME, OPTIONS, SIDES, Option

# virt-v2v 2.2 --long-options and --short-options, without --bridge and the like that have both.
OF_2_2 = """bridge bandwidth bandwidth-file color colors colour colours compressed debug-gc echo-keys help ic if in-place io
ip it key keys-from-stdin mac machine-readable network no-trim oa oc of on oo op os password-file print-source quiet
qemu-boot root version verbose vddk-config vddk-cookie vddk-libdir vddk-nfchostport vddk-port vddk-snapshot
vddk-thumbprint vddk-transports vdsm-compat vdsm-image-uuid vdsm-ovf-flavour vdsm-ovf-output vdsm-vm-uuid vdsm-vol-uuid
vmtype wrap i o x long-options short-options""".split()
VALUES = {"i": "disk", "o": "local", "machine-readable": None, "block-driver": "virtio-blk"}


def spellings(option: Option) -> list[list[str]]:
    """Every way in which virt-v2v takes it."""
    if not option.value:
        ways = [[f"--{option.name}"], [f"-{option.name}"]]
        return [*ways, [f"-{option.letter}"]] if option.letter else ways
    value = VALUES.get(option.name) or "a=b,c:d"
    ways = [[f"--{option.name}", value], [f"-{option.name}", value]]
    if len(option.name) > 1:
        ways += [[f"--{option.name}={value}"], [f"-{option.name}={value}"]]
    letter = option.letter or (option.name if len(option.name) == 1 else "")
    return [*ways, [f"-{letter}", value], [f"-{letter}{value}"]] if letter else ways


ROWS = [(option, way) for option in OPTIONS for way in spellings(option)]


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What virt-v2v gets, instead of a process."""
    found: list[list[str]] = []

    def record(argv: Any) -> int:
        found.append(list(argv))
        return 0

    def unreadable(*_: Any) -> Any:
        raise H2kError("no source in this test")

    monkeypatch.setenv("H2K_KVM", "no")
    monkeypatch.setattr(v2v, "pass_through", record)
    monkeypatch.setattr(v2v, "open_source", unreadable)
    return found


@pytest.mark.parametrize(("option", "way"), ROWS, ids=lambda v: " ".join(v) if isinstance(v, list) else v.name)
def test_every_option_reaches_virt_v2v_as_it_was_given(
    option: Option, way: list[str], arrived: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("H2K_MODE", "report")
    argv = ["-q", *way, "-v", "--wrap"]
    assert v2v.main_v2v(argv) == 0
    assert arrived == [["virt-v2v", *argv]]


@pytest.mark.parametrize(("option", "way"), ROWS, ids=lambda v: " ".join(v) if isinstance(v, list) else v.name)
def test_what_follows_an_option_is_not_taken_for_its_value(option: Option, way: list[str]) -> None:
    found = parse([*way, "guest"])
    assert found.arguments == ("guest",)
    assert found.informational == (option.side == "question")


def test_the_table_has_every_option_of_2_2_and_says_when_the_others_came() -> None:
    assert sorted(o.name for o in OPTIONS if o.since is None) == sorted(OF_2_2)
    assert len(BY_NAME) == len(OPTIONS)
    assert set(BY_LETTER) == set("bmnioqvVx")


def test_the_table_is_well_formed() -> None:
    versions = (None, "2.4", "2.6", "2.8", "2.10", "2.12")
    for option in OPTIONS:
        assert option.side in SIDES and option.since in versions and option.until in versions, option


@pytest.mark.parametrize("question", [o for o in OPTIONS if o.side == "question"], ids=lambda o: o.name)
def test_a_question_is_virt_v2vs_alone(
    question: Option, arrived: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("h2k looked at the source of a question")

    monkeypatch.delenv("H2K_MODE", raising=False)
    monkeypatch.setattr(v2v, "open_source", never)
    argv = ["-i", "disk", "g.img", f"--{question.name}"]
    assert v2v.main_v2v(argv) == 0
    assert arrived == [["virt-v2v", *argv]]
