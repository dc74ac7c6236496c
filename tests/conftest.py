"""What all tests share: programs that may be missing, seeds, and a check that nothing is skipped with CI=true."""

import itertools
import logging
import os
import shutil
import socket
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from exporter import logs
from exporter.storage.state import State, open_state
from tests.support.fakes import FakeClock

TESTS = Path(__file__).parent

# `make test` installs Helm and kubectl here.
KUBERNETES_TOOLS = TESTS.parent / "build" / "kubernetes-tools"

# `make coverage` leaves these out. They run whole programs, and hardly a line that the packages' own tests do not run;
# with coverage a program's start takes two and a half times as long, and a simulation three times.
UNMEASURED = {"benchmarks", "end_to_end", "project"}

# The tests of each of these files share an expensive set-up, so one worker runs all of a file.
TOGETHER = {
    "tests/benchmarks/test_drops.py",
    "tests/drops/test_monitor.py",
    "tests/project/test_grafana.py",
    "tests/serving/test_browser.py",
    "tests/storage/test_damage.py",
}

# The speed of a test depends on the machine.
hypothesis.settings.register_profile("any-speed", deadline=None)
hypothesis.settings.load_profile("any-speed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seeds", type=int, default=10, help="number of random journeys, and of random half days times 10"
    )
    parser.addoption("--damages", type=int, default=90, help="how often a state file is damaged at random")


def pytest_xdist_auto_num_workers() -> int:
    """More workers than processors: many tests wait for a process or for time to pass, most of them at the start."""
    return 2 * len(os.sched_getaffinity(0)) + 1


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """Gives a worker one test at a time, or all of a file of `TOGETHER`.

    The marker `xdist_group` would do the same, but version 3.8 of pytest-xdist does not see it with version 9.2 of
    pytest.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file if file in TOGETHER else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return Scheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests start first, and tests that wait alternate with tests that compute."""
    waiting, computing, others = [], [], []
    for item in items:
        if UNMEASURED.intersection(item.path.relative_to(TESTS).parts):
            item.add_marker("unmeasured")
        if item.get_closest_marker("real_time"):
            waiting.append(item)
        elif item.get_closest_marker("unmeasured"):
            computing.append(item)
        else:
            others.append(item)
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(waiting, computing))
    items[:] = [*filter(None, in_turn), *others]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    seeds = metafunc.config.getoption("seeds")
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(seeds))
    if "half_day" in metafunc.fixturenames:
        metafunc.parametrize("half_day", range(max(1, seeds // 10)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _forbid_skip(report)
    return report


def _forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"with CI=true nothing may be skipped: {reason}"


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Logging is global, and the exporter's commands set it up: each test restores it."""
    root = logging.getLogger()
    level, handlers, show = root.level, list(root.handlers), warnings.showwarning
    yield
    if root.handlers == handlers:
        return
    for name in logs._QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET)
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.captureWarnings(capture=False)
    warnings.showwarning = show
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def prometheus_bin() -> Path:
    return _program("prometheus", package="prometheus")


@pytest.fixture(scope="session")
def promtool_bin() -> Path:
    return _program("promtool", package="prometheus")


@pytest.fixture(scope="session")
def alertmanager_bin() -> Path:
    return _program("prometheus-alertmanager", "alertmanager", package="prometheus-alertmanager")


@pytest.fixture(scope="session")
def chromium_bin() -> Path:
    return _program("chromium", package="chromium fonts-ipafont-gothic")


@pytest.fixture(scope="session")
def amtool_bin() -> Path:
    return _program("amtool", package="prometheus-alertmanager")


@pytest.fixture(scope="session")
def systemd_analyze_bin() -> Path:
    return _program("systemd-analyze", package="systemd")


@pytest.fixture(scope="session")
def helm_bin() -> Path:
    return _kubernetes_tool("helm")


@pytest.fixture(scope="session")
def kubectl_bin() -> Path:
    return _kubernetes_tool("kubectl")


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still until a test advances it."""
    return FakeClock()


@pytest.fixture
def state(tmp_path: Path, clock: FakeClock) -> Iterator[State]:
    """A new state file."""
    opened = open_state(tmp_path / "state.db", clock.now)
    yield opened
    opened.close()


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _program(*names: str, package: str) -> Path:
    for name in names:
        if found := shutil.which(name):
            return Path(found)
    pytest.skip(f"{names[0]} is missing: apt-get install --no-install-recommends {package}")


def _kubernetes_tool(name: str) -> Path:
    found = shutil.which(name, path=f"{KUBERNETES_TOOLS}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        pytest.skip(f"{name} is missing: make build/kubernetes-tools/.made, or install it")
    return Path(found)
