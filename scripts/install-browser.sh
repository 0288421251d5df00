#!/usr/bin/env bash
# Install what the browser tests, the static pictures and the printed PDF need: Chromium with a font for formulas, axe-core for the
# accessibility test, WebGazer with its face model for the site's. What is there already is left alone; where nothing can be installed this says so, and the tests that need it skip.
#   scripts/install-browser.sh
set -uo pipefail
cd "$(dirname "$0")/.."

browser() { .venv/bin/python -c 'import sys; from ifllm.engine.pictures import find_browser; sys.exit(find_browser() is None)'; }
if ! browser; then
  if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "install-browser: chromium, by apt-get"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update >/dev/null
    install() { apt-get -qq install -y --no-install-recommends "$1" fonts-dejavu-core fonts-stix >/dev/null; }
    install chromium-headless-shell 2>/dev/null || install chromium || # the first is not in every Debian
      echo "install-browser: apt-get could not install chromium; browser tests will be skipped" >&2
  else
    echo "install-browser: no Chromium here, and no right to install one: as root on Debian run apt-get install chromium; browser tests will be skipped" >&2
  fi
fi

# axe-core is what the accessibility tests run; WebGazer (GPL, so not a part of the package) and its face model are what the site's tests
# run against, installed as `ifllm study install` does. They lie in an ignored folder.
npm_here() {
  command -v npm >/dev/null 2>&1 && return 0
  command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ] && apt-get -qq install -y --no-install-recommends npm >/dev/null
}
webgazer() { .venv/bin/python -m ifllm.engine.cli study install node_modules/gaze; } # it knows itself what is missing
axe=node_modules/axe-core/axe.min.js
if [ ! -f "$axe" ] || ! webgazer 2>/dev/null; then
  if npm_here; then
    [ -f "$axe" ] ||
      npm install --silent --ignore-scripts --no-save --no-package-lock --prefix . axe-core@4.14.1 >/dev/null 2>&1 ||
      echo "install-browser: npm could not install axe-core; tests that need it will be skipped" >&2
    webgazer || echo "install-browser: tests that need WebGazer and its face model will be skipped" >&2
  else
    echo "install-browser: npm is not here; tests that need axe-core or WebGazer will be skipped" >&2
  fi
fi
exit 0
