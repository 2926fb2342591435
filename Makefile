# make demo    install what is missing, build, train on Fashion-MNIST, show the result
# make test    install what is missing, build, run the unit and kernel tests
# make bench   install and build the rivals (LibTorch, ONNX Runtime, oneDNN), measure ours, them and the peak
# make fuzz    run each fuzz target for a while (SECONDS=60) and say what was found
# make check   what CI leaves out: Clang, the sanitizers, the slow tests
# make install install the program, the library and its headers below PREFIX (/usr/local), or below DESTDIR/PREFIX
# make docs    pages of the public headers, in build/docs/html
# make format  format all sources
.PHONY: demo build test bench fuzz check install docs format clean

JOBS ?= $(shell nproc)
PREFIX ?= /usr/local

demo:
	@scripts/setup.sh demo
	@$(MAKE) --no-print-directory build
	build/bin/fovea train recipes/fashion_mnist.toml --out runs/demo --overwrite \
	  --set train.epochs=16 --set train.learning_rate=3e-3 --set augment.shift=0 --set augment.erase=0
	build/bin/fovea explain runs/demo

build:
	@[ -f build/build.ninja ] || cmake -S . -B build -G Ninja -DFOVEA_TESTS=OFF >/dev/null
	@ninja -C build -j $(JOBS)

test:
	@scripts/setup.sh test
	@[ -f build-test/build.ninja ] || cmake -S . -B build-test -G Ninja -DFOVEA_WERROR=ON >/dev/null
	@ninja -C build-test -j $(JOBS)
	@ctest --test-dir build-test --output-on-failure -LE slow

bench:
	@scripts/setup.sh bench
	@$(MAKE) --no-print-directory build
	@scripts/bench.sh $(JOBS)

fuzz: SECONDS ?= 60
fuzz:
	@scripts/setup.sh fuzz
	@scripts/fuzz.sh $(SECONDS) $(JOBS)

check:
	@scripts/setup.sh check
	@scripts/check.sh $(JOBS)

install:
	@scripts/setup.sh demo
	@$(MAKE) --no-print-directory build
	@DESTDIR="$(DESTDIR)" cmake --install build --prefix "$(PREFIX)" --strip

docs:
	@scripts/setup.sh docs
	@cmake -S . -B build -G Ninja -DFOVEA_TESTS=OFF >/dev/null
	@scripts/docs.sh build build/docs

format:
	@git ls-files '*.h' '*.cpp' '*.c' | xargs clang-format-14 -i

clean:
	rm -rf build build-*
