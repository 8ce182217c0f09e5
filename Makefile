# The front door: each of demo, test and bench installs what it misses and builds what it needs; meson does the work.
#     make            build the library, the command and the examples
#     make demo       one core holds as many real TCP connections as this machine allows
#     make test       the whole suite, natively
#     make bench      against the best peers in the same run; BENCH=name,name for some
#     make install    to PREFIX (default /usr/local), below DESTDIR if given
PREFIX ?= /usr/local
BUILD := build

.PHONY: all demo test bench install clean help setup-build setup-test setup-bench

all: $(BUILD)/build.ninja
	ninja -C $(BUILD)

demo: setup-build all
	$(BUILD)/tools/crore/crore demo --report $(BUILD)/report

test: setup-test all
	scripts/test $(BUILD)

bench: setup-bench
	[ -f build-bench/build.ninja ] || meson setup build-bench --buildtype=release -Dbench=true
	ninja -C build-bench
	bench/run --build build-bench --out $(BUILD)/bench

install: setup-build all
	meson configure $(BUILD) -Dprefix=$(PREFIX)
	DESTDIR=$(DESTDIR) meson install -C $(BUILD)
	[ -n "$(DESTDIR)" ] || [ "$$(id -u)" -ne 0 ] || ldconfig

clean:
	rm -rf $(BUILD) build-bench

help:
	@sed -n 's/^#     //p' Makefile

setup-build setup-test setup-bench: setup-%:
	@scripts/setup $*

$(BUILD)/build.ninja: | setup-build
	meson setup $(BUILD) --prefix=$(PREFIX) --libdir=lib
