"""Domains for a host without KVM: nothing is left that QEMU has with KVM alone, and all else is as it was."""

from __future__ import annotations

from lxml import etree

from h2k.boot.tcg import add_panic_device, emulate

KVM = """<domain type="kvm"><name>g</name><features><acpi/><hyperv mode="custom"><relaxed state="on"/></hyperv>
<kvm><hidden state="on"/></kvm><vmport state="off"/></features>
<cpu mode="host-model" check="partial"><topology sockets="1" cores="2" threads="1"/><feature policy="require" name="vmx"/></cpu>
<clock offset="localtime"><timer name="rtc"/><timer name="hypervclock" present="yes"/></clock>
<devices><disk/><panic model="hyperv"/><panic model="pvpanic"/></devices></domain>"""


def test_what_needs_kvm_goes() -> None:
    domain = etree.fromstring(KVM)
    emulate(domain)
    assert domain.get("type") == "qemu"
    assert [e.tag for e in domain.find("features")] == ["acpi", "vmport"]
    cpu = domain.find("cpu")
    assert dict(cpu.attrib) == {"mode": "maximum", "check": "none"} and [e.tag for e in cpu] == ["topology"]
    assert [t.get("name") for t in domain.findall("clock/timer")] == ["rtc"]
    assert [p.get("model") for p in domain.findall("devices/panic")] == ["pvpanic"]
    assert domain.findtext("name") == "g" and len(domain.findall("devices/disk")) == 1


def test_a_domain_of_another_type_stays() -> None:
    domain = etree.fromstring(KVM.replace('type="kvm"', 'type="qemu"'))
    before = etree.tostring(domain)
    emulate(domain)
    assert etree.tostring(domain) == before


def test_a_crash_is_told_in_every_observed_boot() -> None:
    for text, models in (
        ("<domain type='kvm'><devices/></domain>", ["hyperv"]),
        ("<domain type='kvm'><devices><panic model='pvpanic'/></devices></domain>", ["pvpanic", "hyperv"]),
        ("<domain type='kvm'><devices><panic model='hyperv'/></devices></domain>", ["hyperv"]),
        ("<domain type='qemu'><devices/></domain>", ["isa"]),
        ("<domain type='qemu'><devices><panic model='isa'/></devices></domain>", ["isa"]),
    ):
        domain = etree.fromstring(text)
        add_panic_device(domain)
        assert [p.get("model") for p in domain.findall("devices/panic")] == models
