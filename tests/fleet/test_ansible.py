"""The collection, built and installed from the tree by ansible-galaxy; the playbook that h2k fleet ansible writes, run here
and on two conversion hosts: two sshd on the loopback, each with its processes in a namespace of its own, so that one can be
killed with all that it does, as by a power cut."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.test_run import H2K, JOBS, PER_SOURCE, data_disks, most_at_once, same, waves

ROOT = Path(__file__).resolve().parents[2]
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")
HOSTS = ("127.0.0.2", "127.0.0.3")
# Those of ansible-test that need nothing from a network: the others (validate-modules, import, yamllint, pep8, pylint,
# runtime-metadata) want to install their tools by pip.
SANITY = (
    "action-plugin-docs", "changelog", "compile", "empty-init", "future-import-boilerplate", "ignores", "line-endings", "metaclass-boilerplate",
    "no-assert", "no-basestring", "no-dict-iteritems", "no-dict-iterkeys", "no-dict-itervalues", "no-get-exception", "no-illegal-filenames",
    "no-main-display", "no-smart-quotes", "no-unicode-literals", "replace-urlopen", "shebang", "symlinks", "use-argspec-type-path",
    "use-compat-six",
)  # fmt: skip


def run(*argv: Any, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, argv)], cwd=cwd, env=env, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the collection of this tree is installed."""
    top = tmp_path_factory.mktemp("ansible")
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(top / "collections"), "ANSIBLE_HOME": str(top), "ANSIBLE_NOCOLOR": "1"}
    built = run("ansible-galaxy", "collection", "build", ROOT / "ansible", "--output-path", top, cwd=top, env=env)
    assert built.returncode == 0, built.stderr
    (archive,) = top.glob("h2k-fleet-*.tar.gz")
    done = run("ansible-galaxy", "collection", "install", archive, "-p", top / "collections", cwd=top, env=env)
    assert done.returncode == 0, done.stderr
    return env


def test_every_module_is_documented(installed: dict[str, str], tmp_path: Path) -> None:
    names = [f"h2k.fleet.{path.stem}" for path in (ROOT / "ansible" / "plugins" / "modules").glob("*.py")]
    done = run("ansible-doc", "--json", *names, cwd=tmp_path, env=installed)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(names) and len(names) == 3
    for name, module in found.items():
        assert module["examples"] and module["return"], name
        assert module["doc"]["attributes"]["check_mode"]["support"] == "full"


def sanity(top: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """ansible-test on a copy of the collection, which must lie where a collection lies."""
    env = {**os.environ, "HOME": str(top), "ANSIBLE_NOCOLOR": "1"}
    version = ".".join(map(str, sys.version_info[:2]))  # of those that this host has
    argv = ("ansible-test", "sanity", "--python", version, *(part for test in tests for part in ("--test", test)))
    return run(*argv, cwd=top / "ansible_collections" / "h2k" / "fleet", env=env)


@pytest.mark.skipif(shutil.which("ansible-test") is None, reason="this ansible-core is without ansible-test")
def test_the_collection_passes_ansible_test(tmp_path: Path) -> None:
    place = tmp_path / "ansible_collections" / "h2k" / "fleet"
    shutil.copytree(ROOT / "ansible", place)
    done = sanity(tmp_path, *SANITY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f'"{test}"' in done.stdout + done.stderr for test in SANITY)
    (place / "plugins" / "modules" / "h2k_boot.py").open("a").write("assert True\n")
    assert sanity(tmp_path, "no-assert").returncode != 0


@pytest.mark.long
def test_the_playbook_converts_once_and_tells_what_failed(installed: dict[str, str], tmp_path: Path) -> None:
    guests = data_disks(tmp_path, 4)
    file = waves(tmp_path, [*guests, {"name": "gone", "source": str(tmp_path / "gone.raw"), "kind": "disk"}])
    site = tmp_path / "site"
    assert run(H2K, "fleet", "ansible", file, "-o", site, cwd=tmp_path, env=installed).returncode == 0
    argv = ("ansible-playbook", "playbook.yaml", "-e", f"h2k_command={H2K}")
    looked = run(*argv, "--check", cwd=site, env=installed)
    assert looked.returncode == 0 and looked.stdout.count("changed=1") == 5 and not (tmp_path / "out").exists(), looked.stdout
    done = run(*argv, cwd=site, env=installed)
    assert done.returncode != 0 and done.stdout.count("changed=1") == 4 and "No such file" in done.stdout, done.stdout
    assert all(same(tmp_path, guest) for guest in guests)
    again = run(*argv, cwd=site, env=installed)
    assert again.stdout.count("changed=0") == 5 and "changed=1" not in again.stdout, again.stdout


def _free_port() -> int:
    """A port that is free at both addresses."""
    while True:
        with contextlib.ExitStack() as stack:
            first, second = (stack.enter_context(socket.socket()) for _ in HOSTS)
            first.bind((HOSTS[0], 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError):
                second.bind((HOSTS[1], port))
                return port


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[dict[str, subprocess.Popen[bytes]], dict[str, Any]]]:
    """The namespace of each host's processes by its address, and what Ansible must know to reach them."""
    top, port = tmp_path / "ssh", _free_port()
    top.mkdir()
    for name in ("key", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(top / name)], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    found = {}
    try:
        for host in HOSTS:
            (top / host).write_text(
                f"Port {port}\nListenAddress {host}\nHostKey {top}/host\nAuthorizedKeysFile {top}/key.pub\nStrictModes no\n"
                "PasswordAuthentication no\nPermitRootLogin yes\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\n"
                f"SetEnv TMPDIR={top}\n"  # what a host that died leaves goes with the test
            )
            space = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
            found[host] = subprocess.Popen([*space, str(SSHD), "-D", "-e", "-f", str(top / host)], stderr=subprocess.DEVNULL)
            _await_port(host, port)
        known = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ControlMaster=no"
        yield found, {
            "ansible_port": port, "ansible_ssh_private_key_file": str(top / "key"), "ansible_ssh_common_args": known,
            "ansible_python_interpreter": "/usr/bin/python3", "ansible_remote_tmp": str(top / "tmp"), "h2k_command": H2K,
        }  # fmt: skip
    finally:
        for process in found.values():
            process.kill()
            process.wait()


def _await_port(host: str, port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _begun(top: Path, names: list[str]) -> list[str]:
    """Which of these guests are being converted, by their own marks."""
    found = []
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            if json.loads((top / "out" / f"{name}.h2k" / "fleet.json").read_text()).get("seconds") is None:
                found.append(name)
    return found


@pytest.mark.long
@pytest.mark.skipif(SSHD is None or os.geteuid() != 0, reason="needs sshd and root")
def test_a_host_that_dies_in_mid_wave(
    installed: dict[str, str], hosts: tuple[dict[str, subprocess.Popen[bytes]], dict[str, Any]], tmp_path: Path
) -> None:
    """Ten disks from two datastores, dealt so that both hosts read from both: the limit must hold across them. Each is
    copied so slowly that what could run at once does."""
    disks = data_disks(tmp_path, 12)
    guests = [{**disks[number ^ (number >> 1 & 1)], "options": ["-r", "512K"]} for number in range(10)]
    site, (living, known) = tmp_path / "site", hosts
    on = [part for host in HOSTS for part in ("--host", host)]
    assert run(H2K, "fleet", "ansible", waves(tmp_path, guests), "-o", site, *on, cwd=tmp_path, env=installed).returncode == 0
    dying = [guest["name"] for guest in guests[6::2]]  # later than the first batch, in which both hosts lived to the end
    told = tmp_path / "first.txt"
    with open(told, "wb") as log:
        first = subprocess.Popen(
            ["ansible-playbook", "playbook.yaml", "-e", json.dumps(known)], cwd=site, env=installed, stdout=log, stderr=log
        )
        deadline = time.monotonic() + 300
        while not (begun := _begun(tmp_path, dying)) and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        living[HOSTS[0]].kill()
        assert first.wait(timeout=600) != 0, told.read_text()
    lost = [guest for guest in guests if guest["name"] in begun]
    assert lost and not any(same(tmp_path, guest) for guest in lost), told.read_text()
    assert all(same(tmp_path, guest) for guest in guests[1::2]), told.read_text()  # the other host's
    assert 1 < most_at_once(tmp_path) <= JOBS * len(HOSTS)
    left = {**known, "h2k_conversion_hosts": [HOSTS[1]]}
    done = run("ansible-playbook", "playbook.yaml", "-e", json.dumps(left), cwd=site, env=installed)
    assert done.returncode == 0, done.stdout
    assert all(same(tmp_path, guest) for guest in guests)
    assert all(most_at_once(tmp_path, f"store{number}") <= PER_SOURCE for number in range(2))
    assert not list((tmp_path / "out").glob(".*h2k-part"))
