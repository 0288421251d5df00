"""Mutation testing: change one operator, number or call of a module at a time and see whether its tests notice.

    python scripts/mutants.py reward.evaluation base.files   60 mutants of each, drawn by seed
    python scripts/mutants.py reward.text --sample 0 --function 'fold|fit'   all, in functions whose name fits
    python scripts/mutants.py --table                        what is known: survivors to read, share killed by module
    make mutants MODULES="reward.evaluation base.files"      both

Tests are tests/ROOM/test_MODULE.py (else the whole room's; --tests FILE adds more) and the example cells of the
notebook, those above its `parameters`. A mutant meets the tests that entered its function, fastest first, until one
fails; tests slower than --slowest seconds are left out. .mutants/MODULE.jsonl keeps what was seen: a mutant is tried
again only if its function or, where it survived, the tests changed. Left out is what says nothing of the tests:
functions that draw or print (--skip), strings (a misspelt column dies of itself), messages, assertions for the type
checker, and default seeds and numbers of draws. All work is done in a copy of the clone.
"""

import argparse
import ast
import contextlib
import hashlib
import importlib.metadata
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ |= {"PYTHONDONTWRITEBYTECODE": "1"} | dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"], "1")
sys.dont_write_bytecode = True
ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / ".mutants"
pairs = lambda text: dict(word.split(":") for word in text.split())
COMPARE = pairs("Lt:LtE LtE:Lt Gt:GtE GtE:Gt Eq:NotEq NotEq:Eq Is:IsNot IsNot:Is In:NotIn NotIn:In")
OPERATOR = pairs(
    "Add:Sub Sub:Add Mult:Div Div:Mult FloorDiv:Div Mod:Mult Pow:Mult BitAnd:BitOr BitOr:BitAnd And:Or Or:And"
)
NAME = pairs(
    "min:max max:min any:all all:any first:last last:first mean:median std:var floor:ceil is_null:is_not_null log:exp"
)
UNWRAP = "filter sort over unique drop_nulls fill_null abs clip shift rank copy strip lower".split()
MODULES = "np pl torch stats F math shutil copy".split()
LUCK = re.compile(r"^(seed|jobs|n_(bootstrap|permutations|draws|repeats|jobs))$")  # as good a default as any other
digest = lambda text: hashlib.sha256(text.encode()).hexdigest()[:12]

PLUGIN = '''"""Which functions of the module each test enters, itself or by its fixtures, and its CPU time."""
import json, os, sys, threading, time, pytest
SEEN, MADE, now = {"entered": {}, "seconds": {}}, {}, set()
def trace(frame, event, arg):  # None: lines are of no interest
    if frame.f_code.co_filename == os.environ["MUTANT"]:
        now.add(frame.f_code.co_qualname.split(".<")[0])
sys.settrace(trace)
def pytest_collection_finish(session):  # what runs when the module is imported belongs to every test
    sys.settrace(None)
    SEEN["imported"] = sorted(now); now.clear()
@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):  # a shared fixture is made once and belongs to every test that asks for it
    before = set(now); now.clear()
    result = yield
    MADE.setdefault(fixturedef.argname, set()).update(now); now.update(before)
    return result
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    now.clear(); sys.settrace(trace); threading.settrace(trace)
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item):
    sys.settrace(None); threading.settrace(None)
    SEEN["entered"][item.nodeid] = now.union(*(MADE.get(name, ()) for name in item.fixturenames))
@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):  # a busy machine makes no test slow
    start = time.process_time()
    result = yield
    SEEN["seconds"][item.nodeid] = time.process_time() - start
    return result
def pytest_sessionfinish(session):
    seen = {**SEEN, "entered": {k: sorted(v) for k, v in SEEN["entered"].items()}}
    open(os.environ["MUTANT_RECORD"], "w").write(json.dumps(seen))
'''
EXAMPLES = """import importlib, json, pytest
CELLS, MODULE = json.loads({cells!r}), importlib.import_module("ifllm.{module}")
def test_examples_of_the_notebook():
    space = dict(vars(MODULE))
    for cell in CELLS:
        exec(cell, space)
"""


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def variants(node: ast.AST) -> list[ast.AST]:
    """What may stand in the place of a node."""
    changed = lambda **fields: type(node)(**{**dict(ast.iter_fields(node)), **fields})
    kind = lambda op, table: [getattr(ast, table[type(op).__name__])()] if type(op).__name__ in table else []
    match node:
        case ast.Compare(ops=[op, *rest]):
            return [changed(ops=[new, *rest]) for new in kind(op, COMPARE)]
        case ast.BinOp(left=one, right=other) if any(map(_is_text, (one, other))):
            return []  # no text subtracts or multiplies: such a mutant dies of itself
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op):
            return [changed(op=new) for new in kind(op, OPERATOR)]
        case ast.UnaryOp(operand=operand):
            return [operand]
        case ast.Constant(value=bool(value)):
            return [changed(value=not value)]
        case ast.Constant(value=int(value) | float(value)):
            return [changed(value=value + 1)]
        case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
            return [changed(test=ast.UnaryOp(ast.Not(), test))]
        case ast.Expr(value=ast.Call()):
            return [ast.Pass()]
        case ast.Call(func=func, keywords=given):
            dropped = [i for i, word in enumerate(given) if word.arg and isinstance(word.value, ast.Constant)]
            bare = []
            if isinstance(func, ast.Attribute) and func.attr in UNWRAP:  # np.sort(x) is a function of x, x.sort() too
                of_module = isinstance(func.value, ast.Name) and func.value.id in MODULES
                bare = node.args[:1] if of_module else [func.value]
            return bare + [changed(keywords=given[:i] + given[i + 1 :]) for i in dropped]
        case ast.Attribute(attr=name, ctx=ast.Load()) if name in NAME:
            return [changed(attr=NAME[name])]
        case ast.Name(id=name, ctx=ast.Load()) if name in NAME:
            return [changed(id=NAME[name])]
    return []


def _put(node: ast.AST, field: str, at: int, item: ast.AST) -> None:
    value = getattr(node, field)
    value.__setitem__(at, item) if isinstance(value, list) else setattr(node, field, item)


def _lucky(given: ast.arguments) -> list[ast.AST | None]:
    """Defaults of seeds and of numbers of draws."""
    named = [*given.posonlyargs, *given.args]
    pairs = [*zip(named[::-1], given.defaults[::-1]), *zip(given.kwonlyargs, given.kw_defaults)]
    return [default for argument, default in pairs if LUCK.search(argument.arg)]


def places(tree: ast.AST, skip: str, only: str) -> Iterator[tuple]:
    """Where a module may change: parent, field, index, node, what stands in its place, function, innermost scope."""
    outside = ("annotation", "returns", "decorator_list", "exc", "format_spec")

    def visit(node: ast.AST, function: str, scope: ast.AST) -> Iterator[tuple]:
        lucky = _lucky(node) if isinstance(node, ast.arguments) else []
        for field, value in ast.iter_fields(node):
            children = value if isinstance(value, list) else [value]
            for at, child in enumerate(children):
                if (
                    not isinstance(child, ast.AST)
                    or field in outside
                    or isinstance(child, ast.Assert)  # tells types to the checker
                    or any(child is default for default in lucky)
                    or re.search(skip, getattr(child, "name", None) or "")
                ):
                    continue
                inside, own = function, scope
                if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                    inside, own = f"{function}.{child.name}".lstrip("."), child
                for new in variants(child) if re.search(only, inside) else []:
                    yield node, field, at, child, ast.copy_location(new, child), inside, own
                yield from visit(child, inside, own)

    return visit(tree, "", tree)


def mutants(source: str, skip: str, only: str, sample: int, seed: int) -> list[dict]:
    """Mutants of a module, all or a sample: id, function ("" outside any), line, what changes, the mutated text."""
    tree, made = ast.parse(source), []
    short = lambda node: " ".join(ast.unparse(node).split())[:80]
    found = list(places(tree, skip, only))
    if 0 < sample < len(found):
        found = random.Random(seed).sample(found, sample)
    for node, field, at, child, new, inside, own in found:
        _put(node, field, at, new)
        text, key = ast.unparse(tree), digest(inside + ast.unparse(own))
        _put(node, field, at, child)
        what = f"{short(child)}  ->  {short(new)}"
        made.append({"id": key, "function": inside, "line": child.lineno, "what": what, "text": text})
    return made


def again(exported: str, module: str) -> str:
    """In the place of an exported cell: its names, which an example before it may have used for something else."""
    named = (node.name for node in ast.parse(exported).body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    return "\n".join(f"from ifllm.{module} import {name}" for name in named)


def workplace(folder: Path, module: str) -> None:
    """A copy of the clone to work in, with the notebook's examples as a test."""
    copied = ("ifllm", "tests", "nbs", "workflow", "scripts")
    for item in ROOT.iterdir():
        if item.name in copied:
            shutil.copytree(
                item, folder / item.name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
            )
        elif item.name not in (".git", ".mutants", ".hypothesis"):
            (folder / item.name).symlink_to(item)
    for file in (folder / "nbs").rglob("*.ipynb"):
        cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"]) for cell in cells]
        if f"#| default_exp {module}" not in [line for text in sources for line in text.splitlines()]:
            continue
        end = next(
            (at for at, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", [])), len(cells)
        )
        examples = [again(text, module) if text.startswith("#| export") else text for text in sources[:end]]
        test = folder / "tests" / "test_examples_of_notebook.py"
        test.write_text(EXAMPLES.format(cells=json.dumps(examples), module=module))


def warm(folder: Path, module: str, tests: list[str]) -> None:
    """Import, once, what the module, what it imports of the package, its tests and pytest import from other packages.

    Each try is a fork of this process, which would else spend ten seconds on importing torch anew. Nothing of the
    package itself is imported here: a fork reads the mutated file.
    """
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        plugin.load()
    files, seen = [folder / "ifllm" / f"{module.replace('.', '/')}.py", folder / "tests" / "conftest.py"], set()
    files += [file for test in tests for file in ([folder / test, *sorted((folder / test).glob("*.py"))])]
    own = {"ifllm", *(file.stem for file in (folder / "tests").rglob("*.py"))}
    while files:
        file = files.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = [name.name for name in node.names]
            if isinstance(node, ast.ImportFrom):
                place = ".".join(file.relative_to(folder).parts[: -node.level]) if node.level else ""
                source = ".".join(filter(None, [place, node.module]))
                names = [source, *(f"{source}.{name}" for name in names)]
            if names[0].split(".")[0] not in own:
                with contextlib.suppress(Exception):  # an optional package
                    exec(ast.unparse(node), {})
            files += [folder / f"{name.replace('.', '/')}.py" for name in names]


def _attempt(folder: Path, words: list[str], seconds: int, record: bool) -> None:
    """In a fork: run the tests and end with pytest's status."""
    os.setsid()  # what a test starts ends with it
    # the limit is one of CPU time: a busy machine kills no mutant. What waits for ever ends by the clock
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    with open(folder / "output.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = "--collect-only" not in words  # what pytest made of the tests is kept, no mutant is
    words = ["-qx", "-p", "no:cacheprovider", "--hypothesis-seed=0", *words]
    os._exit(pytest.main([*words, "-p", "mutants_plugin"] if record else words))


def outcome(folder: Path, source: Path, words: list[str], seconds: float, record: str = "") -> str:
    """Run pytest with these words on the module as it now is: survived (all pass), killed or timeout."""
    (folder / "mutants_plugin.py").write_text(PLUGIN)
    os.environ |= {"PYTHONPATH": str(folder), "MUTANT": str(source), "MUTANT_RECORD": record}
    process = os.fork()
    if not process:
        try:
            _attempt(folder, words, int(seconds), bool(record))
        finally:
            os._exit(70)
    ends = time.monotonic() + 30 * seconds
    while not (ended := os.waitpid(process, os.WNOHANG))[0] and time.monotonic() < ends:
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):  # what a test had started, too
        os.killpg(process, signal.SIGKILL)
    if not ended[0]:
        os.waitpid(process, 0)
        return "timeout"
    status = os.waitstatus_to_exitcode(ended[1])
    return "timeout" if -status in (signal.SIGXCPU, signal.SIGKILL) else "killed" if status else "survived"


def tests_of(folder: Path, module: str, more: list[str]) -> list[str]:
    """Where a module's tests are, relative to the folder."""
    own = Path("tests") / Path(*module.split(".")[:-1]) / f"test_{module.split('.')[-1]}.py"
    places = [
        own if (folder / own).exists() else own.parent,
        Path("tests/test_examples_of_notebook.py"),
        *map(Path, more),
    ]
    return [str(place) for place in places if (folder / place).exists()]


def meets(record: dict, function: str, slowest: float) -> list[str]:
    """The tests that enter a function, or the one around it, fastest first; all for what stands outside functions."""
    within = lambda one, other: f"{one}.".startswith(f"{other}.")
    enters = lambda names: any(within(name, function) or within(function, name) for name in names)
    seconds, entered = record["seconds"], record["entered"]
    always = not function or enters(set(record["imported"]) - {"<module>"})
    found = [test for test in seconds if always or enters(entered[test])]
    return sorted((test for test in found if seconds[test] <= slowest), key=seconds.get)


def baseline(folder: Path, module: str, source: Path, words: list[str], testing: str) -> dict:
    """Which functions each test enters and how long it takes, without a mutant; kept until module or tests change."""
    kept, key = KEPT / f"{module}.tests.json", digest(" ".join([source.read_text(), *words])) + testing
    KEPT.mkdir(exist_ok=True)
    if not kept.exists() or json.loads(kept.read_text())["key"] != key:
        made = folder / "record.json"
        if outcome(folder, source, words, 3600, str(made)) != "survived":
            sys.exit(f"mutants: {module}: tests fail without any mutant\n{(folder / 'output.log').read_text()[-2000:]}")
        record = json.loads(made.read_text())
        if not any(record["entered"].values()):
            sys.exit(f"mutants: {module}: no test enters it; is another copy of the package imported?")
        kept.write_text(json.dumps({**record, "key": key}))
    return json.loads(kept.read_text())


def examine(module: str, options: argparse.Namespace) -> None:
    """Try mutants of one module and keep what was seen."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        folder, kept = Path(place).resolve(), KEPT / f"{module}.jsonl"
        workplace(folder, module)
        source, tests = folder / "ifllm" / f"{module.replace('.', '/')}.py", tests_of(folder, module, options.tests)
        files = [file for test in tests for file in ([folder / test, *sorted((folder / test).glob("*.py"))])]
        testing = digest("".join(file.read_text() for file in files if file.is_file()))
        seen = {row["id"]: row for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
        text = source.read_text()
        wanted = mutants(text, options.skip, options.function, options.sample, options.seed)
        known = lambda row: row and (row["state"] != "survived" or row["tests"] == testing)
        todo = [mutant for mutant in wanted if not known(seen.get(mutant["id"]))]
        if not todo:
            return
        warm(folder, module, tests)
        outcome(folder, source, [*tests, "--collect-only"], 600)
        record = baseline(folder, module, source, [*tests, "-k", options.keyword], testing)
        for number, mutant in enumerate(todo, 1):
            chosen = meets(record, mutant["function"], options.slowest)
            source.write_text(mutant.pop("text"))
            limit = 60 + 5 * sum(record["seconds"][test] for test in chosen)
            state = outcome(folder, source, chosen, limit) if chosen else "survived"
            seen[mutant["id"]] = mutant | {"state": state, "tests": testing, "met": len(chosen)}
            kept.write_text("".join(json.dumps(row) + "\n" for row in seen.values()))
            where = f"{mutant['function']}:{mutant['line']}"
            print(
                f"{module} {number}/{len(todo)} {state} by {len(chosen)} tests: {where}  {mutant['what']}", flush=True
            )


def table() -> None:
    """Print the survivors to be read, and the share killed by module, which .mutants/table.md keeps."""
    lines = []
    for file in sorted(KEPT.glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        dead = sum(row["state"] != "survived" for row in rows)
        lines.append(f"| {file.stem} | {len(rows)} | {dead} | {dead / len(rows):.0%} |")
        for row in sorted((row for row in rows if row["state"] == "survived"), key=lambda row: row["line"]):
            print(
                f"{file.stem}:{row['line']} {row['function']}: {row['what']}"
                + ("" if row["met"] else "  (no test enters)")
            )
    shares = "\n".join(["| module | mutants | killed | share |", "|---|---:|---:|---:|", *lines])
    print(f"\n{shares}")
    if lines:
        (KEPT / "table.md").write_text(f"{shares}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="below ifllm, e.g. reward.evaluation")
    parser.add_argument("--sample", type=int, default=60, help="how many mutants of a module; 0 is all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--function", default="", help="only functions whose name this pattern finds")
    parser.add_argument(
        "--skip",
        default=r"figure|plot|^show|(?<!window)(?<!calibration)(?<!study)_table$|^_(curve|band)$|html|svg|__repr__",
        help="functions left out: presentation",
    )
    parser.add_argument("--tests", action="append", default=[], help="a further test file, relative to the clone")
    parser.add_argument("-k", dest="keyword", default="", help="only these tests, as in pytest; leaves slow ones out")
    parser.add_argument("--slowest", type=float, default=20, help="CPU seconds; slower tests are left out")
    parser.add_argument("--table", action="store_true", help="only show what is known")
    chosen = parser.parse_args()
    for name in [] if chosen.table else chosen.modules:
        examine(name, chosen)
    table()
