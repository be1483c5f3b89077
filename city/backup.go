package city

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/google/renameio/v2"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/city/api"
	"github.com/openbsn/bsn/gateway/journal"
	"github.com/openbsn/bsn/ledger"
	"github.com/openbsn/bsn/ledger/key"
	"github.com/openbsn/bsn/runtime/process"
)

const (
	// maxBackup bounds what a backup may unpack to, and maxBackupFiles how many files.
	maxBackup      = 1 << 40
	maxBackupFiles = 1 << 20
	maxManifest    = 256 << 20
	// maxKeyFile is the largest file beside a node's data that is taken for a key or a
	// setting.
	maxKeyFile = 1 << 20
)

// manifestName is the last file of a backup: without it the backup is cut off.
const manifestName = "manifest.json"

// ageMagic is how an encrypted backup begins.
const ageMagic = "age-encryption.org/"

// BackupOptions say what goes into a backup beside what the city is and was told.
type BackupOptions struct {
	// Keys of the city, of its nodes and of its operator: then To must be set, since
	// nothing else protects them.
	Keys bool
	// To are those who can read the backup.
	To []age.Recipient
	// Artifacts are the packages; without them they are fetched again when needed.
	Artifacts bool
	// Data are the ledger and the chains' data, which takes a city that is stopped with
	// its nodes; without them they are synced again.
	Data bool
}

// Manifest says what a backup holds.
type Manifest struct {
	Format   int    `json:"format"`
	City     string `json:"city"`
	Operator string `json:"operator"`
	Network  string `json:"network,omitempty"`
	// Trust is a block of the ledger to sync from.
	Trust ledger.Trust `json:"trust"`
	Made  time.Time    `json:"made"`
	Keys  bool         `json:"keys"`
	Data  bool         `json:"data"`
	Files []BackupFile `json:"files"`
}

// BackupFile is a file of a backup; its path is relative to the city's folder, or
// begins with operators/.
type BackupFile struct {
	Path   string      `json:"path"`
	Size   int64       `json:"size"`
	Mode   fs.FileMode `json:"mode"`
	SHA256 string      `json:"sha256"`
}

// Backup writes the city to a file, whole or not at all. The city may run, unless
// its data is wanted.
func (h Home) Backup(ctx context.Context, file string, o BackupOptions) (m Manifest, err error) {
	s, err := h.Load()
	if err != nil {
		return m, err
	}
	if o.Keys && len(o.To) == 0 {
		return m, errors.New("keys are backed up encrypted only: name a file with a passphrase (--passphrase-file) or a recipient (--recipient age1…)")
	}
	ask := h.trust
	if o.Data {
		unlock, err := h.quiesce()
		if err != nil {
			return m, err
		}
		defer unlock()
		ask = h.lastTrust
	}
	m = Manifest{Format: 1, City: s.Name, Operator: s.Operator, Network: s.Network, Made: time.Now().UTC().Truncate(time.Second), Keys: o.Keys, Data: o.Data}
	if s.Network != "" {
		if m.Trust, err = ask(ctx, s); err != nil {
			return m, err
		}
	}
	out, err := renameio.NewPendingFile(file, renameio.WithPermissions(0o600), renameio.WithStaticPermissions(0o600), renameio.WithTempDir(filepath.Dir(file)))
	if err != nil {
		return m, fmt.Errorf("write backup: %w", err)
	}
	defer out.Cleanup()
	if err := h.writeBackup(ctx, out, &m, o); err != nil {
		return m, fmt.Errorf("write backup: %w", err)
	}
	if err := out.CloseAtomicallyReplace(); err != nil {
		return m, fmt.Errorf("write backup: %w", err)
	}
	return m, nil
}

func (h Home) writeBackup(ctx context.Context, out io.Writer, m *Manifest, o BackupOptions) (err error) {
	if len(o.To) > 0 {
		sealed, err := age.Encrypt(out, o.To...)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, sealed.Close()) }()
		if err := h.writeArchive(ctx, sealed, m, o); err != nil {
			return err
		}
		return nil
	}
	return h.writeArchive(ctx, out, m, o)
}

func (h Home) writeArchive(ctx context.Context, out io.Writer, m *Manifest, o BackupOptions) error {
	z := gzip.NewWriter(out)
	t := tar.NewWriter(z)
	add := func(name, source string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := addFile(t, name, source)
		if err == nil {
			m.Files = append(m.Files, f)
		}
		return err
	}
	if err := h.walk(o, add); err != nil {
		return err
	}
	if o.Keys {
		if err := add("operators/"+m.Operator+".key", OperatorKey(h.Root, m.Operator)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Name: manifestName, Mode: 0o600, Size: int64(len(b))}); err != nil {
		return err
	}
	if _, err := t.Write(b); err != nil {
		return err
	}
	return errors.Join(t.Close(), z.Close())
}

// walk names the files that go into a backup. What has gone since it was listed is
// left out.
func (h Home) walk(o BackupOptions, add func(name, source string) error) error {
	return filepath.WalkDir(h.Dir(), func(source string, d fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(h.Dir(), source)
		if err = errors.Join(err, relErr); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		name := filepath.ToSlash(rel)
		part := partOf(name, d)
		wanted := map[backupPart]bool{partPlain: true, partKey: o.Keys, partArtifact: o.Artifacts, partData: o.Data, partNone: false}
		if d.IsDir() {
			if part == partNone || part == partArtifact && !o.Artifacts || part == partData && !o.Data {
				return filepath.SkipDir
			}
			return nil
		}
		if !wanted[part] || !d.Type().IsRegular() {
			return nil
		}
		if err := add(name, source); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

type backupPart int

const (
	partNone backupPart = iota // made anew
	partPlain
	partKey
	partArtifact
	partData
)

// partOf sorts the files and folders of a city's folder.
func partOf(name string, d fs.DirEntry) backupPart {
	parts := strings.Split(name, "/")
	base := parts[len(parts)-1]
	switch {
	case name == ".":
		return partPlain
	case strings.HasPrefix(base, ".") || strings.HasPrefix(base, "daemon.l") || strings.HasSuffix(base, ".sock") || strings.HasSuffix(base, ".ipc"):
		return partNone
	case parts[0] == "receipts":
		return partPlain // rows, for proofs
	case parts[0] == "artifacts":
		return partArtifact
	case parts[0] == "ledger":
		return ledgerPart(parts[1:], d)
	case parts[0] == "nodes":
		return nodePart(parts[1:], d)
	case name == "city.json" || name == "bsn.yaml" || name == "cordons.json":
		return partPlain
	case d.IsDir():
		return partKey
	default:
		return partKey // whatever a city keeps beside these, such as city.key
	}
}

func ledgerPart(parts []string, d fs.DirEntry) backupPart {
	switch {
	case len(parts) == 0:
		return partPlain
	case parts[0] == "config" && len(parts) == 2 && strings.HasPrefix(parts[1], "genesis"):
		return partPlain
	case parts[0] == "config":
		return partKey
	case parts[0] == "data" && len(parts) == 1:
		return partPlain // walked for the next one
	case parts[0] == "data" && parts[1] == "priv_validator_state.json":
		return partKey
	case parts[0] == "data" || parts[0] == "snapshots":
		return partData
	case parts[0] == "sync" || d.IsDir():
		return partNone
	default:
		return partNone
	}
}

func nodePart(parts []string, d fs.DirEntry) backupPart {
	switch {
	case len(parts) < 2:
		return partPlain // walked
	case parts[1] == "records.json":
		return partPlain
	case parts[0] == gatewayID && parts[1] == journalFolder:
		if base := parts[len(parts)-1]; base == journal.LockName {
			return partNone
		}
		return partPlain // what is not billed yet
	case parts[1] == "state.json" || parts[1] == "spec.json" || parts[1] == "log" || parts[1] == "tmp":
		return partNone
	case len(parts) == 2 && !d.IsDir():
		if info, err := d.Info(); err == nil && info.Size() > maxKeyFile {
			return partData
		}
		return partKey
	default:
		return partData
	}
}

func addFile(t *tar.Writer, name, source string) (f BackupFile, err error) {
	in, err := os.Open(source)
	if err != nil {
		return f, err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return f, err
	}
	f = BackupFile{Path: name, Size: info.Size(), Mode: info.Mode().Perm() & 0o700}
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: int64(f.Mode), Size: f.Size}); err != nil {
		return f, fmt.Errorf("%s: %w", name, err)
	}
	sum := sha256.New()
	// A file that grows while it is read ends where it ended; one that shrinks fails.
	if _, err := io.CopyN(io.MultiWriter(t, sum), in, f.Size); err != nil {
		return f, fmt.Errorf("%s: %w", name, err)
	}
	f.SHA256 = sumHex(sum)
	return f, nil
}

func sumHex(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// quiesce makes sure that neither the daemon nor a node runs, and that none starts.
func (h Home) quiesce() (unlock func(), err error) {
	unlock, err = h.lock()
	if err != nil {
		return nil, fmt.Errorf("%w: stop it with its nodes to back up its data: bsn city stop %s", err, h.Name)
	}
	if running, err := h.nodesRun(); err != nil || len(running) > 0 {
		unlock()
		return nil, errors.Join(err, fmt.Errorf("%s of city %q still run: stop them to back up their data: bsn city stop %s", strings.Join(running, ", "), h.Name, h.Name))
	}
	return unlock, nil
}

// nodesRun lists the city's processes that outlived its daemon.
func (h Home) nodesRun() (running []string, err error) {
	if _, err := os.Stat(h.Nodes()); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	r, err := process.Open(h.Nodes(), slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	for _, n := range r.List() {
		if n.State != bsn.NodeStopped {
			running = append(running, n.ID)
		}
	}
	return running, r.Close()
}

// Trust names a block of the ledger for another city to begin with, if this one runs
// or has run; else it is the zero value.
func (h Home) Trust(ctx context.Context) (ledger.Trust, error) {
	s, err := h.Load()
	if err != nil || s.Network == "" {
		return ledger.Trust{}, err
	}
	return h.trust(ctx, s)
}

// trust names a block of the ledger: asked of the daemon, or read if none runs.
func (h Home) trust(ctx context.Context, s State) (ledger.Trust, error) {
	pid, err := h.PID()
	if err != nil {
		return ledger.Trust{}, err
	}
	if pid == 0 {
		return h.lastTrust(ctx, s)
	}
	k, err := key.Load(h.keyFile())
	if err != nil {
		return ledger.Trust{}, err
	}
	url := "http://" + bsn.HostPort(s.Net.Addr(s.Index, bsn.ServiceCity), bsn.PortAPI)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return ledger.TrustOf(ctx, s.Network, api.Dial(url, s.Network, h.Name, k))
}

// lastTrust reads a block of a ledger node that does not run.
func (h Home) lastTrust(_ context.Context, s State) (ledger.Trust, error) {
	t, err := ledger.LastTrust(h.ledger())
	if errors.Is(err, fs.ErrNotExist) {
		return s.Trust, nil // it never ran
	}
	return t, err
}
