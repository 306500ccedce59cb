package config

// ShippedReplies are the built-in rules about replies, for whoever has no configuration at
// hand.
func ShippedReplies() ([]Reply, error) {
	l := loader{cfg: defaults(), at: map[string]Notice{}, bad: map[string]bool{}}
	if l.replies(); len(l.errs) > 0 {
		return nil, l.errs
	}
	return l.cfg.Replies, nil
}
