#!/usr/bin/env bash
# Write requirements.lock: the versions in .venv, for exact reruns, and what they are: docs/licences.md, docs/sbom.cdx.json. torch is left to setup.sh, which picks the build for the hardware.
set -euo pipefail
cd "$(dirname "$0")/.."
{
  echo "# The exact versions behind a run; made by scripts/lock.sh, used by scripts/setup.sh as constraints. torch: see setup.sh."
  .venv/bin/python -m pip freeze --exclude-editable --exclude ifllm | grep -viE '^(torch|nvidia-.*|triton|cuda-.*|uv)(==| @)' | sort -f
} > requirements.lock.new
mv requirements.lock.new requirements.lock
.venv/bin/ifllm supply
