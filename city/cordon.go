package city

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/google/renameio/v2"

	"github.com/openbsn/bsn/gateway"
)

// cordonFile says which nodes the city's gateway asks nothing. The gateway reads it
// anew when it changes.
func (h Home) cordonFile() string { return h.path("cordons.json") }

// Cordon takes a node out of the service of the city's gateway, or back; node is the
// name of its city, or of a provider with outside/ before. It tells whether that was news.
func (h Home) Cordon(chain, node string, cordoned bool) (changed bool, err error) {
	updating.Lock()
	defer updating.Unlock()
	all := gateway.Cordons{}
	text, err := os.ReadFile(h.cordonFile())
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read %s: %w", h.cordonFile(), err)
	}
	if slices.Contains(all[chain], node) == cordoned {
		return false, nil
	}
	if cordoned {
		all[chain] = append(all[chain], node)
	} else {
		all[chain] = slices.DeleteFunc(all[chain], func(n string) bool { return n == node })
	}
	if len(all[chain]) == 0 {
		delete(all, chain)
	}
	if text, err = json.Marshal(all); err != nil {
		return false, fmt.Errorf("encode cordons: %w", err)
	}
	if err := renameio.WriteFile(h.cordonFile(), append(text, '\n'), 0o600, renameio.WithTempDir(h.Dir())); err != nil {
		return false, fmt.Errorf("write cordons: %w", err)
	}
	return true, nil
}
