"""The probe of KVM with QEMU's own processor: its code runs to the end, and a processor that does not is found."""

from __future__ import annotations

import pytest

from h2k.base import kvm


def test_a_processor_that_works() -> None:
    assert kvm.probe("qemu-system-x86_64", "tcg")


def test_a_processor_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "_CODE", b"\xf4")
    monkeypatch.setattr(kvm, "LIMIT", 1)
    assert not kvm.probe("qemu-system-x86_64", "tcg")


def test_an_accelerator_that_is_not_there() -> None:
    assert not kvm.probe("qemu-system-x86_64", "none")
