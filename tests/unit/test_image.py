"""What is said of an image that qemu can't open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from h2k.base.errors import Refused
from h2k.base.run import CommandFailed
from h2k.disk import image

LOG = """qemu-img: Could not open '/x/d.vhdx': VHDX image file '/x/d.vhdx' opened read-only, but contains a log that needs to be replayed
To replay the log, run:
qemu-img check -r all '/x/d.vhdx'
"""


@pytest.mark.parametrize(
    ("said", "words", "way"),
    [
        (LOG, "its log has still to be replayed", "on a copy: qemu-img check -r all COPY"),
        ("qemu-img: Could not open '/x': Image is corrupt\n", "Image is corrupt", "from the source again"),
    ],
)
def test_why_it_can_not_be_opened(said: str, words: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: Any, **_: Any) -> None:
        raise CommandFailed(argv, 1, said)

    monkeypatch.setattr(image, "run", fail)
    path = tmp_path / "d.vhdx"
    path.write_bytes(b"vhdxfile")
    with pytest.raises(Refused, match=words) as caught:
        image.probe(path)
    assert way in caught.value.hint and f"-r all '{path}'" not in str(caught.value)
