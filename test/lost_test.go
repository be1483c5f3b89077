package test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// receiptsAtOnce is how many receipts are asked for in one batch.
const receiptsAtOnce = 50

// lostTransactions are those that were acknowledged and have no receipt of
// success at some gateway.
func (t *traffic) lostTransactions() (lost []string) {
	for city := range t.gateways {
		for sent, hashes := range t.transactions {
			for batch := range slices.Chunk(hashes, receiptsAtOnce) {
				for _, hash := range t.withoutReceipt(city, batch) {
					lost = append(lost, fmt.Sprintf("transaction %s, acknowledged in %s, is not known in %s", hash, sent, city))
				}
			}
		}
	}
	return lost
}

func (t *traffic) withoutReceipt(city string, hashes []string) (missing []string) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	var requests []map[string]any
	for i, hash := range hashes {
		requests = append(requests, map[string]any{"jsonrpc": "2.0", "id": i, "method": "eth_getTransactionReceipt", "params": []string{hash}})
	}
	body, err := json.Marshal(requests)
	if err != nil {
		panic(err)
	}
	var answers []struct {
		ID     int
		Result *struct{ Status string }
	}
	_, text, err := t.post(ctx, city, t.keys[city], string(body))
	if err == nil {
		err = json.Unmarshal(text, &answers)
	}
	if err != nil {
		return []string{fmt.Sprintf("%s and others (%v: %s)", hashes[0], err, text)}
	}
	there := map[int]bool{}
	for _, a := range answers {
		there[a.ID] = a.Result != nil && a.Result.Status == "0x1"
	}
	for i, hash := range hashes {
		if !there[i] {
			missing = append(missing, hash)
		}
	}
	return missing
}

// lostRecords are those that were acknowledged and that some city does not know,
// and the revocations that it does not know.
func (t *traffic) lostRecords() (lost []string) {
	ctx, cancel := context.WithTimeout(context.Background(), programTimeout)
	defer cancel()
	for city := range t.gateways {
		o, err := t.place.bsn(ctx, "project", "list", "--json", "--via", city)
		var projects []struct{ Name string }
		if err == nil {
			err = json.Unmarshal([]byte(o.stdout), &projects)
		}
		if err != nil {
			lost = append(lost, fmt.Sprintf("city %s does not tell its records: %v: %s", city, err, o.stderr))
			continue
		}
		known := map[string]bool{}
		for _, p := range projects {
			known[p.Name] = true
		}
		for _, name := range t.records {
			if !known[name] {
				lost = append(lost, fmt.Sprintf("record %s is not known in %s", name, city))
			}
		}
	}
	return lost
}

// lostApps are those that were acknowledged as published and that some city
// which was chosen does not serve: with its package, and the contract as it was
// made.
func (t *traffic) lostApps() (lost []string) {
	ctx, cancel := context.WithTimeout(context.Background(), programTimeout)
	defer cancel()
	for name, cities := range t.publications {
		for _, city := range cities {
			o, err := t.place.bsn(ctx, "app", "query", name, "greeting", "--city", city)
			if err != nil || strings.TrimSpace(o.stdout) != name {
				lost = append(lost, fmt.Sprintf("app %s is not served in %s: %v: %s%s", name, city, err, o.stdout, o.stderr))
			}
		}
	}
	return lost
}
