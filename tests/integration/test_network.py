"""Network, disks and first boot on a made guest's disks, with the real libguestfs: repaired, verified, carried."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from h2k.disk.open_reader import open_reader
from h2k.guest.guest import Guest
from h2k.windows.first_boot import parse_settings, scripts
from h2k.windows.network_carry import Settings
from tests.guests.build import edit_guest

ROOT = Path(__file__).resolve().parents[2]
H2K = ROOT / "wrappers" / "h2k"
THREE = (ROOT / "tests" / "guests" / "net-three.reg").read_text(encoding="utf-8")
MACS = ("00:0c:29:aa:00:01", "00:0c:29:aa:00:02", "00:0c:29:aa:00:03")
# The adapter that every made guest has gives way to the three.
OLD = "{6f3c8a52-1d5b-4c0e-9a37-5c1f0e8b7d21}"
CLEAR = f"""
-[ControlSet001\\Control\\Network\\{{4D36E972-E325-11CE-BFC1-08002BE10318}}\\{OLD}]
-[ControlSet001\\Services\\Tcpip\\Parameters\\Interfaces\\{OLD}]
[ControlSet001\\Services\\partmgr\\Parameters]
"SanPolicy"=dword:00000003
"""
XML = """<domain type='kvm'>
  <name>three</name><memory unit='MiB'>2048</memory><vcpu>2</vcpu>
  <os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
{disks}
{nics}
  </devices>
</domain>
"""


def h2k(*argv: Any, status: int = 0) -> Any:
    argv = (H2K, *argv, "--json")
    env = {**os.environ, "VIRT_TOOLS_DATA_DIR": "/none"}
    done = subprocess.run([str(a) for a in argv], check=False, capture_output=True, text=True, env=env)
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_three_cards_two_disks(guest: Any, drivers: Path, tmp_path: Path) -> None:
    made = guest("win2022", data_disks=1)
    edit_guest(made, {"SYSTEM": CLEAR + THREE.replace("$cs", "ControlSet001")})
    disks = "\n".join(
        f"<disk type='file' device='disk'><driver type='qcow2'/><source file='{d}'/><target dev='vd{letter}' bus='virtio'/></disk>"
        for d, letter in zip(made.disks, "abc")
    )
    # Not in the order of the adapters: only the MAC can tell.
    nics = "\n".join(
        f"<interface type='network'><mac address='{mac}'/><source network='default'/><model type='virtio'/></interface>"
        for mac in reversed(MACS)
    )
    xml = tmp_path / "three.xml"
    xml.write_text(XML.format(disks=disks, nics=nics), encoding="utf-8")

    fixed = h2k("fix", xml, "--drivers", drivers)
    states = {f["id"]: f["state"] for f in fixed["findings"] if f["state"] != "warning"}
    wanted = {"nic-driver-missing", "nic-ghost", "nic-static-stranded", "disks-offline-policy"}
    assert {i for i in wanted if states.get(i) == "repaired"} == wanted
    network = json.loads((tmp_path / "three.h2k" / "network.json").read_text(encoding="utf-8"))
    assert {a["mac"] for a in network["assignments"].values() if a["certain"]} == set(MACS)
    assert (tmp_path / "three.h2k" / "backup" / "SYSTEM").exists(), "what is removed is in the backup"

    with open_reader([(d, "qcow2") for d in made.disks]) as reader:
        seen = Guest(reader)
        staged = parse_settings(seen.reader.read(seen.volume, "/Program Files/h2k/settings.txt", 1 << 20))
        for name, data in scripts().items():
            assert seen.reader.read(seen.volume, f"/Program Files/h2k/{name}", 1 << 20) == data
        driver = seen.reader.read(seen.volume, "/Program Files/h2k/drivers/NetKVM/netkvm.inf", 1 << 20)
        assert driver == (drivers / "NetKVM" / "2k22" / "amd64" / "netkvm.inf").read_bytes()
        netkvm = seen.system.value("ControlSet001\\Services\\netkvm", "Start")
        assert netkvm is not None and netkvm.dword() == 1
    cards: dict[Any, Settings] = {card.mac: card for card in staged.cards}
    assert cards[MACS[0]].addresses == ("192.0.2.10/24", "192.0.2.11/24", "198.51.100.7/25")
    assert cards[MACS[0]].addresses6 == ("2001:db8::10/64",) and cards[MACS[0]].dns6 == ("2001:db8::53",)
    assert cards[MACS[1]].addresses == ("10.20.30.40/16",)
    assert cards[MACS[2]].dhcp and cards[MACS[2]].name == "DMZ"
    assert staged.san == ((1, 3),)

    stamps = [d.stat().st_mtime_ns for d in made.disks]
    before = (tmp_path / "three.h2k" / "network.json").read_bytes()
    again = h2k("fix", xml, "--drivers", drivers)
    assert again["status"] == 0 and again["changes"] == []
    assert [d.stat().st_mtime_ns for d in made.disks] == stamps, "a second run writes nothing"
    assert (tmp_path / "three.h2k" / "network.json").read_bytes() == before
    for phase, model in (("bootstrap", "virtio"), ("final", "virtio")):
        text = (tmp_path / "three.h2k" / f"{phase}.xml").read_text(encoding="utf-8")
        assert text.count(f'<model type="{model}"/>') == 3 or text.count(f"<model type='{model}'/>") == 3
        assert all(mac in text for mac in MACS)

    subprocess.run([str(H2K), "rollback", str(xml)], check=True, capture_output=True)
    back = h2k("verify", xml, "--drivers", drivers, status=4)
    assert {f["id"] for f in back["findings"] if f["state"] == "broken"} >= wanted
