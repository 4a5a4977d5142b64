# What a developer or a first user types. `make` alone says what there is.

PYTHON ?= $(shell for python in /usr/bin/python3 /usr/local/bin/python3 python3; do \
	command -v $$python && break; done)
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
VENV := .venv
BUNDLE ?= bundles/hello
PYTEST_FLAGS ?=
SOAK_FLAGS ?=
BENCH_FLAGS ?=
FUZZ_SECONDS ?= 10
VM_MODE ?= systemd
VM_TESTS ?= tests/integration/cgroups tests/integration/test_cgroup_v2.py tests/integration/test_cgroup_systemd_verbs.py \
	tests/integration/test_requirements.py tests/integration/test_full_kernel.py tests/integration/test_checkpoint.py \
	tests/integration/test_limits.py tests/engines/test_podman_systemd.py tests/engines/test_rootless_systemd.py

# To run containers: the interpreter, and the library that compiles seccomp filters.
RUN_PACKAGES := python3 libseccomp2
# For the virtual environment; python-prctl is compiled.
VENV_PACKAGES := python3-venv python3-dev gcc libc6-dev libcap-dev
# What the tests use: root file systems, tracing, networks, user namespaces, other runtimes and an engine to compare.
TEST_PACKAGES := busybox-static debootstrap strace iproute2 nftables uidmap acl attr procps util-linux runc crun podman
# What `make bench` needs. The runtimes and engines to compare with are those that are there: Docker's own packages
# would have to go for Debian's.
BENCH_PACKAGES := busybox-static gcc libc6-dev strace
# A virtual machine and what its guest takes from this machine's root.
VM_PACKAGES := qemu-system-x86 kmod e2fsprogs busybox-static systemd dbus apparmor libpam-systemd dbus-user-session

.PHONY: help run test fuzz vm vm-selinux unit lint bench install uninstall seal unseal clean

help:
	@echo "make run       run the sample container of $(BUNDLE) (another one: make run BUNDLE=bundles/shell)"
	@echo "make test      run all tests; installs what they need, takes some minutes, makes containers as root"
	@echo "make fuzz      search for inputs that break a parser, FUZZ_SECONDS for each of ten (10)"
	@echo "make vm        run tests on cgroup v2 in a virtual machine (VM_MODE=plain or systemd, VM_TESTS=...)"
	@echo "make vm-selinux  the same on a kernel with SELinux: labels of programs and mounts"
	@echo "make faults    fail every system call and kill at every step, not only at a sample of them; some minutes"
	@echo "make soak      a thousand containers in a row, a hundred at once, races (SOAK_FLAGS='--seconds 3600': for an hour)"
	@echo "make unit      run the tests that need neither root nor a container"
	@echo "make lint      check types, style, and what code in containers may do (mypy, ruff, tools/inside)"
	@echo "make bench     compare with the other runtimes of this machine, and write docs/performance.* (15 minutes with"
	@echo "               BENCH_FLAGS=--full; one more runtime: BENCH_FLAGS='--runtime runc-new=/path/to/runc')"
	@echo "make install   install the command pyruntime in /usr/local, for the whole machine"
	@echo "make seal      keep the interpreter on a read-only mount, so that containers start faster; until the next boot"
	@echo "make clean     remove what these commands have put in this directory"

run: compiled
	@tools/install-missing $(RUN_PACKAGES)
	$(SUDO) bin/pyruntime run --bundle $(BUNDLE) sample-$(notdir $(BUNDLE))

# The interpreter never writes .pyc files at run time; without them every start would compile every module.
.PHONY: compiled
compiled:
	@tools/install-missing $(RUN_PACKAGES)
	@$(PYTHON) tools/compile.py

$(VENV)/ready: pyproject.toml
	@tools/install-missing $(RUN_PACKAGES) $(VENV_PACKAGES)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python tools/requirements.py test lint | $(VENV)/bin/pip install --quiet --disable-pip-version-check --use-pep517 -r /dev/stdin
	@touch $@

test: $(VENV)/ready compiled
	@tools/install-missing $(RUN_PACKAGES) $(TEST_PACKAGES)
	$(SUDO) $(VENV)/bin/python -m pytest $(PYTEST_FLAGS)

fuzz: $(VENV)/ready compiled
	@$(VENV)/bin/python tools/requirements.py fuzz | \
		$(VENV)/bin/pip install --quiet --disable-pip-version-check --only-binary atheris -r /dev/stdin || \
		echo "atheris cannot be installed here"
	$(VENV)/bin/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

# The usual run takes a sample of the faults.
faults: $(VENV)/ready compiled
	@tools/install-missing $(RUN_PACKAGES) $(TEST_PACKAGES)
	$(SUDO) env FAULTS=all $(VENV)/bin/python -m pytest tests/faults $(PYTEST_FLAGS)

soak: $(VENV)/ready compiled
	@tools/install-missing $(RUN_PACKAGES) busybox-static
	$(SUDO) $(VENV)/bin/python -m tests.faults.soak $(SOAK_FLAGS)

vm: $(VENV)/ready compiled
	@tools/install-missing $(RUN_PACKAGES) $(TEST_PACKAGES) $(VM_PACKAGES)
	$(SUDO) $(VENV)/bin/python -m tests.vm --mode $(VM_MODE) $(VM_TESTS) $(PYTEST_FLAGS)

vm-selinux: $(VENV)/ready compiled
	@tools/install-missing $(RUN_PACKAGES) $(TEST_PACKAGES) $(VM_PACKAGES) secilc
	$(SUDO) $(VENV)/bin/python -m tests.vm --security selinux tests/integration/test_selinux.py $(PYTEST_FLAGS)

unit: $(VENV)/ready compiled
	$(VENV)/bin/python -m pytest tests/unit $(PYTEST_FLAGS)

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m tools.inside
	# Exit status 2 is a crash of mypy 2.4 itself, seen once in a while; it says nothing about the code, so ask again.
	$(VENV)/bin/mypy || { [ $$? = 2 ] && $(VENV)/bin/mypy --no-incremental; }

bench: compiled
	@tools/install-missing $(RUN_PACKAGES) $(BENCH_PACKAGES)
	$(SUDO) $(PYTHON) bench/run.py --docs docs $(BENCH_FLAGS)

install:
	@tools/install-missing $(RUN_PACKAGES) python3-pip python3-venv
	$(SUDO) env PIP_BREAK_SYSTEM_PACKAGES=1 $(PYTHON) -m pip install --quiet --root-user-action=ignore .
	@echo "installed: $$(command -v pyruntime || echo pyruntime, in a directory that is not in PATH)"

uninstall:
	$(SUDO) env PIP_BREAK_SYSTEM_PACKAGES=1 $(PYTHON) -m pip uninstall --quiet --yes --root-user-action=ignore pyruntime

seal: compiled
	$(SUDO) bin/pyruntime seal

unseal: compiled
	$(SUDO) bin/pyruntime seal --remove

clean:
	rm -rf $(VENV) build pyruntime/hot.* *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
