"""Our own options on the wrappers' command lines: parsed by the table, with what is wrong said by name."""

from __future__ import annotations

import pytest

from h2k.base.errors import UsageError
from h2k.base.option_table import QEMU_IMG, V2V, options_of
from h2k.convert.h2k_options import H2kOptions, help_text, read, take
from h2k.engine.request import Request


@pytest.fixture(autouse=True)
def no_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("H2K_MODE", raising=False)


@pytest.mark.parametrize("program", [V2V, QEMU_IMG])
def test_every_option_is_taken_in_every_spelling(program: str) -> None:
    for option in options_of(program):
        value = option.choices[0] if option.choices else "x=y"
        if option.metavar:
            assert take(f"--h2k-{option.name}={value}", iter(()), program) == (option.name, value)
            waiting = iter([value, "next"])
            assert take(f"-h2k-{option.name}", waiting, program) == (option.name, value) and next(waiting) == "next"
            for given in ([f"--h2k-{option.name}="], [f"--h2k-{option.name}"]):
                with pytest.raises(UsageError, match=f"needs a value .*--h2k-{option.name} "):
                    take(given[0], iter(()), program)
        else:
            waiting = iter(["next"])
            assert take(f"--h2k-{option.name}", waiting, program) == (option.name, "yes") and next(waiting) == "next"
            with pytest.raises(UsageError, match="takes no value"):
                take(f"--h2k-{option.name}=no", iter(()), program)


@pytest.mark.parametrize(
    ("program", "argument", "said"),
    [
        (V2V, "--h2k-buss=sata", "no such option .*did you mean --h2k-bus"),
        (V2V, "--h2k-firmware=bios", "no such option"),
        (QEMU_IMG, "--h2k-stage=/x", "no such option"),
        (V2V, "--h2k-bus=ide", "--h2k-bus ide: no such bus .*one of virtio, virtio-scsi, sata"),
        (V2V, "--h2k-mode=efi", "no such mode"),
    ],
)
def test_what_is_wrong_is_said_by_name(program: str, argument: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        take(argument, iter(()), program)


def test_firmware_has_the_name_efi_too() -> None:
    assert take("--h2k-firmware=efi", iter(()), QEMU_IMG) == ("firmware", "efi")


def test_nothing_is_given() -> None:
    assert read([]) == H2kOptions() == H2kOptions(Request(), "repair", None, False, False, False, False, {})


def test_what_is_given() -> None:
    given = [("plan", "a"), ("plan", "b"), ("bus", "sata"), ("report", "/r"), ("dry-run", "yes"), ("boot", "yes"), ("stage", "/s"),
             ("mode", "report"), ("root", "first")]  # fmt: skip
    assert read(given) == H2kOptions(
        Request(bus="sata", plans=("a", "b"), root="first"), "report", "/r", dry_run=True, boot=True, own={"stage": "/s"}
    )
    assert read([("help", "yes")]).help and read([("version", "yes")]).version


def test_ours_stand_above_the_other_tool_s() -> None:
    assert read([], root="first", bus="virtio-scsi").request == Request(root="first", bus="virtio-scsi")
    assert read([("bus", "sata")], bus="virtio-scsi").request.bus == "sata"


def test_the_mode_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("H2K_MODE", "report")
    assert read([]).mode == "report" and read([("mode", "repair")]).mode == "repair"
    monkeypatch.setenv("H2K_MODE", "")
    assert read([]).mode == "repair"
    monkeypatch.setenv("H2K_MODE", "watch")
    with pytest.raises(UsageError, match="H2K_MODE watch: no such mode"):
        read([])


@pytest.mark.parametrize("program", [V2V, QEMU_IMG])
def test_the_help_lists_every_option_and_the_statuses(program: str) -> None:
    text = help_text(program, "virt-v2v")
    for option in options_of(program):
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [f"--h2k-{option.name}"]]
        assert option.help[1:] in line and all(choice in line for choice in option.choices)
        assert ("may be given again" in line) == option.many
    assert "3 refused" in text


@pytest.mark.parametrize("program", [V2V, QEMU_IMG])
def test_the_help_has_an_example_of_its_own_program(program: str) -> None:
    assert f"Example:\n  {program} " in help_text(program, "the tool")
