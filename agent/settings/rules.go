package settings

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/millrace/millrace/agent/config"
	"github.com/millrace/millrace/agent/outcome"
)

// siteHold is how long the action "hold" keeps a stream from the site that said so,
// unless the rule says how long. Then it is tried again.
const siteHold = time.Hour

// ReplyRules are the rules of the configuration in the terms of package outcome.
func ReplyRules(list []config.Reply) ([]outcome.Rule, error) {
	rules := make([]outcome.Rule, 0, len(list))
	for _, r := range list {
		x := outcome.Rule{Name: r.Name, Codes: r.Code, Enhanced: r.Enhanced, Effect: outcome.Effect{
			Rule: r.Name, Kind: effects[r.Action], For: r.For, Sessions: r.Sessions, After: r.After, Within: r.Within, Tell: r.Tell,
			Names: len(Naming(r.MX)) > 0,
		}}
		if r.Action == config.ReplyHold {
			x.Effect.For = cmp.Or(r.For, siteHold)
		}
		for _, glob := range r.MX {
			x.Hosts = append(x.Hosts, strings.ToLower(glob))
		}
		for _, s := range r.Stage {
			stage, _ := outcome.ParseStage(s) // that it is one was checked when the configuration was read
			x.Stages = append(x.Stages, stage)
		}
		x.Class, _ = outcome.ParseClass(r.Class)
		if r.Text != "" {
			re, err := regexp.Compile("(?i)" + r.Text)
			if err != nil {
				return nil, fmt.Errorf("reply rule %q: %w", r.Name, err)
			}
			x.Text = re
		}
		rules = append(rules, x)
	}
	return rules, nil
}

var effects = map[config.ReplyAction]outcome.EffectKind{
	config.ReplySlow: outcome.Slow, config.ReplySuspend: outcome.Suspend, config.ReplySessions: outcome.Bound,
	config.ReplyLearn: outcome.Learn, config.ReplyRecipient: outcome.Alone, config.ReplyRetry: outcome.Later,
	config.ReplyBounce: outcome.Never, config.ReplyPause: outcome.Pause, config.ReplyHold: outcome.HoldStream,
}

// Naming are the patterns that name somebody, as "*" does not.
func Naming(patterns []string) (list []string) {
	for _, p := range patterns {
		if strings.Trim(p, "*?.") != "" {
			list = append(list, p)
		}
	}
	return list
}
