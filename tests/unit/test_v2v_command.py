"""virt-v2v's command line, understood as virt-v2v understands it, and passed on unchanged."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from h2k.base.errors import UsageError
from h2k.convert.v2v_command import V2vCommand, parse, with_input
from h2k.engine.request import Request
from tests.unit.helpers import many


def understood(line: str) -> dict[str, Any]:
    """What differs from the defaults."""
    found, plain = parse(line.split()), V2vCommand((), parse([]).h2k)
    names = """arguments informational input_mode input_format input_transport input_connection output_mode
    output_storage output_name output_format""".split()
    return {n: getattr(found, n) for n in names if getattr(found, n) != getattr(plain, n)}


VMX: dict[str, Any] = {"input_mode": "vmx", "arguments": ("g.vmx",)}


LINES: list[tuple[str, dict[str, Any]]] = [
    # As virt-v2v 2.2 was seen to take them
    ("-i vmx g.vmx", VMX),
    ("--i vmx g.vmx", VMX),
    ("-ivmx g.vmx", VMX),
    ("-vxi vmx g.vmx", VMX),
    ("-qivmx g.vmx", VMX),
    ("g.vmx -i vmx", VMX),
    ("-i vmx -- g.vmx", VMX),
    ("-i vmx -- -g.vmx", {**VMX, "arguments": ("-g.vmx",)}),
    ("-i vmx -", {**VMX, "arguments": ("-",)}),
    ("-os /out g.vmx -i vmx", {**VMX, "output_storage": "/out"}),
    ("--os /out g.vmx -i vmx", {**VMX, "output_storage": "/out"}),
    ("-os=/out g.vmx -i vmx", {**VMX, "output_storage": "/out"}),
    ("--os=/out g.vmx -i vmx", {**VMX, "output_storage": "/out"}),
    ("-osDIR g.vmx -i vmx", {**VMX, "output_mode": "sDIR"}),  # -o with the value sDIR, which virt-v2v refuses
    ("-o qemu -on name g", {"output_mode": "qemu", "output_name": "name", "arguments": ("g",)}),
    ("-on -name g", {"output_name": "-name", "arguments": ("g",)}),
    ("-on=-name g", {"output_name": "-name", "arguments": ("g",)}),
    ("-on --h2k-bus g", {"output_name": "--h2k-bus", "arguments": ("g",)}),
    ("-i local x", {"input_mode": "disk", "arguments": ("x",)}),
    ("-i disk a b", {"input_mode": "disk", "arguments": ("a", "b")}),
    ("-i disk -if qcow2 nbd://host/x", {"input_mode": "disk", "input_format": "qcow2", "arguments": ("nbd://host/x",)}),
    ("-i disk nbd+unix:///?socket=/x", {"input_mode": "disk", "arguments": ("nbd+unix:///?socket=/x",)}),
    ("-o disk -of raw g", {"output_mode": "local", "output_format": "raw", "arguments": ("g",)}),
    ("-i vmx -it ssh ssh://root@esxi/g.vmx", {"input_mode": "vmx", "input_transport": "ssh", "arguments": ("ssh://root@esxi/g.vmx",)}),
    ("-ic vpx://user@vc/dc/esxi -ip /pw guest", {"input_connection": "vpx://user@vc/dc/esxi", "arguments": ("guest",)}),
    ("-ic=vpx://vc?a=b guest", {"input_connection": "vpx://vc?a=b", "arguments": ("guest",)}),
    ("--password-file /pw guest", {"arguments": ("guest",)}),
    # Options with and without a value: what follows them
    ("--bridge out g", {"arguments": ("g",)}),
    ("-b in:out -n in:out g", {"arguments": ("g",)}),
    ("-nout g", {"arguments": ("g",)}),
    ("--mac 52:54:00:d0:cf:0e:ip:192.168.0.1,192.168.0.254,24 g", {"arguments": ("g",)}),
    ("--key all:key:secret --keys-from-stdin --echo-keys g", {"arguments": ("g",)}),
    ("--root /dev/sda2 g", {"arguments": ("g",)}),
    ("--no-trim x g", {"arguments": ("g",)}),
    ("--vmtype x g", {"arguments": ("g",)}),
    ("--wrap --colours --compressed --qemu-boot --debug-gc g", {"arguments": ("g",)}),
    ("-oo rhv-cafile=/ca -oo compressed -io vddk-libdir=/lib g", {"arguments": ("g",)}),
    ("-oa sparse -oc qemu:///system -op /pw g", {"arguments": ("g",)}),
    ("--vddk-thumbprint aa:bb --vdsm-vm-uuid x --bandwidth 10M g", {"arguments": ("g",)}),
    # 2.4 to 2.12
    ("--parallel 2 --memsize 4096 --smp 4 --no-fstrim g", {"arguments": ("g",)}),
    ("--collect out.tar.xz --block-driver virtio-scsi g", {"arguments": ("g",)}),
    ("--install a,b --run-command -x --firstboot f --update --no-logfile g", {"arguments": ("g",)}),
    ("--no-selinux-relabel --selinux-relabel-exclude /x --tar-in t:/ --ssh-inject root g", {"arguments": ("g",)}),
    # Beginnings of names
    ("--netw out g", {"arguments": ("g",)}),
    ("--verb g", {"arguments": ("g",)}),
    # Of a newer virt-v2v, or wrong: it says so itself
    ("--unheard-of value g", {"arguments": ("g",)}),
    ("--unheard-of=value g", {"arguments": ("g",)}),
    ("-i", {}),
    ("", {}),
    # Questions
    ("--help", {"informational": True}),
    ("-h", {"informational": True}),
    ("-V", {"informational": True}),
    ("-version", {"informational": True}),
    ("-vV", {"informational": True}),
    ("--long-options", {"informational": True}),
    ("--print-source -i vmx g.vmx", {**VMX, "informational": True}),
    ("--print-s -i vmx g.vmx", {**VMX, "informational": True}),
    ("--in-place -i vmx g.vmx", {**VMX, "informational": True}),
    ("-it vddk -io ?", {"input_transport": "vddk", "informational": True}),
    ("-o rhv-upload -oo=?", {"output_mode": "rhv-upload", "informational": True}),
    ("--machine-readable", {"informational": True}),
    ("--machine-readable=file:/x", {"informational": True}),
    ("--machine-readable -i vmx g.vmx", VMX),  # Forklift and others convert with it
    ("--machine-readable=fd:3 -i vmx g.vmx", VMX),
    ("--root help g", {"arguments": ("g",)}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_virt_v2vs_options(line: str, expected: dict[str, Any]) -> None:
    assert understood(line) == expected
    assert parse(line.split()).passed == tuple(line.split())


def test_ours_are_taken_out_wherever_they_stand() -> None:
    line = (
        "--h2k-drivers /d -i vmx --h2k-plan=a.yaml -h2k-plan b.yaml g.vmx --h2k-dry-run -o local --h2k-skip x --h2k-skip y "
        "--h2k-accept volume-dirty --h2k-hooks /h --h2k-report /r --h2k-bus sata --h2k-mode report"
    )
    found = parse(line.split())
    assert found.passed == ("-i", "vmx", "g.vmx", "-o", "local")
    wanted = Request(
        drivers="/d", plans=("a.yaml", "b.yaml"), bus="sata", hooks=("/h",), skip=("x", "y"), accept=("volume-dirty",)
    )
    assert found.h2k == type(found.h2k)(wanted, mode="report", report="/r", dry_run=True)


def test_after_two_dashes_nothing_is_ours() -> None:
    found = parse(["-i", "disk", "--", "--h2k-bus", "-i"])
    assert found.passed == ("-i", "disk", "--", "--h2k-bus", "-i")
    assert (found.arguments, found.h2k.request.bus) == (("--h2k-bus", "-i"), None)


def test_the_value_of_ours_may_begin_with_a_dash() -> None:
    assert parse(["--h2k-report", "-x"]).h2k.report == "-x"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--h2k-driver /d", r"--h2k-driver: no such option \(did you mean --h2k-drivers\?\)"),
        ("--h2k- x", "--h2k-: no such option"),
        ("--h2k-drivers", "--h2k-drivers: needs a value"),
        ("--h2k-drivers=", "--h2k-drivers=: needs a value"),
        ("--h2k-dry-run=no", "--h2k-dry-run=no: takes no value"),
        ("--h2k-bus scsi", r"--h2k-bus scsi: no such bus \(one of virtio, virtio-scsi, sata\)"),
        ("--h2k-mode watch", "--h2k-mode watch: no such mode"),
    ],
)
def test_our_options_that_are_wrong(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(line.split())


def test_the_mode_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("H2K_MODE", "report")
    assert parse([]).h2k.mode == "report"
    assert parse(["--h2k-mode", "repair"]).h2k.mode == "repair"
    monkeypatch.setenv("H2K_MODE", "")
    assert parse([]).h2k.mode == "repair"
    monkeypatch.setenv("H2K_MODE", "no")
    with pytest.raises(UsageError, match="H2K_MODE no: no such mode"):
        parse([])


@pytest.mark.parametrize(
    ("line", "bus"),
    [
        ("--block-driver virtio-scsi", "virtio-scsi"),
        ("--block-driver=virtio-scsi", "virtio-scsi"),
        ("--block-driver virtio-blk", None),
        ("--block-driver virtio-scsi --h2k-bus sata", "sata"),
        ("", None),
    ],
)
def test_virt_v2vs_block_driver_is_our_bus(line: str, bus: Optional[str]) -> None:
    assert parse(line.split()).h2k.request.bus == bus


# Another source


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-i vmx g.vmx -o local -os /out", "-o local -os /out"),
        ("-ivmx g.vmx -os=/out --h2k-bus sata", "-os=/out"),
        ("-qivmx g.vmx -v", "--quiet -v"),
        ("-i vmx -it ssh -ip /pw -io a=b --vddk-port 1 -if vmdk -on old -- g.vmx", ""),
        ("--mac a:ip:1 --root first -i vmx -n out g.vmx", "--mac a:ip:1 --root first -n out"),
    ],
)
def test_the_same_command_on_another_source(line: str, expected: str) -> None:
    found = with_input(parse(line.split()), "disk", ["/o"], "g", form="qcow2")
    assert " ".join(found) == " ".join(f"-i disk -if qcow2 -on g {expected} -- /o".split())


def test_another_source_without_a_format() -> None:
    command = parse(["-i", "vmx", "g.vmx", "-o", "local"])
    assert with_input(command, "libvirtxml", ["-x.xml"], "g") == ("-i", "libvirtxml", "-on", "g", "-o", "local", "--", "-x.xml")


# Any arguments

WORDS = st.sampled_from(
    "-i -o -os -on -of -if -it -io -ic -v -x -q -vx -vi -idisk -os=/x --os --root --no-trim --help --machine-readable --print-source "
    "disk local vmx g.vmx -- - --- = -= --= --install --in --unheard-of --unheard=of ? é".split()
) | st.text(max_size=6).filter(lambda text: not text.startswith(("--h2k-", "-h2k-")))  # fmt: skip


@many
@given(st.lists(WORDS, max_size=12))
def test_everything_passes_through_unchanged(argv: list[str]) -> None:
    found = parse(argv)
    assert list(found.passed) == argv
    assert all(argument in argv for argument in found.arguments)


@many
@given(st.lists(WORDS, max_size=8), st.lists(WORDS, max_size=8))
def test_ours_leave_no_trace(before: list[str], after: list[str]) -> None:
    assume("--" not in before and "END" in parse([*before, "END"]).arguments)  # else an option waits for a value
    assert parse([*before, "--h2k-mode=repair", *after]) == parse([*before, *after])


@many
@given(st.lists(WORDS, max_size=10))
def test_another_source_is_the_only_one(argv: list[str]) -> None:
    assume("END" in parse([*argv, "END"]).arguments)  # else its last option waits for a value
    again = parse(with_input(parse(argv), "disk", ["/o"], "g", form="raw"))
    assert (again.arguments, again.input_mode, again.input_format, again.output_name) == (("/o",), "disk", "raw", "g")
    assert (again.output_mode, again.output_storage) == (parse(argv).output_mode, parse(argv).output_storage)
