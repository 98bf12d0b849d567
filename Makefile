# Two commands do all the set-up: `make demo` (what a device runs) and `make test` (everything).
PYTHON ?= python3
EDGE := .venv-edge
FULL := .venv
PYTEST := $(FULL)/bin/pytest --numprocesses auto --maxprocesses 4 --dist worksteal
.PHONY: demo test setup check format bench arm-test arm-bench deb deb-test image image-test dist clean

demo: $(EDGE)/.installed
	$(EDGE)/bin/serkit demo

test: $(FULL)/.installed
	$(PYTEST)

setup: $(FULL)/.installed

check: $(FULL)/.installed
	$(FULL)/bin/ruff check
	$(FULL)/bin/ruff format --check
	$(FULL)/bin/mypy
	$(PYTEST)

format: $(FULL)/.installed
	$(FULL)/bin/ruff check --fix
	$(FULL)/bin/ruff format

bench: $(FULL)/.installed
	$(FULL)/bin/serkit bench frontend --out benchmarks/results/frontend.json

# On an emulated aarch64, as root: `apt install mmdebstrap arch-test`.
arm-test:
	deploy/arm/emulate test

arm-bench: $(FULL)/.installed
	$(FULL)/bin/serkit bench arm --out benchmarks/results/arm.json

# Debian packages for Debian 12; `make deb DEB_RELEASE=jammy` for JetPack 6, trixie for Debian 13. See deploy/README.md.
DEB_RELEASE ?= bookworm
deb:
	deploy/debian/build arm64 $(DEB_RELEASE)
	deploy/debian/build amd64 $(DEB_RELEASE)

# As root: `apt install lintian mmdebstrap arch-test`.
deb-test: deb
	deploy/debian/check dist/serkit_*.deb
	deploy/debian/check again dist/serkit_*.deb

# As root: `apt install mmdebstrap arch-test qemu-user-static mtools dosfstools fdisk kmod`, and serkit's package in dist/.
image:
	deploy/pi/build image

# In QEMU: `apt install qemu-system-arm mtools fdisk e2fsprogs openssh-client`.
image-test: $(FULL)/.installed
	$(FULL)/bin/python deploy/pi/boot_test.py virt dist/serkit-pi-bookworm.img
	$(FULL)/bin/python deploy/pi/boot_test.py raspi3b dist/serkit-pi-bookworm.img

dist: $(FULL)/.installed
	$(FULL)/bin/python -m build

clean:
	rm -rf $(EDGE) $(FULL) dist

$(EDGE)/.installed: pyproject.toml
	$(PYTHON) -m venv $(EDGE)
	$(EDGE)/bin/pip install --quiet --upgrade 'pip>=25.1'
	$(EDGE)/bin/pip install --quiet --editable .
	touch $@

$(FULL)/.installed: pyproject.toml
	$(PYTHON) -m venv $(FULL)
	$(FULL)/bin/pip install --quiet --upgrade 'pip>=25.1'
	$(FULL)/bin/pip install --quiet --group dev \
	    --editable '.[train,jax,teacher,sweep,reference,tflite-runtime,mqtt,prometheus,web]'
	touch $@
