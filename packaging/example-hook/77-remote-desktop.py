"""An example of a guarantee that another package brings: Remote Desktop answers after the move."""

from collections.abc import Iterator

from h2k.base.finding import Finding
from h2k.engine.hooks import Options, Proposed
from h2k.guest.changes import SetValue
from h2k.guest.guest import Guest
from h2k.windows.values import dword

META = {
    "name": "remote-desktop",
    "summary": "Turns Remote Desktop on",
    "answers": ["remote-desktop-off"],
}


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    for number in guest.control_sets.boot:
        key = f"ControlSet{number:03d}\\Control\\Terminal Server"
        if guest.system.dword(key, "fDenyTSConnections") != 0:
            yield Finding("remote-desktop-off", "broken", key, "fDenyTSConnections is not 0", "fDenyTSConnections = 0")
            yield SetValue("SYSTEM", key, "fDenyTSConnections", dword(0))
