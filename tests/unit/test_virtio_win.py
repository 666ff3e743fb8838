"""The driver source: the exact directory or a refusal that names it, and a package that is checked whole."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base.errors import REFUSED, BadData, Refused, UsageError
from h2k.config.driver_plan import PLAN_DIRECTORIES, Plan, Role, load_plan
from h2k.disk.reader import FileStat, VolumeRef
from h2k.engine.write_domains import iso_for_cdrom
from h2k.guest.virtio_win import DriverPackage, DriverSource, PackageBad, PackageMissing, _Iso, open_source
from h2k.windows.version import WindowsVersion
from tests.guests.pe import make_pe
from tests.guests.virtio_win import RELEASES, X86, make_tree
from tests.unit.helpers import windows

PLAN = load_plan()
ROLES = {role.name: role for role in PLAN.roles}
BLK = ROLES["virtio-blk"]
BUILDS = {
    "w7": (7601, False), "2k8R2": (7601, True), "w8": (9200, False), "2k12": (9200, True), "w8.1": (9600, False),
    "2k12R2": (9600, True), "w10": (19045, False), "2k16": (14393, True), "2k19": (17763, True), "w11": (22631, False),
    "2k22": (20348, True), "2k25": (26100, True),
}  # fmt: skip


def guest(release: str, arch: str = "amd64") -> WindowsVersion:
    major, minor = map(int, RELEASES[release].split("."))
    build, server = BUILDS[release]
    return windows((major, minor), build, arch, server)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("virtio") / "tree")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Only what a test may break: viostor and NetKVM of 2022."""
    source = make_tree(tmp_path / "all", omit=[r for r in (*RELEASES, "xp", "2k3", "2k8") if r != "2k22"])
    for entry in source.iterdir():
        if entry.name not in ("viostor", "NetKVM"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return source


def find(source: Path, role: Role = BLK, release: str = "2k22", arch: str = "amd64", plan: Plan = PLAN) -> DriverPackage:
    with open_source(source) as opened:
        return opened.find(plan, role, guest(release, arch))


def refused(source: Path, kind: type[Refused], role: Role = BLK, release: str = "2k22", arch: str = "amd64") -> str:
    with pytest.raises(kind) as error:
        find(source, role, release, arch)
    assert error.value.exit_status == REFUSED
    return str(error.value)


# The right directory


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("role", ["virtio-blk", "virtio-scsi", "virtio-net", "virtio-balloon", "virtio-serial", "virtio-rng"])
def test_the_directory_of_every_windows(whole: Path, release: str, role: str) -> None:
    package = find(whole, ROLES[role], release)
    assert package.directory == f"{ROLES[role].driver}/{release}/amd64"
    binary = package.driver.service.binary
    assert f"made {binary} for {release} amd64".encode() in package.files[binary]
    assert package.missing == ()


@pytest.mark.parametrize("release", [r for r in X86 if r in RELEASES])
def test_32_bit_windows(whole: Path, release: str) -> None:
    package = find(whole, release=release, arch="x86")
    assert package.directory == f"viostor/{release}/x86"
    assert f"for {release} x86".encode() in package.files["viostor.sys"]


def test_arm64_in_its_own_spelling(whole: Path) -> None:
    assert find(whole, release="w11", arch="arm64").directory == "viostor/w11/arm64"


def test_the_rpms_tree(tmp_path: Path) -> None:
    source = make_tree(tmp_path, layout="rpm")
    assert find(source).directory == "drivers/by-driver/viostor/2k22/amd64"
    shutil.rmtree(source / "drivers" / "by-driver")
    assert find(source).directory == "drivers/by-os/amd64/2k22"
    assert find(source, release="w10", arch="x86").directory == "drivers/by-os/i386/w10"
    assert set(find(source, ROLES["virtio-net"]).files) == {"netkvm.inf", "netkvm.cat", "netkvm.sys", "netkvmp.exe"}


def test_the_isos_flat_folders(tmp_path: Path) -> None:
    source = make_tree(tmp_path)
    shutil.rmtree(source / "viostor")
    assert find(source).directory == "amd64/2k22"
    assert find(source, release="w10", arch="x86").directory == "i386/w10"
    assert set(find(source).files) == {"viostor.inf", "viostor.cat", "viostor.sys"}


def test_names_in_any_case(tree: Path) -> None:
    (tree / "viostor").rename(tree / "VIOSTOR")
    place = tree / "VIOSTOR" / "2k22"
    place.rename(tree / "VIOSTOR" / "2K22")
    for entry in sorted((tree / "VIOSTOR" / "2K22" / "amd64").iterdir()):
        entry.rename(entry.with_name(entry.name.upper()))
    package = find(tree)
    assert package.driver.service.binary == "viostor.sys"
    assert set(package.files) == {"viostor.inf", "viostor.cat", "viostor.sys"}


def test_never_another_windows(tmp_path: Path) -> None:
    source = make_tree(tmp_path, omit=["2k25"])
    message = refused(source, PackageMissing, release="2k25")
    assert message.startswith(f"{source}: no viostor.inf for Windows 10.0 amd64 build 26100 (looked in viostor/2k25/amd64, ")
    assert "amd64/2k25" in message and "--h2k-bus sata" in message
    assert find(source, release="2k22").directory == "viostor/2k22/amd64"


def test_never_another_architecture(tree: Path) -> None:
    (tree / "viostor" / "2k22" / "amd64").rename(tree / "viostor" / "2k22" / "x86")
    assert "looked in viostor/2k22/amd64" in refused(tree, PackageMissing)


@pytest.mark.parametrize(
    ("version", "arch", "message"),
    [
        (windows((6, 0), 6002), "amd64", "the driver plan has no bucket for Windows 6.0"),
        (windows(arch="0x1c4"), "0x1c4", "the driver plan has no directory for 0x1c4"),
    ],
)
def test_windows_that_the_plan_does_not_know(tree: Path, version: WindowsVersion, arch: str, message: str) -> None:
    with open_source(tree) as source, pytest.raises(PackageMissing, match=message):
        source.find(PLAN, BLK, version)


def test_another_bus_is_no_way_out_for_a_network_driver(tree: Path) -> None:
    shutil.rmtree(tree / "NetKVM")
    assert "sata" not in refused(tree, PackageMissing, ROLES["virtio-net"])


# Whole packages


def test_every_file_that_the_inf_installs_and_no_other(whole: Path) -> None:
    assert set(find(whole, ROLES["virtio-net"], "w10").files) == {"netkvm.inf", "netkvm.cat", "netkvm.sys", "netkvmp.exe"}
    assert set(find(whole, ROLES["virtio-balloon"], "w7").files) == {
        "balloon.inf", "balloon.cat", "balloon.sys", "wdfcoinstaller01009.dll",
    }  # fmt: skip


def test_files_that_are_missing_are_named_and_do_not_stop_the_driver(tree: Path) -> None:
    (tree / "NetKVM" / "2k22" / "amd64" / "netkvmp.exe").unlink()
    (tree / "NetKVM" / "2k22" / "amd64" / "netkvm.cat").unlink()
    package = find(tree, ROLES["virtio-net"])
    assert package.missing == ("netkvm.cat", "netkvmp.exe")
    assert "netkvm.sys" in package.files


def sys_file(tree: Path) -> Path:
    return tree / "viostor" / "2k22" / "amd64" / "viostor.sys"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "viostor.sys: the file is empty"),
        (make_pe("amd64", signed=True)[:700], "viostor.sys: truncated"),
        (make_pe("amd64", signed=True)[:-4], "viostor.sys: truncated: its signature"),
        (b"<!DOCTYPE html>" * 100, "viostor.sys: not a PE file"),
        (make_pe("x86"), "viostor.sys: for x86, Windows is amd64"),
        (make_pe("arm64"), "viostor.sys: for arm64, Windows is amd64"),
    ],
    ids=["empty", "truncated", "signature", "html", "x86", "arm64"],
)
def test_a_driver_file_that_would_not_boot(tree: Path, data: bytes, message: str) -> None:
    sys_file(tree).write_bytes(data)
    found = refused(tree, PackageBad)
    assert message in found and "viostor/2k22/amd64" in found.replace("\\", "/") and "get an intact virtio-win" in found


def test_a_64_bit_driver_in_a_32_bit_package(tmp_path: Path) -> None:
    source = make_tree(tmp_path, omit=[r for r in (*RELEASES, "xp", "2k3", "2k8") if r != "w10"])
    (source / "viostor" / "w10" / "x86" / "viostor.sys").write_bytes(make_pe("amd64"))
    assert "viostor.sys: for amd64, Windows is x86" in refused(source, PackageBad, release="w10", arch="x86")


def test_a_driver_file_that_is_missing(tree: Path) -> None:
    sys_file(tree).unlink()
    assert "viostor.sys: missing, though viostor.inf installs it" in refused(tree, PackageBad)


def test_every_driver_of_the_package_is_checked(tree: Path) -> None:
    place = tree / "viostor" / "2k22" / "amd64"
    text = (place / "viostor.inf").read_text().replace("viostor.sys,,,2", "viostor.sys,,,2\nhelper.sys,,,2")
    (place / "viostor.inf").write_text(text)
    (place / "helper.sys").write_bytes(b"")
    assert "helper.sys: the file is empty" in refused(tree, PackageBad)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("AddService = viostor", "AddService = other", "installs service other, the plan says viostor"),
        ("4D36E97B", "4D36E97D", "class {4D36E97D-E325-11CE-BFC1-08002BE10318}, the plan says"),
        ("ClassGuid", "Nothing", "class missing, the plan says"),
        ("VEN_1AF4", "VEN_1AC3", "lists none of PCI\\VEN_1AF4&DEV_1001, PCI\\VEN_1AF4&DEV_1042"),
        ("NTamd64.10.0", "NTamd64.10.0...26100", "has no models for Windows 10.0 build 20348 on amd64"),
        ("NTamd64", "NTx86", "has no models for Windows 10.0 build 20348 on amd64"),
        ("$WINDOWS NT$", "$Linux$", "no [Version] section with a Windows signature"),
        ("StartType ", "Nothing ", "'' is no number"),
        ("viostor.sys,,,2", "..\\..\\x.sys", "is no file of a driver package"),
    ],
)
def test_an_inf_that_is_not_the_plans(tree: Path, old: str, new: str, message: str) -> None:
    place = tree / "viostor" / "2k22" / "amd64" / "viostor.inf"
    assert old in place.read_text()
    place.write_text(place.read_text().replace(old, new))
    assert message in refused(tree, PackageBad)


def edited(tree: Path, *changes: tuple[str, str]) -> Path:
    """The directory of viostor, its INF with these changes."""
    place = tree / "viostor" / "2k22" / "amd64"
    text = (place / "viostor.inf").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (place / "viostor.inf").write_text(text)
    return place


def test_the_program_of_the_service_belongs_to_the_package_though_no_list_names_it(tree: Path) -> None:
    edited(tree, ("viostor.sys,,,2\n", ""), ("viostor.sys = 1,,\n", ""))
    assert set(find(tree).files) == {"viostor.inf", "viostor.cat", "viostor.sys"}


def test_files_lie_in_the_subdirectories_that_the_inf_names(tree: Path) -> None:
    place = edited(tree, ("viostor.sys = 1,,\n", "viostor.sys = 1,,\nhelper.dll = 1,\\sub\nother.dll = 1,\\none\n"))
    (place / "SUB").mkdir()
    (place / "SUB" / "Helper.DLL").write_bytes(b"made helper")
    (place / "helper.dll").write_bytes(b"of another driver")
    package = find(tree)
    assert package.files["sub/helper.dll"] == b"made helper" and "helper.dll" not in package.files
    assert package.missing == ("none/other.dll",)


@pytest.mark.parametrize(("attribute", "message"), [("read_bytes", "can't read this driver file"), ("iterdir", "can't read this directory")])
def test_a_host_file_that_can_t_be_read_is_named(attribute: str, message: str, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> Any:
        raise OSError(5, "Input/output error")

    with open_source(tree) as source:
        monkeypatch.setattr(Path, attribute, fail)
        with pytest.raises(PackageBad, match=rf"^{tree}/\S+: {message}: Input/output error \(get an intact virtio-win, or convert with --h2k-bus sata\)$"):
            source.find(PLAN, BLK, guest("2k22"))


def test_an_empty_inf(tree: Path) -> None:
    (tree / "viostor" / "2k22" / "amd64" / "viostor.inf").write_bytes(b"")
    assert "viostor.inf: 0 bytes are no INF file" in refused(tree, PackageBad)


def test_a_driver_file_that_is_a_directory(tree: Path) -> None:
    sys_file(tree).unlink()
    sys_file(tree).mkdir()
    assert "viostor.sys: no such driver file" in refused(tree, PackageBad)


def test_files_and_packages_that_are_too_large(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [len(data) for data in find(tree).files.values()]
    monkeypatch.setattr("h2k.guest.virtio_win.MAX_FILE", max(sizes))
    monkeypatch.setattr("h2k.guest.virtio_win.MAX_PACKAGE", sum(sizes))
    assert find(tree).missing == ()
    monkeypatch.setattr("h2k.guest.virtio_win.MAX_PACKAGE", sum(sizes) - 1)
    assert f"the package has more than {sum(sizes) - 1} bytes" in refused(tree, PackageBad)
    monkeypatch.setattr("h2k.guest.virtio_win.MAX_FILE", max(sizes) - 1)
    assert f"larger than {max(sizes) - 1} bytes; not a driver file" in refused(tree, PackageBad)


def test_the_skip_list_counts(tree: Path, tmp_path: Path) -> None:
    extra = tmp_path / "skip.yaml"
    extra.write_text('skip: ["*.CAT"]\n')
    assert find(tree, plan=load_plan([extra])).missing == ("viostor.cat",)
    extra.write_text('skip: ["viostor.*"]\n')
    with pytest.raises(PackageBad, match="left out by the plan's skip list"):
        find(tree, plan=load_plan([extra]))


def test_one_reading_serves_all(tree: Path) -> None:
    with open_source(tree) as source:
        first = source.find(PLAN, BLK, guest("2k22"))
        shutil.rmtree(tree / "viostor")
        assert source.find(PLAN, BLK, guest("2k22")) is first


def test_the_example_vendor(tmp_path: Path) -> None:
    plan = load_plan([PLAN_DIRECTORIES[0] / "examples" / "acme.yaml"])
    place = tmp_path / "Storage" / "win" / "amd64"
    place.mkdir(parents=True)
    tree = make_tree(tmp_path / "made")
    text = (tree / "viostor" / "2k22" / "amd64" / "viostor.inf").read_text()
    for old, new in (("VEN_1AF4", "VEN_1AC3"), ("DEV_1001", "DEV_0101"), ("DEV_1042", "DEV_0142"), ("viostor", "acmedisk")):
        text = text.replace(old, new)
    (place / "AcmeDisk.inf").write_text(text)
    (place / "acmedisk.sys").write_bytes(make_pe("amd64"))
    role = plan.storage("virtio")
    assert role is not None
    package = find(tmp_path, role, plan=plan)
    assert (package.driver.service.name, package.driver.service.binary) == ("acmedisk", "acmedisk.sys")
    assert package.missing == ("acmedisk.cat",)
    assert all(i.startswith("PCI\\VEN_1AC3&") for i in package.driver.ids)


# Sources


@pytest.mark.parametrize(("arch", "there"), [("amd64", True), ("x86", True), ("arm64", False)])
def test_the_guest_agents_installer(whole: Path, tree: Path, arch: str, there: bool) -> None:
    with open_source(whole) as source:
        assert source.has_guest_agent_msi(arch) is there
        found = source.guest_agent_msi(arch)
        assert found == ({"amd64": "qemu-ga-x86_64.msi", "x86": "qemu-ga-i386.msi"}[arch], b"made guest-agent installer") if there else found is None
    with open_source(tree) as source:
        assert source.has_guest_agent_msi(arch) is False and source.guest_agent_msi(arch) is None


def test_a_source_that_is_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere: no such virtio-win ISO or directory"), open_source(tmp_path / "nowhere"):
        pass
    with pytest.raises(UsageError, match=r": the virtio-win directory is empty"), open_source(tmp_path):
        pass


class _Disc:
    """What _Iso asks of a reader, over a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def stat(self, ref: VolumeRef, path: str) -> object:
        here = self.root
        for part in filter(None, path.split("/")):
            entries = {e.name.lower(): e for e in here.iterdir()} if here.is_dir() else {}
            if part.lower() not in entries:
                return None
            here = entries[part.lower()]
        return FileStat("/" + str(here.relative_to(self.root)), 0, here.is_dir())

    def listdir(self, ref: VolumeRef, path: str) -> tuple[object, ...]:
        found = self.stat(ref, path)
        assert isinstance(found, FileStat)
        return tuple(FileStat(f"{found.path}/{e.name}", 0, e.is_dir()) for e in (self.root / found.path[1:]).iterdir())

    def read(self, ref: VolumeRef, path: str, limit: int) -> bytes:
        found = self.stat(ref, path)
        if not isinstance(found, FileStat) or found.directory:
            raise BadData(f"{path}: no such file")
        return (self.root / found.path[1:]).read_bytes()


def test_an_iso_is_read_as_the_directory_is(whole: Path) -> None:
    disc = DriverSource(Path("virtio-win.iso"), _Iso(_Disc(whole)))  # type: ignore[arg-type]
    found = disc.find(PLAN, ROLES["virtio-net"], guest("w10"))
    assert found.files == find(whole, ROLES["virtio-net"], "w10").files
    assert disc.has_guest_agent_msi("amd64")
    with pytest.raises(PackageMissing, match=r"virtio-win\.iso: no fwcfg\.inf for Windows 6\.1"):
        disc.find(PLAN, ROLES["fw-cfg"], guest("w7"))


def test_the_iso_for_the_bootstrap(tmp_path: Path) -> None:
    iso = tmp_path / "virtio-win.iso"
    assert iso_for_cdrom(None) is None
    assert iso_for_cdrom(tmp_path) is None, "a directory alone has none"
    assert iso_for_cdrom(iso) is None
    iso.touch()
    assert iso_for_cdrom(tmp_path) == iso_for_cdrom(iso) == iso.resolve()


@pytest.mark.parametrize(
    ("kinds", "disc"),
    [(["iso9660"], True), ([], False), (["fat"], False), (["ntfs"], False), (["iso9660", "iso9660"], False), (["fat", "iso9660"], False)],
)
def test_a_file_that_is_no_disc_is_refused(kinds: list[str], disc: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    iso = tmp_path / "virtio-win.iso"
    iso.touch()
    reader = SimpleNamespace(disks=[SimpleNamespace(volumes=[SimpleNamespace(kind=kind) for kind in kinds])])

    def open_reader(images: Any) -> Any:
        assert images == [(iso, "raw")]
        return nullcontext(reader)

    monkeypatch.setattr("h2k.guest.virtio_win.open_reader", open_reader)
    expected: Any = nullcontext() if disc else pytest.raises(UsageError, match="neither a directory nor an ISO 9660 image")
    with expected, open_source(iso) as source:
        assert source.path == iso
