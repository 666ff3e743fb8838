"""UEFI builds by QEMU's descriptors: which is chosen, and what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import BadData, Refused
from h2k.domain.firmware import Firmware, choose_firmware


def descriptor(directory: Path, name: str, features: list[str], machines: Any = None, **mapping: Any) -> Path:
    directory.mkdir(exist_ok=True)
    code, variables = directory / f"{name}.code", directory / f"{name}.vars"
    code.touch()
    variables.touch()
    (directory / f"{name}.json").write_text(
        json.dumps(
            {
                "interface-types": ["uefi"],
                "mapping": {
                    "device": "flash",
                    "executable": {"filename": str(code), "format": "raw"},
                    "nvram-template": {"filename": str(variables), "format": "raw"},
                    **mapping,
                },
                "targets": [{"architecture": "x86_64", "machines": machines or ["pc-q35-*"]}],
                "features": features,
            }
        )
    )
    return code


def test_firmware_by_secure_boot_and_machine(tmp_path: Path) -> None:
    enrolled = descriptor(tmp_path, "40", ["secure-boot", "enrolled-keys", "requires-smm"])
    descriptor(tmp_path, "50", ["secure-boot", "requires-smm"])
    plain = descriptor(tmp_path, "60", [], ["pc-q35-*", "pc-i440fx-*"])
    assert choose_firmware([tmp_path], secure_boot=True) == Firmware(enrolled, tmp_path / "40.vars", True)
    assert choose_firmware([tmp_path]).loader == plain
    assert choose_firmware([tmp_path], machine="pc").loader == plain
    with pytest.raises(Refused, match="Secure Boot keys for pc"):
        choose_firmware([tmp_path], secure_boot=True, machine="pc")


def test_firmware_that_can_leave_secure_boot_off_is_second_choice(tmp_path: Path) -> None:
    descriptor(tmp_path, "40", ["secure-boot", "enrolled-keys", "requires-smm"])
    unenrolled = descriptor(tmp_path, "50", ["secure-boot", "requires-smm"])
    assert choose_firmware([tmp_path]) == Firmware(unenrolled, tmp_path / "50.vars", True)


def test_firmware_directories_override_and_mask(tmp_path: Path) -> None:
    own, packaged = tmp_path / "own", tmp_path / "packaged"
    descriptor(packaged, "40", [])
    other = descriptor(packaged, "60", [])
    mine = descriptor(own, "40", [])
    assert choose_firmware([own, packaged]).loader == mine
    (own / "40.json").write_text("")
    assert choose_firmware([own, packaged]).loader == other


@pytest.mark.parametrize(
    "mapping",
    [
        {"mode": "stateless"},
        {"device": "memory"},
        {"executable": {"filename": "/nowhere/code.fd", "format": "raw"}},
        {"executable": 1},
        {"nvram-template": {"filename": "x", "format": "qcow2"}},
    ],
)
def test_firmware_that_does_not_fit(tmp_path: Path, mapping: dict[str, Any]) -> None:
    descriptor(tmp_path, "40", [], None, **mapping)
    with pytest.raises(Refused, match="ovmf"):
        choose_firmware([tmp_path])


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\udc80"])
def test_bad_descriptor_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "40.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadData, match=r"40\.json"):
        choose_firmware([tmp_path])


def test_no_descriptor_directory(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="ovmf"):
        choose_firmware([tmp_path / "none"])
