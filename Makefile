# Every command of the project. `make help` lists them.
#
#   XEN=4.20 (Debian 13, default) or 4.17 (Debian 12)
#   NIC=e1000 (default), e1000e, igb, virtio or virtio-queues (as root), for `make run` and `make bench`
#   ROUNDS=3 (default) of `make bench`; 1 for BENCH=growth
#   KEEP=1 leaves `make run` at a Dom0 console

XEN ?= 4.20
NIC ?= e1000
ROUNDS ?= $(if $(filter growth,$(BENCH)),1,3)
CARGO ?= cargo
TESTBED = $(CARGO) run --quiet --release -p testbed --
IMAGES = out/netback-dom out/blkback-dom out/rt-dom
# The domain images and everything that can change them.
SOURCES = $(shell find ring/src xen-pv-rt/src pciback/src netback-dom/src blkback-dom/src virtio-pci/src tests/rt-dom/src -name '*.rs') \
          $(wildcard */Cargo.toml) Cargo.toml Cargo.lock build.rs pv.ld pv.toml .cargo/config.toml

.DEFAULT_GOAL := help
.PHONY: help run test test-all host-test system-test storage-test bench profile bench-host check images testbed setup clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "  XEN=4.20|4.17 selects the Xen release, NIC=e1000|e1000e|igb|virtio|virtio-queues the card of 'make run', KEEP=1 leaves it at a Dom0 console"

run: images testbed ## Boot Xen in QEMU and show guests on the network and on disks through our domains
	@$(TESTBED) run --xen $(XEN) --nic $(NIC) $(if $(KEEP),--keep)

test: host-test images testbed ## Host tests, then system tests on real Xen (about 15 minutes with set-up)
	@$(TESTBED) test --xen $(XEN) --nic e1000 --nic virtio
	@$(TESTBED) storage --xen $(XEN) --longest short

test-all: check host-test images ## The long matrix: both Xen releases, every card and disk controller, soak (about two and a half hours)
	@./images/host-packages && ./images/build 4.20 && ./images/build 4.17
	@# Both halves run whatever the first shows: a run of two and a half hours should tell all it can.
	@failed=0; $(TESTBED) storage --all --longest long || failed=1; \
	$(TESTBED) test --all $(if $(SOAK),--soak $(SOAK)) || failed=1; exit $$failed

host-test: ## Tests that need no hypervisor
	$(CARGO) test --workspace --quiet

system-test: images testbed ## Only the system tests; ONLY=name selects some
	@$(TESTBED) test --xen $(XEN) --nic $(NIC) $(if $(ONLY),--only $(ONLY))

storage-test: images testbed ## Only those of the storage domain; DISK=ahci|virtio the controller, ONLY=name selects some
	@$(TESTBED) storage --xen $(XEN) --disk $(or $(DISK),nvme) $(if $(ONLY),--only $(ONLY))

# Another machine than the usual one to measure on.
OTHER_MACHINE = $(if $(CPUS),--cpus $(CPUS)) $(if $(XEN_OPTIONS),--xen-options '$(XEN_OPTIONS)')
# What `make bench` measures with.
BENCH_OF_ = $(if $(DISK),--disk $(DISK),--nic $(NIC))
BENCH_OF_all = --nic e1000 --nic virtio --disk nvme
BENCH_OF_growth = --growth $(BENCH_OF_)

bench: images testbed ## Our domain, a Linux driver domain and the bare device side by side (DISK=nvme: storage, BENCH=all: both, BENCH=growth: 1 to 16 guests)
	@$(CARGO) build --quiet --release -p load
	@$(TESTBED) bench --xen $(XEN) $(or $(BENCH_OF_$(BENCH)),$(error BENCH=$(BENCH) is neither all nor growth)) --rounds $(ROUNDS) $(if $(ONLY),--only '$(ONLY)') $(if $(VARIANT),--variant '$(VARIANT)') $(OTHER_MACHINE)

profile: images testbed ## In which functions our driver domain is under load (DISK=nvme: the storage domain)
	@$(CARGO) build --quiet --release -p load
	@$(TESTBED) bench --profile --xen $(XEN) $(if $(DISK),--disk $(DISK),--nic $(NIC)) $(if $(ONLY),--only '$(ONLY)') $(OTHER_MACHINE)

bench-host: ## Instruction counts of the pure parts, compared with docs/bench/instructions.txt (SAVE=1 replaces it)
	@command -v valgrind >/dev/null || $(if $(filter 0,$(shell id -u)),,sudo) apt-get install -y -q --no-install-recommends valgrind
	@$(CARGO) bench --quiet -p instructions $(if $(SAVE),-- --save)

check: images ## Format, lints, documentation, image check
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	$(CARGO) clippy --quiet --config pv.toml --target x86_64-unknown-linux-gnu -p netback-dom -p blkback-dom -p rt-dom -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --quiet
	for image in $(notdir $(IMAGES)); do ./images/check-image target/x86_64-unknown-linux-gnu/release/$$image || exit 1; done

images: setup $(IMAGES) ## Build the domain images: out/netback-dom, ready for kernel=

$(IMAGES) &: $(SOURCES)
	@echo "building domain images"
	$(CARGO) images
	@mkdir -p out
	@for image in $(notdir $(IMAGES)); do \
		cp target/x86_64-unknown-linux-gnu/release/$$image out/$$image && ./images/check-image out/$$image && \
		objcopy --only-keep-debug out/$$image out/$$image.debug && strip out/$$image || exit 1; \
	done

testbed: setup ## Build the test bed for XEN (cached until its recipe changes)
	@./images/build $(XEN)

setup: ## Install missing host packages (the only step that needs root)
	@./images/host-packages

clean: ## Remove everything that was built
	$(CARGO) clean
	rm -rf out
