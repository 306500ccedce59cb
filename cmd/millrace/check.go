package main

import "fmt"

type checkCmd struct{}

func (c *checkCmd) Run(g *globals) error {
	_, notices, err := g.Load()
	for _, n := range notices {
		fmt.Println("millrace: warning:", n)
	}
	return err
}
