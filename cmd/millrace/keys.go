package main

import "slices"

// command is what a key asks of the agent or of the program, about a row.
type command struct {
	what wishKind
	name string
}

type wishKind uint8

// The wishes; a key that only changes the board has none.
const (
	wishNothing wishKind = iota
	wishQuit
	wishNow // ask the agent at once
	wishPause
	wishResume
	wishFlush
	wishWhy
)

// press changes the board as a key says.
func (b *board) press(key string) command {
	if b.why != "" { // the explanation of a site
		switch key {
		case "q", "ctrl+c":
			return command{what: wishQuit}
		case "esc", "enter", "left":
			b.why, b.changes, b.back = "", nil, 0
		case "up", "k":
			b.back = min(b.back+1, max(0, len(b.changes)-1))
		case "down", "j":
			b.back = max(b.back-1, 0)
		}
		return command{}
	}
	b.said = ""
	if b.page == sourcesPage && slices.Contains([]string{"p", "f", "enter", "e", "w"}, key) {
		b.said = "millrace pauses and explains sites and streams; tab shows them"
		return command{}
	}
	switch key {
	case "q", "ctrl+c", "esc":
		return command{what: wishQuit}
	case "up", "k":
		b.move(-1)
	case "down", "j":
		b.move(1)
	case "pgup":
		b.move(-b.lines())
	case "pgdown", "space":
		b.move(b.lines())
	case "s":
		b.sort[b.page] = (b.sort[b.page] + 1) % len(boardColumns[b.page])
		b.arrange()
	case "tab":
		b.page = b.nextPage()
		b.chosen = ""
		b.arrange()
		return command{what: wishNow}
	case "p":
		if b.paused(b.chosen) {
			return b.about(wishResume)
		}
		return b.about(wishPause)
	case "f":
		return b.about(wishFlush)
	case "enter", "e", "w":
		if b.page == sitesPage {
			return b.about(wishWhy)
		}
		b.said = "millrace why explains sites; tab shows them"
	}
	return command{}
}

// about is a wish about the chosen row, if there is one.
func (b *board) about(what wishKind) command {
	if b.chosen == "" {
		return command{}
	}
	return command{what, b.chosen}
}

// move chooses the row that is n below the chosen one.
func (b *board) move(n int) {
	if len(b.rows) == 0 {
		return
	}
	b.chosen = b.rows[min(max(b.place()+n, 0), len(b.rows)-1)].name
}
