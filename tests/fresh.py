"""`make fresh-test`: the README's two commands in a clean Debian 12, as a new user would give them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.dependencies import GIVEN
from tests.package.root import CERTIFICATES, SUITE, bring_checkout, clean_root

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "fresh-test"
ARCHIVES = ROOT / ".cache" / "package-archives"
COMMANDS = ("make demo", "make test")


def main(argv: Sequence[str]) -> int:
    """python3 -m tests.fresh [--suite SUITE] [COMMAND…]"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default=SUITE)
    parser.add_argument("commands", nargs="*", default=COMMANDS)
    given = parser.parse_args(argv)
    with clean_root(BUILD / given.suite, ARCHIVES, given.suite) as root:
        root.apt("install", *GIVEN)
        place = bring_checkout(root)
        for command in given.commands:
            print(f"\n{given.suite}: $ {command}\n", flush=True)
            status = root.show("sh", "-c", command, place=place, env={"PIP_CERT": CERTIFICATES})
            print(f"\n{given.suite}: {command} ended with status {status}", flush=True)
            if status != 0:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
