"""What files need of a machine: the modules that they import and the programs that they run, and Debian's packages of both.

Programs are read from the syntax tree: the first word of what subprocess, h2k.base.run and the tests' own helpers are
given, and of shutil.which. A first word that is not in the file, or not in Python, is told by hand in `TOLD`; the
test holds that list against the files. Packages come from dpkg's database alone, so that this works without a network.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parents[1]
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
OWN = {"h2k", "tests", "h2k-v2v", "h2k-qemu-img"}
# Functions that run a program: (module that they come from, name). The first argument is an argv or its first word.
_STARTERS = {("subprocess", n) for n in ("run", "Popen", "call", "check_call", "check_output")}
_STARTERS |= {("h2k.base.run", n) for n in ("run", "pass_through", "find_program")} | {("shutil", "which")}
_IMPORTERS = {"importorskip", "import_module", "find_spec"}
_PROGRAM = re.compile(r"(/usr)?(/s?bin/)?[a-z][\w.+-]*")


Scope = tuple[str, ...]
MOST = 8  # steps from a name to its value


@dataclasses.dataclass
class Needs:
    """What one file needs. `hidden`: the lines that start something whose name is not in the file."""

    modules: set[str] = dataclasses.field(default_factory=set)
    programs: set[str] = dataclasses.field(default_factory=set)
    hidden: list[int] = dataclasses.field(default_factory=list)


@cache
def read(source: str) -> Needs:
    """What a Python file needs, from its text."""
    return _Reader(ast.parse(source)).needs


class _Reader:
    """One file: first what it imports and which names have which values in which function, then each call."""

    def __init__(self, tree: ast.Module) -> None:
        self.needs = Needs()
        self.taken: dict[str, tuple[str, str]] = {}  # local name → (module, name)
        self.values: dict[tuple[Scope, str], list[ast.expr]] = {}  # (functions around it, name) → what it is set to
        self.parameters: set[tuple[Scope, str]] = set()
        self.helpers: set[str] = set()
        self.defined = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        self.calls: list[tuple[Scope, ast.Call]] = []
        self._walk(tree, ())
        for scope, call in self.calls:
            self._helper(scope, call)
        for scope, call in self.calls:
            self._call(scope, call)

    def _walk(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            scope = (*scope, f"{getattr(node, 'name', 'lambda')}@{node.lineno}")
            own = node.args
            found = [*own.posonlyargs, *own.args, *own.kwonlyargs, *filter(None, (own.vararg, own.kwarg))]
            self.parameters |= {(scope, argument.arg) for argument in found}
        elif isinstance(node, ast.ClassDef):
            scope = (*scope, f"class@{node.name}")
        elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            scope = (*scope, f"for@{node.lineno}.{node.col_offset}")
        elif isinstance(node, ast.Call):
            self.calls.append((scope, node))
        else:
            self._bind(node, scope)
        for inner in ast.iter_child_nodes(node):
            self._walk(inner, scope)

    def _bind(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, ast.Import):
            self.needs.modules |= {alias.name.split(".")[0] for alias in node.names}
            self.taken.update({alias.asname or alias.name: (alias.name, "") for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            self.needs.modules.add(str(node.module).split(".")[0])
            self.taken.update({alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names})
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                self._set(target, node.value, scope)
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
            self._set(node.target, node.value, scope)
        elif isinstance(node, (ast.For, ast.comprehension)):
            named = [value for (_, name), values in self.values.items() if ast.unparse(node.iter) == name for value in values]
            for each in (node.iter, *named):
                for value in filter(None, getattr(each, "elts", getattr(each, "keys", []))):
                    self._set(node.target, value, scope)

    def _set(self, target: ast.expr, value: ast.expr, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            self.values.setdefault((scope, target.id), []).append(value)
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for inner, each in zip(target.elts, value.elts):
                self._set(inner, each, scope)

    def _starter(self, call: ast.Call) -> bool:
        function = call.func
        if isinstance(function, ast.Name):
            return self.taken.get(function.id) in _STARTERS
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            return (self.taken.get(function.value.id, ("",))[0], function.attr) in _STARTERS
        return False

    def _helper(self, scope: Scope, call: ast.Call) -> None:
        """A function that starts what it was given is itself one that runs programs."""
        while scope and scope[-1].startswith("for@"):
            scope = scope[:-1]
        if call.args and scope and self._starter(call):
            names = {n.id for n in ast.walk(_leading(call.args[0])) if isinstance(n, ast.Name)}
            if any((scope, name) in self.parameters and (scope, name) not in self.values for name in names):
                self.helpers.add(scope[-1].partition("@")[0])

    def _call(self, scope: Scope, call: ast.Call) -> None:
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        if not call.args:
            return
        words = self._words(call.args[0], scope, 0)
        if name in _IMPORTERS:
            self.needs.modules |= {word.split(".")[0] for word in words or () if word}
        elif self._starter(call):
            if words is None:
                self.needs.hidden.append(call.lineno)
            self.needs.programs |= words or set()
        elif name in self.helpers or (name in SHARED_HELPERS and name not in self.defined):
            self.needs.programs |= {word for word in words or () if _PROGRAM.fullmatch(word)}

    def _words(self, node: ast.expr, scope: Scope, depth: int) -> Optional[set[str]]:
        """The first words that an argument can be; an empty set for what is no program of the machine (a parameter, a
        file of the checkout, the interpreter); None when it can't be told."""
        node = _leading(node)
        if isinstance(node, ast.Constant):
            return {node.value} if isinstance(node.value, str) else set()
        if isinstance(node, ast.Name):
            return self._named(node.id, scope, depth)
        if isinstance(node, (ast.IfExp, ast.BoolOp)):
            return self._all([node.body, node.orelse] if isinstance(node, ast.IfExp) else node.values, scope, depth)
        if isinstance(node, (ast.List, ast.Tuple)) or ast.unparse(node) == "sys.executable":
            return set()  # an empty one; ourselves
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            return set()  # a path of the checkout
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in self.helpers and node.args and depth < MOST:
            return self._words(node.args[0], scope, depth + 1)  # what finds a program
        return set() if isinstance(node, ast.Call) and self._starter(node) else None

    def _named(self, name: str, scope: Scope, depth: int) -> Optional[set[str]]:
        for length in range(len(scope), -1, -1):
            where = (scope[:length], name)
            if length < len(scope) and length and scope[length - 1].startswith("class@"):
                continue  # what a class has is no name in its functions
            if where in self.values:
                return self._all(self.values[where], scope, depth)
            if where in self.parameters:
                return set()
        return set() if name in self.taken else None

    def _all(self, parts: Iterable[ast.expr], scope: Scope, depth: int) -> Optional[set[str]]:
        if depth > MOST:
            return None
        found = [self._words(part, scope, depth + 1) for part in parts]
        return None if None in found else {word for words in found for word in words or ()}


def _leading(node: ast.expr) -> ast.expr:
    """The expression that gives an argv its first word."""
    while True:
        if isinstance(node, (ast.List, ast.Tuple)) and node.elts:
            node = node.elts[0]
        elif isinstance(node, ast.Starred):
            node = node.value
        elif isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            node = node.generators[0].iter
        elif isinstance(node, ast.BinOp) and not isinstance(node.op, ast.Div):
            node = node.left
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("map", "str", "list", "tuple") and node.args:
            node = node.args[-1]
        else:
            return node


# Methods and functions of the tests' own that run what they are given, and are called in other files than theirs.
SHARED_HELPERS = {"run", "run_logged", "show", "begin", "wait_for"}


# What no syntax tree shows: argvs that are made elsewhere, and programs in shell. The words must be in the file.
TOLD = {
    "h2k/convert/qemu_img.py": "qemu-img",
    "h2k/cli/fleet_commands.py": "",  # --on-end: the owner's command
    "h2k/fleet/runner.py": "",  # our own wrappers
    "h2k/engine/hook_program.py": "",  # the hooks, and what they run is theirs
    "h2k/engine/direct_writer.py": "true",  # in the sandbox
    "tests/matrix.py": "python3",  # in a root
    "tests/package/root.py": "unshare sh mount",
    "tests/boot/lab.py": "qemu-system-x86_64",
    "tests/integration/test_inputs.py": "qemu-img",
    "tests/windows/vm.py": "",  # what tests/windows/machine.py made
    "tests/integration/test_writers.py": "setpriv",
    "tests/integration/virthost.py": "mount mkdir sleep touch",
    "packaging/man": "sed lowdown basename tr",
    "packaging/install": "install find sort dirname",
}
# Modules that come from PyPI, into .venv, by the name that the Makefile installs.
PYPI = {"axe_playwright_python": "axe-playwright-python", "Registry": "python-registry", "cosmic_ray": "cosmic-ray"}
# What whoever has a checkout and calls make has.
GIVEN = ("git", "make")
# Programs that h2k can do without, with what it then does: a recommendation is enough. "" is another's name on hosts that
# are not Debian 12.
OPTIONAL = {
    "virsh": "h2k boot", "libvirtd": "h2k boot", "virtqemud": "", "virtnetworkd": "", "qemu-kvm": "", "setpriv": "reads as who it is",
    "bwrap": "writes in the appliance", "nbdfuse": "writes in the appliance", "ntfs-3g": "writes in the appliance",
    "mcopy": "writes in the appliance",
}  # fmt: skip


def makefile_list(name: str) -> list[str]:
    """A list of packages of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.search(rf"^{name} := (.*)$", text, re.MULTILINE)
    assert found is not None, f"Makefile: no {name}"
    return found[1].split()


def control_field(name: str) -> list[str]:
    """The packages in a field of the DEB."""
    text = (ROOT / "packaging/debian/control").read_text(encoding="utf-8")
    found = re.search(rf"^{name}: ((?:.*\n)(?:[ \t].*\n)*)", text, re.MULTILINE)
    assert found is not None, f"packaging/debian/control: no {name}"
    return [clause for clause in clauses(found[1].replace("\n", " ")) if not clause.startswith("${")]


def needs_of(paths: Iterable[Path]) -> tuple[dict[str, set[str]], dict[str, set[str]], list[str]]:
    """Module → files, program → files, and what must be told by hand and is not, or no longer is so."""
    modules: dict[str, set[str]] = {}
    programs: dict[str, set[str]] = {}
    wrong = []
    for path in paths:
        name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        python = path.suffix == ".py" or text.startswith("#!/usr/bin/python3")
        needs = read(text) if python else Needs()
        told = TOLD.get(name, "").split()
        if needs.hidden and name not in TOLD:
            wrong.append(f"{name}:{needs.hidden[0]} starts a program that its text does not name: tell it in {__name__}.TOLD")
        if python and name in TOLD and not needs.hidden and name != "tests/integration/virthost.py":
            wrong.append(f"{name}: nothing is hidden there any more: take it out of {__name__}.TOLD")
        wrong += [f"{name}: {__name__}.TOLD names {word}, which is not there" for word in told if word not in text]
        for module in needs.modules:
            if not stdlib(module) and module not in OWN:
                modules.setdefault(module, set()).add(name)
        for program in {*needs.programs, *told}:
            if program not in OWN and not (ROOT / program).exists():
                programs.setdefault(program, set()).add(name)
    return modules, programs, wrong


def lacking(paths: Iterable[Path], packages: Iterable[str], recommended: Iterable[str] = (), pypi: str = "") -> list[str]:
    """What files need and these packages do not bring, each as a line; `recommended` ones may bring what is OPTIONAL."""
    modules, programs, wrong = needs_of(paths)
    have = closure(packages)
    have_more = have | closure(recommended)
    for module, files in sorted(modules.items()):
        if module in PYPI and re.search(rf"\b{PYPI[module]}\b", pypi):
            continue
        file, where = module_file(module), ", ".join(sorted(files)[:3])
        optional = module in ("rich", "PIL")  # h2k doctor says what it does without
        by = packages_of(file) if file else set()
        if not by & (have_more if optional else have):
            wrong.append(f"{where}: module {module} is of {'/'.join(sorted(by)) or 'no package here'}, which no list names")
    for program, files in sorted(programs.items()):
        file, where = program_file(program), ", ".join(sorted(files)[:3])
        if OPTIONAL.get(program) == "":
            continue
        by = packages_of(file) if file else set()
        if not by & (have_more if program in OPTIONAL else have):
            wrong.append(f"{where}: program {program} is of {'/'.join(sorted(by)) or 'no package here'}, which no list names")
    return wrong


# What the machine has: dpkg's database


def stdlib(module: str) -> bool:
    """Whether Python itself brings it."""
    return module in sys.stdlib_module_names or module in dir(builtins)


def module_file(module: str) -> Optional[str]:
    """Where a module is here; None when it is not."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        return None
    return spec.origin or next(iter(spec.submodule_search_locations or ()), None)


def program_file(name: str) -> Optional[str]:
    """Where a program is here, alternatives followed; None when it is not."""
    found = shutil.which(name, path=PATH)
    while found is not None and os.path.islink(found) and os.readlink(found).startswith("/etc/alternatives/"):
        found = os.path.realpath(found)
    return found


def packages_of(file: str) -> set[str]:
    """The packages that bring a file: by its name, by the name before /usr was merged, by what it links to."""
    names = {file, file.removeprefix("/usr"), os.path.realpath(file), os.path.realpath(file).removeprefix("/usr")}
    return {package for name in names for package in _owners().get(name, ())}


@lru_cache(maxsize=1)
def _owners() -> dict[str, list[str]]:
    """Each file in a directory of programs or modules → its packages, from dpkg's lists: `dpkg -S` takes a second a question."""
    found: dict[str, list[str]] = {}
    for path in Path("/var/lib/dpkg/info").glob("*.list"):
        package = path.stem.partition(":")[0]
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if "bin/" in line or "/python3/" in line:
                found.setdefault(line, []).append(package)
    return found


@lru_cache(maxsize=1)
def _installed() -> dict[str, tuple[str, ...]]:
    """Every installed package, and every name that one provides, with what it depends on."""
    shown = "${db:Status-Status}\\t${Package}\\t${Essential}\\t${Pre-Depends}, ${Depends}\\t${Provides}\\n"
    text = subprocess.run(["dpkg-query", "-W", "-f", shown], capture_output=True, text=True, check=True).stdout
    known: dict[str, tuple[str, ...]] = {}
    provided: dict[str, list[str]] = {}
    essential = []
    for line in text.splitlines():
        status, package, needed, depends, provides = line.split("\t")
        if status != "installed":
            continue
        known[package] = tuple(clauses(depends))
        essential += [package] * (needed == "yes")
        for name in clauses(provides):
            provided.setdefault(name, []).append(package)
    known.update({name: tuple(by) for name, by in provided.items() if name not in known})
    known[""] = tuple(essential)
    return known


def clauses(field: str) -> Iterator[str]:
    """Each clause of a dependency field without versions and architectures: "a" or "a|b"."""
    for clause in field.split(","):
        names = [re.split(r"[\s:(<\[]", alternative.strip(), maxsplit=1)[0] for alternative in clause.split("|")]
        if any(names):
            yield "|".join(filter(None, names))


def closure(packages: Iterable[str]) -> set[str]:
    """What a machine has that has these packages without their recommendations, and what every Debian has."""
    waiting, found = ["", *packages], set()
    while waiting:
        name = next((n for n in waiting[-1].split("|") if n in _installed()), None)
        waiting.pop()
        if name is not None and name not in found:
            found.add(name)
            waiting += _installed()[name]
    return found
