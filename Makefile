# One command for each thing that a person does here. The set-up is done by .ci/setup, into .venv and
# .cache; a second run finds it done.
.DEFAULT_GOAL := help
.PHONY: help demo test check bench coverage runtime unit rpc privileged soak soak-seamless mutations debug sanity
.PHONY: cluster-up cluster-down test-cluster kernels test-kernels kubectl image backoff pictures fmt proto install clean _python _tools _kernels _cluster

DAEMON ?= bindfs
PYTHON ?= python3
export PYTHON
export PATH := $(CURDIR)/.cache/bin:$(PATH)
# Which cluster, of several side by side
NAME ?= default

py := .venv/bin/python
# What a test run may be told: make privileged ARGS="-k subpath -x"
pytest = $(py) -m pytest $(ARGS)
# Breaks the lines of pages at sentences, so that a review shows what was changed; it adds two columns to nested lists.
flowmark = .venv/bin/flowmark --semantic --width=98

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 14

demo: _python ## See a crash healed under a running pod (DAEMON=bindfs|s3fs|rclone, ARGS=--serverless)
	@.ci/setup tools $(DAEMON)
	@.venv/bin/csi-fluid demo --daemon=$(DAEMON) $(ARGS)

test: export REQUIRE_ALL = 1
test: _python _tools ## Run every test, in parts side by side; a missing tool is a failure
	@$(py) -m tests.parts

check: _python ## Check format, lint, types, imports, generated code, promises; run the unit tests
	@$(py) -m ruff format --check --quiet . && $(py) -m ruff check --quiet . && $(py) -m mypy
	@.venv/bin/lint-imports --no-logo && .ci/generate --check && bash -n .ci/* && $(flowmark) --check .
	@$(pytest) tests/unit tests/test_promises.py

bench: _python _tools ## Measure (ARGS="--against 'COMMAND'" compares with another plugin)
	@$(py) -m tests.bench $(ARGS)

coverage: _python ## Measure what unit and RPC tests run; fail below the number in pyproject.toml
	@$(py) -m coverage run -m pytest $(ARGS) tests/unit tests/rpc
	@$(py) -m coverage combine --quiet && $(py) -m coverage report

runtime: ## Install the package with its runtime dependencies alone, and run it
	@.ci/runtime

unit: _python ## Run the tests that need no kernel
	@$(pytest) tests/unit

rpc: _python ## Run the tests of the real server on a unix socket
	@$(pytest) tests/rpc

privileged: _python _tools $(if $(KERNEL),_kernels) ## Run the tests on the real kernel with real FUSE daemons (KERNEL=5.10: on that one)
	@$(if $(KERNEL),$(py) -m tests.kernels test --kernel=$(KERNEL) -- $(ARGS),$(pytest)) tests/privileged

soak: _python _tools ## Let everything crash at random for MINUTES (5), and see that nothing grows (SEED=N: again)
	@MINUTES=$(or $(MINUTES),5) $(pytest) -rP tests/privileged/test_soak.py

soak-seamless: export SEAMLESS_CRASHES ?= 100
soak-seamless: export SEAMLESS_LOADED ?= 10
soak-seamless: export SEAMLESS_MIB ?= 1024
soak-seamless: _python _tools ## Read through 100 crashes of each daemon with SeamlessRecovery, and 1 GiB through ten
	@$(pytest) -rP tests/privileged/seamless/test_crashes.py tests/privileged/seamless/test_loads.py

mutations: _python _tools ## Take away each line that keeps a promise, and see its test fail (ARGS="WORD ...")
	@$(py) -m tests.mutations $(ARGS)

kernels: export REQUIRE_ALL = 1
kernels: _python _tools _kernels ## Run what kernels differ in on four others, emulated: about three minutes each
	@.ci/setup csi-sanity
	@$(pytest) -s tests/kernels

test-kernels: _python _tools _kernels ## Run all of it on each of them (hours), and write docs/kernels.md (ARGS=--go-on)
	@.ci/setup csi-sanity
	@$(py) -m tests.kernels test --write $(ARGS) tests/privileged tests/sanity

debug: _python _tools ## Run privileged tests in one sandbox on this terminal (ARGS="-k NAME --pdb")
	@$(py) -m tests tests/privileged $(ARGS)

sanity: _python _tools ## Run csi-sanity against the running plugin
	@.ci/setup csi-sanity
	@$(pytest) tests/sanity

cluster-up: _python _cluster ## Start a Kubernetes of one node here (NAME=other for one more)
	@$(py) -m tests.cluster --name=$(NAME) up

cluster-down: _python ## End it and remove everything of it
	@$(py) -m tests.cluster --name=$(NAME) down

kubectl: _python ## Ask it (ARGS="get pods -A")
	@$(py) -m tests.cluster --name=$(NAME) kubectl $(ARGS)

test-cluster: _python _cluster ## Run the tests on a Kubernetes of their own
	@$(pytest) tests/cluster

backoff: _python _cluster ## Measure outages at kubelet's own back-off, half an hour (ARGS="--crashes=3")
	@$(py) -m tests.cluster.backoff $(ARGS)

pictures: _python _tools _cluster ## Draw the pictures of the pages anew, from crashes here and on a cluster
	@.venv/bin/csi-fluid demo --svg=docs/heal.svg
	@RECORD=docs/watch.svg $(pytest) tests/privileged/test_watch.py
	@$(py) -m tests.cluster.pictures

image: _python ## Write the container image as build/csi-fluid.oci.tar
	@.ci/setup tools mmdebstrap
	@$(py) -m tests.images

fmt: _python ## Format the code and repair what can be repaired
	@$(py) -m ruff format --quiet . && $(py) -m ruff check --fix --quiet . && $(flowmark) --inplace --nobackup .

proto: _python ## Write csi_fluid/_pb again from proto/
	@.ci/generate

install: _python _tools _cluster ## Do the whole set-up and nothing else
	@.ci/setup csi-sanity

clean: ## Remove everything that was made here, .venv and .cache included
	@[ ! -d .cache/cluster ] || $(py) -m tests.cluster --all down
	@rm -rf .venv .cache .*_cache .hypothesis .coverage* build dist *.egg-info
	@find . -name __pycache__ -prune -exec rm -rf {} +

_python:
	@.ci/setup python

_tools:
	@.ci/setup tools

_kernels:
	@.ci/setup kernels

_cluster:
	@.ci/setup cluster
