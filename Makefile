# h2k on a fresh Debian 12 machine: `make demo` shows the main job, `make test` runs everything.

SHELL := /bin/bash
PYTHON := /usr/bin/python3
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# What h2k runs on, and what only its tests and the demo need.
RUNTIME := virt-v2v libguestfs-tools python3-guestfs python3-hivex libhivex-bin qemu-utils qemu-system-x86 ovmf \
  python3-libnbd libnbd-bin nbdkit python3-tsk python3-libvirt libvirt-daemon-system libvirt-clients \
  python3-asn1crypto python3-lxml python3-yaml python3-click python3-jinja2 python3-jsonschema python3-pefile python3-rich python3-pil \
  linux-image-amd64 ntfs-3g bubblewrap mtools util-linux
TESTING := python3-pytest python3-pytest-timeout python3-pytest-xdist python3-hypothesis python3-cryptography \
  python3-venv mypy python3-pytest-cov \
  xorriso virtinst libxml2-utils dosfstools fdisk swtpm swtpm-tools busybox-static \
  grub-pc-bin grub-common systemd-boot-efi binutils cpio kmod \
  openssh-server openssh-client ansible-core chromium chromium-driver python3-selenium fonts-dejavu-core osslsigncode wine wine64 gcc-mingw-w64-x86-64-win32

.PHONY: deps demo test
deps:
	@missing=$$(for p in $(RUNTIME) $(TESTING); do \
	  dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	fi

demo: deps
	@$(PYTHON) -m tests.demo build/demo

# Five made guests, two of them broken: survey, waves, run.
.PHONY: demo-fleet
demo-fleet: deps
	@$(PYTHON) -m tests.demo_fleet build/demo-fleet

# Linters and tests: the linters come from PyPI, into .venv, which sees the system's packages; and axe-core's accessibility
# rules, which axe-playwright-python has with it (4.12.1), without Playwright.
.venv/ready: Makefile
	@[ -x .venv/bin/pip ] || $(PYTHON) -m venv --system-site-packages .venv
	@.venv/bin/pip install -q --disable-pip-version-check ruff python-registry
	@.venv/bin/pip install -q --disable-pip-version-check --no-deps axe-playwright-python==0.1.8
	@touch $@

# The pictures of pages that are kept: tests/golden, docs/pictures.
.PHONY: pictures
pictures: deps .venv/ready
	.venv/bin/python -m tests.pictures

.PHONY: lint bench
lint: deps .venv/ready
	.venv/bin/ruff check --quiet .
	mypy h2k
	@for hook in hooks/*.py; do mypy --no-error-summary $$hook || exit 1; done

test: lint
	.venv/bin/python -m pytest -n 2 --dist loadgroup -m "unit or integration"

# One fault, put into a copy of a made guest, and what h2k says of it: make fault F=driver-start-override
.PHONY: fault faults fuzz attack
fault: deps
	@$(PYTHON) -m tests.guests.faults try $(F)

# Every fault on every made guest that it fits, and what virt-v2v itself says of it; make faults WRITER=appliance (or direct).
faults: deps
	@$(PYTHON) -m tests.guests.faults matrix --all --v2v --writer $(or $(WRITER),auto)

fuzz: deps
	@$(PYTHON) -m tests.fuzz --seconds $(or $(SECONDS),120)

# Damaged bytes into every parser, damaged disks through whole looks, runs on two disks killed at random; ten minutes.
attack: deps
	@$(PYTHON) -m tests.attack --seconds $(or $(SECONDS),540)

# What `h2k verify` says and what the boot lab does, for every fault that it can show, as a table; an hour on two cores.
.PHONY: lab
lab: deps .venv/ready
	.venv/bin/python -m pytest -q -m "integration or lab" tests/boot

# What `make test` has no time for: the boot cycle with all its ways to go wrong, and every way in with the real virt-v2v.
.PHONY: test-long
test-long: deps .venv/ready
	.venv/bin/python -m pytest -m long

# From two ISOs to a table of evidence: docs/prove-on-windows.md. As root, on a host with KVM; hours.
.PHONY: windows
windows:
	@[ -n "$(WINDOWS_ISO)" ] && [ -n "$(VIRTIO_WIN_ISO)" ] || { echo "make windows WINDOWS_ISO=… VIRTIO_WIN_ISO=… (docs/prove-on-windows.md)" >&2; exit 2; }
	@! command -v apt-get >/dev/null || $(MAKE) --no-print-directory deps
	$(SUDO) $(PYTHON) -m tests.windows --windows-iso "$(WINDOWS_ISO)" --virtio-win-iso "$(VIRTIO_WIN_ISO)" --faults "$(FAULTS)" \
	  --firmware "$(FIRMWARE)" --edition "$(EDITION)" --libvirt $(or $(LIBVIRT),system) $(if $(WORK),--work "$(WORK)") \
	  $(if $(VIRT_TOOLS),--virt-tools "$(VIRT_TOOLS)")

# h2k beside virt-inspector and virt-v2v, as ratios; WRITE=1 puts the table into docs/performance.md. On a machine that does nothing else.
bench: deps
	@$(PYTHON) -m tests.bench $(if $(WRITE),--write)

# Packages, from the checkout as it is, in build/. package-test tries them in a clean Debian root, as root.
PACKAGING := bash-completion cpio debhelper debootstrap dh-python lintian lowdown man-db rpm rpm2cpio rpmlint
.PHONY: packaging-deps man deb rpm package-test
packaging-deps:
	@$(MAKE) --no-print-directory deps TESTING="$(TESTING) $(PACKAGING)"

man: packaging-deps
	packaging/man build/man

deb: packaging-deps
	@$(PYTHON) packaging/build.py deb

rpm: packaging-deps
	@$(PYTHON) packaging/build.py rpm

package-test: packaging-deps .venv/ready
	@.venv/bin/pip install -q --disable-pip-version-check vermin
	$(SUDO) .venv/bin/python -m pytest -x -p no:cacheprovider -m package tests/package/check_source.py tests/package/check_deb.py tests/package/check_rpm.py

# The README's two commands in a clean Debian 12: what a new user meets. As root; most of an hour.
.PHONY: fresh-test
fresh-test: packaging-deps
	$(SUDO) $(PYTHON) -m tests.fresh

# Does a unit test notice a broken line? 300 mutants by a seed, each met by the tests that run its line; SEED and COUNT choose.
.PHONY: mutants
mutants: deps .venv/ready
	@[ -x build/mutants/tools/bin/cosmic-ray ] || { $(PYTHON) -m venv --system-site-packages build/mutants/tools && \
	  build/mutants/tools/bin/pip install -q --disable-pip-version-check cosmic-ray; }
	.venv/bin/python -m tests.mutants --count $(or $(COUNT),300) --seed $(or $(SEED),2)

# Does a test notice that a guard is gone? Each is taken out once, in a copy; as root, half an hour. ROWS chooses.
.PHONY: guards
guards: deps .venv/ready
	.venv/bin/python -m tests.guards $(ROWS)

# Debian 12, 13 and sid, each in a root of its own, and the table of docs/compatibility.md. As root; hours on two cores.
.PHONY: matrix
matrix: packaging-deps
	$(SUDO) $(PYTHON) -m tests.matrix --write
