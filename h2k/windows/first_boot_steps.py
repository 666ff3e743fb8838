"""The steps of the first boot, in the order they run: the one list behind runner, signals, time limits and documents."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Step:
    """One step. `limit`: seconds that the host waits for its signal, counted from the one before it, unless the policy
    says otherwise. `optional`: it may fail without the machine being the worse for it. `work`: it has a script, and
    leaves a marker on the disk. `final`: it waits for the final hardware. `bounded`: it starts programs of which nobody
    knows how long they take, so that the guest is told their `budget`. `what` and `needs` are for people."""

    name: str
    limit: int
    what: str
    needs: str = ""
    optional: bool = False
    work: bool = True
    final: bool = False
    bounded: bool = False

    @property
    def budget(self) -> int:
        """Seconds that the step's programs may take in the guest, together."""
        return budget(self.limit)


def budget(limit: int) -> int:
    """What the guest gets of a limit of the host's: four fifths, for starting programs and writing to COM1 take time
    as well, and more of it on a busy host."""
    return max(limit * 4 // 5, 1)


def limit_of(budget: int) -> int:
    """The shortest limit of the host's that has such a budget, or the next one above it."""
    return -(-budget * 5 // 4)


STEPS = (
    Step("start", 1800, "The runner is there; it waits for virt-v2v's own first-boot scripts.", work=False, bounded=True),
    Step(
        "drivers", 900,
        "Installs the staged packages (storage, network, and the plan's smaller ones) with pnputil. The smaller ones may fail.",
        bounded=True,
    ),
    Step(
        "addresses", 300,
        "Gives each card what its MAC had on the source: addresses, gateways, DNS, WINS, metric, MTU, name, what was unticked; routes. "
        "Reads them back.", "the card with that MAC, on VirtIO", bounded=True,
    ),
    Step(
        "disks", 300, "Brings the guest's own disks online; restores the SAN policy.", "restores on the final bus",
        final=True,
    ),
    Step("tools", 900, "Removes the other hypervisor's guest tools, if the policy says so. Optional.", optional=True, bounded=True),
    Step("agent", 600, "Installs the QEMU guest agent, if the policy says so. Optional.", optional=True, bounded=True),
    Step(
        "cleanup", 300, "Removes placeholder packages: virt-v2v's guestor.inf and h2k's own; lets a crash restart Windows again.",
        "final bus, and the real drivers (oemN.inf) driving their devices", final=True,
    ),
    Step("done", 120, "The runner has come to the end of what this boot can do.", work=False),
)  # fmt: skip
NAMES = tuple(step.name for step in STEPS)
WORK = tuple(step.name for step in STEPS if step.work)
OPTIONAL = tuple(step.name for step in STEPS if step.optional)
BOUNDED = tuple(step.name for step in STEPS if step.bounded)
LIMITS = {step.name: step.limit for step in STEPS}
