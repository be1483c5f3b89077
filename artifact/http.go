package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// fetchTimeout bounds one city's answer to one artifact.
const fetchTimeout = 2 * time.Minute

// Handler serves GET, HEAD and PUT of /artifacts/{hash}. Who may put is for the
// caller's middleware to say. Answers: 200, 201 for what was put, 400 for a
// malformed hash, 404, 413 for what is too large, 422 for content that is not
// what the hash says, 507 if the store is full.
func (s *Store) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /artifacts/{hash}", s.serve) // HEAD too
	mux.HandleFunc("PUT /artifacts/{hash}", s.take)
	return mux
}

func (s *Store) serve(w http.ResponseWriter, req *http.Request) {
	hash := req.PathValue("hash")
	content, err := s.open(hash)
	if err != nil {
		refuse(w, err)
		return
	}
	defer content.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("ETag", `"`+hash+`"`)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeContent(w, req, "", time.Time{}, content)
}

func (s *Store) take(w http.ResponseWriter, req *http.Request) {
	hash := req.PathValue("hash")
	err := CheckHash(hash)
	if err == nil && req.ContentLength > s.max {
		err = fmt.Errorf("%w: %d bytes, at most %d are taken", ErrTooLarge, req.ContentLength, s.max)
	}
	if err == nil {
		// The limit is a little above Put's own, which gives the error.
		_, err = s.Put(http.MaxBytesReader(w, req.Body, s.max+1), hash)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

func refuse(w http.ResponseWriter, err error) {
	var closed *http.MaxBytesError
	switch {
	case errors.Is(err, ErrHash):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case errors.Is(err, ErrNotFound):
		http.Error(w, err.Error(), http.StatusNotFound)
	case errors.Is(err, ErrTooLarge), errors.As(err, &closed):
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
	case errors.Is(err, ErrFull):
		http.Error(w, err.Error(), http.StatusInsufficientStorage)
	case errors.Is(err, ErrMismatch):
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	default: // paths and disks are not the caller's to know
		http.Error(w, "the artifact store failed", http.StatusInternalServerError)
	}
}

// Fetch makes sure that the store holds an artifact, sound: it asks the cities
// at baseURLs one after the other, and takes only what has the hash. If none
// has it the error says why for each; it is [ErrNotFound] if that is all that
// they said.
func (s *Store) Fetch(ctx context.Context, client *http.Client, baseURLs []string, hash string) error {
	_, err := s.Get(hash)
	if err == nil || errors.Is(err, ErrHash) {
		return err
	}
	var failures []error
	lacking := true
	for _, base := range baseURLs {
		err := s.fetch(ctx, client, base, hash)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("fetch artifact %s: %w", hash, err)
		}
		if errors.Is(err, ErrNotFound) { // one city's lack is not yet the result
			err = errors.New("it does not have it")
		} else {
			lacking = false
		}
		failures = append(failures, fmt.Errorf("from %s: %w", base, err))
	}
	if lacking {
		return fmt.Errorf("%w: %s, in %d cities asked", ErrNotFound, hash, len(baseURLs))
	}
	return fmt.Errorf("fetch artifact %s: %w", hash, errors.Join(failures...))
}

func (s *Store) fetch(ctx context.Context, client *http.Client, base, hash string) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	address, err := url.JoinPath(base, "artifacts", hash)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return ErrNotFound
	case resp.StatusCode != http.StatusOK:
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return fmt.Errorf("answer %s: %q", resp.Status, bytes.TrimSpace(text))
	case resp.ContentLength > s.max:
		return fmt.Errorf("%w: %d bytes, at most %d are taken", ErrTooLarge, resp.ContentLength, s.max)
	}
	_, err = s.Put(resp.Body, hash)
	return err
}
