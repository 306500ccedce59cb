package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// load is what the programs under measurement occupy.
type load struct {
	processes int
	memory    float64 // octets; what processes share counts once
}

// loadEvery is how often it is looked at: a thousand processes take a while.
const loadEvery = 2 * time.Second

// watchLoad gives the highest load until ctx ends. All processes of the closed
// room are looked at, except this one: it is injector and internet.
func watchLoad(ctx context.Context) (most load) {
	look := time.NewTicker(loadEvery)
	defer look.Stop()
	for {
		now := loadNow()
		most.processes = max(most.processes, now.processes)
		most.memory = max(most.memory, now.memory)
		select {
		case <-look.C:
		case <-ctx.Done():
			return most
		}
	}
}

func loadNow() (l load) {
	own := strconv.Itoa(os.Getpid())
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		if filepath.Base(d) == own {
			continue
		}
		kb, err := kilobytesOf(filepath.Join(d, "smaps_rollup"), "Pss")
		if err != nil { // it has ended meanwhile, or is a zombie
			continue
		}
		l.processes++
		l.memory += 1024 * kb
	}
	return l
}
