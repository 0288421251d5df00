#!/usr/bin/env bash
# Style, layout and types, in seconds; the rules are in pyproject.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
unset PYTHONPATH # ty would look there for a package of this name first
ruff check .
ruff format --check .
ty check
