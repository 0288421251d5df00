"""What the project is built from: the bill of materials is that of the lock, and its consumers can read it."""

import importlib.metadata
import json
import re
from pathlib import Path

import pytest

from ifllm.base.files import InputError
from ifllm.engine.supply import licences_page, locked, python_component
from ifllm.site.gaze import PINNED


@pytest.fixture(scope="module")
def made(root) -> dict:
    """The committed bill of materials."""
    return json.loads((root / "docs" / "sbom.cdx.json").read_text(encoding="utf-8"))


def test_the_bill_names_each_locked_version_and_no_other(root, made):
    lines = [line for line in (root / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    torch = re.search(r"torch=([\d.]+)", (root / "scripts" / "setup.sh").read_text())
    assert torch and len(lines) > 200
    named = [f"{part['name']}=={part['version']}" for part in made["components"] if "scope" not in part]
    assert named == [*lines, f"torch=={torch[1]}"], "docs/sbom.cdx.json is out of date: scripts/lock.sh writes it"


def test_the_bill_holds_each_pinned_browser_file(made):
    files = {
        (part["purl"].replace("%40", "@"), file["name"]): file["hashes"]
        for part in made["components"]
        for file in part.get("components", [])
    }
    for pin in PINNED.values():
        assert files[f"pkg:npm/{pin.package}", pin.member] == [{"alg": "SHA-256", "content": pin.sha256}]


def test_consumers_can_read_the_bill(made):
    """It follows the published schema, and CycloneDX's own library makes the same parts of it."""
    jsonschema_rs = pytest.importorskip("jsonschema_rs", reason="jsonschema_rs is not here")
    model = pytest.importorskip("cyclonedx.model.bom", reason="cyclonedx-python-lib is not here")
    folder = Path(model.__file__).parents[1] / "schema" / "_res"
    schemas = {
        f"http://cyclonedx.org/schema/{name}.SNAPSHOT.schema.json": json.loads(
            (folder / f"{name}.SNAPSHOT.schema.json").read_text()
        )
        for name in ("spdx", "jsf-0.82", "bom-1.6")
    }
    _, schema = schemas.popitem()
    registry = jsonschema_rs.Registry(list(schemas.items()))
    validator = jsonschema_rs.validator_for(schema, registry=registry)
    assert [fault.message for fault in validator.iter_errors(made)] == []
    wrong = {**made["components"][0], "licenses": [{"license": {"id": "a licence that SPDX has not"}}]}
    assert not validator.is_valid({**made, "components": [wrong]})  # it does look

    read = model.Bom.from_json(made)
    assert sorted(str(part.purl) for part in read.components) == sorted(part["purl"] for part in made["components"])


def test_licences_are_those_of_the_installed_versions(made):
    seen = 0
    for part in (part for part in made["components"] if "scope" not in part):
        try:
            here = importlib.metadata.version(part["name"])
        except importlib.metadata.PackageNotFoundError:
            continue
        if here == part["version"]:
            assert python_component(part["name"], part["version"]) == part
            seen += 1
    assert seen > 100


def test_the_page_is_that_of_the_bill(root, made):
    page = (root / "docs" / "licences.md").read_text(encoding="utf-8")
    assert page == licences_page(made), "docs/licences.md is out of date: scripts/lock.sh writes it"


@pytest.mark.parametrize("line", ["numpy", "numpy>=2", "-e git+https://x", "numpy==2 # why"])
def test_a_lock_that_does_not_pin_is_refused_with_its_line(tmp_path, line):
    (tmp_path / "requirements.lock").write_text(f"# made\npolars==1.0\n{line}\n")
    with pytest.raises(InputError, match=r"^requirements.lock:3: '.*' is not NAME==VERSION; .*lock.sh$"):
        locked(tmp_path)


def test_what_is_locked_and_not_here_is_refused():
    with pytest.raises(InputError, match="^polars: 0.1 is locked, .* is installed; `pip install polars==0.1` first"):
        python_component("polars", "0.1")
    with pytest.raises(InputError, match="^no-such-part: 1.0 is locked, no version of it is installed"):
        python_component("no-such-part", "1.0")
