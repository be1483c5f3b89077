package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/renameio/v2"
)

const (
	logSize  = 16 << 20 // a log that grew beyond it is rotated; bytes
	logFiles = 4        // rotated logs that are kept
	// rotateEvery is how often the sizes are looked at, and followEvery how often
	// a follower looks for more.
	rotateEvery = 2 * time.Second
	followEvery = 100 * time.Millisecond
	// The last lines of a node that ended, for its status.
	lastLines = 20
	lastBytes = 4 << 10
)

// logs are the files of a node's output. The node itself appends to the first
// one, with or without a daemon, so that a rotation cannot rename it: it copies
// and truncates. What the node writes in the instant between is lost.
type logs struct {
	dir  string
	name string // of the file; empty means node.log
	temp string // for what is half written
	size int64  // logSize

	mu sync.RWMutex // held while the files change
	// cuts has an entry a rotation: how many bytes it left out at the beginning of
	// the copy. With it a follower finds its place again.
	cuts []int64
	// begun is where the output of the current run begins in the first file.
	begun int64
}

func (l *logs) path(n int) string {
	name := l.name
	if name == "" {
		name = "node.log"
	}
	if n > 0 {
		name = fmt.Sprintf("%s.%d", name, n)
	}
	return filepath.Join(l.dir, name)
}

// RotateLog moves what a log of over 16 MiB holds to FILE.1, and what was there
// to FILE.2 and so on, four at most. Its writer must append, as it goes on with
// the same file; what it writes in the instant of the change is lost.
func RotateLog(file string) error {
	l := &logs{dir: filepath.Dir(file), name: filepath.Base(file), temp: filepath.Dir(file), size: logSize}
	return l.rotate()
}

// open returns the file for a new run to append to.
func (l *logs) open() (*os.File, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make log folder: %w", err)
	}
	f, err := os.OpenFile(l.path(0), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open log: %w", err)
	}
	l.begun = info.Size()
	return f, nil
}

// rotate rotates the log if it is too large. A log that grew far beyond the
// limit while no daemon looked keeps its end.
func (l *logs) rotate() error {
	if info, err := os.Stat(l.path(0)); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() <= l.size {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.turn(); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	return nil
}

func (l *logs) turn() error {
	f, err := os.OpenFile(l.path(0), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	cut := max(0, info.Size()-l.size)
	if _, err := f.Seek(cut, io.SeekStart); err != nil {
		return err
	}
	if err := os.MkdirAll(l.temp, 0o700); err != nil {
		return err
	}
	next, err := renameio.NewPendingFile(l.path(1), renameio.WithTempDir(l.temp), renameio.WithPermissions(0o600))
	if err != nil {
		return err
	}
	defer next.Cleanup()
	if _, err := io.Copy(next, io.LimitReader(f, l.size)); err != nil {
		return err
	}
	for i := logFiles - 1; i > 0; i-- {
		if err := os.Rename(l.path(i), l.path(i+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := next.CloseAtomicallyReplace(); err != nil {
		return err
	}
	// Writing took a while: add what came since as the very last thing.
	old, err := os.OpenFile(l.path(1), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer old.Close()
	if _, err := io.Copy(old, io.LimitReader(f, l.size)); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	l.cuts = append(l.cuts, cut)
	l.begun = 0
	return nil
}

// last returns the end of what the current run wrote.
func (l *logs) last() string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	f, err := os.Open(l.path(0))
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	from := max(l.begun, info.Size()-lastBytes)
	b := make([]byte, max(0, info.Size()-from))
	n, _ := f.ReadAt(b, from)
	b = bytes.TrimSpace(b[:n])
	if i := lineStart(b, lastLines); i > 0 {
		b = b[i:]
	} else if from > l.begun { // its first line is cut
		_, b, _ = bytes.Cut(b, []byte("\n"))
	}
	return string(bytes.ToValidUTF8(b, []byte("\uFFFD")))
}

// lineStart returns where the last n lines of b begin, or -1 if there are fewer
// line breaks before them than that.
func lineStart(b []byte, n int) int {
	end := len(b)
	if end > 0 && b[end-1] == '\n' {
		end--
	}
	for ; n > 0; n-- {
		if end = bytes.LastIndexByte(b[:end], '\n'); end < 0 {
			return -1
		}
	}
	return end + 1
}

// read returns the last lines of the output, older files included. With follow,
// what comes later too, until ctx or life ends.
func (l *logs) read(ctx, life context.Context, lines int, follow bool) (io.ReadCloser, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	r := &logReader{logs: l, turns: len(l.cuts), follow: follow}
	r.ctx, r.cancel = context.WithCancel(ctx)
	r.release = context.AfterFunc(life, r.cancel)
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make log folder: %w", err)
	}
	for i := 0; i <= logFiles; i++ {
		// A node that has not begun to write yet has an empty log.
		flag := os.O_RDONLY
		if i == 0 {
			flag |= os.O_CREATE
		}
		f, err := os.OpenFile(l.path(i), flag, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("open log: %w", err)
		}
		r.files = append([]*os.File{f}, r.files...)
		if lines, err = seekLines(f, max(0, lines)); err != nil {
			r.Close()
			return nil, fmt.Errorf("read log: %w", err)
		}
		if lines == 0 {
			break
		}
	}
	return r, nil
}

// seekLines moves f to the beginning of its last n lines and returns how many of
// them it does not have.
func seekLines(f *os.File, n int) (missing int, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return 0, err
	}
	at := end
	for b := make([]byte, 64<<10); at > 0; {
		from := max(0, at-int64(len(b)))
		part := b[:at-from]
		if _, err := f.ReadAt(part, from); err != nil {
			return 0, err
		}
		for i := len(part) - 1; i >= 0; i-- {
			// The break at the very end closes the last line.
			if part[i] == '\n' && from+int64(i) < end-1 {
				if n--; n == 0 {
					_, err := f.Seek(from+int64(i)+1, io.SeekStart)
					return 0, err
				}
			}
		}
		at = from
	}
	if _, err = f.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	if end > 0 {
		n-- // the first line has no break before it
	}
	return n, nil
}

// logReader reads through rotations.
type logReader struct {
	logs   *logs
	ctx    context.Context
	cancel context.CancelFunc
	follow bool
	// release forgets the runtime's life, which would end ctx too.
	release func() bool

	mu    sync.Mutex
	files []*os.File // oldest first; the last one is node.log
	turns int        // rotations of logs when files was last right
}

// Read waits for more if the reader follows, until its context ends: then io.EOF.
func (r *logReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if err := r.ctx.Err(); err != nil {
			if r.follow {
				return 0, io.EOF
			}
			return 0, err
		}
		n, err := r.next(p)
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		if !r.follow {
			return 0, io.EOF
		}
		select {
		case <-r.ctx.Done():
		case <-time.After(followEvery):
		}
	}
}

// next reads what there is, 0 bytes if that is nothing.
func (r *logReader) next(p []byte) (int, error) {
	l := r.logs
	l.mu.RLock()
	defer l.mu.RUnlock()
	if err := r.turn(); err != nil {
		return 0, fmt.Errorf("read log: %w", err)
	}
	for len(r.files) > 0 {
		n, err := r.files[0].Read(p)
		if n > 0 || err != nil && err != io.EOF {
			return n, err
		}
		if len(r.files) == 1 {
			break
		}
		r.files[0].Close()
		r.files = r.files[1:]
	}
	return 0, nil
}

// turn accounts for rotations since the last read: what was node.log is now the
// first rotated file, but for what was cut from it.
func (r *logReader) turn() error {
	l := r.logs
	missed := len(l.cuts) - r.turns
	if missed == 0 || len(r.files) == 0 {
		return nil
	}
	live := r.files[len(r.files)-1]
	at, err := live.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	from := max(0, at-l.cuts[r.turns])
	if missed > logFiles { // the copy that held the place is gone
		missed, from = logFiles, 0
	}
	old := r.files[:len(r.files)-1]
	for i := missed; i > 0; i-- {
		f, err := os.Open(l.path(i))
		if err != nil {
			return err
		}
		if _, err := f.Seek(from, io.SeekStart); err != nil {
			f.Close()
			return err
		}
		from = 0
		old = append(old, f)
	}
	if _, err := live.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r.files = append(old, live)
	r.turns = len(l.cuts)
	return nil
}

// Close ends a Read that waits.
func (r *logReader) Close() error {
	r.cancel()
	r.release()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.files {
		f.Close()
	}
	r.files = nil
	r.follow = false
	return nil
}
