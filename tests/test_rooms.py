"""No import runs up from a lower room to a higher one, and none in a circle; read from the source,
so that imports inside functions count."""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ifllm"
# from the ground up
ROOMS = ("base", "recording", "people", "reward", "alignment", "benchmark", "findings", "site", "engine")
MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts): file
    for file in PACKAGE.rglob("*.py")
    if file.name not in ("__init__.py", "_modidx.py")
}


def imports(module: str) -> set[str]:
    """Modules of the package that `module` imports, anywhere in its code."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*start, *(node.module.split(".") if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found & set(MODULES)


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_module_is_in_a_room():
    assert {room(module) for module in MODULES} <= set(ROOMS)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_import_runs_up(module):
    above = [other for other in imports(module) if ROOMS.index(room(other)) > ROOMS.index(room(module))]
    assert not above, f"{module} imports from a room above it: {above}"


def test_no_imports_in_a_circle():
    graphlib.TopologicalSorter({module: imports(module) for module in MODULES}).prepare()


def test_each_module_is_exported_from_a_notebook_that_is_there():
    for module, file in MODULES.items():
        source = file.read_text(encoding="utf-8").split("File to edit: ", 1)
        assert len(source) == 2, f"{module} is not exported by nbdev"
        notebook = (file.parent / source[1].split(".ipynb")[0]).with_suffix(".ipynb")
        assert notebook.resolve().exists(), f"{module}: {notebook} is not there"
