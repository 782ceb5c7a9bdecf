# What people and CI call; the work is in scripts/.
.PHONY: help run test build static pgo fuzz bench microbench clean

help:
	@echo 'make run      a scratch PostgreSQL with Aether in front of it on port 6432 (AETHER_PORT); Ctrl-C ends both'
	@echo 'make test     all tests; installs what they need (scripts/test says how to size them)'
	@echo 'make build    the release binary, target/release/aether'
	@echo 'make static   one fully static binary'
	@echo 'make pgo      the same, optimised by a profile of a run (fifteen minutes): the fastest there is'
	@echo 'make fuzz     each fuzz target for FUZZ_SECONDS=60'
	@echo 'make bench    what Aether costs beside PgBouncer and HAProxy; installs them (scripts/bench says how to size it)'
	@echo 'make microbench  the pieces of the hot path by themselves'
	@echo 'make clean    removes target/, and the scratch clusters with it'

run:
	@scripts/run

test:
	@scripts/test

build:
	@scripts/build

static:
	@scripts/static

pgo:
	@scripts/pgo

fuzz:
	@scripts/fuzz

bench:
	@scripts/bench

microbench:
	@cargo bench --locked --bench micro

clean:
	@scripts/clean
