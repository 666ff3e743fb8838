"""Whether a loader takes a driver: by the plan's signers, test signing, SHA-2 and Secure Boot."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from h2k.config.driver_plan import load_plan
from h2k.guest.driver_signatures import (
    PACKAGES,
    SHA2,
    TEST_SIGNED,
    UNSIGNED,
    Fault,
    Loader,
    judge,
    judge_late,
    other_drivers,
    read_loader,
    signer,
    trusted,
)
from h2k.windows.signature import read_signatures
from tests.guests.pe import make_pe
from tests.guests.signing import CHAINS, sign_catalogue, sign_pe
from tests.unit.helpers import windows
from tests.unit.memory_reader import windows_guest

PLAN = load_plan()
PLAIN = make_pe("amd64", b"driver")
LOADER = Loader(windows())
INSTALLED = '"CurrentState"=dword:00000070\n'
SEVEN = Loader(windows((6, 1), 7601), sha2=False)


def found(data: bytes, loader: Loader = LOADER, **changed: Any) -> str:
    fault = judge(data, "x.sys", PLAN, dataclasses.replace(loader, **changed))
    return fault.found if fault is not None else ""


@pytest.mark.parametrize(("by", "wanted"), [
    ("whql", ""), ("windows", ""), ("windows-2023", ""), ("cross", ""), ("test", TEST_SIGNED), ("vendor", TEST_SIGNED), ("uefi", TEST_SIGNED),
])  # fmt: skip
def test_whose_signature_counts(by: str, wanted: str) -> None:
    assert found(sign_pe(PLAIN, by)) == wanted
    assert found(sign_pe(PLAIN, by), secure_boot=True) == wanted


def test_no_signature_and_one_of_other_content() -> None:
    assert found(PLAIN) == UNSIGNED
    changed = bytearray(sign_pe(PLAIN))
    changed[600] ^= 1
    fault = judge(bytes(changed), "x.sys", PLAN, LOADER)
    assert fault is not None and fault.found == UNSIGNED and f"the signature of {CHAINS['whql'][0]} is not this file's" in fault.evidence


def test_a_table_with_anything_else_is_no_signature() -> None:
    junk = bytearray(sign_pe(PLAIN))
    junk[len(PLAIN) + 8 :] = bytes(len(junk) - len(PLAIN) - 8)
    fault = judge(bytes(junk), "x.sys", PLAN, LOADER)
    assert fault is not None and fault.found == UNSIGNED and fault.evidence.startswith("its certificate table holds no signature")


def test_test_signing_counts_only_without_secure_boot() -> None:
    test = sign_pe(PLAIN, "test")
    assert found(test, test_signing=True) == ""
    assert found(test, test_signing=True, secure_boot=True) == TEST_SIGNED
    assert found(PLAIN, test_signing=True) == UNSIGNED


@pytest.mark.parametrize(
    ("year", "build", "secure_boot", "wanted"),
    [(2015, 14393, True, ""), (2016, 14393, True, TEST_SIGNED), (2016, 14393, False, ""), (2016, 10586, True, "")],
)
def test_a_late_cross_certificate_counts_no_more_under_secure_boot(year: int, build: int, secure_boot: bool, wanted: str) -> None:
    loader = Loader(windows(build=build), secure_boot=secure_boot)
    assert found(sign_pe(PLAIN, "cross", year=year), loader) == wanted


def test_a_cross_certificate_is_late_from_its_day_on_or_when_nobody_knows() -> None:
    (ca,) = [signer for signer in PLAN.signers if signer.cross_until]
    until = date.fromisoformat(ca.cross_until)
    loader = Loader(windows(build=14393), secure_boot=True)
    (signature,) = read_signatures(sign_pe(PLAIN, "cross"), "x.sys")
    for since, counts in ((until - timedelta(days=1), True), (until, False), (None, False)):
        assert trusted(dataclasses.replace(signature, since=since), PLAN, loader) is counts
    late = dataclasses.replace(signature, since=until)
    assert trusted(late, PLAN, dataclasses.replace(loader, windows=windows(build=14392)))
    assert trusted(late, PLAN, dataclasses.replace(loader, secure_boot=False))


@pytest.mark.parametrize(
    ("digests", "sha2", "wanted"),
    [(("sha256",), False, SHA2), (("sha256",), True, ""), (("sha1", "sha256"), False, ""), (("sha1",), False, "")],
)
def test_sha_256_alone_needs_an_update_on_windows_7(digests: tuple[str, ...], sha2: bool, wanted: str) -> None:
    assert found(sign_pe(PLAIN, digests=digests), SEVEN, sha2=sha2) == wanted


def test_what_keeps_a_driver_from_loading_is_said() -> None:
    def said(data: bytes, loader: Loader) -> str:
        fault = judge(data, "x.sys", PLAN, loader)
        assert fault is not None
        return fault.evidence

    assert said(PLAIN, LOADER) == "it carries no signature"
    by = signer(read_signatures(sign_pe(PLAIN, "test"), "x.sys"))
    assert said(sign_pe(PLAIN, "test"), LOADER) == f"signed by {by}, whom the loader of Windows does not trust"
    secure = dataclasses.replace(LOADER, secure_boot=True)
    assert said(sign_pe(PLAIN, "test"), secure) == f"signed by {by}, whom Windows under Secure Boot does not trust"
    assert said(sign_pe(PLAIN), SEVEN) == "its only signature is SHA256, and KB3033929 or KB4474419 is not installed"


def test_who_signed_is_named_with_who_vouches_for_him() -> None:
    (signature,) = read_signatures(sign_pe(PLAIN), "x.sys")
    whql = CHAINS["whql"]
    assert signer([signature]) == f"{whql[0]} ({whql[1]})"
    assert signer([dataclasses.replace(signature, issuers=(signature.signer,))]) == f"{whql[0]} (by its own word)"
    assert signer([dataclasses.replace(signature, issuers=())]) == f"{whql[0]} (?)"


def test_a_test_signature_s_digest_counts_too() -> None:
    assert found(sign_pe(PLAIN, "test"), SEVEN, test_signing=True) == SHA2
    assert found(sign_pe(PLAIN, "test", digests=("sha1",)), SEVEN, test_signing=True) == ""


def test_a_ca_of_one_s_own_in_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text('signers: [{name: "digicert trusted root g4"}]\n')
    assert judge(sign_pe(PLAIN, "vendor"), "x.sys", load_plan([path]), LOADER) is None
    assert judge(sign_pe(PLAIN), "x.sys", load_plan([path]), LOADER) is None  # the packaged ones stay


@pytest.mark.parametrize(
    ("package", "known"),
    [
        ("Package_for_KB4474419~31bf3856ad364e35~amd64~~6.1.3.2", True),
        ("Package_1_for_KB3033929~31bf3856ad364e35~amd64~~6.1.1.1", True),
        ("Package_for_KB2533552~31bf3856ad364e35~amd64~~6.1.1.1", False),
    ],
)
def test_the_update_is_looked_for(package: str, known: bool) -> None:
    def loader(state: str) -> Loader:
        text = f"[{PACKAGES}\\A_package_before_it]\n{INSTALLED}[{PACKAGES}\\{package}]\n{state}"
        return read_loader(windows_guest(software=text, version="6.1", build="7601", firmware="bios"), False)

    for state in ("00000050", "00000070", "00000080"):  # superseded by a later one, installed, for good
        assert loader(INSTALLED.replace("00000070", state)).sha2 is known
    for state in ("00000005", "00000040", "00000060", "00000065", "ffffff90"):  # going, staged, on its way, in part, broken
        assert not loader(INSTALLED.replace("00000070", state)).sha2
    assert not loader("").sha2
    assert read_loader(windows_guest(), False).sha2 and read_loader(windows_guest(version="6.2", build="9200"), False).sha2


def test_who_is_strict() -> None:
    assert LOADER.strict and not Loader(windows(arch="x86")).strict and Loader(windows(arch="x86"), secure_boot=True).strict


@pytest.mark.parametrize(("found", "arch", "secure_boot", "refused"), [
    (UNSIGNED, "amd64", False, True), (SHA2, "amd64", False, True), (UNSIGNED, "x86", False, False), (SHA2, "x86", False, False),
    (TEST_SIGNED, "x86", True, True), (SHA2, "x86", True, False),
])  # fmt: skip
def test_which_fault_keeps_a_driver_from_loading(found: str, arch: str, secure_boot: bool, refused: bool) -> None:
    assert Loader(windows(arch=arch), secure_boot=secure_boot).refuses(Fault(found, "")) is refused


def late(data: bytes, catalogue: bytes, loader: Loader = LOADER) -> str:
    fault = judge_late(data, "x.sys", {"a.cat": b"made", "x.cat": catalogue}, PLAN, loader)
    return fault.evidence if fault is not None else ""


@pytest.mark.parametrize("data", [PLAIN, sign_pe(PLAIN, "test")], ids=["unsigned", "test"])
def test_a_catalogue_counts_for_a_driver_that_starts_later(data: bytes) -> None:
    assert late(data, sign_catalogue([PLAIN])) == late(data, sign_catalogue([data], listed="sha1")) == ""
    for bad in (b"made", sign_catalogue([PLAIN], "test"), sign_catalogue([make_pe("amd64", b"another")])):
        assert late(data, bad).endswith(", and no catalogue that counts lists it")
    assert late(data, sign_catalogue([PLAIN], "test"), dataclasses.replace(LOADER, test_signing=True)) == ""
    assert late(data, sign_catalogue([PLAIN]), SEVEN) and not late(data, sign_catalogue([PLAIN], digest="sha1"), SEVEN)
    assert late(sign_pe(PLAIN), b"made") == "", "a file that is signed needs no catalogue"


def test_the_way_out_is_that_of_the_fault() -> None:
    assert "KB4474419" in other_drivers(Fault(SHA2, "")) and "Microsoft has signed" in other_drivers(Fault(UNSIGNED, ""))
