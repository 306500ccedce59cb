package sink

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"strings"

	"github.com/BurntSushi/toml"
)

// Scenario is a set of providers, as a file has it:
//
//	[[provider]]
//	name = "google"
//	domains = ["gmail.com", "g*.example"]
//	hosts = 5
//	host_name = "mx%d.google.com"
//	[provider.behaviour]
//	rtt = "30ms"
//	host_connections = 20
type Scenario struct {
	Provider []Provider `toml:"provider"`
}

//go:embed presets/*.toml
var presets embed.FS

// Presets names the scenarios that come with the package.
func Presets() []string {
	files, err := fs.Glob(presets, "presets/*.toml")
	if err != nil {
		return nil
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(strings.TrimPrefix(f, "presets/"), ".toml")
	}
	return files
}

// PresetText gives the text of a preset.
func PresetText(name string) (string, error) {
	text, err := presets.ReadFile("presets/" + name + ".toml")
	if err != nil {
		return "", fmt.Errorf("sink: no preset %q; there are %s", name, strings.Join(Presets(), ", "))
	}
	return string(text), nil
}

// ParseScenario reads a scenario and refuses keys it does not know.
func ParseScenario(text string) (*Scenario, error) {
	var s Scenario
	meta, err := toml.Decode(text, &s)
	if err != nil {
		return nil, fmt.Errorf("sink: scenario: %w", err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("sink: scenario: unknown key %s", unknown[0])
	}
	if len(s.Provider) == 0 {
		return nil, fmt.Errorf("sink: scenario: no [[provider]]")
	}
	return &s, nil
}

// AddScenario adds the providers of a scenario.
func (n *Internet) AddScenario(s *Scenario) error {
	for _, p := range s.Provider {
		if err := n.Add(p); err != nil {
			return err
		}
	}
	return nil
}

// setTOML sets the keys of a TOML text in a behaviour; others stay.
func (b *Behaviour) setTOML(text string) error {
	meta, err := toml.Decode(text, b)
	if err != nil {
		return err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return fmt.Errorf("unknown key %s", unknown[0])
	}
	return nil
}

func (b *Behaviour) toTOML() ([]byte, error) {
	var text bytes.Buffer
	if err := toml.NewEncoder(&text).Encode(b); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}
