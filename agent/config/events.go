package config

// Events configures the event file: every outcome as one JSON line. Package
// agent/event describes it.
type Events struct {
	// File is where events go, an absolute path; "" turns them off. It is opened
	// anew on a reload. Default: "".
	File string `toml:"file"`
	// MaxSize is the size in bytes after which the file is renamed to File.1, that
	// to File.2 and so on; 0 leaves rotation to others. Default: "100MiB".
	MaxSize Size `toml:"max_size"`
	// Keep is how many renamed files are kept. Default: 10.
	Keep int `toml:"keep"`
}
