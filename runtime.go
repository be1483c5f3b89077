package bsn

import (
	"context"
	"io"
	"io/fs"
	"time"
)

// NodeSpec says all that a runtime needs to run one process: a chain's node, the
// gateway. Paths in it are relative to the node's own folder, which is also its
// working directory, so that every runtime can place it.
type NodeSpec struct {
	// ID is unique in the city, such as "kaia-chongqing" or "gateway".
	ID     string   `json:"id"`
	Binary string   `json:"binary"` // absolute path
	Args   []string `json:"args"`
	Env    []string `json:"env,omitempty"` // KEY=value, beside PATH and HOME
	// Prepare, if set, are the arguments of a run of Binary that must succeed once
	// before the first start, and again whenever they or Files change.
	Prepare []string `json:"prepare,omitempty"`
	Files   []File   `json:"files,omitempty"`
	// Address and Ports are where it listens, for people and for conflicts.
	Address string         `json:"address"`
	Ports   map[string]int `json:"ports,omitempty"`
	// MemoryMiB is the soft limit given to the process as GOMEMLIMIT; 0 is none.
	MemoryMiB int `json:"memoryMiB,omitempty"`
	// StopTimeout is how long a stop waits between SIGTERM and SIGKILL; 0 is 10 s.
	StopTimeout time.Duration `json:"stopTimeout,omitempty"`
	// Handover: a process that is specified anew takes over from the one that runs, if
	// that was specified so too: they run side by side until the old one has ended by
	// itself. If the new one ends first, the old one stays.
	Handover bool `json:"handover,omitempty"`
}

// File is written into the node's folder before it starts.
type File struct {
	Path    string      `json:"path"`
	Mode    fs.FileMode `json:"mode"`
	Content []byte      `json:"content"`
}

// NodeState is what the runtime knows of a process.
type NodeState string

const (
	NodeRunning NodeState = "running"
	// NodeBackoff: it ended and is about to be started again.
	NodeBackoff NodeState = "backoff"
	NodeStopped NodeState = "stopped"
)

// NodeStatus is a node as the runtime sees it; whether it also does its work is
// for the framework to say.
type NodeStatus struct {
	ID    string    `json:"id"`
	State NodeState `json:"state"`
	PID   int       `json:"pid,omitempty"`
	// Restarts counts the starts after the first one since the daemon runs.
	Restarts int `json:"restarts"`
	// Adopted: it was running before this daemon.
	Adopted bool `json:"adopted"`
	// Error is the last lines that the node itself wrote before it ended.
	Error   string    `json:"error,omitempty"`
	Started time.Time `json:"started,omitzero"`
}

// Runtime starts, watches, adopts and stops processes. Implementations: the
// process driver, and later Kubernetes.
type Runtime interface {
	// Start makes the node run as specified and keeps it running: it adopts a
	// process that already does, restarts one that was specified otherwise, and
	// returns once the process is started (not: healthy).
	Start(ctx context.Context, spec NodeSpec) error
	// Stop ends a node and keeps its data. Stopping an unknown node is no error.
	Stop(ctx context.Context, id string) error
	// List returns the nodes in order of id, those of earlier daemons included.
	List() []NodeStatus
	// Dir is a node's own folder, made on first use with mode 0700.
	Dir(id string) (string, error)
	// Logs returns the last lines of a node's output and, with follow, what comes
	// after, until ctx ends. ErrNoNode if there is none of this id.
	Logs(ctx context.Context, id string, lines int, follow bool) (io.ReadCloser, error)
}
