"""The RPM: its files, what it requires, no scriptlets; and its content run in a clean root with the libraries of EL 9."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.package.conftest import BUILD, Packages
from tests.package.root import Root

SITE = "/usr/lib/python3.9/site-packages"
# EL 9's versions of those libraries that are Python alone, and so can be had for this machine's Python too.
FLOORS = ("click==8.0.3", "jsonschema==3.2.0", "attrs==20.3.0", "pyrsistent==0.17.3", "six==1.15.0", "setuptools==53.0.0")
# What the content needs beside itself, by the names of Debian's packages.
BESIDE = (
    "python3-guestfs python3-hivex python3-libnbd python3-libvirt python3-lxml python3-pefile python3-yaml python3-tsk "
    "python3-click python3-jsonschema qemu-utils virt-v2v nbdkit libnbd-bin ovmf linux-image-cloud-amd64 rpm2cpio cpio"
).split()
REQUIRED = {
    "edk2-ovmf", "libnbd", "nbdkit", "python3-click", "python3-hivex", "python3-jsonschema", "python3-libguestfs",
    "python3-libnbd", "python3-libvirt", "python3-lxml", "python3-pefile", "python3-pyyaml", "qemu-img", "virt-v2v",
}  # fmt: skip


def query(packages: Packages, *what: str) -> list[str]:
    done = subprocess.run(["rpm", "-qp", *what, str(packages.rpm)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_its_files_are_where_fedora_and_el9_want_them(packages: Packages) -> None:
    files = set(query(packages, "-l"))
    wanted = {*packages.installed(f"{SITE}/h2k"), *(f"/usr/bin/{program}" for program in ("h2k", "h2k-v2v", "h2k-qemu-img"))}
    wanted |= {"/etc/h2k", "/etc/h2k/hooks.d", "/etc/h2k/driver-plans", "/etc/h2k/policy.yaml"}
    assert wanted - files == set()
    places = (f"{SITE}/h2k", "/usr/bin/h2k", "/usr/share/h2k", "/etc/h2k", "/usr/share/man/man", "/usr/share/doc/h2k-v2v",
              "/usr/share/licenses/h2k-v2v", "/usr/lib/systemd/system/h2k-fleet@.", "/usr/share/bash-completion/completions/h2k")  # fmt: skip
    assert [f for f in files if not f.startswith(places) and not re.search(r"licen[cs]e", f, re.IGNORECASE)] == []
    assert [f for f in files if "__pycache__" in f] == []
    assert query(packages, "-c") == ["/etc/h2k/policy.yaml"]


def test_it_requires_what_it_imports_and_runs(packages: Packages) -> None:
    required = {line.split()[0] for line in query(packages, "--requires")}
    assert REQUIRED - required == set()
    assert {"python3-rich", "python3-pytsk3", "virtio-win"} <= {line.split()[0] for line in query(packages, "--recommends")}
    assert query(packages, "--qf", "%{ARCH}") == ["noarch"]


def test_it_has_no_scriptlets(packages: Packages) -> None:
    assert query(packages, "--scripts") == []
    assert query(packages, "--triggers") == []


@pytest.fixture(scope="module")
def unpacked(root: Root, packages: Packages) -> dict[str, str]:
    """The RPM's content in the clean root, and the environment in which it finds itself and EL 9's libraries."""
    root.apt("install", *BESIDE)
    rpm = root.bring(packages.rpm, "h2k.rpm")
    root.run("sh", "-c", f"cd / && rpm2cpio {rpm} | cpio -idm --quiet")
    floors = BUILD / "floors"
    argv = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target", str(floors), *FLOORS]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    root.bring(floors, "floors")
    return {"PYTHONPATH": f"/trial/floors:{SITE}", "PYTHONDONTWRITEBYTECODE": "1"}


def test_its_content_runs_with_the_libraries_of_el9(root: Root, unpacked: dict[str, str], guest: dict[str, str]) -> None:
    versions = "import click, jsonschema; print(click.__version__, jsonschema.__version__)"
    assert root.run("python3", "-c", versions, env=unpacked).stdout.split() == ["8.0.3", "3.2.0"]
    assert "30-boot-storage.py" in root.run("h2k", "hooks", "list", env=unpacked).stdout
    planned = root.run("h2k", "plan", guest["disk"], "--drivers", guest["virtio-win"], "--json", env=unpacked, status=4)
    assert json.loads(planned.stdout)["guest"]["read"] == "direct"
    (root / "/trial/bad.yaml").write_text("ghosts: perhaps\n")
    refused = root.run("h2k", "plan", guest["disk"], "--policy", "bad.yaml", env=unpacked, status=2)
    assert "bad.yaml, line 1" in refused.stderr
    words = {"_H2K_COMPLETE": "bash_complete", "COMP_WORDS": "h2k\nver", "COMP_CWORD": "1"}
    assert root.run("h2k", env={**unpacked, **words}).stdout.strip() == "plain,verify"


def test_guests_are_read_without_the_sleuth_kit_which_el9_lacks(root: Root, unpacked: dict[str, str], guest: dict[str, str]) -> None:
    root.apt("purge", "python3-tsk")
    done = root.run("h2k", "plan", guest["disk"], "--drivers", guest["virtio-win"], "--json", env=unpacked, status=4)
    report = json.loads(done.stdout)
    assert report["guest"]["read"] == "libguestfs" and report["changes"]
    assert "pytsk3" in done.stderr


def test_runs_leave_nothing_beside_hooks_and_plans(root: Root, unpacked: dict[str, str], packages: Packages) -> None:
    files = set(query(packages, "-l"))
    found = root.run("find", "/usr/share/h2k", "/etc/h2k").stdout.splitlines()
    assert len(found) > 20 and set(found) - files == set()
