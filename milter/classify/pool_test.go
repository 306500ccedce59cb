package classify

import (
	"testing"

	"github.com/millrace/millrace/agent/config"
)

func TestRuleNamesAPool(t *testing.T) {
	t.Parallel()
	c := base()
	c.Rules = []config.Rule{{Name: "all", Action: config.ActionDivert, Sender: []string{"*"}, Pool: "news"}}
	if d := mustNew(t, c).Decide(newsletter()); d.Divert == nil || d.Pool != "news" {
		t.Errorf("%+v", d)
	}
	if d := mustNew(t, base()).Decide(newsletter()); d.Divert == nil || d.Pool != "" {
		t.Errorf("the built-in rules: %+v", d)
	}
}
