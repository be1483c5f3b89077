package city

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

// ErrBackup is wrapped where a backup cannot be read.
var ErrBackup = errors.New("cannot read the backup")

// RestoreOptions say how a backup is read, and what is known of the city that it is of.
type RestoreOptions struct {
	// Identities open an encrypted backup.
	Identities []age.Identity
	// Gone: the city that the backup is of has ended for good and cannot come back. The
	// restored one then signs ledger blocks again at once; else it first watches that
	// nobody else does with its key.
	Gone bool
}

// Restore makes a city below root from a backup, whole or not at all. It refuses to
// overwrite one.
func Restore(ctx context.Context, root, file string, o RestoreOptions) (m Manifest, err error) {
	in, err := os.Open(file)
	if err != nil {
		return m, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Join(root, "cities"), 0o700); err != nil {
		return m, fmt.Errorf("make home folder: %w", err)
	}
	temp, err := os.MkdirTemp(filepath.Join(root, "cities"), ".restore-")
	if err != nil {
		return m, fmt.Errorf("make folder: %w", err)
	}
	defer os.RemoveAll(temp)
	if m, err = unpack(ctx, in, temp, o.Identities); err != nil {
		return m, err
	}
	h := Home{root, m.City}
	if _, err := os.Stat(h.Dir()); !errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("there is a city %q in %s already: a restore does not overwrite one; move %s away first", m.City, root, h.Dir())
	}
	if err := prepareRestored(filepath.Join(temp, "city"), m, o.Gone); err != nil {
		return m, err
	}
	if err := keepOperatorKey(root, temp, m.Operator); err != nil {
		return m, err
	}
	if err := os.Rename(filepath.Join(temp, "city"), h.Dir()); err != nil {
		return m, fmt.Errorf("put the city in place: %w", err)
	}
	return m, nil
}

// prepareRestored checks an unpacked city and prepares its first start.
func prepareRestored(dir string, m Manifest, gone bool) error {
	b, err := os.ReadFile(filepath.Join(dir, "city.json"))
	var s State
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil || s.Name != m.City || s.Operator != m.Operator {
		return fmt.Errorf("%w: it is not of city %q of operator %q: %v", ErrBackup, m.City, m.Operator, err)
	}
	if m.Trust.Height > 0 {
		s.Trust = m.Trust
	}
	s.Resync = false // the newest block that it knew is the newest that it could trust
	if b, err = json.MarshalIndent(s, "", "  "); err != nil {
		return fmt.Errorf("encode city: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "city.json"), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write city: %w", err)
	}
	if !m.Keys || s.Network == "" {
		return nil
	}
	return ledger.MarkRestored(filepath.Join(dir, "ledger"), gone)
}

// keepOperatorKey puts the operator's key in place, unless it is there.
func keepOperatorKey(root, temp, operator string) error {
	from, to := filepath.Join(temp, "operators", operator+".key"), OperatorKey(root, operator)
	b, err := os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read operator's key: %w", err)
	}
	old, err := os.ReadFile(to)
	switch {
	case err == nil && bytes.Equal(bytes.TrimSpace(old), bytes.TrimSpace(b)):
		return nil
	case err == nil:
		return fmt.Errorf("%s is another key of operator %q than the backup's: move it away first", to, operator)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read operator's key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return fmt.Errorf("keep operator's key: %w", err)
	}
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("keep operator's key: %w", err)
	}
	return nil
}

// unpack reads a backup into dir/city and dir/operators and compares every file with
// the list at its end.
func unpack(ctx context.Context, in io.Reader, dir string, identities []age.Identity) (m Manifest, err error) {
	r := bufio.NewReader(in)
	var plain io.Reader = r
	if head, _ := r.Peek(len(ageMagic)); string(head) == ageMagic {
		if len(identities) == 0 {
			return m, fmt.Errorf("%w: it is encrypted: name the file with its passphrase (--passphrase-file) or with the identity (--identity)", ErrBackup)
		}
		if plain, err = age.Decrypt(r, identities...); err != nil {
			var none *age.NoIdentityMatchError
			if errors.As(err, &none) {
				return m, fmt.Errorf("%w: wrong passphrase or identity", ErrBackup)
			}
			return m, fmt.Errorf("%w: %w", ErrBackup, err)
		}
	}
	z, err := gzip.NewReader(plain)
	if err != nil {
		return m, fmt.Errorf("%w: it is no backup of a city, or damaged at its beginning: %w", ErrBackup, err)
	}
	files, m, err := unpackFiles(ctx, tar.NewReader(io.LimitReader(z, maxBackup)), dir)
	if err != nil {
		return m, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	if _, err := io.Copy(io.Discard, z); err != nil { // the rest of the check sum
		return m, fmt.Errorf("%w: damaged at its end: %w", ErrBackup, err)
	}
	if m.Format != 1 {
		return m, fmt.Errorf("%w: it has format %d, and this bsn knows 1: use a newer bsn", ErrBackup, m.Format)
	}
	if err := errors.Join(bsn.CheckName("city", m.City), bsn.CheckName("operator", m.Operator)); err != nil {
		return m, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	if len(files) != len(m.Files) {
		return m, fmt.Errorf("%w: it holds %d files and lists %d", ErrBackup, len(files), len(m.Files))
	}
	for i, f := range m.Files {
		if files[i] != f {
			return m, fmt.Errorf("%w: %s is not the file that was backed up", ErrBackup, f.Path)
		}
	}
	return m, nil
}

func unpackFiles(ctx context.Context, t *tar.Reader, dir string) (files []BackupFile, m Manifest, err error) {
	for {
		head, err := t.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, m, errors.New("it is cut off: its end, with the list of its files, is missing")
		}
		if err != nil {
			return nil, m, fmt.Errorf("damaged: %w", err)
		}
		if err := ctx.Err(); err != nil {
			return nil, m, err
		}
		if head.Name == manifestName {
			b, err := io.ReadAll(io.LimitReader(t, maxManifest))
			if err == nil {
				err = json.Unmarshal(b, &m)
			}
			if err != nil {
				return nil, m, fmt.Errorf("damaged list of files: %w", err)
			}
			return files, m, nil
		}
		if len(files) == maxBackupFiles {
			return nil, m, fmt.Errorf("more than %d files", maxBackupFiles)
		}
		f, err := unpackFile(t, head, dir)
		if err != nil {
			return nil, m, err
		}
		files = append(files, f)
	}
}

func unpackFile(t io.Reader, head *tar.Header, dir string) (f BackupFile, err error) {
	if head.Typeflag != tar.TypeReg || !filepath.IsLocal(head.Name) || filepath.ToSlash(filepath.Clean(head.Name)) != head.Name || head.Size < 0 {
		return f, fmt.Errorf("damaged: %.100q is no file of a city", head.Name)
	}
	to := filepath.Join(dir, "city", filepath.FromSlash(head.Name))
	if strings.HasPrefix(head.Name, "operators/") {
		to = filepath.Join(dir, filepath.FromSlash(head.Name))
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return f, err
	}
	f = BackupFile{Path: head.Name, Size: head.Size, Mode: fs.FileMode(head.Mode) & 0o700}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.Mode|0o600)
	if err != nil {
		return f, err
	}
	defer out.Close()
	sum := sha256.New()
	if n, err := io.Copy(io.MultiWriter(out, sum), t); err != nil || n != head.Size {
		return f, fmt.Errorf("damaged at %s: %w", head.Name, errors.Join(err, io.ErrUnexpectedEOF))
	}
	f.SHA256 = sumHex(sum)
	return f, out.Close()
}
