# Two commands need nothing but Python and make: `make demo` and `make test`. RUNTIME=cuda installs ONNX Runtime for an
# NVIDIA GPU, if it is given with the first of them.
PYTHON ?= python3
BIN := .venv/bin
RUNTIME ?= cpu
OTHER_RUNTIME = $(if $(filter cuda,$(RUNTIME)),onnxruntime,onnxruntime-gpu)

.PHONY: demo test lint lock docs links format bench chaos fuzz garbage parity quality speed pauses recovery inputs cold mapping following rules engine throughput lists latency answers workers soak outage scaling gpu heads rounded ways days anomaly-bench because shop-model demo-picture page-picture networks behaviour clean help
help:            ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/base: pyproject.toml deploy/lock/$(RUNTIME).txt
	@$(PYTHON) -c 'import sys; sys.exit("Eddy needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Set PYTHON=") if sys.version_info < (3, 11) else 0'
	@echo 'Installing Eddy and the packages of its worker into .venv (0.3 GB); this takes minutes.'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip uninstall --quiet --quiet --yes $(OTHER_RUNTIME)  # the two overwrite each other's files
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement deploy/lock/$(RUNTIME).txt
	@$(BIN)/python -m pip install --quiet --editable '.[$(RUNTIME)]'
	@touch $@

.venv/dev: .venv/base deploy/lock/dev.txt
	@echo 'Installing PyTorch and the tools for training and tests into .venv (up to 6 GB); this takes minutes.'
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement deploy/lock/dev.txt
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: .venv/base ## run the demo: a simulated shop on an embedded broker, live in the terminal
	$(BIN)/eddy demo

test: export PYTHONDONTWRITEBYTECODE =  # where it is set, each of over a hundred workers would compile Eddy's modules again
test: .venv/dev  ## run every test; the tests on a real Kafka start their own broker
	$(BIN)/pytest -n auto --maxprocesses 5 --dist worksteal

lint: .venv/dev  ## check style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# uv, because it resolves for all platforms and Python versions at once. The files have no address of a package index.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links $(if $(UPGRADE),--upgrade) --constraint deploy/lock/dev.txt

lock: .venv/dev  ## write the exact versions with hashes of deploy/lock again, after a change of pyproject.toml; UPGRADE=1 takes the newest
	$(subst --constraint deploy/lock/dev.txt,,$(LOCK)) pyproject.toml --extra dev --output-file deploy/lock/dev.txt
	$(LOCK) pyproject.toml --extra cpu --extra redis --extra postgres --extra registry --extra otel --output-file deploy/lock/cpu.txt
	$(LOCK) pyproject.toml --extra cuda --extra redis --extra postgres --extra registry --extra otel --output-file deploy/lock/cuda.txt
	$(LOCK) pyproject.toml --extra cpu --extra train --output-file deploy/lock/trainer.txt
	echo hatchling | $(LOCK) - --output-file deploy/lock/build.txt

docs: .venv/dev  ## build the site of the documents in .cache/site; a dead link or anchor is an error
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html -c docs/site docs .cache/site

links: .venv/dev  ## ask every address of another host in the documents; a dead one is an error
	$(BIN)/sphinx-build --quiet -b linkcheck -c docs/site docs .cache/links

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

parity: .venv/dev ## compare a worker that is killed and restarted with eddy evaluate, on the Globo clicks
	$(BIN)/python -m bench.parity

quality: .venv/dev ## train and evaluate on public logs, with baselines
	$(BIN)/python -m bench.quality

speed: .venv/dev ## measure the training speed against a plain PyTorch loop
	$(BIN)/python -m bench.training_speed

pauses: .venv/dev ## measure the pauses when a worker stops, joins, crashes or freezes
	$(BIN)/python -m bench.pauses

fuzz: .venv/dev ## read N damaged and odd inputs (1,000,000) and count how they end
	$(BIN)/python -m bench.fuzz --inputs $(or $(N),1000000)

garbage: .venv/dev ## measure the throughput with 1 % bad messages
	$(BIN)/python -m bench.garbage

recovery: .venv/dev ## measure how fast a million states are recovered, and in how much memory
	$(BIN)/python -m bench.recovery

chaos: .venv/dev ## do N random faults to workers and brokers under load and check every result; N=200 SEED=7 BROKERS=1 or 3
	$(BIN)/python -m bench.chaos --faults $(or $(N),50) $(if $(SEED),--seed $(SEED)) --brokers $(or $(BROKERS),1)

inputs: .venv/dev ## measure the gain from each field of a click
	$(BIN)/python -m bench.inputs

anomaly-bench: .venv/dev ## measure what the alerts find among injected bots, thieves and faults, and how often they are false
	$(BIN)/python -m bench.anomaly
	$(BIN)/python -m bench.anomaly.system
	$(BIN)/python -m bench.anomaly.delivered

behaviour: .venv/dev ## measure next action, purchase intent and return against baselines
	$(BIN)/python -m bench.behaviour

following: .venv/dev ## measure the cost of predicting what users do next and of following their sessions
	$(BIN)/python -m bench.following

cold: .venv/dev ## measure the gain from a catalogue for items without training clicks
	$(BIN)/python -m bench.cold_items

mapping: .venv/dev ## measure the cost of a mapping for messages and logs
	$(BIN)/python -m bench.mapping

rules: .venv/dev ## measure the cost of each rule for the lists
	$(BIN)/python -m bench.rules

ways: .venv/dev ## compare alternative training methods with eddy train
	$(BIN)/python -m bench.ways

networks: .venv/dev ## compare the networks of eddy train --network: quality, speed, bytes
	$(BIN)/python -m bench.networks --datasets ''
	$(BIN)/python -m bench.networks

engine: .venv/dev ## measure the clicks per second of the engine; OLD=DIRECTORY compares with a checkout that has a .venv
	$(BIN)/python -m bench.engine $(if $(OLD),--old $(OLD))

throughput: .venv/dev ## compare the clicks per second with Quix Streams, Bytewax, stock Faust and the bare client, on a real Kafka
	$(BIN)/python -m bench.throughput

lists: .venv/dev ## compare the clicks per second with a list for each click and with --lists last, on a real Kafka
	$(BIN)/python -m bench.lists

latency: .venv/dev ## measure the time from a click to its recommendations, beside the bare client with transactions
	$(BIN)/python -m bench.latency

answers: .venv/dev ## measure how long answers on the HTTP port take beside 2,000 clicks per second, and what they cost
	$(BIN)/python -m bench.answers

workers: .venv/dev ## compare the clicks per second of two workers with those of one, on a real Kafka
	$(BIN)/python -m bench.workers

soak: .venv/dev  ## let clicks flow for MINUTES=30 at 70 % of the capacity, and compare the end with the beginning
	$(BIN)/python -m bench.soak $(if $(MINUTES),--minutes $(MINUTES))

outage: .venv/dev ## take the broker away for a minute under load, and measure the catch-up
	$(BIN)/python -m bench.outage

scaling: .venv/dev ## measure the time of a click and the memory by items and users; needs 10 GB of memory and 7 GB of disk
	$(BIN)/python -m bench.scaling

gpu: .venv/dev   ## compare the model on a GPU and on one CPU thread, up to a million items; needs a GPU and about 10 GB of disk
	$(BIN)/python -m bench.gpu

heads: .venv/dev ## compare the surprise head with the exact softmax and with shortlists
	$(BIN)/python -m bench.heads
	$(BIN)/python -m bench.shortlist

rounded: .venv/dev ## compare lists by rounded scores with exact ones, and their times
	$(BIN)/python -m bench.rounded

days: .venv/dev ## evaluate and train on a news site day by day (takes hours)
	$(BIN)/python -m bench.days

bench: parity speed pauses recovery garbage quality inputs cold mapping rules engine throughput lists latency answers workers outage soak heads ways networks days anomaly-bench because behaviour ## run every benchmark; the results are in bench/results

because: .venv/dev ## measure whether a worker names the clicks that a recommendation comes from
	$(BIN)/python -m bench.because

shop-model: .venv/dev ## train models/shop/1 again on the simulated shop
	$(BIN)/python -m stream.demo.simulate --users 2000 --days 1.5 --seed 1 --out .cache/shop.csv.gz
	rm -rf .cache/models/shop/1
	$(BIN)/eddy train .cache/shop.csv.gz --hidden 64 --epochs 40 --out .cache/models/shop/1
	rm .cache/models/shop/1/weights.npz  # a worker does not need it
	rm -rf models/shop/1 && mkdir -p models/shop && mv .cache/models/shop/1 models/shop/1

demo-picture: .venv/base ## draw docs/demo.svg, the picture in README.md, from a run of the demo
	$(BIN)/python docs/demo_picture.py

page-picture: .venv/dev ## take docs/page*.png, the pictures of a worker's page, from a run of the demo (needs Chromium)
	$(BIN)/python docs/page_picture.py

clean:
	rm -rf .venv .contenders .kafka .cache
