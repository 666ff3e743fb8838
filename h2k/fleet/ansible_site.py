"""Waves as an Ansible site: an inventory with a host for each guest, and a playbook that converts them on many hosts.

Ansible has no limit for each source across hosts. So the guests of a wave are cut into batches, each a play of its own:
no batch has more guests of one datastore than the limit, nor more in all than the conversion hosts do at a time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from h2k.base.files import SHARED, own_directory, write_text
from h2k.fleet.wave_plan import free_name, quoted
from h2k.fleet.waves import Entry, Waves

INVENTORY, PLAYBOOK, SETTINGS = "inventory.yaml", "playbook.yaml", "ansible.cfg"
LOCAL = "localhost"
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.-]")
_HEAD = "# Made by h2k fleet ansible from {waves}: h2k fleet writes it anew, and what was edited here is lost.\n"
_INVENTORY = """\
all:
  vars:
    # Where the guests are converted. Take a host that died out of the list and give the same command: its guests are
    # done by the others, and what is done stays done where the output is one directory for all hosts.
    h2k_conversion_hosts: [{hosts}]
    ansible_host: "{{{{ h2k_conversion_hosts[h2k_number | int % (h2k_conversion_hosts | length)] }}}}"
    ansible_connection: "{{{{ 'local' if ansible_host == '{local}' else 'ssh' }}}}"
    h2k_options: []
    h2k_boot: false
  children:
"""
_PLAY = """\
- name: Wave {wave}, batch {number} of {count}
  hosts: {group}
  gather_facts: false
  tasks:
    - name: Convert the guest
      h2k.fleet.h2k_convert:
        name: "{{{{ h2k_name }}}}"
        source: "{{{{ h2k_source }}}}"
        kind: "{{{{ h2k_kind }}}}"
        connection: "{{{{ h2k_connection | default(omit) }}}}"
        program: "{{{{ h2k_program }}}}"
        output: "{{{{ h2k_output }}}}"
        options: "{{{{ h2k_options + (h2k_own_options | default([])) }}}}"
        boot: "{{{{ h2k_boot }}}}"
        h2k: "{{{{ h2k_command | default('h2k') }}}}"
        environment: "{{{{ h2k_environment | default({{}}) }}}}"
      register: h2k_result
      ignore_errors: true  # a failure stops nobody else; the last play tells it
      ignore_unreachable: true
"""
_LAST = """\
- name: What became of the guests
  hosts: all
  gather_facts: false
  connection: local
  vars:
    ansible_connection: local
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
    - name: The guest is done
      ansible.builtin.assert:
        that:
          - h2k_result is defined
          - h2k_result is success
          - h2k_result.unreachable is not defined or not h2k_result.unreachable
        fail_msg: "{{ h2k_name }}: {{ (h2k_result | default({})).msg | default('not begun') }}"
        quiet: true
"""


def write_site(waves: Waves, hosts: Sequence[str], directory: Path) -> list[Path]:
    """Write inventory, playbook and settings into a directory; their paths. H2kError where that is not possible."""
    place = own_directory(directory)
    hosts = hosts or (LOCAL,)
    at_once = waves.jobs * len(hosts)
    plays = list(batched(waves, at_once))
    texts = {
        INVENTORY: inventory(waves, hosts, plays),
        PLAYBOOK: playbook(waves, plays),
        SETTINGS: f"[defaults]\ninventory = {INVENTORY}\nforks = {at_once}\nretry_files_enabled = false\n",
    }
    for name, text in texts.items():
        write_text(place / name, text, SHARED)
    return [place / name for name in texts]


def batched(waves: Waves, at_once: int) -> Iterator[tuple[int, list[list[Entry]]]]:
    """(number of the wave, its batches)."""
    for wave in sorted({entry.wave for entry in waves.entries}):
        yield wave, batches(waves.of(wave), at_once, waves.per_source)


def batches(entries: Sequence[Entry], at_once: int, per_source: int) -> list[list[Entry]]:
    """The guests in their order, each in the first batch that has room for it and for its datastore."""
    found: list[list[Entry]] = []
    counts: list[Counter[str]] = []
    for entry in entries:
        for batch, count in zip(found, counts):
            if len(batch) < at_once and count[entry.datastore] < per_source:
                break
        else:
            batch, count = [], Counter()
            found.append(batch)
            counts.append(count)
        batch.append(entry)
        count[entry.datastore] += 1
    return found


def inventory(waves: Waves, hosts: Sequence[str], plays: Sequence[tuple[int, list[list[Entry]]]]) -> str:
    """The inventory: a group for each batch, and a host for each guest."""
    lines = [_HEAD.format(waves=quoted(waves.path.name)) + _INVENTORY.format(hosts=", ".join(map(quoted, hosts)), local=LOCAL)]
    names = host_names([entry for _, cut in plays for batch in cut for entry in batch])
    number = 0
    for wave, cut in plays:
        for at, batch in enumerate(cut, start=1):
            lines.append(f"    {group(wave, at)}:\n      hosts:\n")
            for entry in batch:
                lines.append(f"        {names[entry.state]}:\n")
                lines += [f"          {key}: {value}\n" for key, value in _variables(entry, number)]
                number += 1
    if not number:
        lines.append("    none: {}\n")
    return "".join(lines)


def _variables(entry: Entry, number: int) -> Iterator[tuple[str, str]]:
    yield "h2k_number", str(number)
    yield "h2k_name", literal(entry.name)
    yield "h2k_source", literal(entry.source)
    yield "h2k_kind", entry.kind
    if entry.connection:
        yield "h2k_connection", literal(entry.connection)
    yield "h2k_program", entry.program
    yield "h2k_output", literal(str(entry.output))
    if entry.options:
        yield "h2k_own_options", f"[{', '.join(map(literal, entry.options))}]"


def playbook(waves: Waves, plays: Sequence[tuple[int, list[list[Entry]]]]) -> str:
    """The playbook: a play for each batch, and one that tells what became of all."""
    text = [_HEAD.format(waves=quoted(waves.path.name))]
    for wave, cut in plays:
        for at in range(1, len(cut) + 1):
            text.append(_PLAY.format(wave=wave, number=at, count=len(cut), group=group(wave, at)))
    return "".join([*text, _LAST])


def group(wave: int, batch: int) -> str:
    """The name of a batch's group."""
    return f"wave_{wave}_batch_{batch}"


def literal(text: str) -> str:
    """Text that Ansible takes as it is: nothing in a guest's name is a template."""
    return f"!unsafe {quoted(text)}" if "{" in text else quoted(text)


def host_names(entries: Sequence[Entry]) -> dict[Path, str]:
    """A plain name for each guest in the inventory, where [1:3] would be three hosts."""
    taken: dict[str, int] = {}
    found = {}
    for entry in entries:
        name = _NOT_PLAIN.sub("_", entry.name)
        name = f"guest_{name}" if name[0].isdigit() or name in ("all", "ungrouped", LOCAL, "none") else name
        found[entry.state] = free_name(name, taken)
    return found
