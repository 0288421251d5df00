#!/usr/bin/env bash
# Make .venv with everything in it: torch for the hardware that is here, the package, a kernel that needs no registration.
#   PYTHON=python3.12 scripts/setup.sh    another interpreter
#   LOCK=/dev/null scripts/setup.sh       newest versions instead of those in requirements.lock
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
lock=${LOCK:-requirements.lock}
torch=2.13.0
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "setup: $python is older than 3.11; name a newer one: PYTHON=python3.12 make setup" >&2; exit 2; }
# two set-ups at once would write into one environment; the lock is this shell's, and ends with it
exec 9> .venv.lock
lock9() { "$python" -c "import fcntl; fcntl.flock(9, fcntl.LOCK_EX | $1)" 2>/dev/null; }
if ! lock9 fcntl.LOCK_NB; then
  echo "setup: another set-up works on .venv; waiting for it" >&2
  lock9 0
  [ .venv/ready -nt pyproject.toml ] && [ .venv/ready -nt "$lock" ] && [ .venv/ready -nt scripts/setup.sh ] && exit 0
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input "$@"; }
pip install --quiet --upgrade pip setuptools wheel

# torch first, and by itself: without a GPU the CPU build (a tenth of the size), with one the default build.
if ! .venv/bin/python -c 'import torch' 2>/dev/null; then
  if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
    echo "setup: torch $torch with CUDA"
    pip install --quiet "torch==$torch"
  else
    echo "setup: torch $torch for the CPU"
    pip install --quiet "torch==$torch+cpu" 2>/dev/null ||
      { pip install --quiet uv && .venv/bin/uv pip install --quiet --python .venv/bin/python --torch-backend=cpu "torch==$torch" 2>/dev/null; } ||
      pip install --quiet "torch==$torch"
  fi
fi
echo "setup: the package and what it needs"
# A locked version that can no longer be had is named, and the newest that fits takes its place; any other failure is the end.
cp "$lock" .venv/constraints
wanted=(-c .venv/constraints -e ".[encoder,study,dev]")
until pip install --quiet "${wanted[@]}" 2> .venv/said; do
  why=$(pip install --dry-run "${wanted[@]}" 2>&1) || true
  gone=$(sed -n 's/.*The user requested (constraint) \([A-Za-z0-9._-]*==[^ ]*\).*/\1/p' <<< "$why" | head -n 1)
  if [ -z "$gone" ] || ! grep -qxF "$gone" .venv/constraints; then
    cat .venv/said >&2
    exit 1
  fi
  echo "setup: $gone, as locked, cannot be had; the newest version that fits takes its place, so this is no exact rerun" >&2
  grep -vxF "$gone" .venv/constraints > .venv/constraints.new || true
  mv .venv/constraints.new .venv/constraints
done
# notebooks are merged cell by cell, by the driver that .gitattributes names
if git rev-parse --git-dir >/dev/null 2>&1; then
  git config merge.jupyternotebook.name "notebooks, cell by cell"
  git config merge.jupyternotebook.driver ".venv/bin/nbdev-merge %O %A %B %P"
fi
touch .venv/ready
