# make demo    one example of every task, into outputs/demo/index.html
# make test    the tests
# make check   what must hold before a change goes in: format, lint, types, import directions, tests
# make train-smoke   trains for two minutes on the processor, killed once in between, and says what it learnt
# make clean   everything that the above made
# Each makes .venv first: Python 3.11 or 3.12, and without an NVIDIA GPU a torch that carries no CUDA.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.PHONY: demo test check train-smoke clean

TORCH := torch==2.13.0
CPU_WHEELS := https://download.pytorch.org/whl/cpu
PIP := .venv/bin/python -m pip --disable-pip-version-check
INSTALLED := .venv/installed

demo: $(INSTALLED)
	@.venv/bin/loomvideo demo --output-dir outputs/demo

test: $(INSTALLED)
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)
	@export PATH="$$PWD/.venv/bin:$$PATH" OMP_NUM_THREADS=1
	ruff format --check .
	ruff check .
	pyright
	lint-imports
	pytest -q -n 2 --dist loadfile --no-loadscope-reorder

SMOKE := outputs/train-smoke

train-smoke: $(INSTALLED)
	@export PATH="$$PWD/.venv/bin:$$PATH" OMP_NUM_THREADS=1
	rm -rf $(SMOKE)
	loomvideo data prepare src/loomvideo/configs/data/smoke.yaml --output $(SMOKE)/prepared --device cpu --quiet
	train() { timeout --signal "$$1" 60 loomvideo train smoke run_dir=$(SMOKE) data.shards=$(SMOKE)/prepared --device cpu || test $$? = "$$2"; }
	train KILL 137
	echo 'killed; the same command again:'
	train TERM 124
	python - $(SMOKE)/log.jsonl <<'END'
	import json, sys
	lines = [json.loads(line) for line in open(sys.argv[1])]
	held_out = [(line["step"], line["validation/all"]) for line in lines if "validation/all" in line]
	print(f"{lines[-1]['step']} steps; validation loss {held_out[0][1]:.3f} at step {held_out[0][0]}, {held_out[-1][1]:.3f} at step {held_out[-1][0]}")
	sys.exit(held_out[-1][1] >= held_out[0][1])
	END

clean:
	rm -rf .venv outputs build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Some systems have a python3.12 on the path that is only a stub, or one without venv: so each is tried.
$(INSTALLED): pyproject.toml
	@found=
	for python in python3.11 python3.12 python3 python; do
	  "$$python" -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' 2>/dev/null || continue
	  found="$$python"
	  "$$python" -c 'import ensurepip, venv' 2>/dev/null && break
	done
	if [ -z "$$found" ]; then
	  echo 'error: neither Python 3.11 nor 3.12 was found; install one (Debian, Ubuntu: apt install python3 python3-venv)' >&2
	  exit 2
	fi
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then
	  echo "error: $$found cannot make virtual environments; install them (Debian, Ubuntu: apt install $$("$$found" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'))" >&2
	  exit 2
	fi
	echo "installing into .venv with $$("$$found" --version); this takes a few minutes the first time"
	"$$found" -m venv .venv
	if [ "$$(uname)" = Darwin ] || nvidia-smi >/dev/null 2>&1; then
	  $(PIP) install --quiet '$(TORCH)'
	elif ! $(PIP) install --quiet '$(TORCH)+cpu' 2>/dev/null; then  # where the configured index has the CPU's wheel
	  $(PIP) install --quiet '$(TORCH)' --index-url $(CPU_WHEELS)
	fi
	$(PIP) install --quiet --editable '.[dev]'
	touch $@
