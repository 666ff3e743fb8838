"""The DEB in a clean root: installed over an older one, used on a made guest, extended, removed and purged, in this order."""

from __future__ import annotations

import json
from pathlib import Path

from h2k import __version__
from tests.package.conftest import OLD_VERSION, ROOT, Packages
from tests.package.root import Root

CONFFILE = "/etc/h2k/policy.yaml"
OWN_POLICY = "ghosts: keep\n"
# What bash does at a TAB: complete.sh LINE INDEX PROGRAM.
COMPLETE = r"""
. /usr/share/bash-completion/bash_completion
COMP_WORDS=($1); COMP_CWORD=$2; COMP_LINE=$1; COMP_POINT=${#COMP_LINE}
_completion_loader "$3"
$(complete -p "$3" | sed 's/.*-F \([^ ]*\).*/\1/') "$3"
echo "${COMPREPLY[@]}"
"""


def test_the_older_version_is_installed_with_all_that_it_needs(root: Root, packages: Packages) -> None:
    root.apt("install", root.bring(packages.old_deb))
    assert OLD_VERSION in root.run("h2k", "--version").stdout
    assert root.run("dpkg-query", "-W", "-f=${Conffiles}", "h2k-v2v").stdout.split()[0::2] == [CONFFILE]
    (root / CONFFILE).write_text(OWN_POLICY)
    (root / "/etc/h2k/hooks.d/75-company-marker").write_bytes((ROOT / "docs/examples/hooks/75-company-marker").read_bytes())
    (root / "/etc/h2k/hooks.d/75-company-marker").chmod(0o755)


def test_an_upgrade_keeps_what_the_host_has_set(root: Root, packages: Packages) -> None:
    root.apt("install", root.bring(packages.deb))
    assert root.version("h2k-v2v") == f"{__version__}-1"
    assert __version__ in root.run("h2k", "--version").stdout
    assert (root / CONFFILE).read_text() == OWN_POLICY
    assert "75-company-marker" in root.run("h2k", "hooks", "list").stdout
    (root / "/etc/h2k/hooks.d/75-company-marker").unlink()


def test_every_file_is_in_its_place(root: Root, packages: Packages) -> None:
    files = packages.installed("/usr/lib/python3/dist-packages/h2k")
    assert len(files) > 50
    for place, file in files.items():
        assert (root / place).read_bytes() == file.read_bytes(), place
    assert {f"h2k{end}.1.gz" for end in ("", "-v2v", "-qemu-img")} <= {p.name for p in (root / "/usr/share/man/man1").iterdir()}
    for program in ("h2k", "h2k-v2v", "h2k-qemu-img"):
        assert (root / f"/usr/share/bash-completion/completions/{program}").exists()


def test_doctor_finds_all_that_the_package_depends_on(root: Root) -> None:
    root.apt("install", "linux-image-cloud-amd64")  # a root has no kernel, every host has one
    checks = {c["name"]: c for c in json.loads(root.run("h2k", "doctor", "--json", status=4).stdout)["checks"]}
    needed = [c for name, c in checks.items() if name.startswith("python ") or name in ("virt-v2v", "qemu-img", "qemu-nbd")]
    assert len(needed) > 8
    for check in (*needed, checks["kernel"], checks["UEFI firmware"]):
        assert check["ok"], check


def test_a_guest_is_converted_repaired_and_verified(root: Root, guest: dict[str, str]) -> None:
    (root / "/trial/out").mkdir()
    env = {"VIRT_TOOLS_DATA_DIR": guest["virt-tools"], "VIRTIO_WIN": guest["virtio-win"]}
    done = root.run("h2k-v2v", "-i", "disk", guest["disk"], "-o", "local", "-os", "out", "-on", "moved", env=env)
    assert "READY" in done.stdout
    for name in ("moved-sda", "moved.xml", "moved.h2k/report.json", "moved.h2k/bootstrap.xml", "moved.h2k/final.xml"):
        assert (root / f"/trial/out/{name}").exists(), name
    report = json.loads((root / "/trial/out/moved.h2k/report.json").read_text())
    assert report["status"] == 0 and report["versions"]["h2k"] == __version__
    verified = json.loads(root.run("h2k", "verify", "out/moved.xml", "--json", env=env).stdout)
    assert verified["status"] == 0 and verified["changes"] == []


def test_an_ordinary_user_may_look(root: Root, guest: dict[str, str]) -> None:
    facts = json.loads(root.run("h2k", "inspect", "--json", guest["disk"], user="nobody:nogroup").stdout)
    assert facts["windows"] and facts["read"] == "direct"


def test_the_programs_complete_their_words(root: Root) -> None:
    root.apt("install", "bash-completion")
    for words, index, program, expected in (
        ("h2k ver", 1, "h2k", ["verify"]),
        ("h2k fix --b", 2, "h2k", ["--bus"]),
        ("h2k-v2v --h2k-dr", 1, "h2k-v2v", ["--h2k-drivers", "--h2k-dry-run"]),
        ("h2k-v2v --bridg", 1, "h2k-v2v", ["--bridge"]),
        ("h2k-v2v -o loc", 2, "h2k-v2v", ["local"]),
        ("h2k-v2v --h2k-skip boot-l", 2, "h2k-v2v", ["boot-loader"]),
        ("h2k-qemu-img conv", 1, "h2k-qemu-img", ["convert"]),
        ("h2k-qemu-img convert -O q", 3, "h2k-qemu-img", ["qcow2"]),
    ):
        assert root.run("bash", "-c", COMPLETE, "bash", words, index, program).stdout.split() == expected, words


def test_another_package_adds_a_guarantee_with_one_file(root: Root, packages: Packages, guest: dict[str, str]) -> None:
    before = root.run("h2k", "hooks", "list").stdout
    root.apt("install", root.bring(packages.example_deb))
    assert "77-remote-desktop.py" not in before and "77-remote-desktop.py" in root.run("h2k", "hooks", "list").stdout
    done = root.run("h2k", "hooks", "run", "remote-desktop", guest["disk"], "--json", status=4)
    assert "fDenyTSConnections" in done.stdout
    root.apt("purge", "h2k-hook-remote-desktop")
    assert root.run("h2k", "hooks", "list").stdout == before
    assert root.traces("remote-desktop") == set()


def test_removal_leaves_the_conffiles_alone(root: Root) -> None:
    installed = root.run("dpkg", "-L", "h2k-v2v").stdout.split()
    assert "/usr/bin/h2k-v2v" in installed
    root.apt("remove", "h2k-v2v")
    gone = [p for p in installed if not (root / p).exists() and not (root / p).is_symlink()]
    assert set(installed) - set(gone) >= {CONFFILE}
    left = [p for p in root.traces("h2k") if not p.startswith("/var/lib/dpkg/")]
    assert left == ["/etc/h2k"]
    assert [p.name for p in (root / "/etc/h2k").rglob("*")] == [Path(CONFFILE).name]


def test_purge_leaves_nothing(root: Root) -> None:
    root.apt("purge", "h2k-v2v")
    assert root.traces("h2k") == set()
