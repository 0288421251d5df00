#!/usr/bin/env bash
# Look up every locked version among known vulnerabilities: by pip-audit, at PyPI; scripts/audit.sh osv asks osv.dev.
# Exit code 0: none is known. 1: some are, or one could not be looked up. Needs a network; what is sent are names and versions.
set -euo pipefail
cd "$(dirname "$0")/.."
box=$(mktemp -d)
trap 'rm -rf "$box"' EXIT
python3 -m venv "$box" # an environment of its own: the lock must not hold the auditor
"$box/bin/pip" install --quiet --disable-pip-version-check --no-input pip-audit
{ cat requirements.lock; sed -n 's/^torch=/torch==/p' scripts/setup.sh; } > "$box/all.txt"
# strict: without it, a version that was not looked up counts as one without vulnerabilities
"$box/bin/pip-audit" --strict --progress-spinner off --no-deps --disable-pip --requirement "$box/all.txt" --vulnerability-service "${1:-pypi}" 2> "$box/said" ||
  { tail -n 1 "$box/said" >&2; echo "audit: vulnerabilities are known (the table above), or not every version could be looked up (the line above)" >&2; exit 1; }
echo "audit: no vulnerability is known of any locked version"
