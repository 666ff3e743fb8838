"""Writes what h2k's tables say into pages and completions: /usr/bin/python3 packaging/option_pages.py

The OPTIONS section of each page of docs/man and the options of the wrappers' completions, from the option table; the steps
and their time limits in docs/first-boot.md, docs/policy.md and h2k-policy(5), from the table of first-boot steps. A test compares them.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from h2k.base.option_table import QEMU_IMG, V2V, as_sentence, options_of  # noqa: E402
from h2k.cli.main import cli, every_command  # noqa: E402
from h2k.config.policy import TIMEOUTS  # noqa: E402
from h2k.windows.first_boot_steps import NAMES, STEPS  # noqa: E402

TOOLS = {V2V: "virt-v2v", QEMU_IMG: "qemu-img"}
_DIRECTORIES = ("hooks", "report", "stage", "allow-under")
_NO_FILES = ("bus", "define", "mode", "firmware", "skip", "accept")


def wrapper_section(program: str) -> str:
    """The OPTIONS section of a wrapper's page."""
    found = ["# OPTIONS", "", f"All others are {TOOLS[program]}'s.", ""]
    for option in options_of(program):
        value = f" *{option.metavar}*" if option.metavar else ""
        chosen = f" One of {', '.join(f'**{c}**' for c in option.choices)}." if option.choices else ""
        again = " May be repeated." if option.many else ""
        found += [f"**{option.spelling(program)}**{value}", f": {as_sentence(option.help)}{chosen}{again}", ""]
    return "\n".join(found)


def h2k_section() -> str:
    """The OPTIONS section of h2k.1: every option of every command, with the commands that have it."""
    lines: dict[str, tuple[str, list[str]]] = {}
    for name, command in [("", cli), *every_command()]:
        for option in (p for p in command.params if isinstance(p, click.Option)):
            spelt = ", ".join(f"**{o}**" for o in sorted(option.opts, key=len))
            value = "" if option.is_flag or option.count else f" *{_metavar(option).strip('[]')}*"
            text = f": {as_sentence(option.help or '')}" + (" May be repeated." if option.multiple else "")
            lines.setdefault(spelt + value, (text, []))[1].append(name)
    found = ["# OPTIONS", ""]
    for key in sorted(lines, key=lambda k: k.lstrip("*-")):
        text, names = lines[key]
        where = ", ".join(f"**{n}**" for n in names if n)
        found += [key, f"{text} Of {where}." if where and "" not in names else text, ""]
    return "\n".join(found)


def _metavar(option: click.Option) -> str:
    """How the option's value is shown; click from 8.2 on asks for a context."""
    context = [click.Context(cli)] if inspect.signature(option.make_metavar).parameters else []
    return option.make_metavar(*context)


def page(name: str, section: str) -> str:
    """A page of docs/man with its OPTIONS section made anew."""
    text = (ROOT / "docs" / "man" / f"{name}.1.md").read_text(encoding="utf-8")
    return re.sub(r"^# OPTIONS\n.*?(?=^# )", lambda _: section + "\n", text, count=1, flags=re.MULTILINE | re.DOTALL)


def completion(program: str) -> str:
    """A wrapper's completion with its options made anew."""
    text = (ROOT / "completion" / program).read_text(encoding="utf-8")
    options = options_of(program)
    own = " ".join(o.spelling(program) for o in options)
    text = re.sub(r'local own="[^"]*"', f'local own="{own}"', text)
    table = r"    # the option table\n.*?    # end of the table\n"
    return re.sub(table, lambda _: _cases(program), text, count=1, flags=re.DOTALL)


def _cases(program: str) -> str:
    found = ["    # the option table"]
    for option in options_of(program):
        if option.choices:
            words = f'compgen -W "{" ".join(option.choices)}" -- "$cur"'
        elif option.name == "skip":
            words = 'compgen -W "$(h2k hooks list --words 2>/dev/null)" -- "$cur"'
        elif option.name == "accept":
            words = 'compgen -W "$(h2k explain --words 2>/dev/null)" -- "$cur"'
        elif option.name in _DIRECTORIES:
            words = 'compgen -d -- "$cur"'
        else:
            continue
        found += [f"    {option.spelling(program)})", f"        mapfile -t COMPREPLY < <({words})", "        return", "        ;;"]
    files = [o.spelling(program) for o in options_of(program) if o.metavar and o.name not in (*_DIRECTORIES, *_NO_FILES)]
    return "\n".join([*found, f"    {' | '.join(files)})", "        return", "        ;;", "    # end of the table", ""])


def first_boot_page() -> str:
    """docs/first-boot.md with its table of steps, and their names as signals, made anew."""
    text = (ROOT / "docs" / "first-boot.md").read_text(encoding="utf-8")
    rows = [f"| `{s.name}` | {s.what} | {s.needs}{' ' if s.needs else ''}|" for s in STEPS if s.work]
    text = re.sub(r"(\| step \|.*\n\|---.*\n)(\|.*\n)+", lambda found: found[1] + "\n".join(rows) + "\n", text, count=1)
    names = ", ".join(f"`{name}`" for name in NAMES)
    return re.sub(r"^- `step`: (`[a-z]+`,?\s+)+", lambda _: f"- `step`: {names}, ", text, count=1, flags=re.MULTILINE)


def policy_page() -> str:
    """docs/policy.md with the time limits made anew."""
    text = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
    limits = textwrap.fill(", ".join(f"{name}: {limit}" for name, limit in TIMEOUTS.items()), 112).replace("\n", "\n   ")
    return re.sub(r"(\ntimeouts: .*\n)  \{[^}]*\}", lambda found: f"{found[1]}  {{{limits}}}", text, count=1)


def policy_manual() -> str:
    """The manual page of the policy with the steps that have time limits made anew."""
    text = (ROOT / "docs" / "man" / "h2k-policy.5.md").read_text(encoding="utf-8")
    first, *middle, last = (f"*{name}*" for name in NAMES)
    said = (
        f"Seconds that **h2k boot** waits: {first} for the guest's first line on COM1, then {', '.join(middle)} and {last}, each "
        "from the step before it; *shutdown*; *settle*, how long the final domain is watched. The host's */etc/h2k/policy.yaml* "
        "shows the defaults."
    )
    entry = textwrap.fill(said, 122, initial_indent=": ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return re.sub(r"(\*\*timeouts\*\*\n).*?(?=\n\n)", lambda found: found[1] + entry, text, count=1, flags=re.DOTALL)


def written() -> dict[Path, str]:
    """Every file that is made of the tables, with the content that it should have."""
    man = ROOT / "docs" / "man"
    found = {man / f"{p}.1.md": page(p, wrapper_section(p)) for p in TOOLS}
    found[man / "h2k.1.md"] = page("h2k", h2k_section())
    found |= {ROOT / "docs" / "first-boot.md": first_boot_page(), ROOT / "docs" / "policy.md": policy_page()}
    found[man / "h2k-policy.5.md"] = policy_manual()
    return {**found, **{ROOT / "completion" / p: completion(p) for p in TOOLS}}


if __name__ == "__main__":
    for path, content in written().items():
        path.write_text(content, encoding="utf-8")
