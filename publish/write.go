package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/openbsn/bsn"
	"github.com/openbsn/bsn/ledger"
)

// record makes a version of the app and returns its number. One that is there
// already is not asked for again: further keys may have had to agree with it.
func (p Publisher) record(ctx context.Context, client *ledger.Client, name string, v bsn.Version) (int, error) {
	if old, ok, err := p.latest(ctx, name); err != nil {
		return 0, err
	} else if ok && same(old, v) {
		return old.Number, nil
	}
	if err := p.write(ctx, client, ledger.PublishApp(name, v)); err != nil {
		return 0, err
	}
	latest, ok, err := p.latest(ctx, name)
	if err == nil && (!ok || latest.Artifact != v.Artifact) {
		err = fmt.Errorf("app %q was published or withdrawn by somebody else meanwhile: publish again", bsn.ID(p.Account, name))
	}
	return latest.Number, err
}

// latest is the app's newest version that is not withdrawn, if there is one.
func (p Publisher) latest(ctx context.Context, name string) (v bsn.Version, ok bool, err error) {
	b, err := p.City.Get(ctx, bsn.KindApp, bsn.ID(p.Account, name))
	if errors.Is(err, bsn.ErrNoRecord) {
		return v, false, nil
	}
	if err != nil {
		return v, false, err
	}
	var a bsn.App
	if err := json.Unmarshal(b, &a); err != nil {
		return v, false, fmt.Errorf("decode app: %w", err)
	}
	v, ok = a.Latest()
	return v, ok, nil
}

// same tells whether a version is what is to be published, and no city refused it.
func same(old, v bsn.Version) bool {
	return old.Artifact == v.Artifact && old.Chain == v.Chain && slices.Equal(old.Cities, v.Cities) && old.Limits == v.Limits &&
		(len(old.Roles) == 0 && len(v.Roles) == 0 || reflect.DeepEqual(old.Roles, v.Roles)) && refusals(old) == nil
}

// write puts messages on the ledger. Where further keys of the account have to
// agree, it says so and waits for them.
func (p Publisher) write(ctx context.Context, client *ledger.Client, messages ...ledger.Message) error {
	_, err := client.Write(ctx, messages...)
	var waiting *ledger.WaitingError
	if !errors.As(err, &waiting) {
		return err
	}
	p.Report(waiting.Error())
	for {
		b, err := p.City.Get(ctx, bsn.KindAct, fmt.Sprintf("%08d", waiting.Act))
		if err != nil {
			return err
		}
		var a bsn.Act
		if err := json.Unmarshal(b, &a); err != nil {
			return fmt.Errorf("decode act: %w", err)
		}
		switch a.Status {
		case bsn.ActDone:
			return nil
		case bsn.ActOpen:
		default:
			return fmt.Errorf("act %d is %s: %s", a.ID, a.Status, a.Reason)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: publish again when they have agreed", waiting)
		case <-time.After(pollPause):
		}
	}
}
