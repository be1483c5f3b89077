package ledger

import (
	"runtime"
	"sync"

	cmtdb "github.com/cometbft/cometbft-db"
	"github.com/cometbft/cometbft/config"
)

// openStore opens one of CometBFT's own stores.
func openStore(c *config.DBContext) (cmtdb.DB, error) {
	db, err := config.DefaultDBProvider(c)
	if err != nil {
		return nil, err
	}
	return &store{DB: db}, nil
}

// store ends the goroutines that read from it after it was closed. CometBFT does
// not wait for those that serve its peers when it stops, and they panic on the
// error that they would get.
type store struct {
	cmtdb.DB
	mu     sync.RWMutex
	closed bool
}

// Get implements cmtdb.DB.
func (s *store) Get(key []byte) ([]byte, error) {
	defer s.open()()
	return s.DB.Get(key)
}

// Has implements cmtdb.DB.
func (s *store) Has(key []byte) (bool, error) {
	defer s.open()()
	return s.DB.Has(key)
}

// open keeps the store from being closed until the function that it returns is called.
func (s *store) open() (done func()) {
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		runtime.Goexit()
	}
	return s.mu.RUnlock
}

// Close implements cmtdb.DB.
func (s *store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.DB.Close()
}
