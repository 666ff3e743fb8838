"""Driver plans: which directory and driver for which Windows, merging, vendors, and faults with file and line."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from h2k.base.errors import Refused, UsageError
from h2k.config.driver_plan import PLAN_DIRECTORIES, Plan, load_plan
from h2k.windows.pnp import PciId
from h2k.windows.version import WindowsVersion
from tests.unit.helpers import damaged, few, windows

PLAN = load_plan()
ACME = PLAN_DIRECTORIES[0] / "examples" / "acme.yaml"
PACKAGED = (PLAN_DIRECTORIES[0] / "virtio-win.yaml").read_bytes()
GUID = '"{4D36E97B-E325-11CE-BFC1-08002BE10318}"'
ROLE = f"""roles:
  - name: other-disk
    kind: storage
    bus: virtio
    driver: disk
    inf: disk.inf
    service: disk
    class_guid: {GUID}
    devices:
      - [0x1234, 0x5678, 0x1234, 0x0001, 0x00, 0x010000]
"""


def load(tmp_path: Path, *texts: str, suffix: str = ".yaml") -> Plan:
    paths = []
    for number, text in enumerate(texts, 1):
        paths.append(tmp_path / f"plan{number}{suffix}")
        paths[-1].write_text(text, encoding="utf-8")
    return load_plan(paths)


def fault(tmp_path: Path, text: str, suffix: str = ".yaml") -> str:
    with pytest.raises(UsageError) as error:
        load(tmp_path, text, suffix=suffix)
    return str(error.value)


# Buckets


@pytest.mark.parametrize(
    ("guest", "directory"),
    [
        (windows((6, 1), 7601, "x86", False), "w7"),
        (windows((6, 1), 7600, server=True), "2k8R2"),
        (windows((6, 2), 9200, server=False), "w8"),
        (windows((6, 2), 9200), "2k12"),
        (windows((6, 3), 9600, server=False), "w8.1"),
        (windows((6, 3), 9600), "2k12R2"),
        (windows(build=10240, server=False), "w10"),
        (windows(build=19045, server=False), "w10"),
        (windows(build=21999, server=False), "w10"),
        (windows(build=22000, server=False), "w11"),
        (windows(build=26200, server=False), "w11"),
        (windows(build=14393), "2k16"),
        (windows(build=16299), "2k16"),  # 1709
        (windows(build=17134), "2k16"),  # 1803
        (windows(build=17763), "2k19"),
        (windows(build=19042), "2k19"),  # 20H2
        (windows(build=20348), "2k22"),
        (windows(build=25398), "2k22"),  # 23H2
        (windows(build=26100), "2k25"),
        (windows((6, 0), 6002), None),
        (windows((5, 1), 2600, "x86", False), None),
        (windows((10, 1), 30000), None),
    ],
    ids=lambda v: v.name + (" server" if v.server else "") if isinstance(v, WindowsVersion) else v,
)
def test_the_bucket_of_every_windows(guest: WindowsVersion, directory: str) -> None:
    bucket = PLAN.bucket(guest)
    assert (bucket.directories if bucket is not None else None) == ((directory,) if directory else None)


def test_no_two_buckets_overlap_and_no_build_is_between_them() -> None:
    for product in ("client", "server"):
        ranges = sorted((b.min_build, b.max_build) for b in PLAN.buckets if b.version == (10, 0) and b.product == product)
        assert ranges[0][0] == 0 and ranges[-1][1] >= 1 << 31
        assert all(before[1] + 1 == after[0] for before, after in zip(ranges, ranges[1:]))


def test_legacy_and_modern_ids_always_both() -> None:
    for role in PLAN.roles:
        if role.devices:
            legacy, modern = role.devices
            assert 0x1000 <= legacy.device <= 0x103F and legacy.revision == 0
            assert modern.device >= 0x1040
            assert (modern.subsystem_vendor, modern.subsystem, modern.revision) == (0x1AF4, 0x1100, 1)
    assert {r.name: r.ids() for r in PLAN.roles}["virtio-blk"] == ("PCI\\VEN_1AF4&DEV_1001", "PCI\\VEN_1AF4&DEV_1042")
    assert {r.name: r.ids() for r in PLAN.roles}["pvpanic"] == ("ACPI\\QEMU0001",)


def test_the_driver_of_each_bus() -> None:
    blk, scsi = PLAN.storage("virtio"), PLAN.storage("virtio-scsi")
    assert blk is not None and scsi is not None
    assert (blk.service, scsi.service, PLAN.storage("sata")) == ("viostor", "vioscsi", None)


def test_what_the_first_boot_needs() -> None:
    assert {r.inf for r in PLAN.roles if r.stage} == {
        "viostor.inf", "vioscsi.inf", "netkvm.inf", "balloon.inf", "vioser.inf", "viorng.inf", "pvpanic.inf", "fwcfg.inf",
    }  # fmt: skip


def test_the_boot_stack_of_older_windows_has_no_volume() -> None:
    assert "volume" in {e.name for e in PLAN.boot_stack_for(windows())}
    assert "volume" not in {e.name for e in PLAN.boot_stack_for(windows((6, 1), 7601))}


# Merging


def test_a_role_of_the_same_bus_stands_in_place_of_the_packaged_one(tmp_path: Path) -> None:
    plan = load(tmp_path, ROLE)
    role = plan.storage("virtio")
    assert role is not None and role.name == "other-disk"
    assert "virtio-blk" not in {r.name for r in plan.roles}
    assert {r.name for r in plan.roles} >= {"virtio-scsi", "virtio-net", "pvpanic"}
    assert plan.buckets == PLAN.buckets and plan.controllers == PLAN.controllers


def test_equal_names_are_replaced_and_come_first(tmp_path: Path) -> None:
    bucket = 'buckets: [{name: "Windows 10", version: "10.0", product: client, max_build: 21999, directories: [mine]}]\n'
    stack = "boot_stack: [{name: disk, starts: [0, 1]}, {name: extra}]\n"
    plan = load(tmp_path, bucket + stack)
    found = plan.bucket(windows(build=19045, server=False))
    assert found is not None and found.directories == ("mine",)
    assert [e.starts for e in plan.boot_stack if e.name == "disk"] == [(0, 1)]
    assert len(plan.boot_stack) == len(PLAN.boot_stack) + 1
    assert len(plan.buckets) == len(PLAN.buckets)


def test_a_new_bucket_wins_where_it_overlaps(tmp_path: Path) -> None:
    text = 'buckets: [{name: mine, version: "10.0", product: server, min_build: 20348, max_build: 20348, directories: [special]}]\n'
    plan = load(tmp_path, text)
    assert [plan.bucket(windows(build=b)).directories for b in (20348, 25398)] == [("special",), ("2k22",)]  # type: ignore[union-attr]


def test_later_plans_go_over_earlier_ones(tmp_path: Path) -> None:
    plan = load(tmp_path, ROLE, ROLE.replace("disk.inf", "later.inf"), 'layouts: ["{os}"]\nskip: []\n')
    role = plan.storage("virtio")
    assert role is not None and role.inf == "later.inf"
    assert (plan.layouts, plan.skip) == (("{os}",), ())


def test_architectures_merge_by_name(tmp_path: Path) -> None:
    plan = load(tmp_path, "architectures: {amd64: [x64]}\n")
    assert plan.architectures["amd64"] == ("x64",)
    assert plan.architectures["x86"] == PLAN.architectures["x86"]


def test_a_controller_is_known_by_its_bus(tmp_path: Path) -> None:
    plan = load(tmp_path, "controllers: [{bus: sata, device: [1, 2, 3, 4, 5, 6]}]\n")
    assert [(c.bus, c.device.vendor) for c in plan.controllers] == [("sata", 1), ("ide", 0x8086)]


def test_json(tmp_path: Path) -> None:
    content = {"roles": [{
        "name": "x", "kind": "other", "driver": "x", "inf": "x.inf", "service": "x", "class_guid": GUID.strip('"'),
        "devices": [["0x1AF4", "0x10ff", 6900, 4352, "0x01", "0x00ff00"]],
    }]}  # fmt: skip
    plan = load(tmp_path, json.dumps(content, indent="\t"), suffix=".json")
    assert plan.roles[0].devices == (PciId(0x1AF4, 0x10FF, 0x1AF4, 0x1100, 1, 0xFF00),)


# Vendors


def test_the_example_vendor() -> None:
    plan = load_plan([ACME])
    role = plan.storage("virtio")
    assert role is not None
    assert (role.service, role.inf, role.driver) == ("acmedisk", "acmedisk.inf", "storage")
    assert role.ids() == ("PCI\\VEN_1AC3&DEV_0101", "PCI\\VEN_1AC3&DEV_0142")
    assert [r.service for r in plan.roles if r.kind == "network"] == ["acmenic"]
    assert plan.layouts == ("{driver}/{os}/{arch}",)
    for guest in (windows(build=22631, server=False), windows(build=26100)):
        bucket = plan.bucket(guest)
        assert bucket is not None and bucket.directories == ("win",)
    old = plan.bucket(windows((6, 3), 9600))
    assert old is not None and old.directories == ("2k12R2",)


def test_a_vendor_that_is_not_active_changes_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, ACME.read_text().replace("active_vendor: acme", "")) == PLAN
    assert load_plan([ACME, *[_write(tmp_path, "off.yaml", "active_vendor: null\n")]]) == PLAN


def test_a_vendor_chosen_by_a_later_plan(tmp_path: Path) -> None:
    quiet = _write(tmp_path, "acme.yaml", ACME.read_text().replace("active_vendor: acme", ""))
    chosen = load_plan([quiet, _write(tmp_path, "site.yaml", "active_vendor: acme\n")])
    assert chosen == load_plan([ACME])


def _write(directory: Path, name: str, text: str) -> Path:
    (directory / name).write_text(text)
    return directory / name


def test_a_vendor_that_nobody_described(tmp_path: Path) -> None:
    assert fault(tmp_path, "skip: []\nactive_vendor: acme\n") == (
        f"{tmp_path}/plan1.yaml, line 2: no vendor 'acme' (vendors: none)"
    )


# Faults


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("skip: []\n\nunknown: 1\n", 3, "the top: no such key: unknown"),
        (ROLE + "    colour: red\n", 11, "roles/0: no such key: colour"),
        (ROLE.replace("    bus: virtio\n", ""), 2, "roles/0: 'bus' is a required property"),
        (ROLE.replace("storage", "network"), 4, "roles/0/bus: 'virtio' is not allowed here"),
        (ROLE.replace("bus: virtio", "bus: nvme"), 4, "roles/0/bus: 'nvme' is not one of"),
        (ROLE.replace("service: disk", "service: 'a\\b'"), 7, "roles/0/service"),
        (ROLE.replace("inf: disk.inf", "inf: ../disk.inf"), 6, "roles/0/inf"),
        (ROLE.replace("driver: disk", "driver: /etc"), 5, "roles/0/driver"),
        (ROLE.replace("0x010000]", "0x01000000]"), 10, "roles/0/devices/0/5"),
        (ROLE.replace("[0x1234,", "[0x12345,"), 10, "roles/0/devices/0/0"),
        (ROLE.replace(", 0x010000]", "]"), 10, "roles/0/devices/0"),
        (ROLE.replace(GUID, "scsi"), 8, "roles/0/class_guid"),
        ('layouts:\n  - "{driver.__class__}/{os}"\n', 2, "layouts/0"),
        ('layouts:\n  - "../{driver}"\n', 2, "layouts/0"),
        ("layouts: []\n", 1, "layouts"),
        ('buckets:\n  - {name: x, version: 10.0, product: client, directories: [x]}\n', 2, "buckets/0/version: 10.0 is not of type"),
        ('buckets:\n  - {name: x, version: "10.0", product: both, directories: [x]}\n', 2, "buckets/0/product"),
        ('buckets:\n  - {name: x, version: "10.0", product: client, min_build: 2, max_build: 1, directories: [x]}\n', 2, "buckets/0: x: min_build"),
        ("boot_stack:\n  - {name: disk, starts: [4]}\n", 2, "boot_stack/0/starts/0: 4 is greater than"),
        ("a: &x 1\nb: *x\n", 1, "not a plan: anchors and aliases are not allowed"),
        ("skip: []\nskip: []\n", 2, "not a plan: a key that is there twice: 'skip'"),
        ("skip: []\n<<: {skip: []}\n", 2, "not a plan: a key that is no plain name: '<<'"),
        ("? [a]\n: 1\n", 1, "not a plan: a key that is no plain name"),
        ("skip: [\n", 2, "not a plan: "),
        ("\tskip: []\n", 1, "not a plan: "),
        ("skip: !!python/name:os.system\n", 1, "not a plan: could not determine a constructor"),
        ("- skip\n", 1, "the top: ['skip'] is not of type 'object'"),
        ("", 1, "the top: None is not of type 'object'"),
        ("skip: []\n---\nskip: []\n", 2, "not a plan: but found another document"),
        ("skip: []\n\x07\n", 2, "not a plan: special characters are not allowed"),
        ("vendors:\n  acme:\n    role: []\n", 3, "vendors/acme: no such key: role"),
    ],
)  # fmt: skip
def test_a_fault_names_file_and_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    assert fault(tmp_path, text).startswith(f"{tmp_path}/plan1.yaml, line {line}: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n"skip": [],\n}', "line [23]: not JSON: "),  # Python 3.13 names the comma, earlier ones what follows it
        ('{\n"skip": [],\n"extra": 1\n}', "line 3: the top: no such key"),
        ('{"skip": [],\n"skip": []}', "line 2: not a plan: a key that is there twice"),
        ("skip: []", "line 1: not JSON"),
        ("[" * 100_000, ": not a plan: "),
    ],
    ids=["comma", "unknown", "twice", "yaml", "deep"],
)
def test_faults_of_json(tmp_path: Path, text: str, message: str) -> None:
    assert re.search(message, fault(tmp_path, text, ".json"))


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 30_000, "- " * 60_000, "x" * 200_000, "buckets: " + "9" * 100_000], ids=len)
def test_plans_that_cost_too_much(tmp_path: Path, text: str) -> None:
    assert fault(tmp_path, text).startswith(f"{tmp_path}/plan1.yaml")


def test_a_plan_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.yaml: can't be read as a plan"):
        load_plan([tmp_path / "missing.yaml"])
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"binary\.yaml: can't be read as a plan"):
        load_plan([tmp_path / "binary.yaml"])


def use(directory: Path, data: bytes, suffix: str) -> None:
    path = directory / f"any{suffix}"
    path.write_bytes(data)
    try:
        plan = load_plan([path])
    except UsageError as error:
        assert str(path) in error.message
    else:
        plan.bucket(windows())
        assert all(role.ids() for role in plan.roles)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans")


@few
@given(data=damaged(PACKAGED))
def test_damaged_plans(place: Path, data: bytes) -> None:
    use(place, data, ".yaml")


@few
@given(data=st.text(alphabet="[]{}:,-&*!|>'\"%@`#? \n\tabc019.~<", max_size=60))
@example("? : ?")
@example("!<a> b: c")
def test_any_text(place: Path, data: str) -> None:
    use(place, data.encode(), ".yaml")


def _trees() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    keys = st.sampled_from(["roles", "buckets", "layouts", "skip", "vendors", "active_vendor", "name", "devices", "bus"]) | st.text(max_size=4)
    return st.recursive(leaves, lambda below: st.lists(below, max_size=4) | st.dictionaries(keys, below, max_size=5), max_leaves=20)


@few
@given(content=_trees())
def test_any_json(place: Path, content: Any) -> None:
    use(place, json.dumps(content).encode(), ".json")


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_as_root_a_plan_that_others_can_write_is_refused(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# nothing\n", encoding="utf-8")
    path.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Refused, match=r"mine\.yaml: others can write to it; a .*plan is there that root is to obey"):
        load_plan([path])
