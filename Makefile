# SPDX-License-Identifier: GPL-2.0
# The front door. Nothing but root, apt and a network is needed: what builds and
# tests is set up by the scripts, in a cache outside the checkout.

KERNEL ?=
export KERNEL

all: modules dms

help:
	@echo 'make               the module and the dms command, into build/'
	@echo 'make modules       build/dm-snap-mv.ko, for the kernel in scripts/kernel-version'
	@echo '                   KERNEL=7.3.4 another kernel of the archive, KERNEL=debug ours'
	@echo 'make dms           build/dms, static, with its manual and completions'
	@echo 'make demo          see it work, in a virtual machine'
	@echo 'make bench         measure it beside other targets, some twelve minutes; into'
	@echo '                   build/bench; QUICK=1 three minutes'
	@echo 'make profile       where the time goes, in it and in others: some six minutes'
	@echo 'make test          every test in a short form, on the stock kernel: at most a quarter of'
	@echo '                   an hour; TESTS=WORD those with WORD in their name, KERNEL=debug on'
	@echo '                   the debug kernel (which is built once, a quarter of an hour)'
	@echo 'make test-all      everything: their long forms, the debug kernel, and what takes'
	@echo '                   hours; what has passed is not run again for the same source'
	@echo 'make test-long-soak    everything at once on the debug kernel, for half an hour;'
	@echo '                   TEST_SECONDS=1800, TEST_SEED='
	@echo 'make test-long-hostile stores with damaged and forged metadata, on the debug kernel;'
	@echo '                   TEST_IMAGES=2000 of each kind of block, TEST_SEED=, KERNEL=stock'
	@echo 'make test-long-ioerrors'
	@echo '                   I/O errors: one, several or all requests from each one on'
	@echo 'make test-long-replay    TEST_POINTS=50000 crashes, of recorded writes'
	@echo 'make test-long-powercut  TEST_CUTS=100 machines killed'
	@echo 'make test-long-fuzz      every decoder and parser, TEST_RUNS=10000000 inputs each,'
	@echo '                   guided by coverage'
	@echo 'make test-long-memory  each call site that allocates, however long that takes, and'
	@echo '                   many at random; TEST_SECONDS=1800'
	@echo 'make check         format, lints, documents'
	@echo 'make install       onto this machine, for the kernel that runs'
	@echo '                   DESTDIR=, PREFIX=/usr/local, KERNELRELEASE=$$(uname -r)'
	@echo 'make uninstall'
	@echo 'make clean         remove build/'
	@echo 'make distclean     and the cache: $$DMS_CACHE, or ~/.cache/dm-snap-mv'

modules:
	@scripts/build-module

dms:
	@scripts/build-dms

demo: all
	@scripts/vm tests/demo.sh

test: all
	@scripts/test

test-all: all
	@scripts/test --all

bench: all
	@scripts/bench $(if $(QUICK),--quick)

profile: all
	@scripts/profile

test-long-soak: dms
	@KERNEL=debug scripts/build-module
	@KERNEL=debug TEST_SECONDS=$${TEST_SECONDS:-1800} scripts/test stress

test-long-hostile: HOSTILE = $(if $(KERNEL),$(KERNEL),debug)
test-long-hostile: dms
	@KERNEL=$(HOSTILE) scripts/build-module
	@TEST_IMAGES=$${TEST_IMAGES:-2000} scripts/vm --kernel $(HOSTILE) \
		--timeout 1000000 tests/vm/hostile.sh

test-long-ioerrors: all
	@scripts/vm tests/long/ioerrors.sh

test-long-replay: all
	@TEST_LONG=1 TEST_POINTS=$${TEST_POINTS:-50000} scripts/vm --timeout 1000000 tests/vm/replay.sh

test-long-powercut: all
	@TEST_CUTS=$${TEST_CUTS:-100} tests/host/crash.sh

test-long-fuzz:
	@scripts/fuzz

test-long-memory: dms
	@KERNEL=debug scripts/build-module
	@TEST_LONG=1 TEST_ALL_SITES=1 TEST_SECONDS=$${TEST_SECONDS:-1800} scripts/vm --kernel debug --smp 1 \
		tests/vm/memory.sh

check:
	@scripts/check

install: dms
	@scripts/install

uninstall:
	@scripts/install --remove

clean:
	@scripts/clean

distclean:
	@scripts/clean --cache

.PHONY: all help modules dms demo test test-all bench profile test-long-replay test-long-powercut test-long-soak test-long-hostile check install uninstall clean distclean test-long-ioerrors \
	test-long-memory test-long-fuzz
# The parts share a machine's cores by themselves.
.NOTPARALLEL:
