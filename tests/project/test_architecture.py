"""docs/architecture.md names only what exists, and every package, foundation module, lock and thread."""

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.import_table import FOUNDATION, MAY_IMPORT, ONLY

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")

_FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TREE, DRAWING = _FENCE.findall(DOCUMENT)
INLINE = re.findall(r"`([^`\n]+)`", _FENCE.sub("", DOCUMENT))

_SUFFIXES = (".py", ".md", ".yml", ".yaml", ".toml", ".db")
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_CLASS = re.compile(r"[A-Z][a-z]\w*")

PATHS = sorted(
    {
        each
        for each in INLINE
        if " " not in each and not each.startswith("/") and ("/" in each or each.endswith(_SUFFIXES))
    }
)
NAMES = sorted(
    {each for each in INLINE if each not in PATHS and (_DOTTED.fullmatch(each) or _CLASS.fullmatch(each))}
    | {each for each in _DOTTED.findall(DRAWING) if not each.endswith(_SUFFIXES)}
)


@functools.cache
def modules() -> Mapping[str, ast.Module]:
    """The exporter's modules by name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text())
        for path in sorted((ROOT / "exporter").rglob("*.py"))
    }


def test_the_document_is_read() -> None:
    """The patterns of this test find names in the document: an empty list would prove nothing."""
    assert len(PATHS) >= 20
    assert len(NAMES) >= 40


@pytest.mark.parametrize("path", PATHS)
def test_each_path_exists(path: str) -> None:
    """Paths are relative to the repository, or to exporter/."""
    assert (ROOT / path).exists() or (ROOT / "exporter" / path).exists()


@pytest.mark.parametrize("name", NAMES)
def test_each_name_exists(name: str) -> None:
    """A name is a module, a class, a function or a method; public, as private names change more
    often than documents.
    """
    assert not any(part.startswith("_") for part in name.split("."))
    assert _exists(name)


@pytest.mark.parametrize("name", ["Ledger.count", "Ledgers", "rules.count_hours", "exporter.api.budget.take"])
def test_a_name_that_does_not_exist_is_found(name: str) -> None:
    """The lookup does not accept a class, a module or a method of another class instead."""
    assert not _exists(name)


def test_the_tree_has_each_package_and_module_once() -> None:
    """Packages end with a slash, modules with `.py`."""
    listed = re.findall(r"^(?:├──|└──) (\w+)(?:/|\.py) +\S", TREE, re.MULTILINE)
    assert sorted(listed) == sorted([*FOUNDATION, *MAY_IMPORT])


def test_the_table_of_imports_is_the_tested_one() -> None:
    """It has the packages, their allowed imports, and the modules where a package may import only some of another."""
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", _section("What may import what"), re.MULTILINE))
    assert {unit: set(re.findall(r"`(\w+)`", cell)) for unit, cell in rows.items()} == MAY_IMPORT
    only = {
        (unit, other): {module}
        for unit, cell in rows.items()
        for other, module in re.findall(r"`(\w+)` \(only `([\w.]+)`\)", cell)
    }
    assert only == ONLY


def test_the_foundation_has_its_order() -> None:
    """Each foundation module imports only those before it, so the order is shown."""
    [order] = re.findall(r"in this order: (.*?)\.\n", _section("What may import what"), re.DOTALL)
    assert tuple(re.findall(r"`(\w+)`", order)) == FOUNDATION


def test_the_table_of_locks_has_each_module_with_a_lock() -> None:
    """The table says what each lock of the code guards."""
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", _section("Threads and locks"), re.MULTILINE)
    assert sorted(listed) == sorted(_with_locks())


def test_the_drawing_has_each_thread() -> None:
    """Each thread that the exporter starts is in the drawing, by the first word of its name."""
    names = set(_thread_names())
    assert {"server", "http", "resolve", "log"} <= names
    assert {name for name in names if not re.search(rf"\b{name}\b", DRAWING)} == set()


def test_the_readme_links_to_it() -> None:
    """The README has a link to the document."""
    assert "](docs/architecture.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def _section(heading: str) -> str:
    return DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def _exists(name: str) -> bool:
    """Whether a module, class, function or method of the exporter has this name, with or without its packages."""
    parts = name.split(".")
    for module, tree in modules().items():
        own = module.split(".")
        if len(parts) > 1 and own[-len(parts) :] == parts:
            return True
        if _has(tree, parts):
            return True
        if any(own[-count:] == parts[:count] and _has(tree, parts[count:]) for count in range(1, len(parts))):
            return True
    return False


def _has(tree: ast.Module, parts: list[str]) -> bool:
    """Whether a module has a class with a member, or defines a name; a bare function needs its module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == parts[0]:
            return len(parts) == 1 or (len(parts) == 2 and parts[1] in _members(node))
        if isinstance(node, ast.FunctionDef) and parts == [node.name]:
            return True
    return False


def _members(of_class: ast.ClassDef) -> set[str]:
    names = {node.name for node in of_class.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    for node in of_class.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names | {
        node.attr
        for node in ast.walk(of_class)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self"
    }


def _with_locks() -> Iterator[str]:
    """The modules that create a lock, except those of the simulated API, which is another program
    in the same process.
    """
    for path in sorted((ROOT / "exporter").rglob("*.py")):
        relative = path.relative_to(ROOT / "exporter")
        if relative.parts[0] != "simulator" and re.search(r"\bthreading\.(Lock|RLock|Condition)\(", path.read_text()):
            yield str(relative)


def _thread_names() -> Iterator[str]:
    """The first words of the names of the exporter's threads, without those of the simulated API."""
    for module, tree in modules().items():
        if module.startswith("exporter.simulator"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "threading.Thread":
                for keyword in node.keywords:
                    if keyword.arg == "name":
                        yield re.findall(r"\w+", ast.unparse(keyword.value).lstrip("f"))[0]
