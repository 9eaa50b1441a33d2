# The front door. Everything real is in CMakePresets.json and tools/.
# SPDX-License-Identifier: Apache-2.0
PORT ?= 8080
PREFIX ?= /usr/local
CMAKE_BUILD = cmake --build

.PHONY: all build cuda install deb serve quick test test-long test-arm64 check device-check bench fmt clean oracle fuzz

all: build

build:
	@tools/setup.sh build
	@[ -f build/build.ninja ] || cmake --preset release >build.log 2>&1 || { cat build.log; exit 1; }
	@rm -f build.log
	@$(CMAKE_BUILD) build

cuda:                   ## build with the CUDA back end; without an nvcc on the PATH, one is fetched into build/cuda
	@tools/setup.sh build
	@tools/cuda.sh

serve: build            ## build, then serve the shipped model with its chat page
	@tools/serve.sh $(PORT)

quick:                  ## unit tests, fuzz replay, include check: seconds
	@tools/setup.sh test
	@cmake --preset ci >/dev/null
	@$(CMAKE_BUILD) build
	@ctest --test-dir build -L quick -j "$$(nproc)" --output-on-failure

install: build          ## into PREFIX (default /usr/local): binary, small model, man pages, completions, unit
	@tools/setup.sh install
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" tools/install.sh

deb:                    ## build/quern_VERSION_ARCH.deb of what is committed, checked by lintian
	@tools/setup.sh deb
	@tools/deb.sh

test:                   ## everything that must pass: unit, golden, property, fuzz replay, end to end
	@tools/setup.sh test
	@tools/test.sh

test-long:              ## the same with larger counts for the random tests: hours
	@tools/setup.sh test
	@tools/test.sh long

test-arm64:             ## the same sources for 64-bit Arm: unit, golden and kernel tests under qemu-user
	@tools/setup.sh test
	@tools/test_arm64.sh

check:                  ## sanitizers, static checks, formatting
	@tools/setup.sh test
	@tools/check.sh

device-check:           ## on a machine with a GPU; build beforehand: tools/device_check.sh build
	@tools/device_check.sh

bench: build            ## prints the machine's bandwidth and the model's speed
	@build/quern bench models/mini

oracle:                 ## regenerate golden files with the reference implementation (needs torch, transformers)
	@tools/oracle.sh

fuzz:                   ## libFuzzer targets, FUZZ_SECONDS each (default 60)
	@tools/fuzz.sh

fmt:
	@git ls-files '*.c' '*.h' | xargs clang-format -i

clean:
	@rm -rf build build-*
