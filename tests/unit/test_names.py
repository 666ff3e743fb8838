"""Names of machines: which can be a domain's and a file's, and what Kubernetes gets."""

from __future__ import annotations

import pytest

from h2k.base.errors import REFUSED, Refused
from h2k.domain.facts import DomainFacts
from h2k.domain.names import LIMIT, check_name, kubernetes_name, name_finding, wrong_name

GOOD = ["web01", "SRV 01 (prod)", "Köln", "домен", "a.b", "-x", ".hidden", "a\\b", "a:b", "x" * LIMIT, "%s", "🖥"]
BAD = {
    "team/web01": "slash", "SRV/01 (prod)": "slash", "/": "slash", "": "empty", "  ": "empty", ".": "directory", "..": "directory",
    "a\nb": "control", "a\tb": "control", "a\x1b[2J": "control", "a\x7f": "control", "a\0b": "control", "a\udc80": "control",
    "a\u2028b": "control", "x" * 300: "bytes", "ж" * 140: "bytes",
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_names(name: str) -> None:
    assert wrong_name(name) == "" and name_finding(name) is None
    check_name(DomainFacts(name, 1 << 30, 1, ()))


@pytest.mark.parametrize("name", BAD)
def test_bad_names(name: str) -> None:
    assert BAD[name] in wrong_name(name)
    found = name_finding(DomainFacts(name, 1 << 30, 1, ()))
    assert found is not None and (found.id, found.state) == ("domain-name-invalid", "refused")
    assert "-on NAME" in found.repair and found.subject.isprintable() and len(found.subject) < 260
    v2v, qemu_img = (found.spelled(program).repair for program in ("h2k-v2v", "h2k-qemu-img"))
    assert "-on NAME," in v2v and "--h2k-name" not in v2v and "--h2k-name NAME," in qemu_img and "-on" not in qemu_img
    with pytest.raises(Refused, match="domain-name-invalid") as caught:
        check_name(name)
    assert caught.value.exit_status == REFUSED and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("web01", "web01"), ("SRV 01 (prod)", "srv-01-prod"), ("домен", "guest"), ("-a-", "a"), ("x" * 62 + "-y", "x" * 62), ("a.b", "a-b")],
)
def test_kubernetes_names(name: str, wanted: str) -> None:
    assert kubernetes_name(name) == wanted
