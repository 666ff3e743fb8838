"""The boot lab's parts: modules in every packing, a kernel that lacks some, and the EFI stub's free addresses."""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.boot import image

NAMES = (*image.ALWAYS, *image.CONTROLLERS)


def modules(directory: Path, suffix: str = ".ko", lacks: tuple[str, ...] = (), built_in: tuple[str, ...] = ()) -> Path:
    """A kernel's module directory with those that the lab wants; `ahci` needs libahci."""
    directory.mkdir(parents=True)
    names = [name for name in NAMES if name not in (*lacks, *built_in)]
    lines = []
    for name in ("libahci", *names):
        path = directory / f"kernel/{name}{suffix}"
        path.parent.mkdir(exist_ok=True)
        data = name.encode()
        path.write_bytes({".ko.xz": lzma.compress, ".ko.gz": gzip.compress}.get(suffix, bytes)(data))
        lines.append(f"kernel/{name}{suffix}:" + (f" kernel/libahci{suffix}" if name == "ahci" else ""))
    (directory / "modules.dep").write_text("\n".join(lines) + "\n")
    (directory / "modules.alias").write_text("alias pci:v00008086d* ahci\nalias pci:x other\n")
    (directory / "modules.builtin").write_text("".join(f"kernel/drivers/{name.replace('_', '-')}.ko\n" for name in built_in))
    return directory


@pytest.mark.parametrize("suffix", [".ko", ".ko.xz", ".ko.gz"])
def test_modules_are_unpacked_and_named_so(suffix: str, tmp_path: Path) -> None:
    files = image._module_files(modules(tmp_path / "m", suffix))
    assert files["kernel/ahci.ko"] == b"ahci" and files["kernel/libahci.ko"] == b"libahci"
    assert b"kernel/ahci.ko: kernel/libahci.ko\n" in files["modules.dep"]
    assert files["modules.alias"] == b"alias pci:v00008086d* ahci\n"


def test_zstd_is_left_to_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(image.PACKED, ".zst", lambda data: b"unpacked " + data)
    (tmp_path / "fuse.ko.zst").write_bytes(b"x")
    assert image.unpacked(tmp_path / "fuse.ko.zst") == ("fuse.ko", b"unpacked x")
    with pytest.raises(ValueError, match="packed in a way"):
        image.unpacked(tmp_path / "fuse.ko.lz4")


def test_a_missing_module_is_told_and_a_built_in_one_is_not_missing(tmp_path: Path) -> None:
    assert image.missing_modules(modules(tmp_path / "a", lacks=("mptsas",), built_in=("virtio_blk", "fuse"))) == ("mptsas",)


def kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **versions: tuple[str, ...]) -> None:
    """/boot and /lib/modules with kernels, each with what it lacks."""
    real = Path

    def there(path: Any) -> Path:
        return tmp_path / str(path)[1:] if str(path) in ("/boot", "/lib/modules") else real(path)

    (tmp_path / "boot").mkdir()
    for version, lacks in versions.items():
        (tmp_path / "boot" / f"vmlinuz-{version}").write_bytes(b"")
        modules(tmp_path / "lib/modules" / version, lacks=lacks)
    monkeypatch.setattr(image, "Path", there)


def test_the_kernel_with_most_modules_wins_then_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kernels(monkeypatch, tmp_path, **{"6.12.9-cloud": ("ahci", "mptsas"), "6.12.10": ("mptsas",), "6.9.1": ("mptsas",)})
    assert image.chosen_kernel()[0].name == "vmlinuz-6.12.10"
    assert "mptsas" in capsys.readouterr().err


def test_a_cloud_kernel_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels(monkeypatch, tmp_path, **{"6.12.9-cloud": ("ahci",)})
    with pytest.raises(FileNotFoundError, match="lack ahci"):
        image.chosen_kernel()


def test_no_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels(monkeypatch, tmp_path)
    with pytest.raises(FileNotFoundError, match="install linux-image-amd64"):
        image.chosen_kernel()


def program(base: int, size: int, magic: int = 0x20B) -> bytes:
    data = bytearray(512)
    struct.pack_into("<I", data, 0x3C, 128)
    data[128:132] = b"PE\0\0"
    struct.pack_into("<H", data, 152, magic)
    struct.pack_into("<Q", data, 152 + 24, base)
    struct.pack_into("<I", data, 152 + 56, size)
    return bytes(data)


def test_a_stub_with_an_image_base() -> None:
    assert image.pe_extent(program(0, 0x1A000)) == (0, 0x20000)
    assert image.pe_extent(program(0x14DF00000, 0x20001)) == (0x14DF00000, 0x30000)
    with pytest.raises(ValueError, match="no 64-bit PE"):
        image.pe_extent(program(0, 0, magic=0x10B))
