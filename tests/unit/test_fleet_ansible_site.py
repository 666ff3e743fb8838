"""Inventory and playbook of waves: batches keep the limits, names are plain, nothing is a template."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from h2k.base.errors import Refused
from h2k.fleet.ansible_site import batches, host_names, literal, write_site
from h2k.fleet.waves import Entry, Waves


def entry(name: str, store: str = "a", wave: int = 1, **more: Any) -> Entry:
    return Entry(name, f"/x/{name}", "vmx", wave, Path("/out"), "h2k-v2v", datastore=store, **more)


class Loader(yaml.SafeLoader):
    """YAML with Ansible's tag."""


Loader.add_constructor("!unsafe", lambda loader, node: f"unsafe:{node.value}")


def site(tmp_path: Path, *entries: Entry, hosts: tuple[str, ...] = ("c1", "c2"), jobs: int = 2) -> tuple[Any, Any, str]:
    write_site(Waves(tmp_path / "waves.yaml", entries, jobs=jobs, per_source=2), hosts, tmp_path / "site")
    read = [yaml.load((tmp_path / "site" / name).read_text(), Loader) for name in ("inventory.yaml", "playbook.yaml")]
    return read[0], read[1], (tmp_path / "site" / "ansible.cfg").read_text()


def test_no_batch_passes_a_limit() -> None:
    entries = [entry(f"g{n}", "ab"[n % 5 == 0]) for n in range(20)]
    cut = batches(entries, at_once=4, per_source=3)
    assert sorted(e.name for batch in cut for e in batch) == sorted(e.name for e in entries)
    assert all(len(batch) <= 4 and max(Counter(e.datastore for e in batch).values()) <= 3 for batch in cut)
    assert len(cut) == 6  # 16 of one datastore, three at a time


def test_a_play_for_each_batch_and_a_host_for_each_guest(tmp_path: Path) -> None:
    own = ("--h2k-policy", "/p.yaml")
    inventory, playbook, settings = site(tmp_path, entry("db", wave=1), entry("web", options=own, wave=2), entry("x", wave=2), entry("y", wave=2))
    assert [play["hosts"] for play in playbook] == ["wave_1_batch_1", "wave_2_batch_1", "wave_2_batch_2", "all"]
    groups = inventory["all"]["children"]
    assert {name: list(group["hosts"]) for name, group in groups.items()} == {
        "wave_1_batch_1": ["db"], "wave_2_batch_1": ["web", "x"], "wave_2_batch_2": ["y"],
    }  # fmt: skip
    web = groups["wave_2_batch_1"]["hosts"]["web"]
    assert web["h2k_own_options"] == ["--h2k-policy", "/p.yaml"] and web["h2k_output"] == "/out" and web["h2k_number"] == 1
    assert inventory["all"]["vars"]["h2k_conversion_hosts"] == ["c1", "c2"] and "forks = 4" in settings
    (task,) = playbook[0]["tasks"]
    assert task["ignore_unreachable"] and task["h2k.fleet.h2k_convert"]["source"] == "{{ h2k_source }}"


def test_names_are_plain_and_none_is_a_template(tmp_path: Path) -> None:
    names = ["web[1:3]", "{{ lookup('pipe', 'id') }}", "all", "7", "a b", "a_b"]
    inventory, _, _ = site(tmp_path, *map(entry, names), jobs=9)
    hosts = {host: facts["h2k_name"] for group in inventory["all"]["children"].values() for host, facts in group["hosts"].items()}
    assert set(hosts) == {"web_1_3_", "___lookup__pipe____id_____", "guest_all", "guest_7", "a_b", "a_b-2"}
    assert "unsafe:{{ lookup('pipe', 'id') }}" in hosts.values()
    assert literal('a"b') == '"a\\"b"'


def test_this_host_alone(tmp_path: Path) -> None:
    inventory, _, _ = site(tmp_path, entry("web"), hosts=())
    assert inventory["all"]["vars"]["h2k_conversion_hosts"] == ["localhost"]
    assert "'local' if ansible_host == 'localhost'" in inventory["all"]["vars"]["ansible_connection"]


def test_no_guests(tmp_path: Path) -> None:
    inventory, playbook, _ = site(tmp_path)
    assert inventory["all"]["children"] == {"none": {}} and len(playbook) == 1


def test_a_directory_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "site").symlink_to(tmp_path)
    with pytest.raises(Refused):
        site(tmp_path, entry("web"))


def test_every_guest_has_a_host_of_its_own() -> None:
    entries = [entry("web"), Entry("web", "/y", "vmx", 1, Path("/other"), "h2k-v2v")]
    assert sorted(host_names(entries).values()) == ["web", "web-2"]
