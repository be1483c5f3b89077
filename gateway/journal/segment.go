package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/openbsn/bsn"
)

// A segment is a file of slots of a fixed size. The first holds the header; each
// other counts one row of usage: its two counters, then what it counts, with a
// checksum over that, so that a slot that was written in part is never taken for
// another. Numbers are little-endian, which is what the counters are in memory on
// every machine that bsn runs on; the header's magic tells if one differs.
//
//	header: magic (8), end of the period (8), slots (4), zero, checksum (4)
//	slot:   calls (8), units (8), lengths of the four texts (4), the texts, zero, checksum (4)
const (
	slotSize = 256
	// segmentSlots is how many rows a segment holds: 256 KiB in all.
	segmentSlots = 1023
	segmentSize  = (segmentSlots + 1) * slotSize

	magic      = "bsnjrnl1"
	textsAt    = 20
	checksumAt = slotSize - 4
)

// maxCount bounds what a counter is believed: what is above was not counted.
const maxCount = 1 << 53

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// counters are the two words at the begin of a slot.
type counters struct {
	calls, units atomic.Uint64
}

// segment is one that this process counts in.
type segment struct {
	file   *os.File
	memory []byte
	used   int // slots, the header not among them
	until  int64
}

// checksum covers what a slot counts, and where, so that no slot passes for another.
func checksum(slot []byte, until int64, index int) uint32 {
	var at [16]byte
	binary.LittleEndian.PutUint64(at[:], uint64(until))
	binary.LittleEndian.PutUint64(at[8:], uint64(index))
	return crc32.Update(crc32.Checksum(at[:], castagnoli), castagnoli, slot[16:checksumAt])
}

func putHeader(header []byte, until int64) {
	copy(header, magic)
	binary.LittleEndian.PutUint64(header[8:], uint64(until))
	binary.LittleEndian.PutUint32(header[16:], segmentSlots)
	binary.LittleEndian.PutUint32(header[checksumAt:], crc32.Checksum(header[:checksumAt], castagnoli))
}

// create makes a segment in a folder that the period is not closed in. Its space on
// the disk is taken at once: a full disk is an error here, not a fault later.
// Error: errClosed.
func create(dir string, until int64) (s *segment, err error) {
	unlock, err := lock(dir, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer unlock()
	closed, err := Closed(dir)
	if err != nil {
		return nil, err
	}
	if until <= closed {
		return nil, errClosed
	}
	f, err := os.CreateTemp(dir, temporary+"*")
	if err != nil {
		return nil, fmt.Errorf("make segment: %w", err)
	}
	fresh := &segment{file: f, until: until}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
			fresh.release()
		}
	}()
	// It is held for as long as this process may count in it, however that ends.
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("lock segment: %w", err)
	}
	if err = reserve(f); err != nil {
		return nil, fmt.Errorf("take %d bytes of disk for the journal in %s: %w", segmentSize, dir, err)
	}
	if fresh.memory, err = unix.Mmap(int(f.Fd()), 0, segmentSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map segment: %w", err)
	}
	putHeader(fresh.memory[:slotSize], until)
	name := filepath.Join(dir, fmt.Sprintf("%012d-%016x%s", until, rand.Uint64(), extension))
	if err = os.Rename(f.Name(), name); err != nil {
		return nil, fmt.Errorf("name segment: %w", err)
	}
	return fresh, nil
}

// reserve takes the disk's space for a segment.
func reserve(f *os.File) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, segmentSize)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	_, err = f.WriteAt(make([]byte, segmentSize), 0)
	return err
}

// imagine makes a segment in memory only.
func imagine(until int64) *segment {
	// Of words, so that the counters are aligned.
	words := make([]uint64, segmentSize/8)
	return &segment{memory: unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), segmentSize), until: until}
}

// take gives a row a slot of its own. There must be one.
func (s *segment) take(r Row) *counters {
	s.used++
	slot := s.memory[s.used*slotSize:][:slotSize]
	at := textsAt
	for i, text := range r.texts() {
		slot[16+i] = byte(len(text))
		at += copy(slot[at:checksumAt], text)
	}
	binary.LittleEndian.PutUint32(slot[checksumAt:], checksum(slot, s.until, s.used))
	return (*counters)(unsafe.Pointer(&slot[0]))
}

func (s *segment) full() bool { return s.used == segmentSlots }

// sync returns when all that was counted before lies on the disk.
func (s *segment) sync() error {
	if s.file == nil {
		return nil
	}
	return unix.Msync(s.memory, unix.MS_SYNC)
}

// release lets go of the file: nobody may count in the segment any more.
func (s *segment) release() {
	if s.file == nil {
		return
	}
	if s.memory != nil {
		_ = unix.Munmap(s.memory)
	}
	s.file.Close()
}

// decode reads the rows of a segment. What it says of damage is empty if there is
// none; slots that are damaged are left out.
func decode(b []byte) (until int64, rows []bsn.UsageRow, damage string) {
	if len(b) < slotSize {
		return 0, nil, fmt.Sprintf("it has %d bytes, and no header", len(b))
	}
	header := b[:slotSize]
	if string(header[:8]) != magic || binary.LittleEndian.Uint32(header[checksumAt:]) != crc32.Checksum(header[:checksumAt], castagnoli) {
		return 0, nil, "its header is damaged"
	}
	until = int64(binary.LittleEndian.Uint64(header[8:]))
	if n := len(b); n < segmentSize {
		damage = fmt.Sprintf("it has %d bytes of %d", n, segmentSize)
	}
	bad := 0
	for i := 1; i <= segmentSlots && (i+1)*slotSize <= len(b); i++ {
		slot := b[i*slotSize:][:slotSize]
		if blank(slot[16:]) {
			continue
		}
		r, ok := decodeSlot(slot, until, i)
		if !ok {
			bad++
		} else if r.Calls > 0 || r.Units > 0 {
			rows = append(rows, r)
		}
	}
	if bad > 0 {
		damage = fmt.Sprintf("%d of its slots are damaged", bad)
	}
	return until, rows, damage
}

func decodeSlot(slot []byte, until int64, index int) (r bsn.UsageRow, ok bool) {
	if binary.LittleEndian.Uint32(slot[checksumAt:]) != checksum(slot, until, index) {
		return r, false
	}
	var texts [4]string
	at := textsAt
	for i := range texts {
		n := int(slot[16+i])
		if at+n > checksumAt {
			return r, false
		}
		texts[i] = string(slot[at : at+n])
		at += n
	}
	r = bsn.UsageRow{
		Project: texts[0], Key: texts[1], Chain: texts[2], Class: bsn.MethodClass(texts[3]),
		Calls: binary.LittleEndian.Uint64(slot), Units: binary.LittleEndian.Uint64(slot[8:]),
	}
	return r, r.Calls <= maxCount && r.Units <= maxCount
}

func blank(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
