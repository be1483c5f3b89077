package software

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// lastLines of what a failed build wrote go into its error.
const lastLines = 20

// compile builds the program in source and gives it its final name only when it
// is whole. The caller holds the lock of the folder.
func compile(ctx context.Context, p Program, source, binary string, progress func(done, total int)) error {
	if _, err := exec.LookPath("go"); err != nil {
		return errors.New("no Go toolchain in PATH; install Go, or name your own binary in the configuration")
	}
	if progress == nil {
		progress = func(int, int) {}
	}
	progress(0, 0)
	total, err := countStale(ctx, p, source)
	if err != nil {
		return err
	}
	total++ // linking
	progress(0, total)

	temporary := binary + ".part"
	defer os.Remove(temporary)
	cmd := command(ctx, source, append(append([]string{"build", "-v", "-o", temporary}, flags(p)...), target(p))...)
	tail := &tail{}
	if err := watch(cmd, func(line string) {
		tail.add(line)
		// A package's path has no spaces; what the compiler and the
		// downloader have to say does.
		if !strings.ContainsAny(line, " \t") && tail.packages < total-1 {
			tail.packages++
			progress(tail.packages, total)
		}
	}); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w, having written:\n%s", err, tail)
	}
	if err := flush(temporary); err != nil {
		return fmt.Errorf("save what was built: %w", err)
	}
	if err := os.Rename(temporary, binary); err != nil {
		return fmt.Errorf("save what was built: %w", err)
	}
	if err := flush(filepath.Dir(binary)); err != nil {
		return fmt.Errorf("save what was built: %w", err)
	}
	progress(total, total)
	return nil
}

// flags of every command that looks at the program. They decide what can be
// reused of earlier builds, so they are the same for counting and building.
func flags(p Program) []string {
	return append([]string{"-mod=readonly", "-buildvcs=false"}, p.Flags...)
}

// target is the package that is built.
func target(p Program) string {
	if p.Package == "" {
		return "."
	}
	return p.Package
}

// countStale counts the packages that a build has to compile.
func countStale(ctx context.Context, p Program, source string) (int, error) {
	args := append([]string{"list", "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}"}, flags(p)...)
	cmd := command(ctx, source, append(args, target(p))...)
	var out bytes.Buffer
	cmd.Stdout = &out
	tail := &tail{}
	if err := watch(cmd, tail.add); err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, fmt.Errorf("list its packages: %w, having written:\n%s", err, tail)
	}
	return len(strings.Fields(out.String())), nil
}

func command(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	// The module stands alone: no workspace and no flags of the caller's.
	cmd.Env = append(cmd.Environ(), "GOWORK=off", "GOFLAGS=")
	// An interrupted go command ends its compilers, a killed one leaves them.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// watch runs a command and hands on each line of its standard error.
func watch(cmd *exec.Cmd, line func(string)) error {
	r, w := io.Pipe()
	cmd.Stderr = w
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := bufio.NewReader(r); ; {
			text, err := b.ReadString('\n')
			if text = strings.TrimRight(text, "\n"); text != "" {
				line(text)
			}
			if err != nil {
				return
			}
		}
	}()
	err := cmd.Run()
	w.Close()
	<-done
	return err
}

// tail keeps the last lines that are not mere names of packages.
type tail struct {
	lines    []string
	packages int
}

func (t *tail) add(line string) {
	if !strings.ContainsAny(line, " \t") {
		return
	}
	if len(t.lines) == lastLines {
		t.lines = t.lines[1:]
	}
	t.lines = append(t.lines, line)
}

func (t *tail) String() string { return strings.Join(t.lines, "\n") }

func flush(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
