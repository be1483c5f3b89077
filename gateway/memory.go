package gateway

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/openbsn/bsn/gateway/cache"
	"github.com/openbsn/bsn/gateway/http1"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// callCost is what a call holds while it goes on, whatever is asked: its stacks and
	// buffers on both sides, and a request and answer that are not large.
	callCost = 32 << 10
	// requestCopies is how often a request is in memory: as it came, as it is sent on,
	// and as what tells it from others.
	requestCopies = 3
	// smallCall is what callCost covers of a request with its copies, and of an answer.
	smallCall = 16 << 10
	// sharedLeast is the size from which on an answer counts once, however many
	// clients it is sent to.
	sharedLeast = 64 << 10
	// cacheStep is by how much more than needed the cache gives way.
	cacheStep = 8 << 20
	// memoryWait is when a call is to be tried again that found no room.
	memoryWait = time.Second
)

// memory bounds what all calls hold together: requests, answers that are read or on
// their way out, and what waits for subscribers. It is in the same room as the cache,
// which gives way.
//
// Who has something already holds it, so that no answer is lost that lies here; who
// wants to begin takes, and may be refused.
type memory struct {
	limit   int64
	held    atomic.Int64
	easy    atomic.Int64 // up to which nothing has to give way
	refused atomic.Uint64

	mu    sync.Mutex // of who changes what the cache has
	cache *cache.Store
	most  int64 // that the cache may have
	now   int64 // that it may have now

	shared [16]sharedAnswers
}

// sharedAnswers are large answers by where they lie.
type sharedAnswers struct {
	mu   sync.Mutex
	uses map[*byte]int
}

func newMemory(limit int64, store *cache.Store, cacheBytes int64) *memory {
	m := &memory{limit: limit, cache: store, most: max(cacheBytes, 0)}
	m.most = min(m.most, limit)
	m.resize(m.most)
	for i := range m.shared {
		m.shared[i].uses = map[*byte]int{}
	}
	return m
}

// Take implements http1.Room.
func (m *memory) Take(n int64) bool {
	held := m.held.Add(n)
	if held <= m.easy.Load() || m.squeeze(held) {
		return true
	}
	m.held.Add(-n)
	m.refused.Add(1)
	return false
}

// Hold implements http1.Room.
func (m *memory) Hold(n int64) { m.held.Add(n) }

// Give implements http1.Room.
func (m *memory) Give(n int64) { m.held.Add(-n) }

// full tells whether calls hold all that there is.
func (m *memory) full() bool { return m.held.Load() > m.limit }

// squeeze has the cache make room, and tells whether there is enough then.
func (m *memory) squeeze(held int64) bool {
	if held > m.limit {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if held > m.easy.Load() {
		m.resize(max(0, m.limit-held-cacheStep))
	}
	return true
}

// relax gives the cache back what calls do not hold any more.
func (m *memory) relax() {
	if m.easy.Load() == m.limit-m.most {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if room := min(m.most, m.limit-m.held.Load()-cacheStep); room >= m.now+cacheStep || room == m.most {
		m.resize(room)
	}
}

// resize needs mu.
func (m *memory) resize(bytes int64) {
	m.now = bytes
	m.cache.Resize(bytes)
	m.easy.Store(m.limit - bytes)
}

// answerHeld is what an answer on its way out holds.
type answerHeld struct {
	bytes int64
	first *byte // of one that others may be sent, too
}

// hold counts an answer that somebody has. What callCost covers does not count.
func (m *memory) hold(text []byte) answerHeld { return m.adopt(text, 0) }

// adopt is hold for an answer for which something was taken already: it counts instead
// of that.
func (m *memory) adopt(text []byte, taken int64) (h answerHeld) {
	if len(text) <= smallCall {
		if taken > 0 {
			m.Give(taken)
		}
		return h
	}
	h.bytes = int64(len(text))
	if len(text) >= sharedLeast {
		h.first = unsafe.SliceData(text)
		s := m.share(h.first)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.uses[h.first]++; s.uses[h.first] > 1 {
			m.Give(taken)
			return h
		}
	}
	m.Hold(h.bytes - taken)
	return h
}

func (m *memory) letGo(h answerHeld) {
	if h.bytes == 0 {
		return
	}
	if h.first != nil {
		s := m.share(h.first)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.uses[h.first]--; s.uses[h.first] > 0 {
			return
		}
		delete(s.uses, h.first)
	}
	m.Give(h.bytes)
}

func (m *memory) share(first *byte) *sharedAnswers {
	// What is allocated of this size begins with a page.
	return &m.shared[uintptr(unsafe.Pointer(first))>>13%uintptr(len(m.shared))]
}

// enter takes what a call needs whose request has so many bytes, and returns what is to
// be given back.
func (m *memory) enter(size int) (taken int64, bad answer, ok bool) {
	taken = callCost + max(0, requestCopies*int64(size)-smallCall)
	if !m.Take(taken) {
		return 0, noMemory(), false
	}
	return taken, answer{}, true
}

var kindMemory = kind{"memory", codeMemory, http.StatusServiceUnavailable}

// noMemory refuses a call for which there is no room.
func noMemory() answer {
	a := exceed(kindMemory, memoryWait, "this gateway has no memory for one more call now: wait %d s, or ask another city's", retrySeconds(memoryWait))
	a.outcome = outcomeUnavailable
	return a
}

var (
	describeMemoryHeld    = prometheus.NewDesc("bsn_gateway_memory_held_bytes", "Memory that calls hold together: requests, answers on their way, what waits for subscribers.", nil, nil)
	describeMemoryLimit   = prometheus.NewDesc("bsn_gateway_memory_limit_bytes", "The most that calls and the cache may have.", nil, nil)
	describeMemoryRefused = prometheus.NewDesc("bsn_gateway_memory_refusals_total", "Calls and answers for which there was no room.", nil, nil)
)

// Describe and Collect make it a collector of Prometheus.
func (m *memory) Describe(out chan<- *prometheus.Desc) {
	out <- describeMemoryHeld
	out <- describeMemoryLimit
	out <- describeMemoryRefused
}

func (m *memory) Collect(out chan<- prometheus.Metric) {
	out <- prometheus.MustNewConstMetric(describeMemoryHeld, prometheus.GaugeValue, float64(m.held.Load()))
	out <- prometheus.MustNewConstMetric(describeMemoryLimit, prometheus.GaugeValue, float64(m.limit))
	out <- prometheus.MustNewConstMetric(describeMemoryRefused, prometheus.CounterValue, float64(m.refused.Load()))
}

var _ http1.Room = (*memory)(nil)
