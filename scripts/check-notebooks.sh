#!/usr/bin/env bash
# The notebooks are the source: they hold no outputs, and ifllm/ is just what nbdev makes of them.
# Then run the notebooks that no run executes: those in the rooms' folders.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1  # two workers with two threads each would wait for each other
dirty=$(find nbs -name '*.ipynb' -not -path '*/.*' -print0 | xargs -0 grep -lE '"output_type"|"execution_count": [0-9]' || true)
[ -z "$dirty" ] || { echo "check: notebooks with outputs (run nbdev-clean): $dirty" >&2; exit 1; }
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r nbs ifllm pyproject.toml settings.ini "$copy"
find "$copy/ifllm" -name '*.py' -not -path '*/assets/*' -not -name '__init__.py' -delete
(cd "$copy" && nbdev-export)
diff -r -q -x __pycache__ "$copy/ifllm" ifllm ||
  { echo "check: ifllm/ is not what nbdev-export makes of nbs/: run nbdev-export and commit" >&2; exit 1; }
nbdev-test nbs --path-re 'nbs/[^/]+/' --skip-folder-re '^[_.]|^howto$' --n-workers 2
echo "check: notebooks and package agree"
