// The job of benches/compare.py, done by indigo: FILE... [--stream].
//
// Its atproto/repo loads the whole repo and verifies it; with --stream its repo.StreamRepoRecords
// walks while it reads, and verifies nothing.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/bluesky-social/indigo/atproto/repo"
	streaming "github.com/bluesky-social/indigo/repo"
	"github.com/ipfs/go-cid"
)

const module = "github.com/bluesky-social/indigo"

// What was seen on the walk, and what it took.
type report struct {
	Records     int     `json:"records"`
	RecordBytes int     `json:"record_bytes"`
	KeyBytes    int     `json:"key_bytes"`
	Seconds     float64 `json:"seconds"`
	GrowthKiB   int     `json:"growth_kib"`
	Spilled     int     `json:"spilled"`
	Version     string  `json:"version"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run(files []string) error {
	files, stream := without(files, "--stream")
	if len(files) == 0 {
		return errors.New("no FILE given")
	}
	// 5 resets the peak to what is resident now; where that is not allowed the growth is counted
	// from the peak so far.
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
	base, err := peakKiB()
	if err != nil {
		return err
	}
	seen := report{Version: version()}
	start := time.Now()
	add := seen.add
	if stream {
		add = seen.addStreaming
	}
	for _, file := range files {
		if err := add(file); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	seen.Seconds = time.Since(start).Seconds()
	peak, err := peakKiB()
	if err != nil {
		return err
	}
	seen.GrowthKiB = max(peak-base, 0)
	return json.NewEncoder(os.Stdout).Encode(seen)
}

func (seen *report) add(path string) error {
	ctx := context.Background()
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, loaded, err := repo.LoadRepoFromCAR(ctx, file) // puts a bufio.Reader of its own before it
	if err != nil {
		return err
	}
	return loaded.MST.Walk(func(key []byte, record cid.Cid) error {
		block, err := loaded.RecordStore.Get(ctx, record)
		if err != nil {
			return err
		}
		seen.Records++
		seen.RecordBytes += len(block.RawData())
		seen.KeyBytes += len(key)
		return nil
	})
}

func (seen *report) addStreaming(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return streaming.StreamRepoRecords(
		context.Background(), "", file, "", nil,
		func(key string, _ cid.Cid, record []byte) error {
			seen.Records++
			seen.RecordBytes += len(record)
			seen.KeyBytes += len(key)
			return nil
		},
	)
}

// The arguments without an option, and whether it was there.
func without(arguments []string, option string) ([]string, bool) {
	rest := slices.DeleteFunc(slices.Clone(arguments), func(each string) bool { return each == option })
	return rest, len(rest) < len(arguments)
}

func peakKiB() (int, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, found := bytes.Cut(status, []byte("VmHWM:"))
	if !found {
		return 0, errors.New("no VmHWM")
	}
	line, _, _ := bytes.Cut(rest, []byte(" kB"))
	return strconv.Atoi(string(bytes.TrimSpace(line)))
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == module {
				return dep.Version
			}
		}
	}
	return "unknown"
}
