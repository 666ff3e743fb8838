"""Every option of virt-v2v 2.2 to 2.12, as data: how it is spelled, what it speaks of, and what h2k makes of it."""

from __future__ import annotations

import dataclasses
from typing import Optional

SIDES = ("source", "guest", "result", "messages", "question")


@dataclasses.dataclass(frozen=True)
class Option:
    """One option. All pass through unchanged and in order.

    `letter`: its short form. `value`: it takes one. `side`: what it speaks of: the "source", the "guest" that is
    converted, the "result", the "messages"; "question": virt-v2v answers it and converts nothing. `since` and `until`
    are the first and the last version of virt-v2v that have it (None: before 2.2, and still).
    """

    name: str
    value: bool
    side: str
    letter: str = ""
    since: Optional[str] = None
    until: Optional[str] = None


# virt-v2v reads its options with getopt_long_only: one dash does for two, `--option=value` for two arguments, and an
# unambiguous beginning for the whole name. Versions from its release notes 2.4 to 2.12
# (what comes after that has no --bandwidth), 2.2, 2.6 and 2.10 by their own --long-options. Words at the end of a line say
# what h2k reads in the option.
_TABLE = """
i                  - value source   -    -    where the guest comes from: which reader looks at it beforehand
ic                 - value source   -    -    a local libvirt is asked for the guest, another host's is not
if                 - value source   -    -    the format of the disks of -i disk
io                 - value source   -    -    a question mark is a question
ip                 - value source   -    -    the password file, for the look over ssh
it                 - value source   -    -    ssh with -i vmx is looked at, vddk is virt-v2v's alone
password-file      - value source   -    2.8  as -ip
vddk-config        - value source   -    2.8
vddk-cookie        - value source   -    2.8
vddk-libdir        - value source   -    2.8
vddk-nfchostport   - value source   -    2.8
vddk-port          - value source   -    2.8
vddk-snapshot      - value source   -    2.8
vddk-thumbprint    - value source   -    2.8
vddk-transports    - value source   -    2.8
bandwidth          - value source   -    2.12
bandwidth-file     - value source   -    2.12
echo-keys          - flag  source   -    -
key                - value source   -    -
keys-from-stdin    - flag  source   -    -
root               - value source   -    -    which of several systems: h2k repairs the same one
no-trim            - value guest    -    2.8
no-fstrim          - flag  guest    2.12 -
block-driver       - value guest    2.4  -    virtio-scsi is h2k's bus too
memsize            m value guest    2.10 -
smp                - value guest    2.10 -
parallel           - value guest    2.8  -
collect            - value guest    2.12 -
collect-output     - value guest    2.12 -
bridge             b value guest    -    -
network            n value guest    -    -
mac                - value guest    -    -
append-line        - value guest    2.6  -
chmod              - value guest    2.6  -
chown              - value guest    2.6  -
commands-from-file - value guest    2.6  -
copy               - value guest    2.6  -
copy-in            - value guest    2.6  -
delete             - value guest    2.6  -
edit               - value guest    2.6  -
firstboot          - value guest    2.6  -
firstboot-command  - value guest    2.6  -
firstboot-install  - value guest    2.6  -
hostname           - value guest    2.6  -
inject-qemu-ga     - value guest    2.12 -
inject-virtio-win  - value guest    2.12 -
install            - value guest    2.6  -
link               - value guest    2.6  -
mkdir              - value guest    2.6  -
move               - value guest    2.6  -
no-logfile         - flag  guest    2.6  -
no-selinux-relabel - flag  guest    2.6  -
password           - value guest    2.6  -
password-crypto    - value guest    2.6  -
root-password      - value guest    2.6  -
run                - value guest    2.6  -
run-command        - value guest    2.6  -
scrub              - value guest    2.6  -
selinux-relabel    - flag  guest    2.6  -
selinux-relabel-at-boot - flag guest 2.12 -
selinux-relabel-exclude - value guest 2.12 -
sm-attach          - value guest    2.6  2.8
sm-credentials     - value guest    2.6  2.8
sm-register        - flag  guest    2.6  2.8
sm-remove          - flag  guest    2.6  2.8
sm-unregister      - flag  guest    2.6  2.8
ssh-inject         - value guest    2.6  -
tar-in             - value guest    2.6  -
timezone           - value guest    2.6  -
touch              - value guest    2.6  -
truncate           - value guest    2.6  -
truncate-recursive - value guest    2.6  -
uninstall          - value guest    2.6  -
update             - flag  guest    2.6  -
upload             - value guest    2.6  -
write              - value guest    2.6  -
o                  - value result   -    -    where the guest goes: h2k/convert/outputs.py
oa                 - value result   -    -
oc                 - value result   -    -    the libvirt of -o libvirt
of                 - value result   -    -
on                 - value result   -    -    the name of the result
oo                 - value result   -    -    a question mark is a question; qemu-boot is refused
op                 - value result   -    -
os                 - value result   -    -    where the result is
compressed         - flag  result   -    2.8
qemu-boot          - flag  result   -    2.8  refused: virt-v2v would boot the guest before it is repaired
vdsm-compat        - value result   -    2.8
vdsm-image-uuid    - value result   -    2.8
vdsm-ovf-flavour   - value result   -    2.8
vdsm-ovf-output    - value result   -    2.8
vdsm-vm-uuid       - value result   -    2.8
vdsm-vol-uuid      - value result   -    2.8
vmtype             - value result   -    2.8
color              - flag  messages -    -
colors             - flag  messages -    -
colour             - flag  messages -    -
colours            - flag  messages -    -
debug-gc           - flag  messages -    -
machine-readable   - flag  messages -    -    a question when no guest is named
quiet              q flag  messages -    -
verbose            v flag  messages -    -
wrap               - flag  messages -    -
x                  - flag  messages -    -
help               - flag  question -    -
in-place           - flag  question -    -
long-options       - flag  question -    -
print-source       - flag  question -    -
short-options      - flag  question -    -
version            V flag  question -    -
"""


def _read(line: str) -> Option:
    name, letter, kind, side, since, until = line.split(None, 6)[:6]
    return Option(
        name=name,
        value=kind == "value",
        side=side,
        letter="" if letter == "-" else letter,
        since=None if since == "-" else since,
        until=None if until == "-" else until,
    )


OPTIONS = tuple(_read(line) for line in _TABLE.strip().splitlines())
BY_NAME = {option.name: option for option in OPTIONS}
# One letter, with what follows it or not: -b, and those whose whole name is a letter.
BY_LETTER = {letter: option for option in OPTIONS for letter in (option.letter or option.name,) if len(letter) == 1}
