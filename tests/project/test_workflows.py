"""The workflows of the code host: linted, pinned, with few rights; and what a release checks."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import release
import yaml

from exporter import __version__

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))

# An action, its commit, and the version of that commit.
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def tool(name: str, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a tool of the development environment."""
    command = [str(Path(sys.executable).with_name(name)), *arguments]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=False)


def loaded(path: Path) -> dict[str, Any]:
    # `on` is a boolean of YAML 1.1.
    content: dict[str, Any] = yaml.load(path.read_text(), yaml.BaseLoader)
    return content


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in WORKFLOWS:
        for name, job in loaded(path)["jobs"].items():
            yield f"{path.stem}: {name}", job


def test_the_workflows_are_these() -> None:
    """The tests below read something."""
    assert [path.name for path in WORKFLOWS] == ["audit.yml", "ci.yml", "release.yml"]


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [("vendor.github-workflows", "workflows/*.yml"), ("vendor.dependabot", "dependabot.yml")],
)
def test_the_files_fit_their_schema(schema: str, pattern: str) -> None:
    """Each key and value is one that the code host knows."""
    paths = [str(path) for path in sorted((ROOT / ".github").glob(pattern))]
    assert paths
    run = tool("check-jsonschema", f"--builtin-schema={schema}", *paths)
    assert run.returncode == 0, run.stdout + run.stderr


def test_zizmor_finds_nothing() -> None:
    """No injection of text into a shell, no credentials left on disk, no unpinned action, no excessive right."""
    run = tool("zizmor", "--offline", "--no-progress", "--format=json", ".github")
    assert json.loads(run.stdout) == [], run.stderr


def test_zizmor_would_find_something(tmp_path: Path) -> None:
    """It reports an action that is not pinned, so an empty report proves something."""
    path = tmp_path / "bad.yml"
    path.write_text(re.sub(r"@[0-9a-f]{40} # v(\d+)\.\S+", r"@v\1", (FOLDER / "audit.yml").read_text()))
    run = tool("zizmor", "--offline", "--no-progress", "--format=json", str(path))
    assert "unpinned-uses" in {finding["ident"] for finding in json.loads(run.stdout)}


def test_shellcheck_finds_nothing_in_the_steps() -> None:
    """Each `run` is a clean script of bash."""
    scripts = [step["run"] for _, job in jobs() for step in job.get("steps", []) if "run" in step]
    assert len(scripts) >= 5
    for script in scripts:
        run = tool("shellcheck", "--shell=bash", "-", text=script)
        assert run.returncode == 0, run.stdout


def test_each_action_is_pinned_and_named_with_its_version() -> None:
    """Each action is a full commit with its version as a comment, and an action has one commit everywhere."""
    used = [line for path in WORKFLOWS for line in re.findall(r"uses: (.*)", path.read_text())]
    local = [line for line in used if line.startswith("$/")]
    assert [line for line in used if not PINNED.fullmatch(line)] == local
    remote = set(used) - set(local)
    assert len(remote) >= 5
    assert len({line.partition("@")[0] for line in remote}) == len(remote)


def test_rights_are_given_job_by_job() -> None:
    """A workflow has no right, a job has those in this table. Only the release can write anything."""
    assert [loaded(path)["permissions"] for path in WORKFLOWS] == [{}] * len(WORKFLOWS)
    writes = {
        name: {scope for scope, right in job["permissions"].items() if right != "read"}
        for name, job in jobs()
        if set(job["permissions"].values()) != {"read"}
    }
    assert writes == {
        "release: image": {"attestations", "id-token", "packages"},
        "release: pypi": {"id-token"},
        "release: github": {"contents"},
    }


def test_each_job_has_a_timeout_and_each_workflow_a_concurrency() -> None:
    """No job runs for hours, and no two releases run at once."""
    assert [name for name, job in jobs() if "timeout-minutes" not in job and "uses" not in job] == []
    assert [path.name for path in WORKFLOWS if "concurrency" not in loaded(path)] == []


def test_ci_tests_each_supported_python() -> None:
    """The versions of Python are the classifiers of the package, the lowest is `requires-python`."""
    project = (ROOT / "pyproject.toml").read_text()
    supported = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)
    assert loaded(FOLDER / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == supported
    assert f'requires-python = ">={supported[0]}"' in project


def test_a_release_checks_the_tag_before_everything() -> None:
    """The job that compares tag and version comes first, and each other job waits for it."""
    release_jobs = loaded(FOLDER / "release.yml")["jobs"]
    [check] = [step["run"] for step in release_jobs["check"]["steps"] if "run" in step]
    assert 'scripts/release.py check "$GITHUB_REF_NAME"' in check

    def before(name: str) -> set[str]:
        needs = release_jobs[name].get("needs", [])
        direct = {needs} if isinstance(needs, str) else set(needs)
        return direct.union(*(before(each) for each in direct))

    assert [name for name in release_jobs if name != "check" and "check" not in before(name)] == []
    # What is published has passed the tests.
    assert [name for name in ("packages", "image", "pypi", "github") if "test" not in before(name)] == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The two files that a release reads, for version 1.2.3."""
    (tmp_path / "exporter").mkdir()
    (tmp_path / "exporter" / "__init__.py").write_text('"""Package."""\n\n__version__ = "1.2.3"\n')
    changelog = (
        "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-04-01\n\n### Added\n\n- It.\n\n## [1.2.2] - 2026-03-01\n"
    )
    (tmp_path / "CHANGELOG.md").write_text(f"{changelog}\n- Older.\n")
    return tmp_path


def test_a_tag_of_the_version_can_be_released(repository: Path) -> None:
    """The check returns the version, and the notes are the section of the changelog without its heading."""
    assert release.check("v1.2.3", repository) == "1.2.3"
    assert release.notes(repository) == "### Added\n\n- It.\n"


@pytest.mark.parametrize("tag", ["v1.2.4", "1.2.3", "v1.2.3-rc1", "v01.2.3", ""])
def test_another_tag_cannot_be_released(repository: Path, tag: str) -> None:
    """The message names the tag, the version, and the tag that would do."""
    with pytest.raises(
        release.NotReleasable, match=r"exporter/__init__.py has version 1.2.3; tag v1.2.3, or"
    ) as raised:
        release.check(tag, repository)
    assert str(raised.value).startswith(f"tag {tag}: ")


@pytest.mark.parametrize("heading", ["## [1.2.30] - 2026-04-01", "## [1.2.3]", "## [1x2x3] - 2026-04-01"])
def test_a_version_without_a_section_cannot_be_released(repository: Path, heading: str) -> None:
    """A section needs the exact version and a date."""
    path = repository / "CHANGELOG.md"
    path.write_text(path.read_text().replace("## [1.2.3] - 2026-04-01", heading))
    with pytest.raises(release.NotReleasable, match=r"^CHANGELOG.md: version 1.2.3 has no section; rename"):
        release.check("v1.2.3", repository)


def test_release_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the version of this repository, and ends with 1 and one line if a tag cannot be released."""
    assert release.main(["version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"
    assert release.main(["check", "v0.0.0"]) == 1
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)


def test_the_version_is_in_one_place() -> None:
    """Of the files that build and publish, only exporter/__init__.py has the version; the others read it."""
    paths = [
        ROOT / name for name in ("Dockerfile", "Makefile", "pyproject.toml", "compose.yaml", ".github/dependabot.yml")
    ]
    paths += [*WORKFLOWS, *(ROOT / "scripts").rglob("*.py"), *(ROOT / "exporter").rglob("*.py")]
    written = re.compile(rf"(?<![\d.]){re.escape(__version__)}(?![\d.])")
    places = [str(path.relative_to(ROOT)) for path in paths if written.search(path.read_text(encoding="utf-8"))]
    assert places == ["exporter/__init__.py"]


def test_the_image_gets_its_version_from_the_build() -> None:
    """The label is the build argument, which the release and the smoke test set."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^ARG VERSION=unknown$", dockerfile, re.MULTILINE)
    assert 'org.opencontainers.image.version="$VERSION"' in dockerfile
    [build] = [
        step["with"]
        for step in loaded(FOLDER / "release.yml")["jobs"]["image"]["steps"]
        if "build-push-action" in step.get("uses", "")
    ]
    assert build["build-args"] == "VERSION=${{ needs.check.outputs.version }}"
    assert build["platforms"] == "linux/amd64,linux/arm64"
    assert (build["sbom"], build["provenance"]) == ("true", "mode=max")


@pytest.mark.parametrize("target", ["test", "image", "dist", "audit"])
def test_the_workflows_call_targets_of_make(target: str) -> None:
    """Each step of a workflow that builds or tests is a target that developers have, too."""
    assert f"make {target}" in "".join(path.read_text() for path in WORKFLOWS)
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_audit_reads_both_locks_and_resolves_nothing() -> None:
    """`make audit` looks up exactly the pinned packages; a dry run of make needs no network."""
    run = subprocess.run(["make", "--dry-run", "audit"], cwd=ROOT, capture_output=True, text=True, check=True)
    [command] = [line for line in run.stdout.splitlines() if "/pip-audit --" in line]
    assert command.split()[1:] == [
        "--disable-pip",
        "--require-hashes",
        "--requirement=requirements.lock",
        "--requirement=requirements-dev.lock",
    ]
