"""The policy file: defaults, merging, hyper2kvm's win_net, and the line of every fault."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from h2k.base.errors import Refused, UsageError
from h2k.config.policy import SCHEMA, TIMEOUTS, NicOverride, Policy, load_policy

NONE = Path("/nonexistent/policy.yaml")


def load(tmp_path: Path, *texts: str) -> Policy:
    paths = []
    for number, text in enumerate(texts):
        path = tmp_path / f"policy-{number}.yaml"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return load_policy(paths, NONE)


def test_defaults_are_those_of_the_dataclass(tmp_path: Path) -> None:
    assert load(tmp_path) == Policy() == load(tmp_path, "# only a comment\n")


def test_every_key(tmp_path: Path) -> None:
    policy = load(
        tmp_path,
        """
ghosts: keep
addresses: dhcp
profiles: remove
log-unclean: refuse
writer: appliance
report: {html: true}
bootstrap: {boot: required, nic: e1000e}
disks: {san: keep}
first-boot: {tools: remove, agent: install, retries: 3}
validation: {ports: [3389, 5985], services: [W32Time, "Spooler"], minutes: 20}
timeouts: {start: 60, settle: 5}
""",
    )
    assert (policy.ghosts, policy.addresses, policy.profiles, policy.log_unclean) == ("keep", "dhcp", "remove", "refuse")
    assert policy.writer == "appliance" and policy.page is True
    assert (policy.bootstrap, policy.bootstrap_nic, policy.san) == ("required", "e1000e", "keep")
    assert (policy.tools, policy.agent, policy.retries) == ("remove", "install", 3)
    assert policy.validation.ports == (3389, 5985)
    assert policy.validation.services == ("W32Time", "Spooler")
    assert policy.validation.minutes == 20
    assert policy.timeouts == {**TIMEOUTS, "start": 60, "settle": 5}


def test_every_property_of_the_schema_reaches_the_policy(tmp_path: Path) -> None:
    """A key that the schema knows and no code reads would be ignored in silence."""
    examples = {
        "ghosts": "keep", "addresses": "dhcp", "profiles": "remove", "log-unclean": "refuse", "writer": "direct", "report": {"html": True}, "bootstrap": "required",
        "disks": {"san": "keep"}, "first-boot": {"retries": 9}, "validation": {"minutes": 9}, "timeouts": {"done": 9},
        "win_net": {"mode": "dhcp", "dhcp": {"dns_servers": ["192.0.2.9"]}},
    }  # fmt: skip
    assert set(examples) == set(json.loads(SCHEMA.read_text(encoding="utf-8"))["properties"])
    for key, value in examples.items():
        assert load(tmp_path, json.dumps({key: value})) != Policy(), key


def test_later_files_go_over_earlier_ones(tmp_path: Path) -> None:
    policy = load(
        tmp_path, "timeouts: {start: 60}\nbootstrap: required\nghosts: keep\n", "timeouts: {done: 7}\nbootstrap: {nic: virtio}\n"
    )
    assert (policy.bootstrap, policy.bootstrap_nic, policy.ghosts) == ("required", "virtio", "keep")
    assert (policy.timeouts["start"], policy.timeouts["done"]) == (60, 7)


def test_the_hosts_own_policy_comes_first(tmp_path: Path) -> None:
    local = tmp_path / "local.yaml"
    local.write_text("ghosts: keep\nprofiles: remove\n", encoding="utf-8")
    given = tmp_path / "given.yaml"
    given.write_text("ghosts: remove\n", encoding="utf-8")
    policy = load_policy([given], local)
    assert (policy.ghosts, policy.profiles) == ("remove", "remove")


def test_win_net_as_hyper2kvm_has_it(tmp_path: Path) -> None:
    policy = load(
        tmp_path,
        """
win_net:
  schema: 1
  mode: static
  static: {address: 192.0.2.10/24, gateway: 192.0.2.1, dns_servers: [192.0.2.53, "2001:db8::53"]}
  interface: {match: {mac: 52-54-00-AB-CD-EF}, name: LAN}
""",
    )
    assert policy.addresses == "override"
    assert policy.overrides == (
        NicOverride(
            "52:54:00:ab:cd:ef", "LAN", False, ("192.0.2.10/24",), ("192.0.2.1",), ("192.0.2.53", "2001:db8::53")
        ),
    )


def test_win_net_as_a_list(tmp_path: Path) -> None:
    policy = load(
        tmp_path,
        """
win_net:
  - {mode: dhcp, adapter: {match: {mac: "52:54:00:00:00:01"}}, dhcp: {dns_servers: "192.0.2.53, 192.0.2.54"}}
  - {mode: static, static: {address: ["192.0.2.10/24", "2001:db8::1/64"]}, adapter: {match: {mac: "52:54:00:00:00:02"}}}
""",
    )
    assert [o.dhcp for o in policy.overrides] == [True, False]
    assert policy.overrides[0].dns == ("192.0.2.53", "192.0.2.54")
    assert policy.overrides[1].addresses == ("192.0.2.10/24", "2001:db8::1/64")


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("ghosts: remove\nghots: keep\n", 2, "ghots"),
        ("\n\nghosts: maybe\n", 3, "maybe"),
        ("ghosts: keep\nghosts: keep\n", 2, "twice"),
        ("a: &x 1\nb: *x\n", 1, "anchors"),
        ("first-boot:\n  retries: 0\n", 2, "minimum"),
        ("first-boot:\n  retries: 3\n  agnet: install\n", 3, "agnet"),
        ("validation:\n  ports:\n    - 80\n    - 70000\n", 4, "70000"),
        ("timeouts:\n  reboot: 3\n", 2, "reboot"),
        ("bootstrap:\n  nic: rtl8139\n", 2, "rtl8139"),
        ("- ghosts\n", 1, "object"),
        ("ghosts: [\n", 2, "not a policy"),
        ("win_net:\n  mode: static\n", 2, "static"),
        ("win_net:\n  mode: static\n  static:\n    address: 192.0.2.10\n", 4, "prefix"),
        ("win_net:\n  mode: static\n  static:\n    address: 192.0.2.10/24\n    gateway: here\n", 5, "here"),
        ("win_net:\n  mode: static\n  static:\n    address: 224.0.0.1/4\n", 4, "224.0.0.1/4"),
        ("win_net:\n  mode: dhcp\n  dhcp: {dns_servers: [fe80::1%eth0]}\n", 3, "fe80"),
        ("win_net:\n  - {mode: dhcp}\n  - {mode: dhcp}\n", 2, "each its own"),
        ("win_net:\n  mode: dhcp\n  interface:\n    match: {mac: '01:00:5e:00:00:01'}\n", 4, "no MAC address"),
        ("win_net:\n  mode: dhcp\n  interface: {name: 'A & B'}\n", 3, "A & B"),
        ("win_net: {mode: dhcp}\naddresses: preserve\n", 2, "override"),
        ("addresses: override\n", 1, "win_net"),
    ],
)
def test_faults_name_file_and_line(tmp_path: Path, text: str, line: int, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert f"policy-0.yaml, line {line}:" in str(caught.value)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text('{\n\t"ghosts": "keep"\n}', encoding="utf-8")
    assert load_policy([path], NONE).ghosts == "keep"
    path.write_text('{\n\t"ghosts": \n}', encoding="utf-8")
    with pytest.raises(UsageError, match="line 3: not JSON"):
        load_policy([path], NONE)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"x" * 200_000, b"[" * 5000, b"{" * 20000])
def test_what_is_no_policy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        load_policy([path], NONE)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read as a policy"):
        load_policy([tmp_path / "none.yaml"], NONE)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("adresses: keep\n", "line 1: the top: no such key: adresses (did you mean addresses?"),
        ("\nbootstrap: {nik: virtio}\n", "line 2: bootstrap: no such key: nik (did you mean nic?"),
        ("ghosts: remov\n", "line 1: ghosts: 'remov' is not one of remove, keep (did you mean remove?"),
        ("bootstrap: requird\n", "did you mean required?"),
        ("timeouts:\n  drivrs: 3\n", "did you mean drivers?"),
    ],
)
def test_a_wrong_key_or_word_is_told_with_the_one_that_was_meant(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_policy([file])
    assert told in str(caught.value) and str(caught.value).startswith(str(file))


def test_a_file_that_is_not_there_is_told_without_python_s_words(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_policy([tmp_path / "missing.yaml"])
    assert str(caught.value) == f"{tmp_path}/missing.yaml: can't be read as a policy: No such file or directory"


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_as_root_a_policy_that_others_can_write_is_refused(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# nothing\n", encoding="utf-8")
    path.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Refused, match=r"mine\.yaml: others can write to it; a .*policy is there that root is to obey"):
        load_policy([path], NONE)
