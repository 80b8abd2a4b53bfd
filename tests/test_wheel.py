"""Installs the wheel elsewhere and runs the console script from there."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"wm_distributed", "actors", "replay_service", "learners"}

pytestmark = pytest.mark.slow


def run(*command: object, cwd: Path) -> str:
    """Returns what the command printed; fails with all of it if the command does."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{command} exited with {done.returncode}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip_wheel = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps")
    run(*pip_wheel, "--no-build-isolation", "--wheel-dir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a virtual environment with the wheel, and the dependencies of this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip_install = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    run(*pip_install, "--no-deps", "--no-index", wheel, cwd=folder)
    # Lines of a .pth file come last on the path, and the .pth files of the folders they name are
    # not read: the editable install of this environment stays out.
    names = {"base": str(folder), "platbase": str(folder)}
    site_packages = Path(sysconfig.get_path("purelib", "venv", vars=names))
    dependencies = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site_packages / "dependencies.pth").write_text("\n".join(sorted(dependencies)) + "\n")
    return folder


def test_wheel_holds_the_four_packages_and_their_type_markers(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)


def test_packages_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = f"import importlib\nfor name in {sorted(PACKAGES)}:\n"
    code += "    print(importlib.import_module(name).__file__)\n"
    for line in run(installed / "bin" / "python", "-c", code, cwd=tmp_path).splitlines():
        assert Path(line).is_relative_to(installed), line


@pytest.mark.parametrize(
    ("argument", "expected"), [("--help", ("train", "resume", "list")), ("list", ("dreamer",))]
)
def test_console_script_runs(
    argument: str, expected: tuple[str, ...], installed: Path, tmp_path: Path
) -> None:
    printed = run(installed / "bin" / "wm-distributed", argument, cwd=tmp_path)
    assert all(word in printed for word in expected), printed
