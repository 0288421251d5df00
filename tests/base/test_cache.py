"""Laws of the keys of kept results: the same things give the same key, anything that decides gives another."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifllm.base import cache

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(JSON, max_size=4), st.lists(JSON, max_size=4))
@settings(max_examples=100, deadline=None)
def test_equal_parts_and_only_they_give_one_key(one, other):
    same = repr(one) == repr(other)
    assert (cache.content_key(*one) == cache.content_key(*other)) >= same
    if one != other:
        assert cache.content_key(*one) != cache.content_key(*other)


def test_arrays_and_frames_count_with_type_shape_and_every_value():
    x = np.arange(6.0)
    arrays = [x, x.astype(np.float32), x.reshape(2, 3), x[::-1], np.append(x[:-1], np.nextafter(5.0, 6.0))]
    frame = pl.DataFrame({"a": [1, 2, None], "b": ["x", "", None]})
    frames = [
        frame,
        frame.rename({"a": "c"}),
        frame.cast({"a": pl.Float64}),
        frame.with_columns(pl.col("b").fill_null("")),
        frame[::-1],
    ]
    keys = [cache.content_key(part) for part in [*arrays, *frames]]
    assert len(set(keys)) == len(keys)
    assert cache.content_key(x[::-1]) == cache.content_key(x[::-1].copy())
    assert cache.content_key(pl.concat([frame[:1], frame[1:]])) == cache.content_key(frame)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `ifllm` of four modules: a imports b and, from its own folder, c; d stands alone."""
    for file, text in {
        "__init__.py": "",
        "room/a.py": "from ..other.b import x\nfrom . import c\n",
        "other/b.py": "x = 1\n",
        "room/c.py": "y = 2\n",
        "room/d.py": "z = 3\n",
    }.items():
        (tmp_path / "ifllm" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "ifllm" / file).write_text(text)
    spec = SimpleNamespace(origin=str(tmp_path / "ifllm" / "__init__.py"))
    monkeypatch.setattr(cache.importlib.util, "find_spec", lambda name: spec)
    return tmp_path / "ifllm"


def test_code_is_followed_through_imports(package):
    found = cache.module_files(package.parent, {"ifllm.room.a"})
    assert found == ("ifllm/other/b.py", "ifllm/room/a.py", "ifllm/room/c.py")


@pytest.mark.parametrize("file, counts", [("room/a.py", 1), ("other/b.py", 1), ("room/c.py", 1), ("room/d.py", 0)])
def test_a_change_of_code_that_runs_changes_the_key(package, file, counts):
    key = lambda: cache.content_key("data", modules=["ifllm.room.a"])
    before = key()
    (package / file).write_text((package / file).read_text() + "more = 0\n")
    assert (key() != before) == bool(counts)


def test_versions_count(monkeypatch):
    key = lambda: cache.content_key(packages=["numpy"])
    before = key()
    monkeypatch.setattr(cache.importlib.metadata, "version", lambda name: "0.0.1")
    assert key() != before


def test_the_key_is_the_same_in_another_process():
    code = "from ifllm.base.cache import content_key; print(content_key({'b': 1, 'a': [2.5, None]}, b'x'))"
    keys = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert keys == {cache.content_key({"a": [2.5, None], "b": 1}, b"x") + "\n"}


EVERYWHERE = """
try:
    import a
except* OSError:
    from b import c
else:
    with x:
        import d
finally:
    async def f():
        async for y in z:
            import e
        else:
            import g
match x:
    case 1:
        class C:
            import h
while x:
    if x:
        pass
    elif y:
        import i
"""


def test_no_import_is_missed_at_any_depth():
    imported = lambda nodes: sum(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes)
    sources = [EVERYWHERE, *(file.read_text() for file in Path(cache.__file__).parents[1].rglob("*.py"))]
    for source in sources:
        tree = ast.parse(source)
        assert imported(cache._statements(tree)) == imported(ast.walk(tree))
    assert imported(cache._statements(ast.parse(EVERYWHERE))) == 7


ODD = [
    "x = 1; import ifllm.a",
    "if x: from ifllm import b",
    "from ifllm \\\n    import c",
    "from ifllm import (  # (two)\n    d,\n    e,\n)",
    "%matplotlib inline\nfrom ifllm.f import g  # h",
    "x = '''\n  import of the ducks\n'''\nimport ifllm.i, os",
    "def f():\n\tfrom . import j\n\treturn j",
]


def test_imports_are_those_of_the_whole_source():
    root = Path(cache.__file__).parents[2]
    notebooks = [json.loads(file.read_text(encoding="utf-8"))["cells"] for file in (root / "nbs").rglob("*.ipynb")]
    sources = [
        *ODD,
        EVERYWHERE,
        *(file.read_text(encoding="utf-8") for file in (root / "ifllm").rglob("*.py")),
        *("\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code") for cells in notebooks),
    ]
    for source in sources:
        expected = set()
        for node in ast.walk(
            ast.parse("\n".join(line for line in source.splitlines() if line[:1] not in "%!" or not line))
        ):
            if isinstance(node, ast.Import):
                expected |= {alias.name for alias in node.names if alias.name.split(".")[0] == "ifllm"}
            elif isinstance(node, ast.ImportFrom) and (node.level or node.module.split(".")[0] == "ifllm"):
                home = "." * node.level + (node.module or "")
                dot = "" if home.endswith(".") else "."
                expected |= {home} | {f"{home}{dot}{alias.name}" for alias in node.names}
        assert cache.imports(source) == expected, source[:300]
