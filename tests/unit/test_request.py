"""What a request opens of this host: the program that runs a first boot as a service."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from h2k.base.errors import H2kError, UsageError
from h2k.config.documents import Document
from h2k.config.driver_plan import load_plan
from h2k.config.hyper2kvm import Brought
from h2k.config.policy import Policy
from h2k.domain.uefi_variables import TrustedKeys
from h2k.engine import request
from h2k.engine.request import Request, named_hook, open_tools
from tests.guests.pe import make_pe
from tests.unit.engine_world import made_domain


def test_the_hosts_runner_comes_with_its_machine_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRT_TOOLS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(request, "virtio_win_path", lambda given: None)
    with open_tools(Request()) as tools:
        assert tools.runner is None and tools.options("result", None).runner is None
    for data, machine in ((make_pe("x86", b"made rhsrvany.exe"), "x86"), (make_pe("amd64", b"made"), "amd64"), (b"a stand-in", "")):
        (tmp_path / "rhsrvany.exe").write_bytes(data)
        with open_tools(Request()) as tools:
            runner = tools.options("result", None).runner
        assert runner is not None and (runner.name, runner.data, runner.machine) == ("rhsrvany.exe", data, machine)
    (tmp_path / "rhsrvany.exe").write_bytes(bytes(request.MAX_RUNNER))
    with open_tools(Request()) as tools:
        assert tools.runner is not None and len(tools.runner.data) == request.MAX_RUNNER
    (tmp_path / "rhsrvany.exe").write_bytes(bytes(request.MAX_RUNNER + 1))
    with pytest.raises(UsageError, match="too many"), open_tools(Request()):
        pass
    (tmp_path / "rhsrvany.exe").unlink()
    (tmp_path / "rhsrvany.exe").mkdir()
    with pytest.raises(UsageError, match="can't be read"), open_tools(Request()):
        pass


def test_a_request_is_what_shapes_a_look_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[object] = []
    monkeypatch.setattr(request, "allow_under", allowed.append)
    given = {"bus": "sata", "plans": ["a", "b"], "skip": [], "root": None, "allow_under": ["/x"], "as_json": True, "report": "/r"}
    assert Request.of(given) == Request(bus="sata", plans=("a", "b"), allow_under=("/x",)) and allowed == [["/x"]]
    assert Request.of({}) == Request()


@pytest.fixture
def no_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIRT_TOOLS_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(request, "virtio_win_path", lambda given: None)


@pytest.mark.parametrize("name", ["boot-storage", "30-boot-storage.py", "30-boot-storage"])
def test_hooks_are_skipped_by_any_of_their_names(no_host: None, name: str) -> None:
    with open_tools(Request(skip=(name,), accept=("volume-dirty",))) as tools:
        assert tools.request.skip == ("boot-storage",) and tools.request.accept == ("volume-dirty",)
        assert tools.options("source", None).accept == frozenset({"volume-dirty"})
        assert (tools.bus, tools.drivers, tools.drivers_path) == ("virtio", None, None)
        hook = named_hook(name, tools.hooks)
        assert hook is not None and hook.name == "boot-storage" and named_hook("nothing", tools.hooks) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (Request(skip=("boot-storag",)), "--h2k-skip boot-storag: no such hook .*did you mean boot-storage"),
        (Request(accept=("volume-encrypted",)), "--h2k-accept volume-encrypted: this refusal can't be overridden"),
        (Request(accept=("volume-encrypte",)), "--h2k-accept volume-encrypte: no such finding .*did you mean volume-encrypted"),
    ],
)
def test_what_does_not_exist_is_wrong_usage(no_host: None, wrong: Request, said: str) -> None:
    with pytest.raises(UsageError, match=said), open_tools(wrong):
        pass


def test_what_the_firmware_trusts_is_asked_under_secure_boot_alone(no_host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, asked = TrustedKeys((), frozenset()), []

    def firmware(secure_boot: bool) -> Any:
        asked.append(secure_boot)
        return SimpleNamespace(template="OVMF_VARS.fd")

    def unreadable(template: str) -> None:
        raise H2kError("no OVMF here")

    monkeypatch.setattr(request, "choose_firmware", firmware)
    monkeypatch.setattr(request, "read_trusted", {"OVMF_VARS.fd": keys}.get)
    with open_tools(Request()) as tools:
        assert tools.options("result", None).trusted is None
        assert tools.options("result", made_domain(secure_boot=False)).trusted is None and asked == []
        assert tools.options("result", made_domain(secure_boot=True)).trusted is keys and asked == [True]
        monkeypatch.setattr(request, "read_trusted", unreadable)
        assert tools.options("result", made_domain(secure_boot=True)).trusted is None


def test_plans_policies_and_drivers_of_a_config_come_before_those_of_options(
    no_host: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    brought = Brought(plan=Document(Path("p"), {}, None), policy=Document(Path("q"), {}, None), drivers="/c-drivers")
    monkeypatch.setattr(request, "read_hyper2kvm", lambda path: seen.append(path) or brought)
    monkeypatch.setattr(request, "load_plan", lambda paths: seen.append(paths) or load_plan([]))
    monkeypatch.setattr(request, "load_policy", lambda paths: seen.append(paths) or Policy())
    monkeypatch.setattr(request, "virtio_win_path", seen.append)
    with open_tools(Request(config="/c.yaml", plans=("/mine",), policies=("/my-policy",))):
        assert seen == [Path("/c.yaml"), [brought.plan, Path("/mine")], [brought.policy, Path("/my-policy")], "/c-drivers"]
    with open_tools(Request(config="/c.yaml", drivers="/my-drivers")):
        assert seen[-1] == "/my-drivers"
