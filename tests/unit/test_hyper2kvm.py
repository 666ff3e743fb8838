"""hyper2kvm's documented YAML: every key honoured, or refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from h2k.base.errors import UsageError
from h2k.config.driver_plan import Plan, load_plan
from h2k.config.hyper2kvm import Brought, read_hyper2kvm
from h2k.config.policy import Policy, load_policy
from h2k.windows.pnp import PciId
from h2k.windows.version import WindowsVersion

DOCUMENTED = r"""
virtio_drivers_dir: /srv/virtio-win.iso
win_stage: final
windows_virtio:
  default_os_bucket: win11
  os_buckets:
    win11: {min_build: 22000}
    win10: {min_build: 10240, max_build: 21999}
    win2019: {min_build: 17763, max_build: 17763}
  roles:
    storage_virtio_scsi:
      inf_globs: ["vioscsi\\**\\*.inf"]
      pnp_ids: ["PCI\\VEN_1AF4&DEV_1004", "PCI\\VEN_1AF4&DEV_1048"]
    storage_virtio_blk:
      inf_globs: ["viostor\\**\\*.inf"]
      pnp_ids: ["PCI\\VEN_1AF4&DEV_1001", "PCI\\VEN_1AF5&DEV_1142&SUBSYS_11001AF5&REV_01"]
    net_virtio: {inf_globs: ["NetKVM\\**\\netkvm.inf"], pnp_ids: ["PCI\\VEN_1AF4&DEV_1000"]}
    balloon: {inf_globs: ["Balloon\\**\\*.inf"]}
    rng: {inf_globs: ["viorng\\**\\*.inf"]}
    serial: {inf_globs: ["vioserial\\**\\*.inf"]}
  vendors:
    acme:
      roles:
        storage_virtio_blk: {inf_globs: ["acme\\store\\**\\*.inf"], pnp_ids: ["PCI\\VEN_1AC3&DEV_0042"]}
  active_vendor: null
win_net:
  schema: 1
  mode: static
  static: {address: 192.0.2.10/24, gateway: 192.0.2.1, dns_servers: [192.0.2.53]}
"""


def brought(directory: Path, text: str) -> Brought:
    path = directory / "theirs.yaml"
    path.write_text(text)
    return read_hyper2kvm(path)


def plan_of(given: Brought) -> Plan:
    assert given.plan is not None
    return load_plan([given.plan])


def windows(build: int, server: bool, version: tuple[int, int] = (10, 0)) -> WindowsVersion:
    return WindowsVersion("", version, build, "amd64", server, "", "", "")


def test_the_documented_keys(tmp_path: Path) -> None:
    given = brought(tmp_path, DOCUMENTED)
    assert given.drivers == "/srv/virtio-win.iso"
    plan, packaged = plan_of(given), load_plan()
    assert {role.name for role in plan.roles} == {role.name for role in packaged.roles}
    blk, base = plan.storage("virtio"), packaged.storage("virtio")
    assert blk is not None and base is not None
    assert (blk.service, blk.inf, blk.class_guid) == (base.service, base.inf, base.class_guid)
    assert set(base.devices) < set(blk.devices), "legacy and modern stay bound"
    assert set(blk.devices) - set(base.devices) == {PciId(0x1AF5, 0x1142, 0x1AF5, 0x1100, 1, 0x010000)}
    assert plan.bucket(windows(17763, True)).name == "Windows Server 2019"  # type: ignore[union-attr]
    assert plan.bucket(windows(19045, False)).directories == ("w10",)  # type: ignore[union-attr]
    assert given.policy is not None
    policy = load_policy([given.policy], tmp_path / "none")
    assert (policy.bootstrap, policy.addresses) == ("skip-when-ready", "override")


def test_an_empty_part_changes_nothing(tmp_path: Path) -> None:
    given = brought(tmp_path, "win_stage: bootstrap\n")
    assert given.plan is None and given.drivers is None and given.policy is not None
    assert load_policy([given.policy], tmp_path / "none") == Policy()
    assert plan_of(brought(tmp_path, "windows_virtio: {}\n")) == load_plan()


def test_the_default_bucket_is_for_its_own_kind_alone(tmp_path: Path) -> None:
    text = "windows_virtio: {default_os_bucket: win11, os_buckets: {win10: {min_build: 10240, max_build: 19045}}}\n"
    plan = plan_of(brought(tmp_path, text))
    assert plan.bucket(windows(21390, False)).name == "Windows 11"  # type: ignore[union-attr]
    assert plan.bucket(windows(19045, False)).name == "Windows 10"  # type: ignore[union-attr]
    assert plan.bucket(windows(9600, False, (6, 3))).name == "Windows 8.1"  # type: ignore[union-attr]
    assert plan.bucket(windows(6002, True, (6, 0))) is None


def test_an_active_vendor_stands_in_place(tmp_path: Path) -> None:
    plan = plan_of(brought(tmp_path, DOCUMENTED.replace("active_vendor: null", "active_vendor: acme")))
    blk = plan.storage("virtio")
    assert blk is not None and blk.driver == "store" and plan.layouts == ("acme/{driver}/{os}/{arch}",)
    assert PciId(0x1AC3, 0x0042, 0, 0, 0, 0x010000) in blk.devices


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("win_stage: middle\n", 1, "win_stage"),
        ("\nsurprise: 1\n", 2, "surprise"),
        ("windows_virtio:\n  os_buckets:\n    win12: {min_build: 1}\n", 3, "win12"),
        ("windows_virtio:\n  roles:\n    storage_virtio_blk:\n      pnp_ids: [ACPI\\X]\n", 4, "PCI"),
        ("windows_virtio:\n  roles:\n    storage_virtio_blk: {inf_globs: ['*.inf']}\n", 3, "FOLDER"),
        ("windows_virtio:\n  roles:\n    storage_virtio_blk: {inf_globs: ['acme\\**\\acme.inf']}\n", 3, "docs/driver-plans.md"),
        ("windows_virtio:\n  roles:\n    storage_virtio_blk: {start: 0}\n", 3, "start"),
        ("virtio_drivers_dir: [a]\n", 1, "virtio_drivers_dir"),
        ("a: &x 1\n", 1, "anchors"),
    ],
)
def test_what_can_not_be_honoured_is_refused_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        brought(tmp_path, text)
    assert f"theirs.yaml, line {line}:" in str(refusal.value) and words in str(refusal.value)


def test_an_unknown_vendor_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="acne"):
        plan_of(brought(tmp_path, DOCUMENTED.replace("active_vendor: null", "active_vendor: acne")))
