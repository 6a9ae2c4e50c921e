PYTHON ?= python3
BIN := .venv/bin
# A video, folder, glob or manifest of your own: make demo VIDEOS=path
VIDEOS ?= .demo/street.csv

.PHONY: demo test chaos package lint setup browser clean

demo: setup $(filter .demo/street.csv,$(VIDEOS))
	rm -rf .demo/lake
	$(BIN)/actionlake analyze $(VIDEOS) --lake .demo/lake --forecaster walkers-lstm
	$(BIN)/actionlake query --lake .demo/lake "SELECT parse_filename(uri) AS video, track_id AS person, label, start_s, end_s, score FROM segments ORDER BY uri, start_s LIMIT 40"
	$(BIN)/actionlake query --lake .demo/lake "SELECT label, count(*) AS segments, sum(end_s - start_s) AS seconds FROM segments GROUP BY label ORDER BY seconds DESC"
	-$(BIN)/actionlake picture --lake .demo/lake --out .demo/people.png
	$(BIN)/actionlake report --lake .demo/lake --out .demo/report --title "make demo"

# A worker that dies is not replaced: pytest-xdist 3.8 then waits for ever for files that it has given out twice.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
  --max-worker-restart 0 --durations 25

test: setup lint browser
	$(PYTEST) -m "not long and not package"

# What breaks jobs in more ways, and what else takes too long for `make test`.
chaos: setup
	$(PYTEST) -m "chaos or long"

# A wheel and a source distribution, each installed in an environment of its own, without and with the extras.
package: setup
	$(BIN)/python -m pytest -m package

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tests of the pages drive Debian's Chromium. Without it they are skipped, but never in CI.
browser:
	@command -v chromium chromium-browser >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; } || \
	  echo "no Chromium, so the tests of the pages are skipped; as root: apt-get install chromium"

setup: .venv/.complete

.venv/.complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# OpenCV's sample of a street (Apache-2.0), out of the sources of a registry package: 20 s of the half that the bundled
# models were not trained on.
.demo/street.csv: | setup
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --no-binary opencv-python --require-hashes -r tests/footage.txt -d .demo
	tar -xzf .demo/opencv_python-*.tar.gz -C .demo --strip-components=4 --wildcards '*/samples/data/vtest.avi'
	rm .demo/opencv_python-*.tar.gz
	printf 'uri,start_s,end_s\n%s,40,60\n' '$(CURDIR)/.demo/vtest.avi' > $@

clean:
	rm -rf .venv .demo .pytest_cache .mypy_cache .ruff_cache
