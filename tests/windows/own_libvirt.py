"""A libvirt of the kit's own, for hosts whose libvirt must be left alone: as root, gone at the end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.virthost import own_libvirt, tools_missing
from tests.windows.convert import NETWORK
from tests.windows.steps import StepFailed

NETWORK_XML = f"<network><name>{NETWORK}</name><bridge name='h2k-kit0'/></network>"  # it leads nowhere


@contextmanager
def own() -> Iterator[tuple[str, ...]]:
    """What stands before a command that is to talk to this libvirt."""
    missing = tools_missing()
    if missing is not None:
        raise StepFailed("libvirt", missing, "--libvirt none, or system")
    with own_libvirt('user = "root"\ngroup = "root"\nsecurity_driver = "none"\n') as host, tempfile.TemporaryDirectory() as work:
        network = Path(work) / "network.xml"
        network.write_text(NETWORK_XML, encoding="utf-8")
        host.run("virsh", "net-define", network)
        host.run("virsh", "net-start", NETWORK)
        try:
            yield ("nsenter", f"--mount=/proc/{host.holder.pid}/ns/mnt", "--")
        finally:
            host.run("virsh", "net-destroy", NETWORK, check=False)
