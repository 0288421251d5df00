# Two commands: `make report` runs the study and renders it, `make test` checks everything. Both set up what they need first.
#   make mutants MODULES="reward.evaluation base.files"   whether tests would notice a changed operator or number; by hand, long
#   make audit                          known vulnerabilities of the locked versions; needs a network, by hand
#   make report                         the published data on two cores: 15 to 30 minutes, set-up and download aside
#   make report PROFILE=demo            simulated participants, a few minutes
#   make report IFLLM_ARCHIVE=FILE      the published archive, downloaded by hand
PROFILE ?= quick
NAME ?= $(PROFILE)
CORES ?=
BIN := .venv/bin
# what Python has compiled is kept, though a container's settings may say otherwise: each test worker would compile all tests anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: report test demo-pages notebooks setup lab clean mutants audit
report: setup
	-@$(BIN)/ifllm fetch --model smollm2_135m
	$(BIN)/ifllm run --profile $(PROFILE) --name $(NAME) $(if $(CORES),--cores $(CORES))
	$(BIN)/ifllm report $(NAME)
	@$(BIN)/ifllm compare reference $(NAME) || true

test: setup
	bash scripts/check-code.sh
	$(BIN)/ifllm run --profile demo --name demo $(if $(CORES),--cores $(CORES))
	@$(MAKE) --no-print-directory --jobs 2 demo-pages notebooks
	bash scripts/install-browser.sh
	OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --durations=40 --durations-min=5

# parts of `make test` that go side by side: pages are rendered on one core
demo-pages: setup
	$(BIN)/ifllm report demo
notebooks: setup
	bash scripts/check-notebooks.sh

lab: setup
	$(BIN)/python -m pip install --quiet -c requirements.lock -e ".[lab]"
	$(BIN)/ifllm lab

mutants: setup
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutants.py $(MODULES)

audit:
	bash scripts/audit.sh

setup: .venv/ready

.venv/ready: pyproject.toml requirements.lock scripts/setup.sh
	bash scripts/setup.sh

clean:
	rm -rf .venv runs/demo dist build *.egg-info
