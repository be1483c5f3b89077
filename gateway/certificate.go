package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// TLS names the files of a certificate. Both are PEM; the certificate's file holds
// the chain, its own certificate first. They are read anew when they change.
type TLS struct {
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// certificatePause is the time between two looks at whether the files have changed.
const certificatePause = time.Second

// certificate is a certificate that follows its files.
type certificate struct {
	files TLS
	log   *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	looked  time.Time
	stamp   [2]fileStamp
	failing bool
}

type fileStamp struct {
	size int64
	time time.Time
}

// newTLS returns nil if no certificate is configured.
func newTLS(files TLS, log *slog.Logger) (*tls.Config, error) {
	switch {
	case files == TLS{}:
		return nil, nil
	case files.Certificate == "" || files.Key == "":
		return nil, errors.New("gateway configuration: tls needs both files, certificate and key")
	}
	c := &certificate{files: files, log: log}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("gateway configuration: tls: %w", err)
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get(time.Now()), nil },
	}, nil
}

func (c *certificate) stamps() (s [2]fileStamp, err error) {
	for i, path := range []string{c.files.Certificate, c.files.Key} {
		info, err := os.Stat(path)
		if err != nil {
			return s, err
		}
		s[i] = fileStamp{info.Size(), info.ModTime()}
	}
	return s, nil
}

// load reads the files. It needs mu, or to be alone.
func (c *certificate) load() error {
	stamp, err := c.stamps()
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(c.files.Certificate, c.files.Key)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	c.current, c.stamp = &pair, stamp
	return nil
}

// get returns the certificate as the files have it. While they cannot be read, as
// between the replacement of the one and the other, it is the last one that could.
func (c *certificate) get(now time.Time) *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.looked) < certificatePause {
		return c.current
	}
	c.looked = now
	stamp, err := c.stamps()
	if err == nil {
		if stamp == c.stamp {
			c.failing = false
			return c.current
		}
		err = c.load()
	}
	switch {
	case err == nil:
		c.log.Info("gateway has read its certificate anew", "file", c.files.Certificate)
	case !c.failing:
		c.log.Error("gateway's certificate cannot be read; the last one is served on", "error", err)
	}
	c.failing = err != nil
	return c.current
}
