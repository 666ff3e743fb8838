"""The command of one guest, and which failures are worth another attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2k.convert import qemu_img_command, v2v_command
from h2k.fleet.conversion import argv_for, boot_argv_for, is_passing, last_line
from h2k.fleet.waves import Entry


def entry(kind: str = "vmx", program: str = "h2k-v2v", source: str = "/exports/a b.vmx", **more: object) -> Entry:
    return Entry("web", source, kind, 1, Path("/out"), program, **more)  # type: ignore[arg-type]


def test_virt_v2vs_wrapper() -> None:
    command = v2v_command.parse(argv_for(entry(options=("--h2k-drivers=/iso", "-of", "qcow2")))[1:])
    assert (command.input_mode, command.arguments, command.output_mode, command.output_storage) == ("vmx", ("/exports/a b.vmx",), "local", "/out")
    assert (command.output_name, command.output_format, command.h2k.request.drivers) == ("web", "qcow2", "/iso")


def test_a_domain_of_libvirt_and_another_output() -> None:
    argv = argv_for(entry("libvirt", source="-odd name", connection="qemu:///system", options=("-o", "libvirt", "-os", "pool")))
    command = v2v_command.parse(argv[1:])
    assert (command.input_connection, command.arguments, command.output_mode, command.output_storage) == (
        "qemu:///system", ("-odd name",), "libvirt", "pool",
    )  # fmt: skip


def test_qemu_imgs_wrapper() -> None:
    command = qemu_img_command.parse(argv_for(entry("disk", "h2k-qemu-img", "/exports/-a.raw"))[1:])
    assert command is not None and (command.source, command.target, command.target_format) == ("/exports/-a.raw", "/out/web.qcow2", "qcow2")
    assert command.wanted.name == "web"
    other = qemu_img_command.parse(argv_for(entry("disk", "h2k-qemu-img", "/a", options=("-O", "raw")))[1:])
    assert other is not None and other.target_format == "raw"


def test_the_boot() -> None:
    assert boot_argv_for(entry())[1:] == ["boot", "/out/web.h2k"]


@pytest.mark.parametrize(
    ("text", "status", "passing"),
    [
        ("ssh: connect to host esx1 port 22: Connection refused", 1, True),
        ("virt-v2v: error: nbdkit: curl: (56) Recv failure: Connection reset by peer", 1, True),
        ("could not resolve: Temporary failure in name resolution", 1, True),
        ("virt-v2v: error: libguestfs error: No space left on device", 1, False),
        ("Connection refused", 3, False),
        ("Connection refused", 5, False),
        ("", 1, False),
    ],
)
def test_the_network_alone_is_worth_another_attempt(tmp_path: Path, text: str, status: int, passing: bool) -> None:
    (tmp_path / "log").write_text(f"begin\n{text}\n")
    assert is_passing(status, tmp_path / "log") == passing


def test_the_line_that_says_most(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"a\nvirt-v2v: error: no such disk\n\xff\n  next: do this\n\n")
    assert last_line(tmp_path / "log") == "virt-v2v: error: no such disk"
    assert last_line(tmp_path / "nowhere") == ""
