"""qemu-img's command line as qemu-img reads it, and the conversions that h2k can't prove."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from h2k.base.errors import UsageError
from h2k.convert.disk_description import Wanted
from h2k.convert.qemu_img_command import ConvertCommand, parse
from tests.unit.helpers import many


def converted(line: str) -> ConvertCommand:
    found = parse(line.split())
    assert found is not None, f"not understood as a conversion: {line}"
    return found


# line, options that pass, source, target, source format, target format
LINES = [
    ("convert a b", "", "a", "b", None, "raw"),
    ("convert -O qcow2 a b", "-O qcow2", "a", "b", None, "qcow2"),
    ("convert a b -Oqcow2", "-O qcow2", "a", "b", None, "qcow2"),
    ("convert -f vmdk -O qcow2 a b", "-O qcow2", "a", "b", "vmdk", "qcow2"),
    ("convert -fvmdk -pO qcow2 a b", "-p -O qcow2", "a", "b", "vmdk", "qcow2"),
    ("convert a -p b -c -O qcow2", "-p -c -O qcow2", "a", "b", None, "qcow2"),
    ("convert -p -W -C -m 16 -t none -T none -S 64k -r 10M a b", "-p -W -C -m 16 -t none -T none -S 64k -r 10M", "a", "b", None, "raw"),
    ("convert -pWm16 a b", "-p -W -m 16", "a", "b", None, "raw"),
    ("convert -O qcow2 -o compat=1.1 -o cluster_size=2M a b", "-O qcow2 -o compat=1.1 -o cluster_size=2M", "a", "b", None, "qcow2"),
    ("convert -O qcow2 -B base.qcow2 -F qcow2 a b", "-O qcow2 -B base.qcow2 -F qcow2", "a", "b", None, "qcow2"),
    ("convert -U --salvage -q a b", "-U --salvage -q", "a", "b", None, "raw"),
    ("convert -n --target-is-zero a /dev/vg/b", "-n --target-is-zero", "a", "/dev/vg/b", None, "raw"),
    ("convert --object secret,id=s,data=x a b", "--object secret,id=s,data=x", "a", "b", None, "raw"),
    ("convert --object=secret,id=s a b", "--object=secret,id=s", "a", "b", None, "raw"),
    # 10.1 and later
    ("convert --source-format vmdk --target-format=qcow2 a b", "--target-format=qcow2", "a", "b", "vmdk", "qcow2"),
    ("convert --source-f vmdk --target-format qcow2 a b", "--target-format qcow2", "a", "b", "vmdk", "qcow2"),
    ("convert --parallel 4 --progress a b", "--parallel 4 --progress", "a", "b", None, "raw"),
    # of a qemu-img that is newer than this table
    ("convert --new-option --with=value -Z a b", "--new-option --with=value -Z", "a", "b", None, "raw"),
    ("convert -- -a b", "", "-a", "b", None, "raw"),
    ("convert nbd://host/x b", "", "nbd://host/x", "b", None, "raw"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "passed", "source", "target", "form", "result"), LINES)
def test_convert(line: str, passed: str, source: str, target: str, form: Optional[str], result: str) -> None:
    found = converted(line)
    assert list(found.options) == passed.split()
    assert (found.source, found.target, found.source_format, found.target_format) == (source, target, form, result)
    assert found.no_create == ("-n" in passed.split())
    argv = found.argv("/overlay", "qcow2", "part")
    assert argv == ["qemu-img", "convert", *passed.split(), "-f", "qcow2", "--", "/overlay", "part"]


def test_options_before_the_command() -> None:
    found = converted("-T enable=x --h2k-drivers /d convert a b")
    assert found.before == ("-T", "enable=x") and found.h2k.request.drivers == "/d"
    assert found.argv("a", None, "b") == ["qemu-img", "-T", "enable=x", "convert", "--", "a", "b"]


@pytest.mark.parametrize(
    "line",
    [
        "", "--help", "-h", "--version", "-V", "info a", "create -f qcow2 a 1G", "check a", "convert --help", "convert -h",
        "convert -O qcow2 -o help", "convert -O qcow2 -o ?", "convert -o cluster_size=1M,help -O qcow2 a b", "-T x info a",
        "info convert", "measure -O qcow2 a", "snapshot -c convert a",
    ],
)  # fmt: skip
def test_everything_else_is_qemu_imgs_own(line: str) -> None:
    assert parse(line.split()) is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("convert a", "source and a target"),
        ("convert", "source and a target"),
        ("convert a b c", "2 sources"),
        ("convert -O vmdk a b", "-O vmdk"),
        ("convert -O vpc a b", "for KVM"),
        ("convert --image-opts driver=vmdk,file.filename=a b", "file name"),
        ("convert --target-image-opts -n a driver=raw,file.filename=b", "file name"),
        ("convert -l snap a b", "snapshot"),
        ("convert -lsnap a b", "snapshot"),
        ("convert --bitmaps a b", "bitmaps"),
        ("convert a nbd://host/b", "file or a block device"),
        ("convert https://host/a b", "copy it here"),
        ("convert json:{} b", "copy it here"),
        ("convert a b -O", "needs a value"),
        ("convert --h2k-nothing x a b", "no such option"),
        ("convert a b --h2k-memory", "needs a value"),
        ("convert --h2k-memory lots a b", "amount of memory"),
        ("convert --h2k-memory 512k a b", "amount of memory"),
        ("convert --h2k-vcpus 0 a b", "number of CPUs"),
        ("convert --h2k-firmware coreboot a b", "one of bios, uefi"),
        ("convert --h2k-bus ide a b", "no such bus"),
    ],
)
def test_what_can_not_be_is_said(line: str, why: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(line.split())
    assert why in str(error.value) and error.value.exit_status == 2


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--h2k-memory 4096", {"memory": 4096 * 1024**2}),
        ("--h2k-memory 4G", {"memory": 4 * 1024**3}),
        ("--h2k-memory=4GiB", {"memory": 4 * 1024**3}),
        ("--h2k-memory 2048m", {"memory": 2048 * 1024**2}),
        ("--h2k-vcpus 4 --h2k-name win", {"vcpus": 4, "name": "win"}),
        ("--h2k-firmware efi", {"firmware": "uefi"}),
        ("--h2k-firmware bios", {"firmware": "bios"}),
        ("--h2k-domain g.vmx --h2k-root /dev/sda2", {"domain": "g.vmx", "root": "/dev/sda2"}),
    ],
)
def test_facts_of_the_guest(line: str, expected: dict[str, Any]) -> None:
    for where in (f"convert {line} a b", f"convert a {line} b", f"convert a b {line}", f"{line} convert a b"):
        assert converted(where).wanted == Wanted(**expected)


def test_the_same_options_as_h2k_v2v() -> None:
    line = "convert --h2k-plan p --h2k-plan q --h2k-bus sata --h2k-accept x --h2k-dry-run --h2k-report r --h2k-policy y a b"
    ours = converted(line).h2k
    asked = ours.request
    assert (asked.plans, asked.bus, asked.accept, ours.dry_run, ours.report) == (("p", "q"), "sata", ("x",), True, "r")
    assert asked.policies == ("y",) and converted(line).options == ()


WORDS = st.sampled_from("-O -f -p -pO -o -- qcow2 raw a b -n -c --progress --target-format=raw -t none -m 4 -x --unknown".split())


@many
@given(st.lists(WORDS, max_size=10))
def test_ours_leave_no_trace(words: list[str]) -> None:
    def told(argv: list[str]) -> Any:
        try:
            return parse(argv)
        except UsageError as e:
            return str(e)

    assert told(["--h2k-mode", "repair", "convert", *words]) == told(["convert", *words])
