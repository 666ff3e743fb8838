"""Who uses an image: QEMU's locks as QEMU sets them, running domains, VMware's lock, another h2k."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from h2k.base.errors import H2kError, InUse, Refused
from h2k.disk import in_use
from h2k.disk.in_use import converting, holder, lock_directory, locked_directory, require_unused

RUNNING = in_use._running  # itself: the tests replace it
XML = """<domain type='kvm'><name>web</name><os><nvram>{nvram}</nvram></os><devices>
<disk type='file' device='disk'><source file='{top}'/><backingStore type='file'><source file='{base}'/></backingStore></disk>
<disk type='file' device='cdrom'><source file='{iso}'/><readonly/></disk></devices></domain>"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "g-sda"
    path.write_bytes(bytes(4096))
    return path


@pytest.fixture(autouse=True)
def no_libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_use, "_running", lambda: iter(()))


@contextmanager
def locked(path: Path, *places: int) -> Iterator[None]:
    """Shared locks on bytes of the image, as QEMU keeps them while it has it open."""
    handle = os.open(path, os.O_RDWR)
    try:
        for place in places:
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, place, 1, 0))
        yield
    finally:
        os.close(handle)


@pytest.mark.parametrize("place", [101, 103, 200, 201, 203])
def test_a_qemu_that_writes_or_lets_nobody_write(place: int, image: Path) -> None:
    require_unused([image])
    with locked(image, place), pytest.raises(Refused, match=r"source-running: .*g-sda: in use by .*shut it down"):
        require_unused([image])
    require_unused([image])


@pytest.mark.parametrize("place", [100, 102, 202])
def test_a_qemu_that_shares_it_is_no_use(place: int, image: Path) -> None:
    with locked(image, place):
        require_unused([image])


def test_our_own_appliance_may_read_what_is_below_an_overlay(image: Path) -> None:
    with locked(image, 100, 201, 203):
        require_unused([image], reading=True)
    with locked(image, 100, 101), pytest.raises(Refused):
        require_unused([image], reading=True)


def test_our_own_lock_is_no_use_and_what_is_not_there_is_nobodys(image: Path, tmp_path: Path) -> None:
    handle = in_use.open_writable(image)
    in_use.lock(handle, image)
    require_unused([image, tmp_path / "none"])
    os.close(handle)


def test_vmware_has_it_open(image: Path) -> None:
    (image.parent / "g-sda.lck").mkdir()
    assert holder(image) == ""
    (image.parent / "g-sda.lck" / "M12345.lck").touch()
    assert "VMware" in holder(image)


@pytest.mark.parametrize("which", ["top", "base", "nvram"])
def test_a_running_domain_is_named_whatever_name_the_file_has(which: str, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = image.with_name("by-another-name")
    other.symlink_to(image)
    files = {"top": "/none/a", "base": "/none/b", "nvram": "/none/c", "iso": "/none/d", which: str(other)}
    monkeypatch.setattr(in_use, "_running", lambda: iter([("web", "u-1", XML.format(**files))]))
    with pytest.raises(Refused, match="running domain web"):
        require_unused([image])
    require_unused([image], ours=["u-1"])


def test_who_reads_may_read_what_a_running_domain_rests_on(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"top": "/none/a", "base": str(image), "nvram": "/none/c", "iso": "/none/d"}
    monkeypatch.setattr(in_use, "_running", lambda: iter([("web", "u-1", XML.format(**files))]))
    require_unused([image], reading=True)
    files.update(top=str(image), base="/none/b")
    with pytest.raises(InUse) as told:
        require_unused([image], reading=True)
    assert (told.value.subject, told.value.who) == (str(image), "in use by the running domain web")


def test_what_a_domain_only_reads_is_no_use(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"top": "/none/a", "base": "/none/b", "nvram": "/none/c", "iso": str(image)}
    found = [("web", "u-1", XML.format(**files)), ("odd", "u-2", "<domain"), ("empty", "u-3", "<domain/>")]
    monkeypatch.setattr(in_use, "_running", lambda: iter(found))
    require_unused([image])


def test_the_domains_of_a_libvirt_that_has_a_socket_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's own, and the system's; one that does not answer is none, and a domain that is gone by then is left out."""
    libvirt = pytest.importorskip("libvirt")
    asked: list[str] = []

    def gone(_: int) -> str:
        raise libvirt.libvirtError("Domain not found")

    def domain(name: str, xml: Callable[[int], str]) -> SimpleNamespace:
        return SimpleNamespace(name=lambda: name, UUIDString=lambda: f"uuid of {name}", XMLDesc=xml)

    @contextmanager
    def connected(uri: str) -> Iterator[SimpleNamespace]:
        asked.append(uri)
        if "system" in uri:
            raise H2kError(f"{uri}: libvirt does not answer")
        yield SimpleNamespace(listAllDomains=lambda flags: running if flags == libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE else [])

    running = [domain("gone", gone), domain("web", lambda _: "<domain/>")]
    monkeypatch.setattr(in_use, "connected", connected)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert "qemu:///session" not in [*RUNNING(), *asked]
    (tmp_path / "libvirt").mkdir()
    (tmp_path / "libvirt" / in_use._SOCKETS[0].removesuffix("-ro")).touch()
    assert list(RUNNING()) == [("web", "uuid of web", "<domain/>")] and asked[-1] == "qemu:///session"


def test_a_libvirt_that_hangs_does_not_hang_us(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    ended = threading.Event()
    monkeypatch.setattr(in_use, "_running", lambda: iter(ended.wait, True))
    monkeypatch.setattr(in_use, "_LIBVIRT_LIMIT", 0.05)
    require_unused([image])
    ended.set()


def test_one_run_at_a_time_has_a_directory(tmp_path: Path) -> None:
    first = lock_directory(tmp_path)
    with pytest.raises(Refused, match="another h2k works on this guest"):
        lock_directory(tmp_path)
    (tmp_path / "lock").unlink()  # as the first does at its end, while a second waits with the old file open
    os.close(first)
    second = lock_directory(tmp_path)
    assert os.fstat(second).st_ino == (tmp_path / "lock").stat().st_ino
    os.close(second)
    (tmp_path / "lock").unlink()
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        lock_directory(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_what_nobody_is_meant_to_write_is_refused(image: Path) -> None:
    os.close(in_use.open_writable(image))
    image.chmod(0o444)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(Refused, match=r"g-sda: (read-only|can't be written).* \(give h2k a copy that it may write"):
        in_use.open_writable(image)
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(Refused, match="can't be written: No such file"):
        in_use.open_writable(image.with_name("none"))


@pytest.mark.skipif(os.geteuid() != 0, reason="root opens any file")
@pytest.mark.parametrize("mode", [0o200, 0o020, 0o002])
def test_who_may_write_does_not_matter(mode: int, image: Path) -> None:
    image.chmod(0o444 | mode)
    os.close(in_use.open_writable(image))


def test_one_run_at_a_time_has_an_image(image: Path) -> None:
    first, second = (in_use.open_writable(image) for _ in range(2))
    in_use.lock(first, image)
    with pytest.raises(Refused, match="g-sda: another h2k works on this guest"):
        in_use.lock(second, image)
    os.close(first)
    in_use.lock(second, image)
    os.close(second)


def test_who_is_about_to_end_has_time_for_it(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(image, 101):
        with pytest.raises(Refused, match="source-running"):
            require_unused([image], patience=0.01)
        monkeypatch.setattr(in_use.time, "sleep", lambda seconds: monkeypatch.setattr(in_use, "_is_locked", lambda *_: False))
        require_unused([image], patience=10.0)


def test_a_directory_is_locked_for_a_block(tmp_path: Path) -> None:
    with in_use.locked_directory(tmp_path / "g.h2k"), pytest.raises(Refused, match="another h2k"):
        lock_directory(tmp_path / "g.h2k")
    os.close(lock_directory(tmp_path / "g.h2k"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["-name", "guest=web,debug-threads=on"], ", guest web"), (["-name", "web"], ", guest web"), (["-m", "1"], ""), (["-name"], ""),
    ],
)  # fmt: skip
def test_the_name_that_a_qemu_was_given(argv: list[str], said: str) -> None:
    assert in_use._guest(["qemu-system-x86_64", *argv]) == said


def test_one_conversion_at_a_time_has_a_report_directory_and_its_repair_the_lock(tmp_path: Path) -> None:
    state = tmp_path / "g.h2k"
    with converting(state):
        with pytest.raises(Refused, match="another h2k works on this guest"), converting(state):
            pytest.fail("two at once")
        with locked_directory(state):
            pass
        (state / "lock").unlink()
    assert not state.exists()
    with converting(state):
        (state / "report.json").touch()
    assert [path.name for path in state.iterdir()] == ["report.json"]
