"""The shape of the code, held by tests: which room may import which, one short main path, the public names."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import neverblink

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "neverblink"

BASE = {"types", "errors", "registry", "__init__"}  # __init__: the version; Model is resolved lazily there
# room -> the rooms it may import besides BASE and itself. docs/map.md says what each is for.
ARROWS = {
    "types": set(),
    "errors": set(),
    "registry": set(),
    "chat": set(),
    "script": {"chat"},
    "economy": set(),
    "vision": {"economy"},
    "compress": {"economy"},
    "eye": {"economy", "compress", "options", "models.base"},
    "decoding": set(),
    "kv": {"models.base"},
    "models": {"vision", "economy"},
    "arcade": set(),
    "football": {"arcade", "sources"},
    "sources": {"arcade"},
    "outputs": set(),
    "pictures": set(),
    "memory": {"outputs", "pictures"},
    "server": {
        "engine",
        "stream",
        "options",
        "model",
        "script",
        "memory",
        "outputs",
        "pictures",
        "sources",
        "arcade",
    },
    "testing": {"outputs", "sources", "economy"},
    "options": {"kv", "models.base", "script", "decoding"},
    "presets": {"options", "kv", "script", "decoding"},
    "stream": {"eye", "options", "kv", "models.base", "script", "decoding"},
    "engine": {"stream", "options", "kv", "models.base", "script", "decoding", "sources"},
    "model": {"memory", "stream", "engine", "options", "kv", "models", "script", "decoding", "sources", "arcade"},
    "training": {
        "memory",  # questions are asked with lines of the journal, as the server asks them
        "stream",
        "options",
        "model",
        "script",
        "models",
        "kv",
        "decoding",
        "vision",
        "arcade",
        "sources",
        "football",
    },
    "bench": {
        "engine",
        "economy",
        "compress",
        "training",
        "stream",
        "options",
        "presets",
        "model",
        "script",
        "models",
        "kv",
        "decoding",
        "vision",
        "arcade",
        "football",
        "sources",
        "outputs",
        "testing",
    },
    "drills": {
        "engine",
        "stream",
        "options",
        "model",
        "models",
        "script",
        "decoding",
        "kv",
        "memory",
        "outputs",
        "pictures",
        "sources",
        "arcade",
        "server",
        "training",
        "bench",
        "testing",
    },
    "cli": {
        "kv",
        "economy",
        "model",
        "models",
        "sources",
        "outputs",
        "memory",
        "server",
        "training",
        "bench",
        "drills",
    },
    "__init__": {"model", "options", "stream", "script", "decoding", "sources"},
    "__main__": {"cli"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str:
    parts = module.split(".")[1:]
    return parts[0] if parts else "__init__"


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(part for i, part in enumerate(parts) if part != "__init__" or i < 1) or "neverblink"


def imports_of(tree: ast.AST) -> set[str]:
    """Every module of ours that a file imports at run time, at its top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the room that they come from"
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                is_module = (PACKAGE.parent / module.replace(".", "/")).with_suffix(".py").exists()
                is_package = (PACKAGE.parent / module.replace(".", "/")).is_dir()
                found.add(module if is_module or is_package else str(node.module))
    return {name for name in found if name.split(".")[0] == "neverblink"}


def forbidden(path: Path) -> list[str]:
    here = room_of(module_of(path)) if path != PACKAGE / "__init__.py" else "__init__"
    wrong = []
    for module in imports_of(ast.parse(path.read_text())):
        there = room_of(module)
        names = {there, ".".join(module.split(".")[1:3])}
        if there != here and there not in BASE and not names & ARROWS[here]:
            wrong.append(f"{here} -> {module}")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_imports_follow_the_arrows(path: Path) -> None:
    """Imports run one way; a new arrow is a decision, made in ARROWS and in docs/map.md."""
    assert [] == forbidden(path)


def test_only_drills_and_the_command_line_import_bench_and_nobody_the_command_line() -> None:
    for room, allowed in ARROWS.items():
        assert "bench" not in allowed or room in ("cli", "drills")
        assert "drills" not in allowed or room == "cli"
        assert "cli" not in allowed or room == "__main__"


def test_every_room_stands_on_the_map() -> None:
    rooms = {room_of(module_of(path)) for path in FILES if path != PACKAGE / "__init__.py"}
    text = (ROOT / "docs" / "map.md").read_text()
    assert rooms <= set(ARROWS)
    assert [] == [room for room in rooms - {"__main__"} if not re.search(rf"^  {room}(/|\.py)", text, re.MULTILINE)]


def test_the_main_path_is_short() -> None:
    lines = (PACKAGE / "stream.py").read_text().splitlines()
    assert len(lines) < 200


@pytest.mark.parametrize(
    "room", ["sources", "outputs", "memory", "pictures", "arcade", "testing", "registry", "errors", "types"]
)
def test_rooms_without_a_model_import_no_torch(room: str) -> None:
    """A decoder child and a subtitle writer need no model in memory."""
    files = [path for path in FILES if room_of(module_of(path)) == room]
    modules = [module_of(path) for path in files if not path.name.startswith("_") or path.name == "__init__.py"]
    code = (
        f"import importlib, sys\nfor name in {modules!r}:\n  importlib.import_module(name)\n"
        "sys.exit([name for name in ('torch', 'transformers') if name in sys.modules] or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_the_package_itself_is_light() -> None:
    heavy = ("torch", "transformers", "av", "numpy")
    code = f"import sys, neverblink; sys.exit([name for name in {heavy!r} if name in sys.modules] or 0)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_public_names_are_the_documented_ones() -> None:
    """docs/map.md lists them; each can be reached."""
    section = (ROOT / "docs" / "map.md").read_text().partition("## Public names")[2].partition("##")[0]
    documented = re.findall(r"^- `(\w+)`", section, re.MULTILINE)
    assert sorted(neverblink.__all__) == sorted(documented)
    for name in documented:
        assert getattr(neverblink, name) is not None
