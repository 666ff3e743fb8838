"""A domain for a host without KVM: what h2k itself boots there is a copy that QEMU emulates; what is delivered says KVM."""

from __future__ import annotations

from lxml import etree

# What QEMU has with KVM alone: Hyper-V's interfaces, KVM's own, paravirtual spin locks, the performance counters.
_FEATURES = ("hyperv", "kvm", "pvspinlock", "pmu", "ioapic")
_TIMERS = ("hypervclock", "kvmclock")


def emulate(domain: etree._Element) -> None:
    """Change a domain of type kvm into one that QEMU's own emulation runs; any other one stays as it is."""
    if domain.get("type") != "kvm":
        return
    domain.set("type", "qemu")
    _processor(domain)
    for parent, names in (("features", _FEATURES), ("clock", ())):
        for element in domain.findall(f"{parent}/*"):
            if element.tag in names or element.get("name") in _TIMERS:
                _remove(element)
    for panic in domain.findall("devices/panic"):
        if panic.get("model") == "hyperv":
            _remove(panic)


def _processor(domain: etree._Element) -> None:
    """TCG has no host's model to show: it shows all that it can do; the topology stays."""
    cpu = domain.find("cpu")
    if cpu is None:
        return
    cpu.attrib.clear()
    cpu.attrib.update({"mode": "maximum", "check": "none"})
    for element in list(cpu):
        if element.tag not in ("topology", "numa"):
            cpu.remove(element)


def add_panic_device(domain: etree._Element) -> None:
    """Have a crash of the guest told while it is watched: Hyper-V's registers, which every Windows writes to, with KVM;
    pvpanic, which needs a driver, where QEMU emulates (https://libvirt.org/formatdomain.html#panic-device)."""
    devices = domain.find("devices")
    model = "hyperv" if domain.get("type") == "kvm" else "isa"
    if any(panic.get("model") == model for panic in devices.findall("panic")):
        return
    panic = etree.SubElement(devices, "panic", {"model": model})
    if model == "isa":
        etree.SubElement(panic, "address", {"type": "isa", "iobase": "0x505"})


def _remove(element: etree._Element) -> None:
    parent = element.getparent()
    if parent is not None:
        parent.remove(element)
