# Millrace. Everything below works on a fresh machine with Go, make and
# apt-get; what runs against a real Postfix needs root.

GO       ?= go
FUZZTIME ?= 10s
ROUNDS   ?= 5
SOAK     ?= 10m
SEED     ?= 1
VULNDB   ?= https://vuln.go.dev

# What the tests run against, and what the race detector needs to be built.
DEMO_PACKAGES = postfix
TEST_PACKAGES = postfix opendkim opendkim-tools unbound python3 python3-flufl.bounce e2fsprogs sqlite3 groff chromium pflogsumm tmux zsh fish swaks msmtp iproute2 redis-server
# What the tests with the build tag "long" add to that.
LONG_PACKAGES = nodejs node-nodemailer php-cli libphp-phpmailer
RACE_PACKAGES = gcc libc6-dev
# What contrib/fleet has beside what is in Debian anyway.
FLEET_PACKAGES = redis-server iproute2 util-linux
DEB_PACKAGES  = debhelper dh-apparmor dpkg-dev

.PHONY: build test demo lint race long fuzz soak fleet vulncheck bench deps deb rpm package-test clean

build:
	$(GO) build -trimpath -o bin/ ./cmd/...
	$(GO) build -trimpath -o bin/millrace-demo ./contrib/demo

# Installs the packages of the tests, and unpacks those of the MTAs that cannot
# be installed beside Postfix, of Mailman and Sympa, which would bring services of their own,
# and Prometheus, of which only promtool is wanted; nothing happens when they are there.
deps:
	contrib/lab/deps/install $(TEST_PACKAGES)
	contrib/lab/deps/unpack sendmail sendmail-bin sendmail-cf
	contrib/lab/deps/unpack exim4 exim4-daemon-light
	contrib/lab/deps/unpack opensmtpd opensmtpd
	contrib/lab/deps/unpack mailman3 mailman3
	contrib/lab/deps/unpack sympa sympa
	command -v promtool >/dev/null || contrib/lab/deps/unpack prometheus prometheus

# -count=1: some tests run programs that they build themselves, which the test
# cache does not see. -vet=off: go vet looks for all that go test would look for, and more.
TEST = $(GO) test -count=1 -vet=off

# The longest packages begin first: they wait for much of their time, and have the others beside
# them.
LONGEST = ./contrib/e2e ./agent ./contrib/bench ./contrib/soak

# What has one goroutine cannot race, and make race leaves it out; agent/race_test.go looks
# whether it has.
ONE_GOROUTINE = agent/address agent/config agent/durable agent/elastic agent/feedback agent/pools agent/printable agent/route/dane agent/slots agent/windows contrib/lab/plot contrib/threats packaging/man
RACING = $(or $(filter-out $(addprefix %/millrace/,$(ONE_GOROUTINE)),$(shell $(GO) list ./...)),$(error $(GO) list names no packages))

test: deps
	$(GO) vet ./...
	@files=$$(gofmt -l .); test -z "$$files" || { echo "gofmt: $$files" >&2; exit 1; }
	$(TEST) -timeout 15m $(LONGEST) ./...

# 5,000 messages through a private Postfix, both daemons and an internet that
# is not there, with the account of it at the end.
demo:
	contrib/lab/deps/install $(DEMO_PACKAGES)
	@$(MAKE) --no-print-directory build
	bin/millrace demo

lint:
	@files=$$(gofmt -l .); test -z "$$files" || { echo "gofmt: $$files" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags long ./...
	$(GO) tool staticcheck ./...

# The tests again with the race detector, in them and in the programs they run. Files with
# the build constraint !race have what one goroutine does alone: simulations, measurements, set-ups of Postfix,
# shells that call the command. Vetting is make lint's.
race: deps
	contrib/lab/deps/install $(RACE_PACKAGES)
	LAB_RACE=1 $(TEST) -race -timeout 30m $(LONGEST) $(RACING)

# Fuzzing for a while, and the tests with the build tag "long".
long: deps
	contrib/lab/deps/install $(LONG_PACKAGES)
	$(MAKE) fuzz FUZZTIME=5m
	$(GO) test -tags long -timeout 6h ./...

# Of what a target finds interesting a few executions make it smaller: by default that may take a
# minute for each, and a target that makes keys did nothing else in 10 seconds. An execution that is
# under way when the time is over may be told as "context deadline exceeded" (go.dev/issue/75804,
# mended in Go 1.27); a failure of the target has its input, or its file and line.
fuzz:
	@set -e; for package in $$($(GO) list ./...); do \
		targets=$$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); \
		for target in $$targets; do \
			said=$$($(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$package 2>&1) || \
				echo "$$said" | grep -qx '    context deadline exceeded' || { echo "$$said"; exit 1; }; \
			echo "$$target: $$(echo "$$said" | tail -3)"; \
		done; \
	done

# Postfix alone and with Millrace, measured in one run; the report with its plots
# is in dist/bench. BENCH is for flags of contrib/bench, such as -scenario blast.
bench:
	contrib/lab/deps/install $(DEMO_PACKAGES) e2fsprogs
	$(GO) run ./contrib/bench -rounds $(ROUNDS) -out dist/bench $(BENCH)

# Mail flows while everything goes wrong, and the ledgers must agree: see
# contrib/soak. A seed repeats a run: make soak SOAK=1h SEED=7
soak: deps
	$(GO) run ./contrib/soak -duration $(SOAK) -seed $(SEED)

# Three nodes share the limits of receivers, while the store, a node or a connection fails:
# see contrib/fleet. FLEET is for its flags: make fleet FLEET="-parts share"
fleet:
	contrib/lab/deps/install $(FLEET_PACKAGES)
	@echo "Building the programs ..."
	@$(GO) run ./contrib/fleet $(FLEET)

# Known vulnerabilities in what the programs call. Without the database nothing
# is known, and that is a failure; VULNDB=file:///DIR names a copy of it.
vulncheck:
	@said=$$($(GO) tool govulncheck -db $(VULNDB) ./... 2>&1); code=$$?; echo "$$said"; \
	case "$$said" in *"fetching vulnerabilities"*) \
		echo "vulncheck: NOT CHECKED: the database at $(VULNDB) cannot be reached" >&2; exit 2;; \
	esac; exit $$code

# The packages, in dist/, of the commit that is checked out.
deb:
	contrib/lab/deps/install $(DEB_PACKAGES)
	packaging/deb dist

rpm:
	contrib/lab/deps/install $(DEB_PACKAGES)
	packaging/rpm dist

# The life of the package on Debians of its own, in containers without a network.
package-test:
	contrib/lab/deps/install $(DEB_PACKAGES) debootstrap systemd-container lintian
	packaging/try bookworm
	packaging/try trixie

clean:
	rm -rf bin dist
