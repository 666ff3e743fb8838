"""The pipelines of docs/pipelines.md: each is parsed by what will read it, and run as far as it can be here."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from tests.integration.test_dropin import ROOT, STAND_IN, Env, recorded

EXAMPLES = ROOT / "docs" / "examples" / "pipelines"


def run(*argv: Any, env: Env, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, env={**os.environ, **env}, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == status, f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture
def env(tmp_path: Path, drivers: Path, v2v_env: Env) -> Env:
    """A host whose PATH has h2k, and the recording stand-in for virt-v2v."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name, program in (("virt-v2v", STAND_IN), ("h2k", ROOT / "wrappers" / "h2k")):
        (directory / name).symlink_to(program)
    path = f"{directory}:{os.environ['PATH']}"
    return {**v2v_env, "PATH": path, "STAND_IN_RECORD": str(tmp_path / "record"), "VIRTIO_WIN": str(drivers), "GUEST_NAME": "web1"}


def test_every_shell_example_is_shell() -> None:
    scripts = sorted(EXAMPLES.glob("*.sh"))
    assert scripts
    for script in scripts:
        assert subprocess.run(["sh", "-n", script], capture_output=True, check=False).returncode == 0
        assert os.access(script, os.X_OK)


def test_the_shell_pipeline(guest: Any, env: Env, tmp_path: Path, empty_driver: Path) -> None:
    disk, out = guest("win2022").disks[0], tmp_path / "out"
    out.mkdir()
    convert = EXAMPLES / "convert.sh"
    failed = run(convert, out, "-i", "disk", disk, env={**env, "STAND_IN_STATUS": "1"}, status=1)
    assert "ready" not in failed.stdout and not list(out.iterdir())
    refused = run(convert, out, "-i", "disk", disk, env={**env, "VIRTIO_WIN": str(empty_driver)}, status=3)
    assert "web1: refused" in refused.stderr and json.loads((out / "web1.h2k.json").read_text())["status"] == 3
    done = run(convert, out, "-i", "disk", disk, env=env)
    assert "web1: ready" in done.stdout
    assert json.loads((out / "web1.h2k.json").read_text()) == json.loads((out / "web1.h2k" / "report.json").read_text())
    assert (out / "web1.h2k" / "bootstrap.xml").exists()
    assert recorded(tmp_path / "record")[-1] == ["-i", "disk", str(disk), "-o", "local", "-os", str(out), "-on", "web1"]
    # ... and once more, by the way of the Forklift hook, on the disk that is ready now
    _forklift(out / "web1-sda", env, tmp_path)


def _forklift(disk: Path, env: Env, tmp_path: Path) -> None:
    """Render the hook's description of a made machine, and run its command."""
    _, play = yaml.safe_load((EXAMPLES / "forklift-hook.yaml").read_text())
    machine = {
        "metadata": {"name": "web1", "labels": {}},
        "spec": {"template": {"spec": {
            "domain": {
                "firmware": {"bootloader": {"efi": {"secureBoot": False}}},
                "cpu": {"sockets": 1, "cores": 2, "threads": 1},
                "memory": {"guest": "2Gi"},
                "devices": {
                    "disks": [{"name": "vol-0", "disk": {"bus": "virtio"}, "bootOrder": 1}],
                    "interfaces": [{"name": "net-0", "masquerade": {}, "macAddress": "52:54:00:aa:bb:01", "model": "virtio"}],
                },
            },
            "networks": [{"name": "net-0", "pod": {}}],
            "volumes": [{"name": "vol-0", "persistentVolumeClaim": {"claimName": "plan-vm-1-abc"}}, {"name": "cloud", "cloudInitNoCloud": {}}],
        }}},
    }  # fmt: skip
    claim = tmp_path / "disks" / "plan-vm-1-abc"
    claim.mkdir(parents=True)
    (claim / "disk.img").symlink_to(disk)

    def rendered(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rendered(inner) for key, inner in value.items()}
        if not isinstance(value, str):
            return value
        text = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(value).render(machine=machine)
        return yaml.safe_load(text.replace("/disks/", f"{tmp_path}/disks/")) if "{" in value else text

    path = tmp_path / "web1.yaml"
    path.write_text(json.dumps(rendered(play["vars"]["description"])))
    command = next(task["ansible.builtin.command"]["argv"] for task in play["tasks"] if "ansible.builtin.command" in task)
    argv = [word.replace("{{ work }}", str(path)) for word in command]
    report = json.loads(run(*argv, env=env).stdout)
    assert report["status"] == 0 and (tmp_path / "web1.h2k" / "final.yaml").exists()
