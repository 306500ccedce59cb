// Package program is what the three programs share: the flags --config,
// --log-level and --version, the log, exit codes, and the life of a daemon under systemd.
//
// A daemon's main is one call of Serve; its log is as [log] says (log.go). The
// command uses Flags and Parse.
package program

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/printable"
)

// Exit codes, as in sysexits(3).
const (
	ExitFailure  = 1
	ExitUsage    = 64 // EX_USAGE: wrong flags
	ExitTempFail = 75 // EX_TEMPFAIL: a part of the answer is to be had later
	ExitConfig   = 78 // EX_CONFIG: the configuration cannot be used
)

// Usage is an error about the command line.
func Usage(format string, args ...any) error {
	return Error{Code: ExitUsage, Err: fmt.Errorf(format, args...)}
}

// version is set by packagers: -ldflags "-X .../program.version=1.2.3".
var version string

// Version is the program's version: the packager's, or what the Go tool knows
// of the source.
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// Flags are the flags of every program; a program embeds them in its own.
type Flags struct {
	Config   string           `short:"c" default:"${config}" placeholder:"FILE" help:"Configuration file; conf.d/*.toml beside it is read too. Default: ${default}."`
	LogLevel *slog.Level      `placeholder:"LEVEL" help:"Least severe messages to log: debug, info, warn or error. Default: that of the configuration, info."`
	Version  kong.VersionFlag `help:"Print the version and exit."`
	Manual   manual           `name:"man" hidden:""`
}

// Load reads the configuration. Its error, if any, carries ExitConfig.
func (f Flags) Load() (*config.Config, []config.Notice, error) {
	c, notices, err := config.Load(f.Config)
	if err != nil {
		return nil, nil, Error{Code: ExitConfig, Err: err}
	}
	return c, notices, nil
}

// Error is an error with the exit code it should end the program with.
type Error struct {
	Code int
	Err  error
}

func (e Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e Error) Unwrap() error { return e.Err }

// Exit prints an error, each of its lines with the program's name before it,
// and ends the program with the error's code; nil ends it with 0.
func Exit(name string, err error) {
	if err == nil {
		os.Exit(0)
	}
	report(os.Stderr, name, err)
	var e Error
	if errors.As(err, &e) {
		os.Exit(e.Code)
	}
	os.Exit(ExitFailure)
}

func report(w io.Writer, name string, err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		printable.Fprintf(w, "%s: %s\n", name, line)
	}
}

// verbatim takes an argument as it is. Kong's own way leads through JSON, which changes what
// is not UTF-8: names of files may not be.
func verbatim(ctx *kong.DecodeContext, target reflect.Value) error {
	t, err := ctx.Scan.PopValue("string")
	if err != nil {
		return err
	}
	s, ok := t.Value.(string)
	if !ok {
		return fmt.Errorf("expected string value but got %v (%T)", t.Value, t.Value)
	}
	target.SetString(s)
	return nil
}

// Parse reads the command line into cli, a pointer to a struct with kong tags.
// It ends the program for --help and --version, and with ExitUsage for a
// command line that it does not understand.
func Parse(name, description string, cli any) *kong.Context {
	k := kong.Must(cli,
		kong.Name(name),
		kong.Description(description),
		kong.Vars{"version": name + " " + Version(), "config": config.DefaultFile},
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.KindMapper(reflect.String, kong.MapperFunc(verbatim)),
	)
	ctx, err := k.Parse(os.Args[1:])
	if err != nil {
		var parse *kong.ParseError
		if errors.As(err, &parse) {
			parse.Context.PrintUsage(true)
		}
		Exit(name, Error{Code: ExitUsage, Err: err})
	}
	return ctx
}
