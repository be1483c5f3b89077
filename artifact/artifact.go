// Package artifact keeps packages by the SHA-256 of their content: genesis
// files, contracts, chaincode. Whoever knows a hash can check what it gets, so
// that artifacts may come from anywhere; only hashes are on the ledger.
package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

var (
	// ErrNotFound means that the store, or every city asked, lacks the artifact.
	ErrNotFound = errors.New("no such artifact")
	// ErrMismatch means that content is not what its hash says.
	ErrMismatch = errors.New("artifact does not match its hash")
	// ErrTooLarge means that content is larger than the store takes.
	ErrTooLarge = errors.New("artifact is too large")
	// ErrFull means that the store holds as much as it may.
	ErrFull = errors.New("artifact store is full")
	// ErrHash means that a text is not a SHA-256 in lower-case hex.
	ErrHash = errors.New("malformed artifact hash")
)

// Store is a folder of artifacts, each in a file named by its hash. One process
// has it open at a time; its methods may be called concurrently.
type Store struct {
	dir string
	max int64
	all int64 // the most bytes of all artifacts

	mu   sync.Mutex
	held int64 // bytes of all artifacts, and of those that are being put
}

// Open makes the folder if there is none. No artifact may have more than
// maxSize bytes, and all together no more than maxTotal.
func Open(dir string, maxSize, maxTotal int64) (*Store, error) {
	if maxSize <= 0 || maxTotal < maxSize {
		return nil, fmt.Errorf("open artifact store: maximal size %d of %d in all: want at least 1 byte, and no more than in all", maxSize, maxTotal)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open artifact store: %w", err)
	}
	// What a killed process was about to put.
	left, err := filepath.Glob(filepath.Join(dir, ".new-*"))
	if err != nil {
		return nil, fmt.Errorf("open artifact store: %w", err)
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("open artifact store: %w", err)
		}
	}
	s := &Store{dir: dir, max: maxSize, all: maxTotal}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open artifact store: %w", err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			s.held += info.Size()
		}
	}
	return s, nil
}

// reserve makes room for bytes. Error: [ErrFull].
func (s *Store) reserve(bytes int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held+bytes > s.all {
		return fmt.Errorf("%w: it holds %d of %d bytes", ErrFull, s.held, s.all)
	}
	s.held += bytes
	return nil
}

// Bytes is the size of all artifacts, and of those that are being put.
func (s *Store) Bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

func (s *Store) giveBack(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held -= bytes
}

// room reserves room for what is written.
type room struct {
	s     *Store
	taken int64
}

// Write implements io.Writer.
func (r *room) Write(b []byte) (int, error) {
	if err := r.s.reserve(int64(len(b))); err != nil {
		return 0, err
	}
	r.taken += int64(len(b))
	return len(b), nil
}

// Hash is the name of content: its SHA-256 in lower-case hex.
func Hash(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// CheckHash tells whether a text has the form of a hash. Error: [ErrHash].
func CheckHash(hash string) error {
	if len(hash) != 2*sha256.Size || strings.Trim(hash, "0123456789abcdef") != "" {
		return fmt.Errorf("%w %.70q: want 64 lower-case hex digits", ErrHash, hash)
	}
	return nil
}

func (s *Store) path(hash string) string { return filepath.Join(s.dir, hash) }

// Put stores what r yields, on disk when it returns, and returns its hash. If
// want is not empty the content must have that hash. Errors: [ErrTooLarge],
// [ErrFull], [ErrMismatch], [ErrHash], and r's own.
func (s *Store) Put(r io.Reader, want string) (string, error) {
	if want != "" {
		if err := CheckHash(want); err != nil {
			return "", err
		}
	}
	f, err := os.CreateTemp(s.dir, ".new-*") // mode 0600
	if err != nil {
		return "", fmt.Errorf("store artifact: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	place := &room{s: s}
	defer func() { s.giveBack(place.taken) }() // of what was not kept
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(place, f, sum), io.LimitReader(r, s.max))
	if err != nil {
		return "", fmt.Errorf("store artifact: %w", err)
	}
	if n == s.max {
		if err := atEnd(r); err != nil {
			return "", fmt.Errorf("store artifact: %w (at most %d bytes)", err, s.max)
		}
	}
	hash := hex.EncodeToString(sum.Sum(nil))
	if want != "" && hash != want {
		return "", fmt.Errorf("store artifact: %w: want %s, the content has %s", ErrMismatch, want, hash)
	}
	before := s.size(hash)
	if err := s.keep(f, hash); err != nil {
		return "", fmt.Errorf("store artifact %s: %w", hash, err)
	}
	place.taken = before // which it took the place of
	return hash, nil
}

// atEnd tells whether a reader has no more. Error: [ErrTooLarge] if it has.
func atEnd(r io.Reader) error {
	n, err := io.ReadFull(r, make([]byte, 1))
	if n > 0 {
		return ErrTooLarge
	}
	if err != io.EOF {
		return err
	}
	return nil
}

// keep gives a complete file its name, so that it survives a power cut.
func (s *Store) keep(f *os.File, hash string) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), s.path(hash)); err != nil {
		return err
	}
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// Get returns an artifact's content, checked. Errors: [ErrNotFound], [ErrHash],
// and [ErrMismatch] if the file was damaged, which the next Put repairs.
func (s *Store) Get(hash string) ([]byte, error) {
	if err := CheckHash(hash); err != nil {
		return nil, err
	}
	f, err := os.Open(s.path(hash))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, hash)
	}
	if err != nil {
		return nil, fmt.Errorf("read artifact: %w", err)
	}
	defer f.Close()
	var content bytes.Buffer
	if _, err := content.ReadFrom(io.LimitReader(f, s.max+1)); err != nil {
		return nil, fmt.Errorf("read artifact: %w", err)
	}
	if int64(content.Len()) > s.max {
		return nil, fmt.Errorf("read artifact %s: %w (at most %d bytes)", hash, ErrTooLarge, s.max)
	}
	if got := Hash(content.Bytes()); got != hash {
		return nil, fmt.Errorf("read artifact %s: %w: the file has %s", hash, ErrMismatch, got)
	}
	return content.Bytes(), nil
}

// size is how many bytes an artifact's file has; 0 if there is none.
func (s *Store) size(hash string) int64 {
	info, err := os.Stat(s.path(hash))
	if err != nil {
		return 0
	}
	return info.Size()
}

// open returns an artifact's file, checked, for reading from its beginning. Errors
// as of [Store.Get].
func (s *Store) open(hash string) (*os.File, error) {
	if err := CheckHash(hash); err != nil {
		return nil, err
	}
	f, err := os.Open(s.path(hash))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, hash)
	}
	if err != nil {
		return nil, fmt.Errorf("read artifact: %w", err)
	}
	sum := sha256.New()
	if _, err = io.Copy(sum, f); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); err == nil && got != hash {
		err = fmt.Errorf("%w: the file has %s", ErrMismatch, got)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read artifact %s: %w", hash, err)
	}
	return f, nil
}

// Tidy deletes the artifacts that came before a time and that nobody wants, and
// returns how many those were.
func (s *Store) Tidy(before time.Time, wanted func(hash string) bool) (deleted int, err error) {
	hashes, err := s.List()
	if err != nil {
		return 0, err
	}
	for _, hash := range hashes {
		info, err := os.Stat(s.path(hash))
		if err != nil || wanted(hash) || !info.ModTime().Before(before) {
			continue
		}
		if err := os.Remove(s.path(hash)); err != nil {
			return deleted, fmt.Errorf("delete artifact: %w", err)
		}
		s.giveBack(info.Size())
		deleted++
	}
	return deleted, nil
}

// Has tells whether the store holds an artifact, without checking its content.
func (s *Store) Has(hash string) bool {
	if CheckHash(hash) != nil {
		return false
	}
	info, err := os.Stat(s.path(hash))
	return err == nil && info.Mode().IsRegular()
}

// List returns the hashes of all artifacts in order.
func (s *Store) List() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list artifacts: %w", err)
	}
	hashes := make([]string, 0, len(entries))
	for _, e := range entries {
		if s.Has(e.Name()) {
			hashes = append(hashes, e.Name())
		}
	}
	return hashes, nil
}
