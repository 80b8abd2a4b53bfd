"""Reads every import of the shipped packages and enforces who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROLES = ("actors", "learners", "replay_service")
PACKAGES = ("wm_distributed", *ROLES)
LAUNCH = "wm_distributed.launch"
FAMILIES = "wm_distributed.families"


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Yields (line, dotted name) of everything imported, at whatever depth of the file."""
    package = module_name(path, root).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            name = node.args[0]
            if called in ("import_module", "__import__") and isinstance(name, ast.Constant):
                yield node.lineno, str(name.value)


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def forbidden(importer: str, families: set[str]) -> dict[str, str]:
    """Maps each package that the module may not import to the reason."""
    if is_in(importer, LAUNCH):
        return {}
    rules = {"ray": "only wm_distributed.launch imports ray"}
    if importer != "wm_distributed.__main__":
        rules[LAUNCH] = "the composition root imports the others, never the other way round"
    for role in ROLES:
        if not is_in(importer, role):
            rules[role] = "the packages meet in wm_distributed.launch alone"
    for family in families:
        if is_in(importer, FAMILIES) and importer != FAMILIES and not is_in(importer, family):
            rules[family] = "a family imports no other family"
    return rules


def violations(root: Path) -> list[str]:
    folders = (root / "wm_distributed" / "families").glob("*/__init__.py")
    families = {module_name(folder, root) for folder in folders}
    found = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            rules = forbidden(module_name(path, root), families)
            for line, imported in imports(path, root):
                found += [
                    f"{path.relative_to(root)}:{line} imports {imported}: {reason}"
                    for banned, reason in rules.items()
                    if is_in(imported, banned)
                ]
    return found


def test_packages_import_only_what_they_may() -> None:
    assert all((ROOT / package / "__init__.py").exists() for package in PACKAGES)
    assert not violations(ROOT), "\n".join(violations(ROOT))


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


TREE = {
    "wm_distributed/__init__.py": "from . import api",
    "wm_distributed/__main__.py": "from wm_distributed.launch import cli",
    "wm_distributed/api.py": "import raylike, numpy",
    "wm_distributed/families/__init__.py": "TABLE = {'iris': 'wm_distributed.families.iris'}",
    "wm_distributed/families/dreamer/__init__.py": "from . import model",
    "wm_distributed/families/dreamer/model.py": "from ...families.dreamer import losses",
    "wm_distributed/families/iris/__init__.py": "import wm_distributed.api",
    "wm_distributed/launch/cli.py": "import ray, actors, learners.loop, replay_service",
    "actors/__init__.py": "",
    "actors/loop.py": "from wm_distributed import api\nfrom actors import writer\n",
}


def test_the_checker_accepts_a_tree_that_keeps_the_rules(tmp_path: Path) -> None:
    write_tree(tmp_path, TREE)
    assert violations(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("actors/loop.py", "import learners"),
        ("actors/loop.py", "def late():\n    from replay_service.client import ReplayClient"),
        ("actors/loop.py", "import ray.util"),
        ("actors/loop.py", "import importlib\nray = importlib.import_module('ray')"),
        ("learners/loop.py", "from wm_distributed import launch"),
        ("replay_service/shard.py", "import wm_distributed.launch.cli"),
        ("wm_distributed/api.py", "from actors.loop import run"),
        ("wm_distributed/api.py", "from .launch import cli"),
        ("wm_distributed/families/__init__.py", "import ray"),
        ("wm_distributed/families/dreamer/model.py", "from ..iris import tokenizer"),
        ("wm_distributed/families/dreamer/__init__.py", "from .. import iris"),
        ("wm_distributed/families/dreamer/model.py", "import wm_distributed.families.iris.model"),
    ],
)
def test_the_checker_finds(path: str, source: str, tmp_path: Path) -> None:
    write_tree(tmp_path, TREE | {path: source})
    (found,) = violations(tmp_path)
    assert found.startswith(f"{path}:")
