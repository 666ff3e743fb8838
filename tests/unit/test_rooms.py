"""The house: imports point down the floors, no file imports in a circle, and the lower rooms know no command line."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# From the top floor down (docs/develop/architecture.md): a room imports itself and what stands after it.
FLOORS = ("cli", "fleet", "convert", "boot", "engine", "guest", "domain", "config", "windows", "disk", "pages", "base")
COMMAND_LINE = {"click", "rich"}


@lru_cache(maxsize=1)
def modules() -> dict[str, Path]:
    """Every module of h2k by its dotted name."""
    found = {}
    for path in sorted((ROOT / "h2k").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@lru_cache(maxsize=1)
def imports() -> dict[str, frozenset[str]]:
    """What each module imports, wherever in the file, as dotted names."""
    return {name: frozenset(_imported(path)) for name, path in modules().items()}


def _imported(path: Path) -> Iterator[str]:
    return _names(ast.walk(ast.parse(path.read_text(encoding="utf-8"))), path)


def _names(nodes: Iterable[ast.AST], path: Path = ROOT) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in modules() else str(node.module)


def room(module: str) -> str:
    """The room of a module of h2k; "" for h2k itself."""
    return module.split(".")[1] if "." in module else ""


def test_every_file_lies_in_a_room_that_has_a_floor() -> None:
    lying = {room(name) for name in modules()} - {""}
    assert lying <= set(FLOORS), f"rooms without a floor: {lying - set(FLOORS)}"
    assert {path.name for path in (ROOT / "h2k").glob("*.py")} == {"__init__.py"}


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_down(module: str) -> None:
    upward = {
        other
        for other in imports()[module]
        if other.startswith("h2k.") and FLOORS.index(room(other)) < FLOORS.index(room(module))
    }
    assert not upward, f"{module} ({room(module)}) imports from a higher floor: {sorted(upward)}"


# Modules of rows alone: they are tested as what they are rows of.
ROWS = {f"h2k.engine.{name}": "h2k.engine.catalogue" for name in ("finding_entry", "findings_boot", "findings_disks", "findings_drivers", "findings_guest")}


@pytest.mark.parametrize("module", [name for name, path in sorted(modules().items()) if path.name != "__init__.py"])
def test_each_module_has_its_test_file(module: str) -> None:
    """test_MODULE.py or test_ROOM_MODULE.py, which imports it; a command may be tested as h2k alone."""
    tested = ROWS.get(module, module)
    name = tested.rpartition(".")[2]
    wanted = {tested} if room(tested) != "cli" else {tested, "h2k.cli.main"}
    files = [ROOT / "tests" / "unit" / f"test_{stem}.py" for stem in (name, f"{room(tested)}_{name}")]
    assert any(wanted & set(_imported(path)) for path in files if path.exists()), f"none of {', '.join(path.name for path in files)} is about {module}"


def test_no_circle() -> None:
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " → ".join((*way[way.index(module) :], module))
        if module not in done:
            for other in sorted(imports()[module] & imports().keys()):
                visit(other, (*way, module))
            done.add(module)

    for name in modules():
        if name != "h2k":
            visit(name, ())


@pytest.mark.parametrize("name", [n for n in modules() if room(n) in FLOORS[FLOORS.index("engine") :]])
def test_below_the_commands_nothing_knows_a_command_line(name: str) -> None:
    taken = {other.split(".")[0] for other in imports()[name]}
    allowed = {"rich"} if room(name) == "base" else set()  # the console itself
    assert not taken & (COMMAND_LINE - allowed)


def test_the_registry_reader_stands_alone() -> None:
    """`import h2k.windows.regf` needs no click and no libvirt: nothing on its way imports them."""
    waiting, seen = ["h2k.windows.regf"], set()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        waiting += [other for other in imports().get(module, ()) if other.startswith("h2k")]
    outside = {other.split(".")[0] for module in seen for other in imports().get(module, ()) if not other.startswith("h2k")}
    assert outside <= set(sys.stdlib_module_names)


def _at_once(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported, without functions and what is for type checkers."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for part in ("body", "orelse", "finalbody"):
                yield from _at_once(getattr(node, part, []))


def test_a_look_loads_no_part_that_writes_boots_or_converts() -> None:
    """`h2k verify` takes a quarter of a second; jsonschema or libvirt's side alone would take as long again."""
    waiting, seen = ["h2k.cli.main", "h2k.cli.guest_commands"], set[str]()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        if module in modules():
            tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
            nodes = [node for node in _at_once(tree.body) if isinstance(node, (ast.Import, ast.ImportFrom))]
            waiting += _names(nodes)
    rooms = {name for name in seen if room(name) in ("boot", "convert", "fleet", "pages")}
    assert not rooms
    assert not seen & {"jsonschema", "libvirt", "guestfs", "hivex", "rich", "h2k.engine.writers", "h2k.disk.overlay"}
