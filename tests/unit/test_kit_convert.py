"""The conversions' command lines, and what is read of their results."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.windows import convert
from tests.windows.convert import Converted, Tools, described, h2k_boot, h2k_fix, h2k_qemu_img, h2k_v2v, virt_v2v

XML = """<domain type='kvm'><name>source</name><memory unit='MiB'>2048</memory><vcpu>2</vcpu><os><type arch='x86_64'>hvm</type></os>
<devices><disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{place}/source-sda'/>
<target dev='{dev}' bus='{bus}'/></disk></devices></domain>"""


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """What was run, instead of running it."""
    found: list[tuple[list[str], dict[str, str]]] = []

    def run(argv: Any, step: str, log: Path, limit: float, env: Any = None, cwd: Any = None) -> int:
        found.append(([Path(str(argv[0])).name, *map(str, argv[1:])], dict(env or {})))
        return 1

    monkeypatch.setattr(convert, "run_logged", run)
    return found


TOOLS = Tools(Path("/v.iso"), True, {"VIRT_TOOLS_DATA_DIR": "/t"}, Path("/p.yaml"), ("nsenter", "--"))


def test_the_two_conversions_differ_in_h2k_alone(ran: Any, tmp_path: Path) -> None:
    h2k_v2v(tmp_path / "s.vmx", tmp_path / "with", "source", TOOLS)
    virt_v2v(tmp_path / "s.vmx", tmp_path / "without", "source", TOOLS)
    (ours, _), (plain, environment) = ran
    assert ours[0] == "h2k-v2v" and plain[0] == "virt-v2v"
    assert ours[-4:] == ["--h2k-drivers", "/v.iso", "--h2k-policy", "/p.yaml"]
    assert [word.replace("/with", "/without") for word in ours[1:-4]] == plain[1:]
    assert environment == {"VIRT_TOOLS_DATA_DIR": "/t", "VIRTIO_WIN": "/v.iso"}


def test_h2k_qemu_img_takes_the_machine_from_the_vmx(ran: Any, tmp_path: Path) -> None:
    h2k_qemu_img(tmp_path / "s.vmdk", tmp_path / "s.vmx", tmp_path / "out", "source", TOOLS)
    assert ran[0][0][:4] == ["h2k-qemu-img", "convert", "-O", "qcow2"] and str(tmp_path / "s.vmx") in ran[0][0]


def test_fix_and_boot_work_on_the_report_directory(ran: Any, tmp_path: Path) -> None:
    converted = Converted("h2k-v2v", 0, tmp_path / "log", state=tmp_path / "source.h2k")
    assert h2k_fix(converted, TOOLS).tool == "h2k fix"
    assert h2k_boot(converted, TOOLS) == 1
    assert ran[0][0][:3] == ["h2k", "fix", str(tmp_path / "source.h2k")]
    assert ran[1][0][:2] == ["nsenter", "--"] and ran[1][0][3:] == ["boot", str(tmp_path / "source.h2k"), "--policy", "/p.yaml"]
    assert [argv[-2:] for argv, _ in ran[2:]] == [["sh", "source"], ["destroy", "source"], ["--nvram", "source"]]


def test_a_button_that_was_pressed_too_early_is_pressed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = [0.0], []

    def run(argv: Any, *_: Any) -> int:
        asked.extend(str(word) for word in argv if word in ("shutdown", "destroy"))
        return 0 if "sh" not in argv or asked.count("shutdown") < 2 else 1

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(convert, "run_logged", run)
    monkeypatch.setattr(convert, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    assert h2k_boot(Converted("h2k-v2v", 0, tmp_path / "log", state=tmp_path / "source.h2k"), TOOLS) == 0
    assert asked == ["shutdown", "shutdown", "destroy"] and convert.AGAIN <= now[0] <= convert.AGAIN + 2


@pytest.mark.parametrize(("bus", "dev", "found"), [("virtio", "vda", "virtio"), ("scsi", "sda", "virtio-scsi"), ("ide", "hda", "ide"), ("sata", "sda", "sata")])
def test_disks_and_bus_come_from_the_description(bus: str, dev: str, found: str, tmp_path: Path) -> None:
    xml = tmp_path / "source.xml"
    xml.write_text(XML.format(bus=bus, dev=dev, place=tmp_path, format="qcow2"))
    disks, its_bus = described(xml)
    assert its_bus == found and [(disk.path, disk.format) for disk in disks] == [(tmp_path / "source-sda", "qcow2")]


@pytest.mark.parametrize("content", [None, "", "<domain/>", "<a>"])
def test_no_description_is_no_disks(content: Any, tmp_path: Path) -> None:
    xml = tmp_path / "source.xml"
    if content is not None:
        xml.write_text(content)
    assert described(xml) == ((), "")


def test_a_conversion_that_ended_is_not_run_again(ran: Any, tmp_path: Path) -> None:
    for _ in range(2):
        assert virt_v2v(tmp_path / "s.vmx", tmp_path / "without", "source", TOOLS).status == 1
    assert len(ran) == 1
    (tmp_path / "without-virt-v2v.status").unlink()
    (tmp_path / "without" / "half").write_text("of a run that was ended")
    virt_v2v(tmp_path / "s.vmx", tmp_path / "without", "source", TOOLS)
    assert len(ran) == 2 and list((tmp_path / "without").iterdir()) == []
