package process

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/openbsn/bsn"
)

const (
	specFile   = "spec.json"
	stateFile  = "state.json"
	logFolder  = "log"
	tempFolder = ".new"
	// maxFiles bounds the content of a specification's files, in bytes, and maxJSON
	// the records about it.
	maxFiles = 64 << 20
	maxJSON  = 2 * maxFiles
	// stopTimeout holds for specifications that do not say one.
	stopTimeout = 10 * time.Second
)

var idPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,127}$`)

func checkID(id string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("node id %.130q: up to 128 of a-z, 0-9 and hyphens are allowed, and no hyphen first", id)
	}
	return nil
}

func checkSpec(spec bsn.NodeSpec) error {
	if err := checkID(spec.ID); err != nil {
		return err
	}
	if !filepath.IsAbs(spec.Binary) {
		return fmt.Errorf("node %s: binary %q is not an absolute path", spec.ID, spec.Binary)
	}
	for _, e := range spec.Env {
		key, _, ok := strings.Cut(e, "=")
		if !ok || key == "" || key == markerKey {
			return fmt.Errorf("node %s: environment entry for %q: want KEY=value, and %s is the runtime's own", spec.ID, key, markerKey)
		}
	}
	size := 0
	for _, f := range spec.Files {
		size += len(f.Content)
		top, _, _ := strings.Cut(filepath.Clean(f.Path), "/")
		switch {
		case !filepath.IsLocal(f.Path) || top == ".":
			return fmt.Errorf("node %s: file %q is not a path inside the node's folder", spec.ID, f.Path)
		case top == specFile || top == stateFile || top == logFolder || top == tempFolder:
			return fmt.Errorf("node %s: file %q: %s is the runtime's own", spec.ID, f.Path, top)
		}
	}
	if size > maxFiles {
		return fmt.Errorf("node %s: files of %d bytes in all, at most %d are allowed", spec.ID, size, maxFiles)
	}
	if spec.StopTimeout < 0 || spec.MemoryMiB < 0 {
		return fmt.Errorf("node %s: negative stop timeout or memory limit", spec.ID)
	}
	return nil
}

func hashJSON(v any) (string, []byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", nil, fmt.Errorf("encode specification: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), b, nil
}

// preparation is what decides whether a node must be prepared again.
type preparation struct {
	Binary  string
	Prepare []string
	Files   []bsn.File
}

// write replaces a file in the node's folder. What a killed daemon left half
// written is in a folder of its own, which the next one empties.
func write(dir, path string, content []byte, mode fs.FileMode) error {
	temp := filepath.Join(dir, tempFolder)
	path = filepath.Join(dir, path)
	if err := errors.Join(os.MkdirAll(temp, 0o700), os.MkdirAll(filepath.Dir(path), 0o700)); err != nil {
		return err
	}
	return renameio.WriteFile(path, content, mode, renameio.WithTempDir(temp), renameio.IgnoreUmask())
}

// writeFiles places a specification's files in the node's folder.
func writeFiles(dir string, files []bsn.File) error {
	for _, f := range files {
		mode := f.Mode.Perm()
		if mode == 0 {
			mode = 0o600
		}
		if err := write(dir, f.Path, f.Content, mode); err != nil {
			return fmt.Errorf("write file %s: %w", f.Path, err)
		}
	}
	return nil
}

// environment is all that a node gets to see of this process's environment.
func environment(spec bsn.NodeSpec, dir, marker string) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	if spec.MemoryMiB > 0 {
		env = append(env, fmt.Sprintf("GOMEMLIMIT=%dMiB", spec.MemoryMiB))
	}
	env = append(env, spec.Env...)
	return append(env, markerKey+"="+marker)
}
