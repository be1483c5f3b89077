package key

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ethereum/go-ethereum/crypto"
	"pgregory.net/rapid"
)

func TestSignatures(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, message := New(), rapid.SliceOf(rapid.Byte()).Draw(t, "message")
		sig := k.Sign(message)
		if !Verify(k.Public(), message, sig) {
			t.Fatal("own signature is refused")
		}
		if Verify(New().Public(), message, sig) || Verify(k.Public(), append(message, 0), sig) {
			t.Fatal("another's signature is taken")
		}
		i := rapid.IntRange(0, len(sig)-1).Draw(t, "at")
		sig[i] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		if Verify(k.Public(), message, sig) {
			t.Fatal("altered signature is taken")
		}
		for _, bad := range [][]byte{nil, sig[:63], append(sig, 0)} {
			if Verify(k.Public(), message, bad) || Verify(bad, message, sig) {
				t.Fatal("malformed signature or key is taken")
			}
		}
		if pub, err := crypto.DecompressPubkey(k.Public()); err != nil || !pub.Equal(k.ECDSA().Public()) {
			t.Fatal("the two forms are of different keys")
		}
	})
}

// TestOneKeyOfManyMakers: whoever makes the file first, all get the same key.
func TestOneKeyOfManyMakers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "operators", "a.key")
	var wg sync.WaitGroup
	got := make([]string, 20)
	for i := range got {
		wg.Go(func() {
			k, err := LoadOrNew(path)
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = k.Address()
		})
	}
	wg.Wait()
	for _, address := range got {
		if address != got[0] {
			t.Errorf("two keys: %v", got)
		}
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Errorf("files left: %v %v", files, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrNew(path); err == nil || strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged key: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", strings.Repeat("00", 32), strings.Repeat("ff", 32), strings.Repeat("07", 32) + "\n", "0x" + strings.Repeat("07", 31)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := Parse(s)
		if err != nil {
			if len(s) >= 16 && strings.Contains(err.Error(), s) {
				t.Errorf("the error tells the key: %v", err)
			}
			return
		}
		if !Verify(k.Public(), []byte("x"), k.Sign([]byte("x"))) {
			t.Error("a key that does not sign")
		}
	})
}
