//go:build long

package outcomes

func init() { kills = 100 }
