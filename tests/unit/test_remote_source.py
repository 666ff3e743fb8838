"""Sources on other hosts: what is served, from where, read-only; and what is unknown when a server does not answer."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from h2k.base.errors import H2kError, Unknown
from h2k.base.run import CommandFailed
from h2k.convert import remote_source
from h2k.convert.remote_source import nbd_view, ssh_vmx
from h2k.disk.view import View
from h2k.domain.vmx import VMX_LIMIT

ESX = "ssh://root@esx1/vmfs/volumes/one/web/web.vmx"
VMX = """config.version = "8"
displayName = "web"
memsize = "1024"
scsi0.present = "TRUE"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "web.vmdk"
scsi0:1.present = "TRUE"
scsi0:1.fileName = "/vmfs/volumes/two/data.vmdk"
"""


class World:
    """The programs of this host, and the servers that run: `fails` are those that do not, with what they say."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, vmx: bytes = VMX.encode()) -> None:
        self.vmx = vmx
        self.size: Any = len(vmx)
        self.fails: dict[str, str] = {}
        self.served: list[list[str]] = []
        self.alive: set[str] = set()
        self.views: list[tuple[Path, Any, str, Any]] = []
        self.ready = True
        monkeypatch.setattr(remote_source, "run", self.run)
        monkeypatch.setattr(remote_source, "make_view", self.make_view)
        monkeypatch.setattr(remote_source, "time", SimpleNamespace(monotonic=iter(range(1000)).__next__, sleep=lambda seconds: None))
        monkeypatch.setattr(remote_source, "subprocess", SimpleNamespace(Popen=self.popen, DEVNULL=subprocess.DEVNULL))

    def run(self, argv: Sequence[str], timeout: float) -> Any:
        """nbdkit's version, an export's size and content."""
        assert 0 < timeout < 60, "a server that hangs does not hang us"
        failure = next((said for word, said in self.fails.items() if word in " ".join(argv)), None)
        if failure is not None:
            raise CommandFailed(argv, 1, failure)
        return SimpleNamespace(stdout={"nbdkit": b"", "nbdinfo": f"{self.size}\n".encode(), "nbdcopy": self.vmx}[argv[0]])

    def make_view(self, path: Path, storage: Any, name: str, format: Any) -> View:
        """The view, without qemu-img; its directory is there."""
        assert path.parent.is_dir() or path.name == "export.qcow2"
        self.views.append((path, storage, name, format))
        return View(path)

    def popen(self, argv: list[str], stdin: Any, stdout: IO[bytes], stderr: Any, env: Any, preexec_fn: Any) -> AbstractContextManager[Any]:
        """An nbdkit: listens at once, or says something and ends."""
        assert stdin == subprocess.DEVNULL and callable(preexec_fn) and env["LC_ALL"] == "C.UTF-8"
        world, path = self, argv[-1]

        class Child:
            def __enter__(self) -> Child:
                world.served.append(argv)
                world.alive.add(path)
                if world.ready:
                    Path(argv[argv.index("-U") + 1]).touch()
                else:
                    stdout.write(b"nbdkit: ssh[1]: error: failed to open\nmore\n")
                    stdout.flush()
                return self

            def __exit__(self, *_: object) -> None:
                assert path not in world.alive, "it would be waited for without end"

            def poll(self) -> Any:
                return None if world.ready else 1

            def terminate(self) -> None:
                world.alive.discard(path)

        return Child()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


# nbd://


@pytest.mark.parametrize(
    ("uri", "server", "export"),
    [
        ("nbd://store/a%20b", {"type": "inet", "host": "store", "port": "10809"}, "a b"),
        ("nbd://store:99", {"type": "inet", "host": "store", "port": "99"}, ""),
        ("nbd://[::1]/x/y", {"type": "inet", "host": "::1", "port": "10809"}, "x/y"),
        ("nbd+unix:///x?socket=/run/a", {"type": "unix", "path": "/run/a"}, "x"),
    ],
)
def test_the_export_that_is_meant(uri: str, server: dict[str, str], export: str, world: World, tmp_path: Path) -> None:
    assert nbd_view(uri, tmp_path, "raw") == tmp_path / "export.qcow2"
    assert world.views == [(tmp_path / "export.qcow2", {"driver": "nbd", "server": server, "export": export}, uri, "raw")]


@pytest.mark.parametrize("uri", ["nbds://store/x", "nbd:///x", "nbd+unix:///x", "nbd+unix:///x?socket=/a&socket=/b", "nbd://store:port/x", "nbd://[::1"])
def test_an_export_that_h2k_does_not_read_is_unknown_before_anybody_is_asked(uri: str, world: World, tmp_path: Path) -> None:
    world.fails[""] = "asked"
    with pytest.raises(Unknown) as told:
        nbd_view(uri, tmp_path, "raw")
    assert uri in told.value.message and "asked" not in told.value.message and world.views == []


def test_a_server_that_does_not_answer_is_unknown(world: World, tmp_path: Path) -> None:
    world.fails["nbdinfo"] = "nbdinfo: warning\nnbdinfo: Connection refused\n"
    with pytest.raises(Unknown, match=r"nbd://store/x: does not answer: nbdinfo: Connection refused"):
        nbd_view("nbd://store/x", tmp_path, "raw")
    world.fails["nbdinfo"] = ""
    with pytest.raises(Unknown, match=r"does not answer$"):
        nbd_view("nbd://store/x", tmp_path, "raw")
    world.fails.clear()
    world.size = "unknown"
    with pytest.raises(Unknown, match=r"does not answer$"):
        nbd_view("nbd://store/x", tmp_path, "raw")
    assert world.views == []


# ssh://


def test_a_vmx_and_the_flat_files_of_its_disks(world: World, tmp_path: Path) -> None:
    with ssh_vmx(ESX, None, tmp_path) as (domain, views):
        assert (domain.name, domain.memory, len(domain.disks)) == ("web", 1 << 30, 2)
        assert world.alive == {"path=/vmfs/volumes/one/web/web-flat.vmdk", "path=/vmfs/volumes/two/data-flat.vmdk"}
        assert views == (tmp_path / "0" / "web.qcow2", tmp_path / "1" / "data.qcow2")
    assert not world.alive
    for argv in world.served:
        assert argv[0] == "nbdkit" and {"-f", "-r", "--exit-with-parent"} <= set(argv), "nobody writes to the source, and nothing outlives us"
        assert argv[argv.index("ssh") + 1 : -1] == ["host=esx1", "timeout=10", "user=root"]
    assert world.served[0][-1] == "path=/vmfs/volumes/one/web/web.vmx"
    for (_, storage, name, form), argv in zip(world.views, world.served[1:]):
        assert storage == {"driver": "nbd", "server": {"type": "unix", "path": argv[argv.index("-U") + 1]}, "export": ""}
        assert (name, form) == (f"{ESX}: {argv[-1][5:]}", "raw"), "a flat file is raw, whatever its first bytes look like"


def test_the_login_and_the_password_stays_in_its_file(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("hunter2")
    with ssh_vmx("ssh://DOM%5Cme@esx1:2222/a%20b/web.vmx", "secret", tmp_path / "work"):
        pass
    argv = world.served[0]
    assert argv[argv.index("ssh") + 1 :] == [
        "host=esx1", "timeout=10", "user=DOM\\me", "port=2222", f"password=+{tmp_path / 'secret'}", "path=/a b/web.vmx",
    ]  # fmt: skip
    assert "hunter2" not in str(world.served)


@pytest.mark.parametrize("uri", ["ssh://esx1/web.vmdk", "https://esx1/web.vmx", "ssh:///web.vmx", "ssh://esx1:port/web.vmx", "ssh://[::1/web.vmx"])
def test_what_is_no_vmx_over_ssh(uri: str, world: World, tmp_path: Path) -> None:
    with pytest.raises(Unknown), ssh_vmx(uri, None, tmp_path):
        pass
    assert not world.served


def test_without_nbdkits_plugin_nothing_is_known(world: World, tmp_path: Path) -> None:
    world.fails["ssh --version"] = "no such plugin"
    with pytest.raises(Unknown, match="ssh plugin is not installed"), ssh_vmx(ESX, None, tmp_path):
        pass
    assert not world.served


def test_a_server_that_ends_at_once_is_told_in_its_own_words(world: World, tmp_path: Path) -> None:
    world.ready, world.fails["nbdinfo"] = False, "no such socket"
    with pytest.raises(Unknown, match=r"^/vmfs/volumes/one/web/web\.vmx: can't be read over SSH: nbdkit: ssh\[1\]: error: failed to open$"), ssh_vmx(ESX, None, tmp_path):
        pass
    assert not world.alive


def test_a_disk_that_can_not_be_read_ends_the_servers_of_the_others(world: World, tmp_path: Path) -> None:
    """With snapshots there is no flat file of that name; what libnbd says is told where nbdkit says nothing."""
    world.fails[str(tmp_path / "1")] = "server disconnected"
    with pytest.raises(Unknown, match=r"data-flat\.vmdk: can't be read over SSH: nbd\+unix.*does not answer: server disconnected"), ssh_vmx(ESX, None, tmp_path):
        pass
    assert len(world.served) == 3 and not world.alive


def test_a_file_that_is_too_large_for_a_vmx_is_not_copied(world: World, tmp_path: Path) -> None:
    world.size, world.fails["nbdcopy"] = VMX_LIMIT + 1, "copied"
    with pytest.raises(H2kError, match="not a VMX"), ssh_vmx(ESX, None, tmp_path):
        pass
    world.size = VMX_LIMIT
    with pytest.raises(CommandFailed, match="copied"), ssh_vmx(ESX, None, tmp_path / "again"):
        pass


def test_a_server_that_never_listens_is_not_waited_for_without_end(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    world.ready, world.fails["nbdinfo"] = False, "no such socket"
    clock = iter((0.0, 0.1, 0.2, 99.0))
    monkeypatch.setattr(remote_source, "time", SimpleNamespace(monotonic=clock.__next__, sleep=slept.append))
    child = world.popen

    def hanging(argv: list[str], **options: Any) -> Any:
        found: Any = child(argv, **options)
        found.poll = lambda: None
        return found

    monkeypatch.setattr(remote_source, "subprocess", SimpleNamespace(Popen=hanging, DEVNULL=subprocess.DEVNULL))
    with pytest.raises(Unknown), ssh_vmx(ESX, None, tmp_path):
        pass
    assert len(slept) == 2 and not world.alive
