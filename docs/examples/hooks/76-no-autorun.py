"""An example hook in Python: a value that an administrator wants in every control set that may boot."""

from collections.abc import Iterator

from h2k.base.finding import Finding
from h2k.engine.hooks import Options, Proposed
from h2k.guest.changes import SetValue
from h2k.guest.guest import Guest
from h2k.windows.values import dword

META = {
    "name": "no-autorun",
    "summary": "Turns AutoRun of CD-ROMs off",
    "answers": ["autorun-enabled"],
}


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    for number in guest.control_sets.boot:
        key = f"ControlSet{number:03d}\\Services\\cdrom"
        if guest.system.dword(key, "AutoRun") != 0:
            yield Finding("autorun-enabled", "broken", key, "AutoRun is not 0", "AutoRun = 0")
            yield SetValue("SYSTEM", key, "AutoRun", dword(0))
