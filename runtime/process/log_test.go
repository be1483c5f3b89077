package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/openbsn/bsn"
)

func TestLogsOfNobody(t *testing.T) {
	r := open(t, t.TempDir())
	for _, id := range []string{"nobody", "../x", ""} {
		if _, err := r.Logs(t.Context(), id, 10, false); !errors.Is(err, bsn.ErrNoNode) {
			t.Errorf("logs of %q: %v", id, err)
		}
	}
}

func TestFollow(t *testing.T) {
	r := open(t, t.TempDir())
	start(t, r, nodeSpec(t, "node", "serve"))
	says(t, r, "node", "ready")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	logs, err := r.Logs(ctx, "node", 10, true)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	lines := bufio.NewScanner(logs)
	expect := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("read %q, %v; want %q", lines.Text(), lines.Err(), want)
		}
	}
	expect("ready")
	if err := r.Stop(t.Context(), "node"); err != nil {
		t.Fatal(err)
	}
	expect("bye")
	start(t, r, nodeSpec(t, "node", "serve"))
	expect("ready")
	cancel()
	if lines.Scan() || lines.Err() != nil {
		t.Errorf("after the end: %q, %v", lines.Text(), lines.Err())
	}

	// A reader without an end of its own ends with the runtime.
	logs, err = r.Logs(context.Background(), "node", 0, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.StopAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if _, err := io.ReadAll(logs); err != nil {
		t.Error(err)
	}
	logs.Close()
}

// TestLogGrowsWithoutDaemon: the node goes on writing, and the next daemon rotates.
func TestLogGrowsWithoutDaemon(t *testing.T) {
	dir := t.TempDir()
	spec := nodeSpec(t, "node", "serve")
	killedDaemon(t, dir, spec)
	path := filepath.Join(dir, "node", "log", "node.log")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := strings.Repeat("x", 1023) + "\n"
	for range logSize/len(line) + 10 {
		io.WriteString(f, line)
	}
	io.WriteString(f, "the last line\n")

	r := open(t, dir)
	eventually(t, "the log is rotated", func() bool {
		info, err := os.Stat(path)
		return err == nil && info.Size() < logSize
	})
	if info, err := os.Stat(path + ".1"); err != nil || info.Size() != logSize {
		t.Fatalf("rotated log: %v, %v", info, err)
	}
	if err := r.Stop(t.Context(), "node"); err != nil { // it writes to the same file
		t.Fatal(err)
	}
	logs, err := r.Logs(t.Context(), "node", 2, false)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	if b, err := io.ReadAll(logs); err != nil || string(b) != "the last line\nbye\n" {
		t.Errorf("last lines %q, %v", b, err)
	}
}

func TestRotationKeepsSoMany(t *testing.T) {
	l := &logs{dir: t.TempDir(), temp: t.TempDir(), size: 10}
	for i := range 7 {
		appendLog(t, l, fmt.Sprintf("this is line %d\n", i))
		if err := l.rotate(); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(l.dir, "*"))
	if err != nil || len(files) != 1+logFiles {
		t.Errorf("files: %v, %v", files, err)
	}
	// Beyond its size a log keeps its end.
	if b, err := os.ReadFile(l.path(1)); err != nil || string(b) != "is line 6\n" {
		t.Errorf("newest rotated log: %q, %v", b, err)
	}
	if b, err := os.ReadFile(l.path(4)); err != nil || string(b) != "is line 3\n" {
		t.Errorf("oldest rotated log: %q, %v", b, err)
	}
}

func TestLastWords(t *testing.T) {
	l := &logs{dir: t.TempDir(), size: logSize}
	appendLog(t, l, "of an earlier run\n")
	f, err := l.open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := l.last(); got != "" {
		t.Errorf("a run that wrote nothing said %q", got)
	}
	for i := range 100 {
		fmt.Fprintf(f, "line %d\n", i)
	}
	got := strings.Split(l.last(), "\n")
	if len(got) != lastLines || got[0] != "line 80" || got[lastLines-1] != "line 99" {
		t.Errorf("last words %q", got)
	}
	fmt.Fprintf(f, "%s\nend \xff\n", strings.Repeat("y", lastBytes))
	if got := l.last(); got != "end \uFFFD" {
		t.Errorf("after a long line: %q", got)
	}
}

// appendLog writes as a node does.
func appendLog(t interface{ Fatal(...any) }, l *logs, text string) {
	f, err := os.OpenFile(l.path(0), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// TestLogModel compares readers with a plain text, through rotations.
func TestLogModel(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "")
		if err != nil {
			t.Fatal(err)
		}
		l := &logs{dir: dir, temp: base, size: 100}
		var all string
		lost := 0 // bytes that were rotated away
		var rotated []int
		ctx := context.Background()
		follower, err := l.read(ctx, ctx, 0, true)
		if err != nil {
			t.Fatal(err)
		}
		defer follower.Close()
		var followed strings.Builder
		at := 0     // where node.log begins in all
		unread := 0 // rotations since the follower last read
		catchUp := func() {
			for followed.Len() < len(all) {
				b := make([]byte, rapid.IntRange(1, 60).Draw(t, "buffer"))
				n, err := follower.Read(b)
				if err != nil {
					t.Fatal(err)
				}
				followed.Write(b[:n])
				unread = 0
			}
			if followed.String() != all {
				t.Fatalf("followed %q, want %q", followed.String(), all)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				text := rapid.StringMatching(`([a-z]{0,10}\n){0,4}`).Draw(t, "text")
				if len(all)-at+len(text) > int(l.size) {
					t.Skip("nothing is to be cut")
				}
				appendLog(t, l, text)
				all += text
			},
			"rotate": func(t *rapid.T) {
				if unread == logFiles {
					t.Skip("what is not read by now is lost")
				}
				if err := l.turn(); err != nil {
					t.Fatal(err)
				}
				if rotated = append(rotated, len(all)-at); len(rotated) > logFiles {
					lost += rotated[0]
					rotated = rotated[1:]
				}
				at = len(all)
				unread++
			},
			"follow": func(*rapid.T) { catchUp() },
			"last": func(t *rapid.T) {
				n := rapid.IntRange(0, 40).Draw(t, "lines")
				rc, err := l.read(ctx, ctx, n, false)
				if err != nil {
					t.Fatal(err)
				}
				defer rc.Close()
				got, err := io.ReadAll(rc)
				kept := strings.SplitAfter(all[lost:], "\n")
				kept = kept[:len(kept)-1]
				want := strings.Join(kept[max(0, len(kept)-n):], "")
				if err != nil || string(got) != want {
					t.Fatalf("last %d lines %q, %v; want %q", n, got, err, want)
				}
			},
		})
		catchUp()
	})
}

// TestRotateLog: any log that is appended to is turned over once it is large.
func TestRotateLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "daemon.log")
	if err := RotateLog(file); err != nil {
		t.Errorf("no log yet: %v", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	old := bytes.Repeat([]byte("x"), logSize)
	for i, line := range []string{"", "y"} {
		if _, err := f.Write(append(old[:len(old)*(1-i)], line...)); err != nil {
			t.Fatal(err)
		}
		if err := RotateLog(file); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(file + ".1"); os.IsNotExist(err) != (i == 0) {
			t.Errorf("with %q: %v", line, err)
		}
	}
	if _, err := f.WriteString("next\n"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "next\n" {
		t.Errorf("%.20q %v", b, err)
	}
	if info, err := os.Stat(file + ".1"); err != nil || info.Size() != logSize || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}
