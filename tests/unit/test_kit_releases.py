"""The releases by build, and the firmware that each starts under."""

from __future__ import annotations

import pytest

from tests.unit.kit_world import an_image
from tests.windows.releases import firmware_for, release_of
from tests.windows.steps import StepFailed


@pytest.mark.parametrize(("build", "server", "key"), [
    (7601, False, "win7"), (7601, True, "win2008r2"), (9200, True, "win2012"), (9600, False, "win8.1"), (19045, False, "win10"),
    (14393, True, "win2016"), (17763, True, "win2019"), (20348, True, "win2022"), (22631, False, "win11"), (26100, True, "win2025"),
    (26100, False, "win11"),
])  # fmt: skip
def test_a_build_is_a_release(build: int, server: bool, key: str) -> None:
    assert release_of(an_image(build, server)).key == key


@pytest.mark.parametrize(("build", "server"), [(6002, True), (2600, False), (30000, False)])
def test_an_unknown_build_is_told(build: int, server: bool) -> None:
    with pytest.raises(StepFailed, match=f"build {build}"):
        release_of(an_image(build, server))


@pytest.mark.parametrize(("build", "arch", "wanted", "got"), [
    (20348, "amd64", "", "uefi"), (20348, "amd64", "bios", "bios"), (7601, "amd64", "", "bios"), (9200, "x86", "", "bios"),
])  # fmt: skip
def test_uefi_is_taken_where_it_can_be_had(build: int, arch: str, wanted: str, got: str) -> None:
    assert firmware_for(an_image(build, True, arch), wanted) == got


@pytest.mark.parametrize(("build", "arch"), [(7601, "amd64"), (9200, "x86")])
def test_uefi_that_can_not_start_it_is_refused(build: int, arch: str) -> None:
    with pytest.raises(StepFailed, match="FIRMWARE=bios"):
        firmware_for(an_image(build, True, arch), "uefi")
