#!/usr/bin/python3
"""A recording stand-in for virt-v2v, first on PATH as "virt-v2v": it converts nothing and copies its source.

It appends its arguments, as a line of JSON, to $STAND_IN_RECORD. The disks that it copies to OS/NAME-sda … are those
of the domain for `-i libvirtxml`, the files for `-i disk`, and else $STAND_IN_DISKS (separated by colons); $STAND_IN_OS
is the libosinfo id that its NAME.xml tells, and $STAND_IN_STATUS the status that it ends with before it does anything.
"""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as etree

DOMAIN = """<domain type='kvm'><name>{name}</name>
<metadata><libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>
<libosinfo:os id='{os}'/></libosinfo:libosinfo></metadata>
<memory unit='KiB'>2097152</memory><vcpu>2</vcpu><os{firmware}><type arch='x86_64'>hvm</type></os>
<devices>{disks}
<interface type='network'><source network='default'/><model type='virtio'/></interface></devices></domain>
"""
DISK = """<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{path}'/>
<target dev='vd{letter}' bus='virtio'/></disk>"""


def main(argv):
    """Record, copy, describe."""
    with open(os.environ["STAND_IN_RECORD"], "a", encoding="utf-8") as record:
        record.write(json.dumps(argv) + "\n")
    status = int(os.environ.get("STAND_IN_STATUS", "0"))
    if status:
        return status
    options = dict(zip(argv, argv[1:]))
    mode, name, directory = options.get("-i"), options.get("-on", "g"), options["-os"]
    sources = os.environ.get("STAND_IN_DISKS", "").split(":")
    if mode == "libvirtxml":
        domain = etree.parse(argv[-1])
        sources = [d.find("source").get("file") for d in domain.findall("devices/disk") if d.get("device") == "disk"]
        firmware = domain.find("os").get("firmware")
    else:
        firmware = os.environ.get("STAND_IN_FIRMWARE")
    disks = []
    for letter, source in zip("abcdefgh", sources):
        path = os.path.join(directory, f"{name}-sd{letter}")
        subprocess.run(["qemu-img", "convert", "-O", "raw", source, path], check=True)
        disks.append(DISK.format(path=path, letter=letter))
    system = os.environ.get("STAND_IN_OS", "http://microsoft.com/win/2k22")
    text = DOMAIN.format(
        name=name, os=system, disks="\n".join(disks), firmware=f" firmware='{firmware}'" if firmware else ""
    )
    with open(os.path.join(directory, f"{name}.xml"), "w", encoding="utf-8") as out:
        out.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
