//go:build long

package move

func init() { histories = 300 }
