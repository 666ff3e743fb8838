"""Signatures of boot drivers, on guests in memory: refused, replaced by the package's, or let pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.disk.reader import VolumeRef
from h2k.domain.uefi_variables import TrustedKeys
from h2k.engine.hooks import propose
from h2k.guest.changes import WriteFile
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import DriverSource, PackageBad, PackageMissing, open_source
from h2k.windows.signature import program_digest, read_signatures
from tests.guests.pe import make_pe, make_pe_with_broken_signature
from tests.guests.virtio_win import RELEASES, make_tree
from tests.unit.hooks import Said, ask, domain, options, packaged
from tests.unit.memory_reader import MemoryReader, apply_changes, driver, windows_guest
from tests.unit.test_hook_50_boot_loader import loader_with

PATH = "Windows/System32/drivers/viostor.sys"
ONLY = [release for release in RELEASES if release not in ("2k22", "w7", "w10")]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, DriverSource]]:
    """A virtio-win of each kind of signature, with the drivers of three Windows."""
    place = tmp_path_factory.mktemp("virtio-win")
    sources = {}
    for signed in ("whql", "none", "test", "sha256"):
        make_tree(place / signed, omit=[*ONLY, "xp", "2k3", "2k8"], signed=signed)
        with open_source(place / signed) as source:
            sources[signed] = source
    yield sources


def with_driver(by: str = "", **guest: Any) -> Guest:
    """A guest whose viostor.sys is signed by a chain, or not at all."""
    data = make_pe(guest.get("arch", "amd64"), b"made viostor", signed=bool(by), by=by or "whql")
    return windows_guest(driver("viostor"), files={PATH: data}, **guest)


def states(guest: Guest, **changed: Any) -> dict[str, set[str]]:
    return ask("signatures", guest, **changed).states()


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
@pytest.mark.parametrize("arch", ["amd64", "arm64"])
@pytest.mark.parametrize(("by", "found"), [
    ("whql", {}), ("", {"driver-unsigned": {"refused"}}), ("test", {"driver-test-signed": {"refused"}}), ("vendor", {"driver-test-signed": {"refused"}}),
])  # fmt: skip
def test_64_bit_windows_wants_a_signature_with_and_without_secure_boot(firmware: str, arch: str, by: str, found: dict[str, set[str]]) -> None:
    guest = with_driver(by, firmware=firmware, arch=arch)
    assert states(guest) == found
    for secure_boot in (False, True):
        assert states(guest, domain=domain(firmware=firmware, secure_boot=secure_boot)) == found


@pytest.mark.parametrize("bus", ["sata", "virtio-scsi"])
@pytest.mark.parametrize(("by", "found"), [("", "driver-unsigned"), ("test", "driver-test-signed")])
def test_a_driver_of_another_bus_must_not_start_at_boot_when_windows_would_stop_at_it(bus: str, by: str, found: str) -> None:
    guest = with_driver(by, sets=(1, 2))
    said = ask("signatures", guest, bus=bus)
    assert said.states() == {found: {"broken"}}
    after = apply_changes(guest, said.changes)
    assert [after.system.dword(f"ControlSet00{n}\\Services\\viostor", "Start", 0) for n in (1, 2)] == [3, 3]
    assert states(after, bus=bus) == {}
    assert states(after)[found] == {"refused"}, "of the chosen bus it is judged as ever"


def test_a_driver_of_another_bus_that_holds_nothing_up() -> None:
    assert states(with_driver("whql"), bus="sata") == {}
    assert states(with_driver(""), bus="sata", phase="source") == {}, "there Windows has started with it"
    assert states(with_driver("", arch="x86", version="6.3", build="9600"), bus="sata") == {}
    on_demand = windows_guest(driver("viostor", 3), files={PATH: make_pe("amd64", b"made viostor")})
    assert states(on_demand, bus="sata") == {}


@pytest.mark.parametrize(("by", "found"), [("", "driver-unsigned"), ("test", "driver-test-signed")])
def test_32_bit_windows_only_warns_but_under_secure_boot(by: str, found: str) -> None:
    guest = with_driver(by, arch="x86", version="6.3", build="9600")
    assert states(guest) == {found: {"warning"}}
    said = ask("signatures", guest, domain=domain(secure_boot=True))
    assert said.states() == {found: {"refused"}} and f"--h2k-accept {found}" in said.findings[0].repair


@pytest.mark.parametrize("phase", ["source", "result"])
@pytest.mark.parametrize(
    ("signed", "found"),
    [("whql", {}), ("none", {"driver-unsigned": {"refused"}}), ("test", {"driver-test-signed": {"refused"}}), ("sha256", {})],
)
def test_the_package_s_driver_is_what_will_start(
    trees: dict[str, DriverSource], phase: str, signed: str, found: dict[str, set[str]]
) -> None:
    said = ask("signatures", windows_guest(), drivers=trees[signed], phase=phase)
    assert said.states() == found and said.changes == ()
    if found:
        assert said.findings[0].subject == "viostor/2k22/amd64/viostor.sys" and "--h2k-bus sata" in said.findings[0].repair


def test_before_the_copy_the_package_counts_and_after_it_the_guest_s_own(trees: dict[str, DriverSource]) -> None:
    assert states(with_driver("whql"), drivers=trees["none"], phase="source") == {"driver-unsigned": {"refused"}}
    assert states(with_driver("whql"), drivers=trees["none"]) == {}
    assert states(with_driver(""), drivers=trees["whql"], phase="source") == {}


@pytest.mark.parametrize(("by", "found"), [("", "driver-unsigned"), ("test", "driver-test-signed")])
def test_a_bad_file_is_replaced_by_the_package_s_good_one(trees: dict[str, DriverSource], by: str, found: str) -> None:
    guest = with_driver(by)
    said = ask("signatures", guest, drivers=trees["whql"])
    assert said.states() == {found: {"broken"}}
    assert [c.path for c in said.changes if isinstance(c, WriteFile)] == [f"/{PATH}"]
    assert ask("signatures", apply_changes(guest, said.changes), drivers=trees["whql"]).findings == ()
    assert states(guest, drivers=trees["none"]) == {found: {"refused"}}


@pytest.mark.parametrize("arch", ["amd64", "x86"])
def test_sha_256_alone_on_windows_7(trees: dict[str, DriverSource], arch: str) -> None:
    guest = windows_guest(version="6.1", build="7601", firmware="bios", server=False, arch=arch)
    assert states(guest, drivers=trees["whql"]) == {}
    said = ask("signatures", guest, drivers=trees["sha256"])
    assert said.states() == {"driver-sha2-unsupported": {"refused" if arch == "amd64" else "warning"}}
    assert arch == "x86" or "--h2k-accept driver-sha2-unsupported" in said.findings[0].repair


def test_test_signing_in_the_bcd() -> None:
    on = loader_with("16000049", "hex:01")
    assert states(with_driver("test", bcd=on)) == {}
    assert states(with_driver("", bcd=on)) == {"driver-unsigned": {"refused"}}
    assert states(with_driver("test", bcd=loader_with("16000049", "hex:00"))) == {"driver-test-signed": {"refused"}}
    assert states(with_driver("test", bcd=b"no hive")) == {"driver-test-signed": {"refused"}}


@pytest.mark.parametrize(("by", "testing", "way_out"), [("test", True, True), ("test", False, False), ("", True, False)])
def test_to_go_on_without_secure_boot_is_named_only_where_the_driver_can_then_load(by: str, testing: bool, way_out: bool) -> None:
    bcd = loader_with("16000049", "hex:01" if testing else "hex:00")
    (finding,) = ask("signatures", with_driver(by, bcd=bcd), domain=domain(secure_boot=True)).findings
    assert finding.state == "refused" and finding.evidence.endswith(": Windows will not load it")
    assert finding.repair.startswith("get a virtio-win whose drivers Microsoft has signed")
    assert finding.repair.endswith(", or turn Secure Boot off: --h2k-accept driver-test-signed") is way_out


@pytest.mark.parametrize("by", ["", "test"])
def test_secure_boot_is_turned_off_when_told_so(by: str) -> None:
    found = "driver-test-signed" if by else "driver-unsigned"
    wanted = dataclasses.replace(options(), domain=domain(secure_boot=True), accept=frozenset({found}))
    proposal = propose([packaged()["signatures"]], with_driver(by), wanted)
    assert proposal.setting("secure-boot", "on") == "off"
    assert [(f.id, f.state) for f in proposal.findings] == [(found, "warning")]
    other = dataclasses.replace(wanted, accept=frozenset({"volume-dirty"}))
    refused = propose([packaged()["signatures"]], with_driver(by), other)
    assert refused.setting("secure-boot", "on") == "on" and [f.state for f in refused.findings] == ["refused"]


def test_each_control_set_s_own_file() -> None:
    text = driver("viostor") + '[ControlSet002\\Services\\viostor]\n"ImagePath"=expand:"System32\\\\drivers\\\\other.sys"\n'
    files = {PATH: make_pe("amd64", b"a", signed=True), "Windows/System32/drivers/other.sys": make_pe("amd64", b"b")}
    said = ask("signatures", windows_guest(text, files=files, sets=(1, 2)))
    assert [f.subject for f in said.findings] == ["/Windows/System32/drivers/other.sys"]


@pytest.mark.parametrize("data", [b"", b"text" * 300, make_pe("x86", b"made viostor")])
def test_a_file_that_is_no_driver_here_is_the_boot_storage_hook_s(data: bytes) -> None:
    assert ask("signatures", windows_guest(driver("viostor"), files={PATH: data})).findings == ()


def test_nothing_to_judge() -> None:
    assert ask("signatures", windows_guest()).findings == ()


def test_a_plan_of_one_s_own(tmp_path: Path) -> None:
    from h2k.config.driver_plan import load_plan

    (tmp_path / "p.yaml").write_text('signers: [{name: "DigiCert Trusted Root G4"}]\n')
    assert states(with_driver("vendor"), plan=load_plan([tmp_path / "p.yaml"])) == {}


# The loader under Secure Boot

OLD_KEYS = TrustedKeys(("Microsoft Windows Production PCA 2011", "Microsoft Corporation UEFI CA 2011"), frozenset())
FALLBACK, MANAGER = "/EFI/Boot/bootx64.efi", "/EFI/Microsoft/Boot/bootmgfw.efi"


def loader_findings(fallback: Optional[bytes], manager: bytes, keys: Optional[TrustedKeys] = OLD_KEYS, **changed: Any) -> Said:
    guest = windows_guest(bcd=b"store", firmware=changed.pop("firmware", "uefi"))
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.files[VolumeRef(0, 1)].update({MANAGER: manager, **({FALLBACK: fallback} if fallback is not None else {})})
    return ask("signatures", guest, trusted=keys, domain=domain(secure_boot=True), bus="sata", **changed)


def loader(by: str) -> bytes:
    return make_pe("amd64", b"made loader", signed=bool(by), by=by or "windows")


@pytest.mark.parametrize(("by", "refused"), [("windows", False), ("uefi", False), ("windows-2023", True), ("test", True), ("", True)])
def test_the_loader_s_signer_and_the_firmware_s_keys(by: str, refused: bool) -> None:
    said = loader_findings(loader(by), loader("windows"))
    assert said.states() == ({"secure-boot-db-mismatch": {"refused"}} if refused else {})
    if refused:
        assert said.findings[0].subject.lower() == FALLBACK.lower() and "Production PCA 2011" in said.findings[0].evidence
        assert "--h2k-accept secure-boot-db-mismatch" in said.findings[0].repair and said.settings == {}


def test_the_boot_manager_counts_where_no_loader_is_at_the_fallback_path() -> None:
    for fallback in (None, b"", b"no program", make_pe("x86", b"another machine")):
        assert loader_findings(fallback, loader("windows-2023")).findings[0].subject == MANAGER
        assert loader_findings(fallback, loader("windows")).findings == ()


def test_keys_by_thumbprint_and_programs_by_digest() -> None:
    data = loader("windows-2023")
    (signature,) = read_signatures(data, "x")
    for keys in (TrustedKeys((), frozenset(signature.thumbprints[1:])), TrustedKeys((), frozenset(), frozenset({program_digest(data, "x")}))):
        assert loader_findings(data, data, keys).findings == ()
    plain = loader("")
    assert loader_findings(plain, plain, TrustedKeys((), frozenset(), frozenset({program_digest(plain, "x")}))).findings == ()


def test_a_loader_whose_signature_can_t_be_read_is_told_by_what_is_wrong_with_it() -> None:
    said = loader_findings(make_pe_with_broken_signature("amd64", b"made loader"), loader("windows"))
    assert said.states() == {"secure-boot-db-mismatch": {"refused"}}
    names = "Microsoft Windows Production PCA 2011, Microsoft Corporation UEFI CA 2011"
    assert said.findings[0].evidence.startswith("its certificate table holds no signature")
    assert said.findings[0].evidence.endswith(f"; the firmware's variables trust: {names}")
    nothing = loader_findings(loader(""), loader("windows"), TrustedKeys((), frozenset()))
    assert nothing.findings[0].evidence == "it carries no signature of its content; the firmware's variables trust: none"


def test_without_secure_boot_or_with_keys_that_can_t_be_read_nothing_is_said() -> None:
    assert loader_findings(loader("windows-2023"), loader("windows"), None).findings == ()


def test_accepted_the_domains_have_no_secure_boot() -> None:
    said = loader_findings(loader("windows-2023"), loader("windows"), accept=frozenset({"secure-boot-db-mismatch"}))
    assert said.settings == {"secure-boot": "off"}


@pytest.mark.parametrize("error", [PackageBad("viostor.sys: truncated"), PackageMissing("no viostor.inf")])
@pytest.mark.parametrize(("by", "found"), [("whql", {}), ("", {"driver-unsigned": {"refused"}})])
def test_a_package_that_is_bad_or_missing_is_the_boot_storage_hook_s(error: Exception, by: str, found: dict[str, set[str]]) -> None:
    class NoPackage:
        def find(self, *_: Any) -> Any:
            raise error

    assert states(with_driver(by), drivers=NoPackage()) == found
    assert states(windows_guest(), drivers=NoPackage()) == {}
