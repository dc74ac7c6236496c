import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import exporter
from tests.support.import_table import FOUNDATION, MAY_IMPORT, ONLY

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    """The Dockerfile follows hadolint's rules, without an exception."""
    run = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout + run.stderr) == (0, "")
    assert "hadolint ignore" not in (ROOT / "Dockerfile").read_text()


def test_every_package_has_its_line_in_the_table() -> None:
    """The table of imports names every package and every module beside them, and no other."""
    assert sorted({unit for unit, _ in _files()} - {"__init__"}) == sorted([*FOUNDATION, *MAY_IMPORT])


def test_packages_import_as_in_the_table() -> None:
    """A package imports only what its line of the table has; a foundation module only those before it."""
    wrong = []
    for unit, path in _files():
        if unit in FOUNDATION:
            allowed = set(FOUNDATION[: FOUNDATION.index(unit)])
        else:
            allowed = MAY_IMPORT.get(unit, set())
            allowed = allowed | set(FOUNDATION if "foundation" in allowed else ())
        for module in sorted(_imports(path)):
            other = module.split(".")[1]
            modules = ONLY.get((unit, other), {module})
            if other != unit and (other not in allowed or module not in modules):
                wrong.append(f"{path} imports {module}")
    assert wrong == []


def test_tests_share_helpers_only_through_support() -> None:
    """No test module imports another one: shared helpers are in tests/support."""
    pattern = re.compile(r"^(?:from|import) tests(?:\.\w+)*\.test_\w+", re.MULTILINE)
    paths = (path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
    assert [str(path.relative_to(ROOT)) for path in paths if pattern.search(path.read_text())] == []


def test_no_circle_between_packages() -> None:
    """Packages have an order in which each imports only those before it."""
    graph: dict[str, set[str]] = {}
    for unit, path in _files():
        graph.setdefault(unit, set()).update(module.split(".")[1] for module in _imports(path))
    order = TopologicalSorter({unit: others - {unit} for unit, others in graph.items()})
    assert len(list(order.static_order())) == len(graph)


def test_no_circle_between_modules() -> None:
    """Modules inside a package have no circle either."""
    graph = {".".join(path.with_suffix("").parts): set(_imports(path)) for _, path in _files()}
    list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("lock", [*LOCKS, "scripts/kubernetes-tools.lock"])
def test_a_lock_is_pinned_and_hashed_and_names_no_host(lock: str) -> None:
    """Each requirement is one version with hashes, and there is no download address."""
    for line in _lines(lock):
        assert re.fullmatch(r"[a-z0-9-]+(\[\w+\])?==\S+( ; [^\\]+?)?( --hash=sha256:[0-9a-f]{64})+", line)
    assert "://" not in (ROOT / lock).read_text()


def test_the_dev_lock_extends_the_runtime_lock() -> None:
    """Installing the tools for tests changes no version of the runtime packages."""
    assert set(_lines("requirements.lock")) <= set(_lines("requirements-dev.lock"))


def test_the_locks_contain_the_dependencies_of_pyproject() -> None:
    """The test fails if a dependency is added or raised in pyproject.toml and not locked."""
    project = _pyproject()
    groups = project["dependency-groups"]
    wanted = {
        "requirements.lock": project["project"]["dependencies"] + groups["build"],
        "requirements-dev.lock": project["project"]["dependencies"] + groups["build"] + groups["dev"],
    }
    for lock, requirements in wanted.items():
        pinned = dict(re.findall(r"^([a-z0-9-]+)(?:\[\w+\])?==([^ \n]+)", "\n".join(_lines(lock)), re.MULTILINE))
        for requirement in map(Requirement, requirements):
            assert requirement.specifier.contains(pinned[requirement.name]), (lock, str(requirement))


def test_the_build_backend_is_locked() -> None:
    """The project is built without build isolation, so the lock must contain the build requirements."""
    project = _pyproject()
    assert project["dependency-groups"]["build"] == project["build-system"]["requires"]


def test_both_distributions_have_every_file_of_the_package(tmp_path: Path) -> None:
    """What `make dist` builds has the modules and the page's template, style and script."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "exporter", tmp_path / "exporter", ignore=shutil.ignore_patterns("__pycache__"))
    makefile = (ROOT / "Makefile").read_text()
    [program] = re.findall(r'^dist:.*\n(?:\t.*\n)*?\t@\$\(BIN\)/python -c "(.*)" >/dev/null$', makefile, re.MULTILINE)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    [wheel], [archive] = (tmp_path / "dist").glob("*.whl"), (tmp_path / "dist").glob("*.tar.gz")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("exporter/")}
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames() if not opened.getmember(name).isdir()}
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names
    source = {str(path.relative_to(ROOT)) for path in (ROOT / "exporter").rglob("*") if path.is_file()}
    wanted = {name for name in source if "__pycache__" not in name}
    assert packed == wanted == {name for name in names if name.startswith("exporter/")}


def test_the_metadata_has_the_version_of_the_package() -> None:
    """The installed package has the version that it reports; test_workflows.py finds no other place with it."""
    assert exporter.__version__ == importlib.metadata.version("smartstream-exporter")


@pytest.mark.parametrize(
    ("ci", "summary"),
    [("", "1 skipped, 1 xfailed"), ("true", "1 failed, 1 xfailed")],
    ids=["without CI", "with CI=true"],
)
def test_a_skip_fails_with_ci(tmp_path: Path, ci: str, summary: str) -> None:
    """With CI=true a skipped test fails with the reason; an expected failure does not."""
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_skips(): pytest.skip('for a reason')\n"
        "@pytest.mark.xfail\n"
        "def test_fails_as_expected(): assert False\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        # The fixtures come from the tests' own modules.
        env={**os.environ, "CI": ci, "PYTEST_ADDOPTS": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert summary in run.stdout.splitlines()[-1]
    assert "for a reason" in run.stdout


def test_an_old_python_is_one_clear_line(tmp_path: Path) -> None:
    """If Python is too old or missing, `make` ends before it creates anything."""
    run = subprocess.run(
        [ROOT / "scripts" / "venv.sh", "/bin/false", tmp_path / "venv"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr == "Python 3.11 or newer is needed, and '/bin/false' is not: make PYTHON=/path/to/python3.11\n"
    assert not (tmp_path / "venv").exists()


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _lines(lock: str) -> list[str]:
    """A lock's requirements, each with its hashes on one line."""
    text = re.sub(r" *\\\n *", " ", (ROOT / lock).read_text())
    return [line for line in text.splitlines() if not line.lstrip().startswith("#")]


def _files() -> Iterator[tuple[str, Path]]:
    """Each source file with its package, or with the module beside the packages."""
    for path in sorted((ROOT / "exporter").rglob("*.py")):
        yield path.relative_to(ROOT / "exporter").with_suffix("").parts[0], path.relative_to(ROOT)


def _imports(path: Path) -> Iterator[str]:
    """The modules of the exporter that a file imports, anywhere in it."""
    package = list(path.with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            # `from exporter.api import answers` imports a module, `from exporter.api.answers import rows` a name of
            # one.
            module = next((known for known in (name, name.rpartition(".")[0]) if _is_module(known)), None)
            if module is not None and name.startswith("exporter."):
                yield module


def _is_module(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return name != "exporter" and (place.with_suffix(".py").is_file() or (place / "__init__.py").is_file())
